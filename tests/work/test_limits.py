"""A time limit names its error."""

from __future__ import annotations

import asyncio

import pytest

from basiq_async import InboxError
from basiq_async._work.limits import limit, wait_for_event
from tests.support import virtual

SLOW = InboxError("too slow")


@virtual.clocked
async def test_a_block_that_lasts_too_long_is_cancelled_and_raises_the_named_error() -> None:
    began = 1000.0
    secret = "whsec_planted"
    with pytest.raises(InboxError) as caught:
        async with limit(5, SLOW):
            await asyncio.sleep(20)
    assert caught.value is SLOW
    assert virtual.now() == began + 5
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    cause = caught.value.__cause__
    assert isinstance(cause, TimeoutError)
    assert cause.__traceback__ is None, f"frames of the block are kept, and their variables ({secret})"


@pytest.mark.parametrize("seconds", [5, None])
@virtual.clocked
async def test_a_block_that_ends_in_time_is_not_touched(seconds: float | None) -> None:
    async with limit(seconds, SLOW):
        await asyncio.sleep(4.9)
    await asyncio.sleep(20)


@virtual.clocked
async def test_a_timeout_of_the_block_itself_passes() -> None:
    with pytest.raises(TimeoutError, match="its own"):
        async with limit(5, SLOW):
            raise TimeoutError("its own")


@virtual.clocked
async def test_a_cancellation_by_others_stays_one() -> None:
    async def work() -> None:
        async with limit(5, SLOW):
            await asyncio.sleep(20)

    task = asyncio.create_task(work())
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@virtual.clocked
async def test_the_inner_of_two_limits_names_its_own_error() -> None:
    outer = InboxError("the outer one")
    with pytest.raises(InboxError, match="too slow"):
        async with limit(10, outer), limit(5, SLOW):
            await asyncio.sleep(20)
    with pytest.raises(InboxError, match="the outer one"):
        async with limit(5, outer), limit(10, SLOW):
            await asyncio.sleep(20)


@virtual.clocked
async def test_an_error_is_made_only_if_the_time_is_over() -> None:
    made: list[InboxError] = []

    def make() -> InboxError:
        made.append(InboxError("too slow"))
        return made[0]

    async with limit(5, make):
        await asyncio.sleep(4)
    assert made == []
    with pytest.raises(InboxError) as caught:
        async with limit(5, make):
            await asyncio.sleep(6)
    assert made == [caught.value]


@pytest.mark.parametrize(("seconds", "is_set", "took"), [(1, False, 1), (5, True, 3), (None, True, 3)])
@virtual.clocked
async def test_a_wait_for_an_event_ends_with_it_or_with_its_time(
    seconds: float | None, is_set: bool, took: float
) -> None:
    event, began = asyncio.Event(), virtual.now()
    timer = asyncio.get_running_loop().call_later(3, event.set)
    assert await wait_for_event(event, seconds) is is_set
    assert virtual.now() - began == took
    timer.cancel()
