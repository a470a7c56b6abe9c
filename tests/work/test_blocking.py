"""A coroutine that is watched behaves as it does by itself, and one that blocks is noticed."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import Coroutine
from typing import Any

import pytest

from basiq_async._work import blocking
from basiq_async._work.blocking import watch

LONG = 0.03


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocking, "LONGEST_STEP", 0.02)


async def watched(work: Coroutine[Any, Any, Any], found: list[float] | None = None) -> Any:
    return await watch(work, (found if found is not None else []).append)


async def test_each_step_that_blocks_is_noticed_and_no_wait_is() -> None:
    async def work() -> str:
        await asyncio.sleep(LONG)
        time.sleep(LONG)
        await asyncio.sleep(0)
        time.sleep(LONG)
        return "done"

    found: list[float] = []
    assert await watched(work(), found) == "done"
    assert len(found) == 2
    assert all(LONG <= each < 1 for each in found)


async def test_a_step_that_blocks_and_fails_is_noticed() -> None:
    async def work() -> None:
        time.sleep(LONG)
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
