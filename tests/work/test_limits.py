"""A time limit names its error."""

from __future__ import annotations

import asyncio

import pytest

from basiq_async import InboxError
from basiq_async._work.limits import limit
from tests.support import virtual

SLOW = InboxError("too slow")


def test_a_block_that_lasts_too_long_is_cancelled_and_raises_the_named_error() -> None:
    async def main() -> None:
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

    began = 1000.0
    virtual.run(main())


@pytest.mark.parametrize("seconds", [5, None])
def test_a_block_that_ends_in_time_is_not_touched(seconds: float | None) -> None:
    async def main() -> None:
        async with limit(seconds, SLOW):
            await asyncio.sleep(4.9)
        await asyncio.sleep(20)

    virtual.run(main())


def test_a_timeout_of_the_block_itself_passes() -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError, match="its own"):
            async with limit(5, SLOW):
                raise TimeoutError("its own")

    virtual.run(main())


def test_a_cancellation_by_others_stays_one() -> None:
    async def work() -> None:
        async with limit(5, SLOW):
            await asyncio.sleep(20)

    async def main() -> None:
        task = asyncio.create_task(work())
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    virtual.run(main())


def test_the_inner_of_two_limits_names_its_own_error() -> None:
    outer = InboxError("the outer one")

    async def main() -> None:
        with pytest.raises(InboxError, match="too slow"):
            async with limit(10, outer), limit(5, SLOW):
                await asyncio.sleep(20)
        with pytest.raises(InboxError, match="the outer one"):
            async with limit(5, outer), limit(10, SLOW):
                await asyncio.sleep(20)

    virtual.run(main())
