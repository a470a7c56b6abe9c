"""A handler whose time is over: Basiq gets its response in time, and the event has no other handler before it ends."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from basiq_async.receiver import Delivery, Outcome, Result, WebhookReceiver
from tests.support import virtual
from tests.support.deliveries import SECRET, payload, post, signed

BODY = payload(event_id="one")
LIMIT = 2.0
RESISTANCE = 20.0

Handler = Callable[[Delivery], Awaitable[None]]


class Service:
    def __init__(self, handler: Handler, **options: Any) -> None:
        self.receiver = WebhookReceiver(SECRET, handler_timeout=LIMIT, **options)
        self.receiver.on("*")(handler)

    async def post(self) -> Outcome:
        return await self.receiver.handle(signed(BODY), BODY)

    def is_idle(self) -> bool:
        return "0 in flight" in repr(self.receiver)


async def finish(log: list[str], *, fails: bool) -> None:
    await asyncio.sleep(RESISTANCE)
    log.append("ended")
    if fails:
        raise ValueError("rolled back")


def resisting(log: list[str], *, fails: bool) -> Handler:
    """Caught its cancellation, and goes on."""

    async def handler(delivery: Delivery) -> None:
        log.append("began")
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            await finish(log, fails=fails)

    return handler


@virtual.clocked
async def test_basiq_is_told_in_time_and_the_claim_is_kept_until_the_handler_has_ended() -> None:
    log: list[str] = []
    service = Service(resisting(log, fails=True), quarantine_after=2)
    started = virtual.now()
    first = await service.post()
    assert first.status == 500
    assert virtual.now() - started <= LIMIT + 1.0
    while (again := await service.post()).result is Result.BUSY:
        await asyncio.sleep(1.0)
        assert log.count("began") == 1
    assert log[:3] == ["began", "ended", "began"], "another one began before the first had ended"
    assert again.status == 500
    await service.receiver.aclose()
    assert log.count("ended") == 2, "closing waits for it"
    assert [each.failures for each in await service.receiver.quarantined()] == [2], "both failures were counted"


@virtual.clocked
async def test_a_handler_that_ends_within_a_moment_is_awaited() -> None:
    async def handler(delivery: Delivery) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(0.5)

    service = Service(handler, quarantine_after=5)
    done = await service.post()
    assert (done.result, done.attempt) == (Result.TIMED_OUT, 1)
    assert service.is_idle()


@pytest.mark.parametrize("times", [1, 3])
@virtual.clocked
async def test_a_server_that_cancels_a_delivery_gives_it_to_no_other_while_its_handler_runs(times: int) -> None:
    log: list[str] = []
    service = Service(resisting(log, fails=True))
    task = asyncio.create_task(service.post())
    await asyncio.sleep(1.0)
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await service.post()).result is Result.BUSY
    while not service.is_idle():
        await asyncio.sleep(1.0)
    assert log == ["began", "ended"], "it was cancelled more than once"
    await service.post()
    assert log.count("began") == 2
    await service.receiver.aclose()


@virtual.clocked
async def test_a_handler_that_never_ends_keeps_its_claim_for_a_lease_at_the_most(
    caplog: pytest.LogCaptureFixture,
) -> None:
    free = asyncio.Event()

    async def handler(delivery: Delivery) -> None:
        while not free.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await free.wait()

    service = Service(handler, lease=20.0)
    await service.post()
    started = virtual.now()
    await service.receiver.aclose()
    waited = virtual.now() - started
    free.set()
    await asyncio.sleep(1)
    assert waited <= 20.0
    assert "its lease has run out" in caplog.text


@virtual.clocked
async def test_what_a_handler_started_itself_and_left_running_is_not_waited_for() -> None:
    log: list[str] = []

    async def handler(delivery: Delivery) -> None:
        await asyncio.shield(left.setdefault(delivery.id, asyncio.create_task(finish(log, fails=False))))

    left: dict[str, asyncio.Task[None]] = {}
    service = Service(handler)
    started = virtual.now()
    assert (await service.post()).result is Result.TIMED_OUT
    assert virtual.now() - started == LIMIT
    assert service.is_idle()
    assert log == []
    await asyncio.wait(left.values())


@virtual.clocked
async def test_a_handler_has_one_task_and_one_context_from_begin_to_end() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    seen: list[object] = []

    async def handler(delivery: Delivery) -> None:
        token = variable.set("set")
        seen.append(asyncio.current_task())
        try:
            async with asyncio.timeout(1000):  # belongs to the task that entered it
                await asyncio.sleep(1000)
        except asyncio.CancelledError:
            async with asyncio.timeout(1):
                await asyncio.sleep(0.5)
            raise
        finally:
            seen.append(asyncio.current_task())
            variable.reset(token)  # fails in another context

    assert (await Service(handler).post()).result is Result.TIMED_OUT
    assert seen[0] is seen[1] is not None


@virtual.clocked
async def test_two_hundred_handlers_whose_time_ends_at_once_are_two_hundred_tasks() -> None:
    most = 0

    async def handler(delivery: Delivery) -> None:
        nonlocal most
        try:
            await asyncio.sleep(1000)
        finally:
            most = max(most, len(asyncio.all_tasks()))
            await asyncio.sleep(0.1)

    service = Service(handler)
    bodies = [payload(event_id=f"e-{number}") for number in range(200)]
    outcomes = await asyncio.gather(*(service.receiver.handle(signed(body), body) for body in bodies))
    assert {outcome.result for outcome in outcomes} == {Result.TIMED_OUT}
    assert most <= 2 * 200 + 1, "each delivery has the task of its server, and one for its handler"


async def test_what_was_handled_is_freed_at_once_and_not_by_the_garbage_collector() -> None:
    handled: list[weakref.ref[Delivery]] = []

    async def handle(delivery: Delivery) -> None:
        handled.append(weakref.ref(delivery))
        await asyncio.sleep(0)

    receiver = WebhookReceiver(SECRET)
    receiver.on("*")(handle)
    gc.disable()
    try:
        assert (await post(receiver)).result is Result.HANDLED
        assert [each() for each in handled] == [None]
    finally:
        gc.enable()
