"""Turns and places: what holds a job back, by itself."""

from __future__ import annotations

import asyncio

import pytest

from basiq_async.replay._throttle import Gate, Pace
from tests.support.virtual import now, run


def test_a_pace_that_was_stopped_lets_nobody_through() -> None:
    async def main() -> None:
        pace = Pace(1)
        pace.stop()
        assert not await pace.wait()

    run(main())


def test_a_gate_opens_slowly_after_a_pause() -> None:
    async def main() -> None:
        gate = Gate(4)
        gate.pause(10)
        gate.pause(5)
        assert gate.pauses == 1
        began, entered = now(), []

        async def caller() -> None:
            assert await gate.enter()
            entered.append(now() - began)
            await asyncio.sleep(1)
            gate.succeeded()
            gate.leave()

        async with asyncio.TaskGroup() as group:
            for _ in range(6):
                group.create_task(caller())
        assert entered[0] == pytest.approx(10)
        assert entered[1] == pytest.approx(11)
        assert gate.open
        assert gate.paused_until is None
        gate.stop()
        assert not await gate.enter()

    run(main())


def test_one_who_was_let_in_and_cancelled_at_once_gives_the_place_back() -> None:
    async def main() -> None:
        gate = Gate(2)
        gate.pause(1)
        first = asyncio.create_task(gate.enter())
        second = asyncio.create_task(gate.enter())
        await asyncio.sleep(0)
        gate._reopen()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        gate._admit()
        assert await second

    run(main())
