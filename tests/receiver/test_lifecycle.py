"""Cancellation at every step, and shutting down."""

from __future__ import annotations

import asyncio

import pytest

from basiq_async import ConfigurationError
from basiq_async.receiver import Delivery, Result, WebhookReceiver
from tests.support.deliveries import SECRET, payload, post
from tests.support.inboxes import fail_in

from ..support import virtual


@virtual.clocked
async def test_an_inbox_that_hangs_does_not_hold_a_cancelled_delivery_for_ever() -> None:
    receiver = WebhookReceiver(SECRET, inbox=fail_in("release"))

    @receiver.on("*")
    async def handle(delivery: Delivery) -> None:
        await asyncio.sleep(3600)

    task = asyncio.create_task(post(receiver))
    await asyncio.sleep(1)
    began = virtual.now()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert virtual.now() - began == pytest.approx(1.0), "the claim is given back without the caller"
    await receiver.aclose()
    assert virtual.now() - began == pytest.approx(6.0), "and is tried once more, for a second"


async def test_shutting_down_finishes_what_was_begun_and_takes_no_more() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    body, later = payload(), payload()
    async with asyncio.TaskGroup() as group, WebhookReceiver(SECRET) as receiver:

        @receiver.on("*")
        async def handle(delivery: Delivery) -> None:
            begun.set()
            await go_on.wait()

        handling = group.create_task(post(receiver, body))
        await begun.wait()
        closing = group.create_task(receiver.aclose())
        await asyncio.sleep(0)
        refused = await post(receiver, later)
        assert (refused.result, refused.status, refused.headers) == (Result.CLOSED, 503, {"Retry-After": "5"})
        assert not closing.done()
        go_on.set()
    assert handling.result().result is Result.HANDLED
    delivery = handling.result().delivery
    assert delivery is not None
    dispatched = await receiver.dispatch(delivery)
    assert (dispatched.result, dispatched.delivery) == (Result.CLOSED, delivery)
    await receiver.aclose()


def test_a_receiver_in_the_loops_of_two_threads_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    receiver = WebhookReceiver(SECRET)

    async def use() -> Result:
        return (await post(receiver)).result

    async def use_it_while_another_thread_does() -> None:
        await use()
        with pytest.raises(ConfigurationError, match="another thread"):
            await asyncio.to_thread(asyncio.run, use())

    asyncio.run(use_it_while_another_thread_does())
    assert asyncio.run(use()) is Result.IGNORED  # one loop after the other is all right
