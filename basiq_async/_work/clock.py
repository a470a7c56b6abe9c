"""Clocks for the waits of a client, for leases, and for the age of an inbox's entries."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol, cast


class Clock(Protocol):
    """A clock that can sleep. If a transport has one as its attribute ``waits``, the client waits with it."""

    def time(self) -> float:
        """Return the seconds since a fixed moment."""
        ...

    def now(self) -> datetime:
        """Return the time of day on this clock."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait so many seconds on this clock."""
        ...


class LoopClock:
    """The event loop's clock."""

    def time(self) -> float:
        return asyncio.get_running_loop().time()

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def clock_of(transport: object) -> Clock | None:
    """Return the clock of a transport; None if it uses the event loop's."""
    return cast("Clock | None", getattr(transport, "waits", None))


TimeSource = Callable[[], datetime]
"""Returns the time as an aware datetime, such as a fake Basiq's clock."""


JUMP = 86_400.0
"""If this many seconds or more lie between two readings of the clock, it has jumped."""
_HOLD = 2 * 86_400.0
"""For this many seconds after a jump, nothing is forgotten. Basiq retries for less: 27 h 35 min."""


def in_seconds(clock: TimeSource | None) -> Callable[[], float]:
    """Return the same clock, in seconds since 1970; the system's clock for None."""
    return time.time if clock is None else lambda: clock().timestamp()


def lease_clock(clock: TimeSource | None) -> Callable[[], float]:
    """Return the clock for leases.

    For None, that is the monotonic clock, which cannot be set and all processes of a machine share.
    """
    return time.monotonic if clock is None else in_seconds(clock)


class RetentionClock:
    """Decides which entries are old enough to be forgotten.

    After the clock jumps ahead by a day or more, nothing is forgotten for two days. So nothing is lost if the clock is
    corrected in these two days; if it is not, no entry is lost that Basiq may still send. ``seen_at`` and
    ``hold_until`` come from an earlier process: its last reading, and the end of its hold.
    """

    def __init__(
        self, clock: TimeSource | None, *, seen_at: float | None = None, hold_until: float = -math.inf
    ) -> None:
        self._clock = in_seconds(clock)
        self.seen_at = self._clock() if seen_at is None else seen_at
        self.hold_until = hold_until

    def read(self) -> tuple[float, float]:
        """Return the time, and the moment up to which expired entries are forgotten; minus infinity during a hold."""
        now = self._clock()
        if now - self.seen_at >= JUMP:
            self.hold_until = now + _HOLD
        elif self.hold_until > now + _HOLD:
            self.hold_until = now + _HOLD  # the clock has jumped back
        self.seen_at = now
        return now, -math.inf if now < self.hold_until else now
