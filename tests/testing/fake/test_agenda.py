"""Whatever interrupts a delivery, its attempt is made in the end; and nothing waits for itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from aiohttp import web

from basiq_async.errors import ConfigurationError
from basiq_async.testing import FakeBasiq, serve
from tests.support.real_time import PATIENCE
from tests.support.served import serving

from ..conftest import ENDPOINT, Endpoint, arranged

OTHER = "https://example.com/other"


class Stalling:
    """An endpoint that keeps the first caller waiting until it is released."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.released = asyncio.Event()
        self.calls = 0

    async def __call__(self, headers: dict[str, str], body: bytes) -> int:
        self.calls += 1
        self.begun.set()
        await self.released.wait()
        return 200


def stalled() -> tuple[FakeBasiq, Stalling]:
    endpoint = Stalling()
    return arranged(endpoint)[0], endpoint


async def cancel_an_advance(fake: FakeBasiq, begun: asyncio.Event) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await fake.advance(minutes=1)


async def cancel_by_anyio(fake: FakeBasiq, begun: asyncio.Event) -> None:
    with anyio.move_on_after(0.01):
        await fake.deliver()


async def stop_the_server(fake: FakeBasiq, begun: asyncio.Event) -> None:
    async with serve(fake):
        await begun.wait()


@pytest.mark.parametrize("interrupt", [cancel_an_advance, cancel_by_anyio, stop_the_server])
async def test_an_attempt_that_is_interrupted_is_made_again(
    interrupt: Callable[[FakeBasiq, asyncio.Event], Awaitable[None]],
) -> None:
    fake, endpoint = stalled()
    fake.emit("user.created")
    await interrupt(fake, endpoint.begun)
    assert (endpoint.calls, len(fake.deliveries)) == (1, 0)
    endpoint.released.set()
    await fake.deliver()
    assert [(attempt.number, attempt.ok) for attempt in fake.deliveries] == [(1, True)]


@pytest.mark.parametrize("served", [False, True])
async def test_an_attempt_whose_task_is_cancelled_before_it_begins_is_made_again(served: bool) -> None:
    """As the end of an event loop does, which cancels all tasks."""
    fake, endpoint = stalled()
    endpoint.released.set()
    async with serve(fake) if served else contextlib.nullcontext(), asyncio.timeout(PATIENCE):
        emitted = fake.emit("user.created")
        delivering = None if served else asyncio.create_task(fake.deliver())
        known = asyncio.all_tasks()
        while not (made := asyncio.all_tasks() - known):
            await asyncio.sleep(0)
        for task in made:
            task.cancel()
        await asyncio.wait(made)
        assert endpoint.calls == 0, "it had begun"
        await (delivering or emitted)
    assert [attempt.message_id for attempt in fake.deliveries] == list(emitted.message_ids)


async def test_more_attempts_than_are_made_at_once_survive_the_end_of_the_server() -> None:
    fake, endpoint = stalled()
    async with serve(fake):
        emitted = [fake.emit("user.created") for _ in range(50)]
        while endpoint.calls < 32:
            await asyncio.sleep(0)
    endpoint.released.set()
    await fake.deliver()
    assert sorted(attempt.message_id for attempt in fake.deliveries) == sorted(e.message_ids[0] for e in emitted)


async def test_a_task_that_waits_for_an_attempt_takes_it_over_when_its_maker_is_cancelled() -> None:
    fake, endpoint = stalled()
    emitted = fake.emit("user.created")
    advancing = asyncio.create_task(fake.advance(minutes=1))
    await endpoint.begun.wait()
    waiting = asyncio.ensure_future(emitted)
    await asyncio.sleep(0)
    advancing.cancel()
    await asyncio.wait([advancing])
    endpoint.released.set()
    async with asyncio.timeout(PATIENCE):
        await waiting
    assert len(fake.deliveries) == 1


@pytest.mark.parametrize("waits", ["emission", "deliver", "advance"])
async def test_two_handlers_that_deliver_what_they_emit_do_not_wait_for_each_other(waits: str) -> None:
    fake = FakeBasiq()
    both = asyncio.Barrier(2)

    async def handler(headers: dict[str, str], body: bytes) -> int:
        await both.wait()
        emitted = fake.emit("consent.revoked")
        if waits == "emission":
            await emitted
        elif waits == "deliver":
            await fake.deliver()
        else:
            await fake.advance(seconds=1)
        return 200

    for url, endpoint, event in (
        (ENDPOINT, handler, "user.created"),
        (OTHER, handler, "user.created"),
        (ENDPOINT + "/quiet", Endpoint(200), "consent.revoked"),
    ):
        fake.route(url, endpoint)
        fake.add_webhook(url, [event])
    async with serve(fake), asyncio.timeout(PATIENCE):
        fake.emit("user.created")
        while len(fake.deliveries) < 4:
            await asyncio.sleep(0)
    assert all(attempt.ok for attempt in fake.deliveries)


async def test_a_handler_behind_a_socket_can_await_what_it_emits() -> None:
    fake = FakeBasiq(delivery_timeout=5)

    async def hook(request: web.Request) -> web.Response:
        body = await request.json()
        if body["eventTypeId"] == "user.created":
            await fake.emit("user.deleted")
        return web.Response()

    async with serving(hook) as url:
        fake.add_webhook(url)
        async with serve(fake), asyncio.timeout(PATIENCE):
            await fake.emit("user.created")
    assert [(attempt.event_type_id, attempt.ok) for attempt in fake.deliveries] == [
        ("user.deleted", True),
        ("user.created", True),
    ]


async def test_after_overlapping_advances_the_server_still_delivers() -> None:
    fake, endpoint = stalled()
    async with serve(fake), asyncio.timeout(PATIENCE):
        fake.emit("user.created")
        await endpoint.begun.wait()
        first = asyncio.create_task(fake.advance(minutes=1))
        await asyncio.sleep(0)
        second = asyncio.create_task(fake.advance(minutes=2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        endpoint.released.set()
        await second
        fake.emit("user.created")  # no caller awaits it: the server has to hear of it
        while len(fake.deliveries) < 2:
            await asyncio.sleep(0)


@pytest.mark.parametrize("stopped_first", ["older", "newer"])
async def test_of_two_servers_on_one_fake_the_one_that_stays_goes_on(stopped_first: str) -> None:
    fake, endpoint = stalled()
    endpoint.released.set()
    older, newer = serve(fake), serve(fake)
    urls = {"older": await older.__aenter__(), "newer": await newer.__aenter__()}
    first, second = (older, newer) if stopped_first == "older" else (newer, older)
    try:
        await first.__aexit__(None, None, None)
        fake.emit("user.created")
        async with asyncio.timeout(PATIENCE):
            while not fake.deliveries:
                await asyncio.sleep(0)
        left = urls["newer" if stopped_first == "older" else "older"]
        assert left.encode() in fake.deliveries[0].body
    finally:
        await second.__aexit__(None, None, None)
    await fake.emit("user.created")
    assert b"https://au-api.basiq.io" in fake.deliveries[-1].body


async def test_a_server_ends_whole_however_often_it_is_cancelled() -> None:
    fake, endpoint = stalled()

    async def run() -> None:
        async with serve(fake):
            fake.emit("user.created")
            await asyncio.Event().wait()

    task = asyncio.create_task(run())
    await endpoint.begun.wait()
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left
    endpoint.released.set()
    await fake.deliver()
    assert len(fake.deliveries) == 1


async def test_what_was_routed_to_wrongly_leaves_the_server_delivering() -> None:
    fake, _ = arranged(Endpoint("no status"))
    with pytest.raises(ConfigurationError, match="status"):
        async with serve(fake), asyncio.timeout(PATIENCE):
            for number, receiver in enumerate((None, Endpoint(200)), 1):
                if receiver is not None:
                    fake.route(ENDPOINT, receiver)
                fake.emit("user.created")
                while len(fake.deliveries) < number:
                    await asyncio.sleep(0)
    assert [attempt.status for attempt in fake.deliveries] == [500, 200]


@pytest.mark.parametrize("served", [False, True])
async def test_an_endpoint_that_ends_with_cancelled_error_made_a_failed_attempt(served: bool) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        task = asyncio.create_task(asyncio.sleep(60))
        task.cancel()
        await task

    fake = FakeBasiq()
    for number, receiver in enumerate((Endpoint(asyncio.CancelledError()), application)):
        fake.route(f"https://example.com/{number}", receiver)
        fake.add_webhook(f"https://example.com/{number}")
    async with serve(fake) if served else contextlib.nullcontext():
        await fake.emit("user.created")
        assert [(attempt.status, attempt.ok) for attempt in fake.deliveries] == [(None, False)] * 2
        await fake.advance(seconds=5)
    assert [attempt.number for attempt in fake.deliveries] == [1, 1, 2, 2]
    assert "the endpoint was cancelled" in fake.deliveries[-1].response


async def test_an_attempt_under_way_at_a_reset_leaves_nothing_in_what_follows() -> None:
    fake, endpoint = stalled()
    async with serve(fake):
        fake.emit("user.created")
        await endpoint.begun.wait()
        fake.reset()
        endpoint.released.set()
        await fake.deliver()
    assert (list(fake.deliveries), list(fake.upcoming())) == ([], [])
