"""Cancellation at every step of every way in: a delivery is handled and recorded, or free to be handled again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import pytest

from basiq_async.receiver import Delivery, DeliveryEvent, MemoryInbox, Outcome, WebhookReceiver
from basiq_async.receiver.protocol import ClaimStatus
from tests.support import virtual
from tests.support.deliveries import SECRET, payload, signed

Way = Callable[[WebhookReceiver, bytes], Awaitable[object]]
Cancel = Callable[[Awaitable[object], int], Awaitable[tuple[object, bool]]]

STEPS = 40


async def steps(count: int = 2) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


CALLS = ("claim", "complete", "release", "quarantine", "quarantined")


class SteppingInbox(MemoryInbox):
    """Each call takes steps before and after its effect, so that a cancellation can come at each of them."""

    def __init__(self) -> None:
        super().__init__()
        for name in CALLS:
            setattr(self, name, partial(self._step, getattr(self, name)))

    async def _step(self, call: Callable[..., Awaitable[Any]], *arguments: Any, **options: Any) -> Any:
        await steps()
        result = await call(*arguments, **options)
        await steps()
        return result


class Run:
    """A receiver, and what became of the one delivery that it gets."""

    def __init__(self, handler: str, quarantine_after: int | None = None) -> None:
        self.inbox = SteppingInbox()
        self.events: list[DeliveryEvent] = []
        self.handled = 0
        self.receiver = WebhookReceiver(
            SECRET,
            inbox=self.inbox,
            on_delivery=self.events.append,
            handler_timeout=10,
            quarantine_after=quarantine_after,
        )
        self.body = payload()

        @self.receiver.on("*")
        async def handle(delivery: Delivery) -> None:
            await steps()
            if handler == "fails":
                raise RuntimeError("as asked")
            if handler == "hangs":
                await asyncio.sleep(3600)
            if handler == "awaits something cancelled":
                other = asyncio.get_running_loop().create_future()
                other.cancel()
                await other
            self.handled += 1

    async def check(self, ended: object, cancelled: bool) -> None:
        outcome = ended if isinstance(ended, Outcome) else None
        assert len(self.events) == (1 if outcome is not None else 0) or cancelled, "one event for each response"
        assert outcome is None or self.events[0].result is outcome.result
        delivery = (await WebhookReceiver(SECRET).handle(signed(self.body), self.body)).delivery
        assert delivery is not None
        recorded = bool(await self.inbox.known([delivery.key]))
        claim = await self.inbox.claim(delivery.key, "another", lease=1)
        assert claim.status is (ClaimStatus.DONE if recorded else ClaimStatus.CLAIMED), "a claim was left behind"
        entries = await self.receiver.quarantined()
        assert self.handled + len(entries) == int(recorded), (
            "handled without a record, or recorded without being handled"
        )
        async with asyncio.timeout(1):
            await self.receiver.aclose()


async def by_handle(receiver: WebhookReceiver, body: bytes) -> object:
    return await receiver.handle(signed(body), body)


async def by_stream(receiver: WebhookReceiver, body: bytes) -> object:
    async def chunks() -> AsyncGenerator[bytes]:
        try:
            for start in range(0, len(body), 100):
                await steps()
                yield body[start : start + 100]
        finally:
            await steps()

    return await receiver.handle_stream(signed(body), chunks())


async def by_dispatch(receiver: WebhookReceiver, body: bytes) -> object:
    first = await WebhookReceiver(SECRET).handle(signed(body), body)
    assert first.delivery is not None
    return await receiver.dispatch(first.delivery)


def by_asyncio(times: int) -> Cancel:
    async def run(work: Awaitable[object], step: int) -> tuple[object, bool]:
        task = asyncio.ensure_future(work)
        await steps(step)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        await asyncio.wait({task})
        return (None, True) if task.cancelled() else (task.result(), False)

    return run


async def by_anyio(work: Awaitable[object], step: int) -> tuple[object, bool]:
    """Anyio cancels again at each turn of the loop, until the scope is left."""
    ended: object = None
    done = False

    async def inside() -> None:
        nonlocal ended, done
        ended = await work
        done = True

    async with anyio.create_task_group() as group:
        group.start_soon(inside)
        await steps(step)
        group.cancel_scope.cancel()
    return ended, not done


async def by_timeout(work: Awaitable[object], step: int) -> tuple[object, bool]:
    async def inside() -> object:
        async with asyncio.timeout(None) as limit:
            loop = asyncio.get_running_loop()

            def expire(left: int) -> None:
                if left:
                    loop.call_soon(expire, left - 1)
                elif not limit.expired():
                    limit.reschedule(0)

            expire(step)
            result = await work
            limit.reschedule(None)
            return result

    try:
        return await asyncio.ensure_future(inside()), False
    except TimeoutError:
        return None, True


in_each_way = pytest.mark.parametrize(
    "cancel",
    [by_asyncio(1), by_asyncio(3), by_asyncio(25), by_anyio, by_timeout],
    ids=["once", "three times", "again and again", "an anyio scope", "a timeout"],
)


@pytest.mark.parametrize(
    ("way", "handler", "quarantine_after"),
    [
        (by_handle, "succeeds", None),
        (by_handle, "fails", None),
        (by_handle, "hangs", None),
        (by_handle, "awaits something cancelled", None),
        (by_handle, "fails", 1),
        (by_stream, "succeeds", None),
        (by_stream, "fails", 1),
        (by_dispatch, "succeeds", None),
        (by_dispatch, "fails", None),
    ],
)
@in_each_way
def test_a_cancellation_at_any_step_leaves_a_delivery_handled_or_free(
    handler: str, quarantine_after: int | None, way: Way, cancel: Cancel
) -> None:
    async def every() -> int:
        cancellations = 0
        for step in range(STEPS):
            run = Run(handler, quarantine_after)
            ended, cancelled = await cancel(way(run.receiver, run.body), step)
            cancellations += cancelled
            await run.check(ended, cancelled)
            if not cancelled:
                break  # it was done before the cancellation came
        return cancellations

    assert virtual.run(every()) >= 10


@pytest.mark.parametrize("again", ["succeeds", "fails"])
@in_each_way
def test_a_cancelled_retry_leaves_a_delivery_handled_or_in_the_quarantine(again: str, cancel: Cancel) -> None:
    async def every() -> int:
        cancellations = 0
        for step in range(STEPS):
            run = Run("fails", 1)
            await by_handle(run.receiver, run.body)
            mended = Run(again)
            mended.inbox = run.inbox
            mended.receiver = WebhookReceiver(SECRET, inbox=run.inbox)

            @mended.receiver.on("*")
            async def handle(delivery: Delivery, mended: Run = mended) -> None:
                await steps()
                if again == "fails":
                    raise RuntimeError("still")
                mended.handled += 1

            _, cancelled = await cancel(mended.receiver.retry_quarantined(), step)
            cancellations += cancelled
            entries = await mended.receiver.quarantined()
            assert mended.handled + len(entries) == 1
            if entries:
                claim = await run.inbox.claim(entries[0].key, "another", lease=1, quarantined=True)
                assert claim.status is ClaimStatus.CLAIMED, "a claim was left behind"
            if not cancelled:
                break
        return cancellations

    assert virtual.run(every()) >= 10


@pytest.mark.parametrize("times", [1, 3, 60])
def test_a_cancelled_aclose_can_be_called_again_and_loses_nothing(times: int) -> None:
    async def every() -> None:
        for step in range(STEPS):
            run = Run("succeeds")
            delivery = asyncio.ensure_future(by_handle(run.receiver, run.body))
            await steps(3)
            await by_asyncio(times)(run.receiver.aclose(), step)
            await run.receiver.aclose()
            assert delivery.done()
            await run.check(delivery.result(), False)

    virtual.run(every())


@virtual.clocked
async def test_a_handler_that_awaits_something_cancelled_gets_500_a_hook_and_a_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = Run("awaits something cancelled")
    outcome: Any = await by_handle(run.receiver, run.body)
    assert (outcome.status, [event.result for event in run.events]) == (500, ["failed"])
    assert isinstance(outcome.error.__cause__, asyncio.CancelledError)
    await run.check(outcome, False)
    assert "awaited something that was cancelled" in caplog.text
