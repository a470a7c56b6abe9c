"""Replaying to an endpoint over real sockets, signed as Basiq signs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from basiq_async import BasiqClient, ConfigurationError, Message, RetryPolicy
from basiq_async.receiver import Delivery, WebhookReceiver, verify
from basiq_async.replay import HttpTarget, MemoryCheckpoint, Replay, ReplayError, TargetError
from basiq_async.replay.http_target import payload_bytes
from basiq_async.testing import serve

from .scene import SECRET, History

QUICK = RetryPolicy(max_retries=2, base=0.001, max_wait=0.01)
MESSAGE = Message("m-1", {"id": "m-1", "payload": {"eventTypeId": "user.created", "eventId": "ü"}})


@asynccontextmanager
async def endpoint(handler: Callable[[web.Request], Any]) -> AsyncGenerator[str]:
    app = web.Application()
    app.router.add_route("*", "/basiq", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/basiq"
    finally:
        await runner.cleanup()


async def test_a_history_over_http_reaches_a_receiver_over_http_once_each() -> None:
    history = History(700)
    seen: Counter[str] = Counter()
    async with WebhookReceiver(SECRET) as receiver, serve(history.fake) as base:

        @receiver.on("*")
        async def handle(delivery: Delivery) -> None:
            seen[delivery.id] += 1

        async with (
            endpoint(receiver.aiohttp_handler) as url,
            BasiqClient(history.fake.DEFAULT_API_KEY, base_url=base) as client,
            HttpTarget(url, SECRET) as target,
        ):
            report = await Replay(client, history.webhook_id, target, checkpoint=MemoryCheckpoint()).run()
            again = await Replay(client, history.webhook_id, target, checkpoint=MemoryCheckpoint()).run()
    assert (report.handled, report.failed, again.handled) == (700, 0, 700)
    assert seen == Counter(await history.ids())


async def test_what_is_posted_verifies_with_a_new_timestamp_and_the_messages_own_id() -> None:
    history = History(3)
    got: list[tuple[dict[str, str], bytes]] = []

    async def handle(request: web.Request) -> web.Response:
        got.append((dict(request.headers), await request.read()))
        return web.Response(status=204)

    when = datetime(2026, 1, 5, 12, tzinfo=UTC)
    async with endpoint(handle) as url, HttpTarget(url, SECRET, clock=lambda: when) as target:
        assert (await history.replay(target).run()).handled == 3
        assert SECRET not in repr(target)
    messages = {message.id: message async for message in history.client.messages.list(history.webhook_id)}
    assert {headers["webhook-id"] for headers, _ in got} == set(messages)
    for headers, body in got:
        verify(SECRET, headers, body, now=when)
        assert headers["webhook-timestamp"] == str(int(when.timestamp()))
        assert headers["Content-Type"] == "application/json"
        assert json.loads(body) == messages[headers["webhook-id"]].payload


@pytest.mark.parametrize(("status", "tries"), [(400, 1), (302, 1), (500, 3), (503, 3), (429, 3)])
async def test_an_answer_that_is_no_success_is_a_failure_tried_again_where_it_helps(status: int, tries: int) -> None:
    count = 0

    async def handle(request: web.Request) -> web.Response:
        nonlocal count
        count += 1
        return web.Response(status=status, headers={"Location": "/elsewhere"} if status == 302 else {})

    async with endpoint(handle) as url, HttpTarget(url, SECRET, retry=QUICK) as target:
        with pytest.raises(TargetError, match=f"answered {status}") as caught:
            await target.deliver(MESSAGE)
    assert caught.value.status == status
    assert count == tries


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_handed_to_the_job(status: int) -> None:
    history = History(40)
    count = 0

    async def handle(request: web.Request) -> web.Response:
        nonlocal count
        count += 1
        return web.Response(status=status, headers={"Retry-After": "0"}) if count == 5 else web.Response()

    async with endpoint(handle) as url, HttpTarget(url, SECRET) as target:
        report = await history.replay(target).run()
    assert (report.handled, report.failed, count) == (40, 0, 41)


@pytest.mark.parametrize("body", [b"x" * 1_000_000, b""])
async def test_a_success_is_one_whatever_its_body(body: bytes) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        return web.Response(status=201, body=body)

    async with endpoint(handle) as url, HttpTarget(url, SECRET) as target:
        await target.deliver(MESSAGE)
        await target.flush()


async def test_a_success_whose_body_breaks_off_is_one() -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": "100"})
        await answer.prepare(request)
        await answer.write(b"x")
        assert request.transport is not None
        request.transport.close()
        return answer

    async with endpoint(handle) as url, HttpTarget(url, SECRET, retry=QUICK) as target:
        await target.deliver(MESSAGE)


async def test_an_endpoint_that_is_down_makes_dead_letters(unused_tcp_port: int) -> None:
    history = History(3)
    async with HttpTarget(f"http://127.0.0.1:{unused_tcp_port}/", SECRET, retry=QUICK) as target:
        replay = history.replay(target)
        report = await replay.run()
    assert (report.handled, report.dead) == (0, 3)
    assert "ConnectionFailedError" in (await replay.dead_letters())[0].error


async def test_a_session_that_is_passed_in_is_not_closed() -> None:
    async def handle(request: web.Request) -> web.Response:
        return web.Response()

    async with aiohttp.ClientSession() as session, endpoint(handle) as url:
        async with HttpTarget(url, SECRET, session=session) as target:
            await target.deliver(MESSAGE)
        assert not session.closed


async def test_a_target_that_is_closed_says_what_to_do() -> None:
    async with HttpTarget("http://127.0.0.1:1/", SECRET) as target:
        pass
    with pytest.raises(ReplayError, match="inside of its async with"):
        await target.deliver(MESSAGE)


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("no-url", {}),
        ("https://user:password@example.com/", {}),
        ("https://example.com/", {"secret": ""}),
        ("https://example.com/", {"connections": 0}),
    ],
)
def test_arguments_that_cannot_be_are_told_at_once(url: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        HttpTarget(url, **{"secret": SECRET, **options})
    assert "password" not in str(caught.value) or "must not hold" in str(caught.value)


def test_the_body_is_the_payload_or_what_stands_in_its_place() -> None:
    assert payload_bytes(MESSAGE) == '{"eventTypeId":"user.created","eventId":"ü"}'.encode()
    bare = Message("m", {"id": "m", "eventTypeId": "user.created", "eventId": "7"})
    assert json.loads(payload_bytes(bare)) == {"eventTypeId": "user.created", "eventId": "7"}
    assert payload_bytes(Message("m", {"payload": {"x": "\ud800"}})) == b'{"x":"\\ud800"}'
