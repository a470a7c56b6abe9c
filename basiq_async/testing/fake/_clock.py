"""Clocks for a fake Basiq, and waits on its clock."""

from __future__ import annotations

import asyncio
import heapq
import math
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol, runtime_checkable

_FASTEST = 1e6
LATEST = datetime(9000, 1, 1, tzinfo=UTC)
"""The latest time that a fake's clock can be moved to. Attempts planned from then still have a valid date."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STEPS = 50
"""The number of event loop cycles in which other tasks can begin a wait, before time jumps."""

Clock = Callable[[], datetime]
"""A callable that returns the fake's time as an aware datetime."""


@runtime_checkable
class MovableClock(Protocol):
    """A clock that ``FakeBasiq.advance`` can move."""

    def __call__(self) -> datetime: ...

    def move_to(self, moment: datetime, /) -> None: ...


class ManualClock:
    """A clock that stands still until it is moved, so that a test sees the same times in every run.

    Starts at ``start``, by default 2026-01-05 00:00 UTC.
    """

    def __init__(self, start: datetime | None = None) -> None:
        start = start or datetime(2026, 1, 5, tzinfo=UTC)
        if start.tzinfo is None:
            raise ValueError("start needs a time zone, such as datetime.UTC")
        self._now = start.astimezone(UTC)

    def __call__(self) -> datetime:
        return self._now

    def __repr__(self) -> str:
        return f"ManualClock({self._now.isoformat()})"

    def move_to(self, moment: datetime) -> None:
        """Set the clock forward to ``moment``. A moment in the past changes nothing."""
        self._now = max(self._now, moment)

    def advance(self, delta: timedelta | None = None, *, seconds: float = 0.0) -> None:
        """Set the clock forward. Unlike ``FakeBasiq.advance``, this makes no deliveries."""
        self.move_to(self._now + (delta or timedelta()) + timedelta(seconds=seconds))


class SystemClock:
    """A clock that runs ``speed`` times as fast as the machine's, and can be moved forward.

    Starts at ``start``, by default now.
    """

    def __init__(self, speed: float = 1.0, *, start: datetime | None = None) -> None:
        if not 0 < speed <= _FASTEST:
            raise ValueError(f"speed must be above 0 and at most {_FASTEST:g}, not {speed!r}")
        if start is not None and start.tzinfo is None:
            raise ValueError("start needs a time zone, such as datetime.UTC")
        self.speed = float(speed)
        self._start = datetime.now(UTC) if start is None else start.astimezone(UTC)
        self._started = time.monotonic()

    def __call__(self) -> datetime:
        return self._start + timedelta(seconds=(time.monotonic() - self._started) * self.speed)

    def __repr__(self) -> str:
        return f"SystemClock(speed={self.speed:g})"

    def move_to(self, moment: datetime) -> None:
        """Set the clock forward to ``moment``, and run on from there. A moment in the past changes nothing."""
        ahead = moment - self()
        if ahead > timedelta():
            self._start += ahead


class VirtualWaits:
    """Waits on the fake's clock. They need no real time, and end in order.

    As soon as no other task is active, time jumps to the end of the next wait: the fake's clock is moved there, and
    the deliveries that are due by then are made.
    """

    def __init__(self, clock: Clock, advance_to: Callable[[datetime], Awaitable[None]]) -> None:
        self._clock = clock
        self._advance_to = advance_to
        self._sleepers: list[tuple[datetime, int]] = []
        self._serial = 0
        self._waiting: set[asyncio.Future[None]] = set()

    def time(self) -> float:
        """Return the time on the fake's clock, in seconds since 1970."""
        return (self._clock() - _EPOCH).total_seconds()

    def now(self) -> datetime:
        """Return the fake's time."""
        return self._clock()

    async def sleep(self, seconds: float) -> None:
        """Wait ``seconds`` on the fake's clock."""
        # Rounded up: a caller that waits until a moment must not find itself just before it.
        until = self._clock() + timedelta(microseconds=math.ceil(max(seconds, 0.0) * 1e6))
        await asyncio.sleep(0)
        await self._sleep_until(until)

    async def _sleep_until(self, until: datetime) -> None:
        self._serial += 1
        me = (until, self._serial)
        heapq.heappush(self._sleepers, me)
        try:
            while self._clock() < until:
                if self._sleepers[0] is not me:
                    await self._wait()
                elif await self._is_quiet(me):
                    await self._advance_to(until)
        finally:
            self._sleepers.remove(me)
            heapq.heapify(self._sleepers)
            self.notify()

    def notify(self) -> None:
        """Wake the waiting tasks, to look at the clock."""
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    async def _is_quiet(self, me: tuple[datetime, int]) -> bool:
        """Let other tasks run. Return False if one began a wait that ends earlier, or moved the clock."""
        for _ in range(_STEPS):
            await asyncio.sleep(0)
            if self._sleepers[0] is not me or self._clock() >= me[0]:
                return False
        return True

    async def _wait(self) -> None:
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        try:
            await waiting
        finally:
            self._waiting.discard(waiting)
