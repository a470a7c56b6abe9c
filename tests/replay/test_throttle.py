"""What holds a job back, by itself: a rate, and a pause that the target asked for."""

from __future__ import annotations

import asyncio

import pytest

from basiq_async.replay._throttle import Pressure  # private: who waits cannot be told from outside
from tests.support.virtual import clocked, now


@clocked
async def test_a_pressure_opens_slowly_after_a_pause() -> None:
    pressure = Pressure(4)
    pressure.pause(10)
    pressure.pause(5)
    assert pressure.pauses == 1
    began, entered = now(), []

    async def caller() -> None:
        assert await pressure.enter()
        entered.append(now() - began)
        await asyncio.sleep(1)
        pressure.succeed()
        pressure.leave()

    async with asyncio.TaskGroup() as group:
        for _ in range(6):
            group.create_task(caller())
    assert entered[0] == pytest.approx(10)
    assert entered[1] == pytest.approx(11)
    assert pressure.open
    assert pressure.paused_until is None
    pressure.stop()
    assert not await pressure.enter()


@clocked
async def test_a_pause_ends_at_its_end_and_a_success_lets_one_more_in() -> None:
    pressure = Pressure(4)
    pressure.pause(2)
    assert pressure.paused_until == now() + 2
    await asyncio.sleep(2)
    assert pressure.paused_until is None, "a pause is over when its seconds are"
    pressure.pause(1)
    assert pressure.pauses == 2, "a pause that begins when the one before is over is another one"
    pressure.succeed()
    waiting = [asyncio.create_task(pressure.enter()) for _ in range(3)]
    await asyncio.sleep(1)
    await asyncio.sleep(1)
    assert [each.done() for each in waiting] == [True, False, False], "a success during a pause opens nothing"
    pressure.succeed()
    await asyncio.sleep(1)
    assert [each.done() for each in waiting] == [True, True, False], "each success after it lets in one more"
    pressure.stop()
    assert not await waiting[2]


@clocked
async def test_one_who_was_let_in_and_cancelled_at_once_gives_the_place_back() -> None:
    pressure = Pressure(2)
    pressure.pause(1)
    first, second, third = (asyncio.create_task(pressure.enter()) for _ in range(3))
    assert await first
    pressure.leave()  # the second is let in
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert await third
