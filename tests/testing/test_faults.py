"""Each fault in one line, in process and over HTTP."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator

import aiohttp
import pytest

from basiq_async import (
    AuthenticationError,
    BasiqClient,
    ConfigurationError,
    ConnectionFailedError,
    InMemoryTransport,
    PaginationError,
    PermissionDeniedError,
    Request,
    RequestTimeoutError,
    ResponseDecodeError,
    RetryPolicy,
    ServerError,
)
from basiq_async.testing import FakeBasiq, serve

from .conftest import BASE, Caller

ONCE = RetryPolicy(max_retries=0)


@pytest.fixture(params=["in process", "over HTTP"])
async def basiq(request: pytest.FixtureRequest, fake: FakeBasiq) -> AsyncIterator[BasiqClient]:
    if request.param == "in process":
        async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake, timeout=0.02), retry=ONCE) as client:
            yield client
        return
    async with (
        serve(fake) as base_url,
        BasiqClient(fake.api_key, base_url=base_url, retry=ONCE, timeout=0.2) as client,
    ):
        yield client


async def test_the_next_requests_fail_with_a_status(basiq: BasiqClient, fake: FakeBasiq) -> None:
    await basiq.event_types.get("user.created")
    fake.fail_next(2, status=503, retry_after=1, path="/events/*")
    await basiq.webhooks.list().collect()
    for _ in range(2):
        with pytest.raises(ServerError) as caught:
            await basiq.event_types.get("user.created")
        assert (caught.value.status, caught.value.code) == (503, "service-unavailable")
    await basiq.event_types.get("user.created")


async def test_an_answer_is_slow(basiq: BasiqClient, fake: FakeBasiq) -> None:
    await basiq.event_types.get("user.created")
    fake.fail_next(delay=0.001)
    await basiq.event_types.get("user.created")
    fake.fail_next(delay=60)
    with pytest.raises(RequestTimeoutError):
        await basiq.event_types.get("user.created")


async def test_a_connection_is_dropped_before_the_request_is_acted_on(basiq: BasiqClient, fake: FakeBasiq) -> None:
    await basiq.event_types.list().collect()
    fake.fail_next(drop=True, method="POST")
    with pytest.raises(ConnectionFailedError):
        await basiq.webhooks.create(url="https://example.com/x", subscribed_events=["user.created"])
    assert await basiq.webhooks.list().collect() == []


async def test_a_connection_is_dropped_after_the_request_was_acted_on(basiq: BasiqClient, fake: FakeBasiq) -> None:
    await basiq.event_types.list().collect()
    fake.fail_next(drop="answer", method="POST")
    with pytest.raises(ConnectionFailedError):
        await basiq.webhooks.create(url="https://example.com/x", subscribed_events=["user.created"])
    assert len(await basiq.webhooks.list().collect()) == 1


async def test_a_body_is_malformed(basiq: BasiqClient, fake: FakeBasiq) -> None:
    fake.fail_next(body='{"data": [{')
    with pytest.raises(ResponseDecodeError):
        await basiq.webhooks.list().collect()


async def test_a_page_loops(basiq: BasiqClient, fake: FakeBasiq) -> None:
    webhook_id = fake.seed_messages(30)
    fake.fail_next(9, loop=True, path="*/messages")
    with pytest.raises(PaginationError):
        await basiq.messages.list(webhook_id, limit=10).collect()


async def test_a_token_that_expired_is_fetched_anew(basiq: BasiqClient, fake: FakeBasiq) -> None:
    await basiq.webhooks.list().collect()
    fake.expire_tokens()
    await basiq.webhooks.list().collect()
    assert sum(request.url.endswith("/token") for request in fake.requests) == 2


async def test_the_token_call_fails_where_that_is_asked_for(basiq: BasiqClient, fake: FakeBasiq) -> None:
    fake.fail_next(status=401, path="/token")
    with pytest.raises(AuthenticationError):
        await basiq.webhooks.list().collect()


async def test_a_disabled_account_is_refused(basiq: BasiqClient, fake: FakeBasiq) -> None:
    fake.disable_account()
    with pytest.raises(PermissionDeniedError):
        await basiq.webhooks.list().collect()


def test_handle_raises_what_a_dropped_connection_is(fake: FakeBasiq) -> None:
    fake.fail_next(drop=True)
    with pytest.raises(ConnectionFailedError, match="dropped"):
        fake.handle(Request("GET", BASE))


def test_retry_after_and_headers_are_given_as_they_are(fake: FakeBasiq) -> None:
    caller = Caller(fake)
    for given, shown in ((1.5, "1.5"), ("Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:28:00 GMT")):
        fake.fail_next(status=429, retry_after=given, headers={"X-More": "1"})
        answer = caller.send("GET", "/events")
        assert (answer.status, answer.headers["retry-after"], answer.headers["x-more"]) == (429, shown, "1")


@pytest.mark.parametrize("wrong", [{}, {"times": 0, "status": 500}, {"times": -1, "status": 500}])
def test_a_fault_that_is_none_is_a_configuration_error(fake: FakeBasiq, wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError):
        fake.fail_next(**wrong)


async def test_a_transport_in_memory_makes_a_fake_of_its_own_and_shows_it() -> None:
    transport = InMemoryTransport()
    assert repr(transport) == f"InMemoryTransport({transport.fake!r})"
    async with BasiqClient(transport.fake.api_key, transport=transport) as client:
        assert await client.webhooks.list().collect() == []
    await transport.aclose()
    with pytest.raises(ConnectionFailedError, match="closed"):
        await transport.send(Request("GET", BASE + "/events"))


async def test_a_transport_in_memory_is_mounted_under_a_prefix(fake: FakeBasiq) -> None:
    transport = InMemoryTransport(fake, prefix="/basiq")
    async with BasiqClient(fake.api_key, transport=transport, base_url=BASE + "/basiq") as client:
        webhook_id = fake.seed_messages(5)
        assert len(await client.messages.list(webhook_id, limit=2).collect()) == 5
    outside = await transport.send(Request("GET", BASE + "/events/types"))
    assert outside.status in (401, 404)


async def test_a_body_over_the_wire_has_a_limit(fake: FakeBasiq) -> None:
    token = Caller(fake).authorize()
    async with serve(fake) as base_url, aiohttp.ClientSession() as session:
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        async with session.post(
            base_url + "/notifications/webhooks", data=io.BytesIO(b" " * 1_100_000), headers=headers
        ) as answer:
            assert answer.status == 400
            assert (await answer.json())["data"][0]["code"] == "invalid-content"


async def test_the_server_takes_an_absolute_request_target(fake: FakeBasiq) -> None:
    async with serve(fake) as base_url:
        host, port = base_url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET {base_url}/events/types HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 401")
        writer.close()
        await writer.wait_closed()
    assert fake.requests[-1].url.endswith("/events/types")


async def test_the_server_listens_on_ipv6_too(fake: FakeBasiq) -> None:
    try:
        async with serve(fake, "::1") as base_url:
            assert base_url.startswith("http://[::1]:")
    except OSError:
        pytest.skip("this machine has no IPv6")
