"""A coroutine that is watched behaves as it does by itself, and one that blocks is noticed."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Coroutine
from typing import Any

import pytest

from basiq_async._work import blocking
from basiq_async._work.blocking import watch

LONG = 1.5


class Clock:
    """The clock by which steps are measured."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def block(self) -> None:
        """Let time pass, as a call that blocks does."""
        self.now += LONG


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(blocking, "monotonic", lambda: made.now)
    return made


async def watched(work: Coroutine[Any, Any, Any], found: list[float] | None = None) -> Any:
    return await watch(work, (found if found is not None else []).append)


async def test_each_step_that_blocks_is_noticed_and_no_wait_is(clock: Clock) -> None:
    async def work() -> str:
        asyncio.get_running_loop().call_soon(clock.block)  # while it waits
        await asyncio.sleep(0)
        clock.block()
        await asyncio.sleep(0)
        clock.block()
        return "done"

    found: list[float] = []
    assert await watched(work(), found) == "done"
    assert found == [LONG, LONG]
    assert clock.now == 1_000 + 3 * LONG


async def test_a_step_that_blocks_and_fails_is_noticed(clock: Clock) -> None:
    async def work() -> None:
        clock.block()
        raise ValueError("x")

    found: list[float] = []
    with pytest.raises(ValueError, match="x"):
        await watched(work(), found)
    assert len(found) == 1


async def test_a_cancellation_and_a_time_limit_reach_the_work() -> None:
    seen: list[str] = []

    async def work() -> str:
        try:
            async with asyncio.timeout(0.001):
                await asyncio.Event().wait()
        except TimeoutError:
            seen.append("limit")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        return "never"

    task = asyncio.create_task(watched(work()))
    while not seen:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["limit", "cancelled"]


async def test_work_that_is_abandoned_is_closed() -> None:
    closed = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            closed.append(True)

    outer = watched(work())
    outer.send(None)
    outer.close()
    assert closed == [True]


async def test_an_error_is_freed_at_once() -> None:
    class Odd(Exception):
        pass

    async def work() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            raise Odd

    gc.disable()
    try:
        found = None
        try:
            await watched(work())
        except Odd as exc:
            found = weakref.ref(exc)
        assert found is not None
        assert found() is None
    finally:
        gc.enable()
