"""An event loop whose clock jumps to the next timer: a wait of an hour takes no time, an endless wait is an error."""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events:
            if timeout is None:
                raise RuntimeError("nothing is left that could wake a task: it would wait for ever")
            self.now += max(timeout, 0.0)
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        self._clock_resolution = 1e-6  # of 194 days a float has no nanoseconds: a timer would never be due

    def time(self) -> float:
        return self._jumping.now

    # What finds mistakes in the debug mode. The rest of that mode keeps a stack for each callback: most of the time.
    def call_soon(self, *args: Any, **options: Any) -> asyncio.Handle:
        self._check_thread()
        return super().call_soon(*args, **options)

    def call_at(self, *args: Any, **options: Any) -> asyncio.TimerHandle:
        self._check_thread()
        return super().call_at(*args, **options)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on a virtual clock, and return its result. Fails if a task is left over."""

    async def checked() -> T:
        result = await main
        await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left behind: {left}"
        return result

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(checked())


def clocked(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Decorate an async test: it runs on a virtual clock."""

    @functools.wraps(test)
    def clocked_test(*args: P.args, **kwargs: P.kwargs) -> None:
        run(test(*args, **kwargs))

    return clocked_test


def now() -> float:
    return asyncio.get_running_loop().time()


def clock() -> datetime:
    """The virtual time as a datetime, for what accepts a clock."""
    return datetime.fromtimestamp(now(), UTC)
