"""Cancellation at every step of every way in: a delivery is handled and recorded, or free to be handled again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest

from basiq_async.receiver import Delivery, DeliveryEvent, Outcome, WebhookReceiver
from basiq_async.receiver.protocol import ClaimStatus
from tests.support import virtual
from tests.support.cancelling import HOWS, How, SteppingInbox, cancel_after, turns
from tests.support.deliveries import SECRET, payload, signed

Way = Callable[[WebhookReceiver, bytes], Awaitable[object]]

STEPS = 40


class Run:
    """A receiver, and what became of the one delivery that it gets."""

    def __init__(self, handler: str, quarantine_after: int | None = None) -> None:
        self.inbox = SteppingInbox(2)
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
            await turns(2)
            if handler == "fails":
                raise RuntimeError("as asked")
            if handler == "hangs":
                await asyncio.sleep(3600)
            if handler == "awaits something cancelled":
                other = asyncio.get_running_loop().create_future()
                other.cancel()
                await other
            self.handled += 1

    async def check(self, ended: object, *, cancelled: bool) -> None:
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
                await turns(2)
                yield body[start : start + 100]
        finally:
            await turns(2)

    return await receiver.handle_stream(signed(body), chunks())


async def by_dispatch(receiver: WebhookReceiver, body: bytes) -> object:
    first = await WebhookReceiver(SECRET).handle(signed(body), body)
    assert first.delivery is not None
    return await receiver.dispatch(first.delivery)


in_each_way = pytest.mark.parametrize("how", [how for how in HOWS if how != "everything"])


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
    handler: str, quarantine_after: int | None, way: Way, how: How
) -> None:
    async def every() -> int:
        cancellations = 0
        for step in range(1, STEPS):
            run = Run(handler, quarantine_after)
            ended = list[object]()

            async def deliver(run: Run = run, ended: list[object] = ended) -> None:
                ended.append(await way(run.receiver, run.body))

            await cancel_after(step, deliver(), how, alone=False)
            cancellations += not ended
            await run.check(*ended or [None], cancelled=not ended)
            if ended:
                break  # it was done before the cancellation came
        return cancellations

    assert virtual.run(every()) >= 10


@pytest.mark.parametrize("again", ["succeeds", "fails"])
@in_each_way
def test_a_cancelled_retry_leaves_a_delivery_handled_or_in_the_quarantine(again: str, how: How) -> None:
    async def every() -> int:
        cancellations = 0
        for step in range(1, STEPS):
            run = Run("fails", 1)
            await by_handle(run.receiver, run.body)
            mended = Run(again)
            mended.inbox = run.inbox
            mended.receiver = WebhookReceiver(SECRET, inbox=run.inbox)

            @mended.receiver.on("*")
            async def handle(delivery: Delivery, mended: Run = mended) -> None:
                await turns(2)
                if again == "fails":
                    raise RuntimeError("still")
                mended.handled += 1

            cancelled = await cancel_after(step, mended.receiver.retry_quarantined(), how, alone=False)
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


@pytest.mark.parametrize("how", ["once", "twice", "repeatedly"])
def test_a_cancelled_aclose_can_be_called_again_and_loses_nothing(how: How) -> None:
    async def every() -> None:
        for step in range(1, STEPS):
            run = Run("succeeds")
            delivery = asyncio.ensure_future(by_handle(run.receiver, run.body))
            await turns(3)
            await cancel_after(step, run.receiver.aclose(), how, alone=False)
            await run.receiver.aclose()
            assert delivery.done()
            await run.check(delivery.result(), cancelled=False)

    virtual.run(every())


@virtual.clocked
async def test_a_handler_that_awaits_something_cancelled_gets_500_a_hook_and_a_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = Run("awaits something cancelled")
    outcome: Any = await by_handle(run.receiver, run.body)
    assert (outcome.status, [event.result for event in run.events]) == (500, ["failed"])
    assert isinstance(outcome.error.__cause__, asyncio.CancelledError)
    await run.check(outcome, cancelled=False)
    assert "awaited something that was cancelled" in caplog.text
