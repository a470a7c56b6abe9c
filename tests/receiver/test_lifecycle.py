"""Cancellation at every step, and shutting down."""

from __future__ import annotations

import asyncio

import pytest

from basiq_async.receiver import Claim, ClaimStatus, Delivery, MemoryInbox, Result, WebhookReceiver
from basiq_async.receiver._receiver import _SETTLE_TIMEOUT
from tests.support.deliveries import SECRET, payload, signed

from ..support import virtual


class SteppingInbox(MemoryInbox):
    """Each call takes steps before and after its effect, so that a cancellation can come at each of them."""

    async def _steps(self) -> None:
        for _ in range(2):
            await asyncio.sleep(0)

    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        await self._steps()
        claim = await super().claim(key, token, lease=lease)
        await self._steps()
        return claim

    async def complete(self, key: str, token: str) -> bool:
        await self._steps()
        done = await super().complete(key, token)
        await self._steps()
        return done

    async def release(self, key: str, token: str) -> None:
        await self._steps()
        await super().release(key, token)
        await self._steps()


@pytest.mark.parametrize("fails", [False, True])
def test_a_cancellation_at_any_step_leaves_a_delivery_handled_or_free(fails: bool) -> None:
    async def at(step: int, cancellations: int) -> bool:
        inbox = SteppingInbox()
        receiver = WebhookReceiver(SECRET, inbox=inbox)
        finished: list[Delivery] = []

        @receiver.on("*")
        async def handle(delivery: Delivery) -> None:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if fails:
                raise RuntimeError("as asked")
            finished.append(delivery)

        body = payload()
        task = asyncio.create_task(receiver.handle(signed(body), body))
        for _ in range(step):
            await asyncio.sleep(0)
        for _ in range(cancellations):
            task.cancel()
            await asyncio.sleep(0)
        await asyncio.wait({task})
        if not task.cancelled():
            assert task.result().result is (Result.FAILED if fails else Result.HANDLED)
            return False
        [delivery] = [*finished, None][:1]
        again = await receiver.handle(signed(body), body)
        if fails:
            assert again.result is Result.FAILED
        else:
            assert again.result is (Result.HANDLED if delivery is None else Result.DUPLICATE)
            assert len(finished) == 1
        async with asyncio.timeout(1):
            await receiver.aclose()
        return True

    async def every() -> None:
        cancelled = [await at(step, cancellations) for cancellations in (1, 3) for step in range(40)]
        assert cancelled.count(True) > 20
        assert not cancelled[39]

    virtual.run(every())


def test_an_inbox_that_hangs_does_not_hold_a_cancelled_delivery_for_ever() -> None:
    class Hanging(MemoryInbox):
        async def release(self, key: str, token: str) -> None:
            await asyncio.Event().wait()

    async def main() -> None:
        receiver = WebhookReceiver(SECRET, inbox=Hanging())

        @receiver.on("*")
        async def handle(delivery: Delivery) -> None:
            await asyncio.sleep(3600)

        body = payload()
        task = asyncio.create_task(receiver.handle(signed(body), body))
        await asyncio.sleep(1)
        began = virtual.now()
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        assert virtual.now() - began == pytest.approx(_SETTLE_TIMEOUT)

    virtual.run(main())


async def test_whatever_a_handler_raises_the_claim_is_given_back() -> None:
    inbox = MemoryInbox()
    receiver = WebhookReceiver(SECRET, inbox=inbox)

    class Stop(BaseException):
        pass

    @receiver.on("*")
    async def handle(delivery: Delivery) -> None:
        raise Stop

    body = payload("user.created", "e-stop")
    with pytest.raises(Stop):
        await receiver.handle(signed(body), body)
    delivery = (await WebhookReceiver(SECRET).handle(signed(body), body)).delivery
    assert delivery is not None
    assert (await inbox.claim(delivery.key, "other", lease=1)).status is ClaimStatus.CLAIMED
    async with asyncio.timeout(1):
        await receiver.aclose()


async def test_shutting_down_finishes_what_was_begun_and_takes_no_more() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    body, later = payload(), payload()
    async with asyncio.TaskGroup() as group, WebhookReceiver(SECRET) as receiver:

        @receiver.on("*")
        async def handle(delivery: Delivery) -> None:
            begun.set()
            await go_on.wait()

        handling = group.create_task(receiver.handle(signed(body), body))
        await begun.wait()
        closing = group.create_task(receiver.aclose())
        await asyncio.sleep(0)
        refused = await receiver.handle(signed(later), later)
        assert (refused.result, refused.status, refused.headers) == (Result.CLOSED, 503, {"Retry-After": "5"})
        assert not closing.done()
        go_on.set()
    assert handling.result().result is Result.HANDLED
    delivery = handling.result().delivery
    assert delivery is not None
    dispatched = await receiver.dispatch(delivery)
    assert (dispatched.result, dispatched.delivery) == (Result.CLOSED, delivery)
    await receiver.aclose()
