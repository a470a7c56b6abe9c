"""The fake over HTTP, and ``basiq-async mock``."""

from __future__ import annotations

import asyncio
import io
import json

import aiohttp
import pytest
import yarl

from basiq_async import BasiqClient
from basiq_async.testing import FakeBasiq, serve
from tests.support.real_time import PATIENCE
from tests.support.served import first_line

from ..conftest import ENDPOINT, Endpoint


async def test_a_url_arrives_as_it_was_sent(fake: FakeBasiq) -> None:
    async with serve(fake) as base_url, aiohttp.ClientSession() as session:
        url = f"{base_url}/a%2Fb?filter=%27x%27&y=+"
        async with session.get(yarl.URL(url, encoded=True)) as answer:
            assert answer.status == 404
    assert fake.requests[0].url == url


async def test_a_delay_is_waited_for_over_http(fake: FakeBasiq) -> None:
    fake.fail_next(delay=0.03, path="/events")
    async with (
        serve(fake) as base_url,
        aiohttp.ClientSession() as session,
        session.get(f"{base_url}/events") as response,
    ):
        assert response.status == 401
    assert fake.request_log[0].duration >= 0.03


async def test_a_target_in_absolute_form_is_taken(fake: FakeBasiq) -> None:
    async with serve(fake) as base_url:
        head = f"GET {base_url}/events/types?a=b HTTP/1.1\r\nHost: {{host}}\r\nConnection: close\r\n\r\n"
        assert b" 401 " in await first_line(base_url, head)
    assert fake.requests[0].url == f"{base_url}/events/types?a=b"


async def test_a_body_that_is_too_large_is_no_content(fake: FakeBasiq) -> None:
    async with serve(fake) as base_url, BasiqClient(fake.api_key, base_url=base_url) as basiq:
        await basiq.event_types.get("user.created")
        headers = {**fake.requests[-1].headers, "content-type": "application/json"}
        headers = {name: headers[name] for name in ("authorization", "content-type")}
        async with aiohttp.ClientSession() as session:
            body = b'{"url": "' + b"x" * 2_000_000
            async with session.post(
                f"{base_url}/notifications/webhooks", data=io.BytesIO(body), headers=headers
            ) as answer:
                assert answer.status == 400
                assert (await answer.json())["data"][0]["code"] == "invalid-content"


@pytest.mark.parametrize("path", ["/notifications/webhooks", "/_fake/emit"])
async def test_one_of_too_many_large_bodies_at_once_is_refused_and_small_ones_are_not(
    fake: FakeBasiq, path: str
) -> None:
    async def begin() -> tuple[asyncio.Task[bytes], asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        head += f"Authorization: Basic {fake.api_key}\r\n"
        writer.write(f"{head}Content-Length: {2**20}\r\n\r\n".encode() + b"x" * (2**20 - 1))
        await writer.drain()
        return asyncio.create_task(reader.readuntil(b"}}")), writer

    async def post(size: int) -> int:
        headers = {"content-type": "application/json", "authorization": f"Basic {fake.api_key}"}
        async with session.post(base_url + path, data=b"x" * size, headers=headers) as got:
            return got.status

    async with serve(fake) as base_url, aiohttp.ClientSession() as session, asyncio.timeout(PATIENCE):
        port = int(base_url.rpartition(":")[2])
        begun = [await begin() for _ in range(17)]
        refused, waiting = await asyncio.wait([task for task, _ in begun], return_when=asyncio.FIRST_COMPLETED)
        (response,) = [task.result() for task in refused]
        assert b" 503 " in response.partition(b"\r\n")[0]
        assert b"16777216 bytes of bodies are arriving" in response
        assert await post(100) < 500
        assert await post(1_000_000) == 503
        for task, writer in begun:
            task.cancel()
            writer.close()
        await asyncio.gather(*waiting, return_exceptions=True)
        while await post(1_000_000) == 503:
            await asyncio.sleep(0.01)


async def test_it_is_mounted_under_a_prefix(fake: FakeBasiq) -> None:
    fake.seed_messages(3)
    async with serve(fake, prefix="/api/basiq") as base_url:
        assert base_url.endswith("/api/basiq")
        async with BasiqClient(fake.api_key, base_url=base_url) as basiq:
            (webhook,) = await basiq.webhooks.list().collect()
            assert webhook.links["self"].startswith(base_url + "/notifications/")


async def test_it_listens_on_ipv6(fake: FakeBasiq) -> None:
    try:
        async with serve(fake, "::1") as base_url:
            assert base_url.startswith("http://[::1]:")
    except OSError:
        pytest.skip("this machine has no IPv6")


async def test_while_it_runs_links_of_deliveries_lead_to_it_and_after_that_to_the_vendor(fake: FakeBasiq) -> None:
    fake.add_webhook(ENDPOINT)
    fake.route(ENDPOINT, endpoint := Endpoint(200))
    async with serve(fake) as base_url:
        await fake.emit("user.created")
    await fake.emit("user.created")
    (_, first), (_, second) = endpoint.got
    assert json.loads(first)["links"]["event"].startswith(base_url + "/events/")
    assert json.loads(second)["links"]["event"].startswith("https://au-api.basiq.io/events/")


async def test_a_state_whose_endpoint_stalls_holds_up_no_other_state() -> None:
    first, stalled = FakeBasiq(), asyncio.Event()
    second = first.add_state()
    calls = 0

    async def stall(headers: dict[str, str], body: bytes) -> int:
        nonlocal calls
        calls += 1
        await stalled.wait()
        return 200

    first.route(ENDPOINT, stall)
    second.route(ENDPOINT, Endpoint(200))
    for fake in (first, second):
        fake.add_webhook(ENDPOINT)
    async with serve(first), asyncio.timeout(PATIENCE):
        for _ in range(50):
            first.emit("user.created")
        while calls < 32:
            await asyncio.sleep(0)
        second.emit("user.created")
        while not second.deliveries:
            await asyncio.sleep(0)
        assert calls == 32, "a state makes at most 32 deliveries at once"
        stalled.set()
        while len(first.deliveries) < 50:
            await asyncio.sleep(0)
