"""Clocks for the waits of a client, for leases, and for the age of an inbox's entries."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol, cast

from .schedule import ATTEMPTED


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


STEADY = ATTEMPTED.total_seconds()
"""The seconds for which a clock must go on before a time that it showed is believed. Basiq retries for less."""


def in_seconds(clock: TimeSource | None) -> Callable[[], float]:
    """Return the same clock, in seconds since 1970; the system's clock for None."""
    return time.time if clock is None else lambda: clock().timestamp()


def lease_clock(clock: TimeSource | None) -> Callable[[], float]:
    """Return the clock for leases.

    For None, that is the monotonic clock, which cannot be set and all processes of a machine share.
    """
    return time.monotonic if clock is None else in_seconds(clock)


class RetentionClock:
    """Decides which entries are old enough to be forgotten, by a time that a wrong clock cannot move.

    A time that the clock showed is believed when the clock shows one that is three days later, and was not set back to
    an earlier one meanwhile. So a clock that is ahead for less than three days has nothing forgotten, and an inbox that
    is used once a week forgets what was old a week ago. ``shown`` and ``believed`` come from an earlier process: a time
    that its clock showed, and the last one that it believed.
    """

    def __init__(self, clock: TimeSource | None, *, shown: float | None = None, believed: float = -math.inf) -> None:
        self._clock = in_seconds(clock)
        self.shown = self._clock() if shown is None else shown
        self.believed = believed

    def read(self) -> tuple[float, float]:
        """Return the time, and the moment up to which expired entries are forgotten."""
        now = self._clock()
        if now < self.shown:
            self.shown = now
        elif now - self.shown >= STEADY:
            self.believed = max(self.believed, self.shown)
            self.shown = now
        return now, min(self.believed, now)
