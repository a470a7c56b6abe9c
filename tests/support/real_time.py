"""Real time in tests: an event loop whose time limits do not depend on the load, and a check for long sleeps."""

from __future__ import annotations

import asyncio
import selectors
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from .virtual import VirtualLoop

WORK = 0.0001
"""What one turn of the loop counts as, in seconds, at most: a loop that polls the clock still comes to its end."""
PATIENCE = 300.0
"""Seconds that a test waits for another process, thread or server: only one that hangs needs them."""
LONGEST = 0.05
"""Seconds that a test may sleep at once."""
_TESTS = str(Path(__file__).parents[1])


class _PatientSelector(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = self._left = time.monotonic()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        began = time.monotonic()
        events = super().select(timeout)
        self.now += min(began - self._left, WORK)
        self._left = time.monotonic()
        waited = self._left - began
        # More than the timeout means that this process did not run.
        self.now += waited if timeout is None else min(waited, max(timeout, 0.0))
        return events


class PatientLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock advances while the loop waits, and hardly while it works.

    So a time limit in a test limits only waiting, and does not depend on the load of the machine: a response within
    this process arrives before its time limit, even if the process had no processor for a while.
    """

    def __init__(self) -> None:
        self._patient = _PatientSelector()
        super().__init__(self._patient)

    def time(self) -> float:
        return self._patient.now


def begin_tasks_at_once() -> None:
    """Give each event loop that is made from now on the eager task factory, which Python 3.12 has."""
    if sys.version_info < (3, 12):
        raise pytest.UsageError("eager tasks need Python 3.12")
    make = asyncio.BaseEventLoop.__init__

    def make_eager(loop: asyncio.BaseEventLoop) -> None:
        make(loop)
        loop.set_task_factory(asyncio.eager_task_factory)

    asyncio.BaseEventLoop.__init__ = make_eager  # type: ignore[method-assign]


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


class Waits:
    """Finds sleeps of tests and their helpers that are longer than ``LONGEST``."""

    def __init__(self) -> None:
        self.found: list[str] = []

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Let ``asyncio.sleep`` and ``time.sleep`` record in ``found`` each sleep that is too long."""
        sleep, block = asyncio.sleep, time.sleep

        def watched_sleep(delay: float, result: Any = None) -> Coroutine[Any, Any, Any]:
            caller = None if delay <= LONGEST else _caller()
            return sleep(delay, result) if caller is None else watch(delay, result, caller)

        async def watch(delay: float, result: Any, caller: str) -> Any:
            result = await sleep(delay, result)
            if not isinstance(asyncio.get_running_loop(), VirtualLoop):
                self.found.append(f"asyncio.sleep({delay:g}) in {caller}")
            return result

        def watched_block(seconds: float) -> None:
            caller = None if seconds <= LONGEST else _caller()
            block(seconds)
            if caller is not None:
                self.found.append(f"time.sleep({seconds:g}) in {caller}")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncio, "sleep", watched_sleep)
            patch.setattr(time, "sleep", watched_block)
            yield


def _caller() -> str | None:
    """Return the file and line of the test that sleeps; None if the package or a library sleeps."""
    frame = sys._getframe(2)
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame.f_code.co_filename.startswith(_TESTS) else None
