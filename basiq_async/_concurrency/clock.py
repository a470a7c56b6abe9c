"""Clocks: what a client waits by, what leases run by, and how old the entries of an inbox are."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Protocol, TypeVar, cast

T = TypeVar("T")


class Clock(Protocol):
    """A clock to wait by. The client of a transport that has one as ``waits`` waits by it."""

    def time(self) -> float:
        """Seconds since some moment."""
        ...

    def now(self) -> datetime:
        """Return the time of day on this clock."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return when that many seconds have passed on this clock."""
        ...

    async def limit(self, work: Awaitable[T], seconds: float) -> T:
        """Await ``work``. Raises TimeoutError where it waits for longer than that on this clock."""
        ...


class LoopClock:
    """The event loop's clock."""

    def time(self) -> float:
        return asyncio.get_running_loop().time()

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def limit(self, work: Awaitable[T], seconds: float) -> T:
        async with asyncio.timeout(seconds):
            return await work


def clock_of(transport: object) -> Clock | None:
    """The clock of a transport; None for the event loop's."""
    return cast("Clock | None", getattr(transport, "waits", None))


TimeSource = Callable[[], float] | Callable[[], datetime]
"""Returns the time, as seconds since 1970 (``time.time``) or as an aware datetime (a fake Basiq's clock)."""


JUMP = 86_400.0
"""A gap between two looks at the clock from which it counts as a jump, in seconds."""
_HOLD = 2 * 86_400.0
"""How long nothing is forgotten after a jump, in seconds: longer than Basiq keeps sending (27 h 35 min)."""


def in_seconds(clock: TimeSource) -> Callable[[], float]:
    """The same clock, in seconds since 1970."""
    if clock is time.time:
        return time.time

    def read() -> float:
        moment = clock()
        return moment.timestamp() if isinstance(moment, datetime) else moment

    return read


def lease_clock(clock: TimeSource) -> Callable[[], float]:
    """The clock that leases run by.

    A wall clock can be set; the monotonic one cannot, and all processes of a machine share it. A clock that a caller
    passes is used as it is.
    """
    return time.monotonic if clock is time.time else in_seconds(clock)


class RetentionClock:
    """Says up to which moment entries may be forgotten.

    Where the clock jumps ahead by a day or more, nothing is forgotten for two days. So a clock that was wrong for a
    while forgets nothing, and one that stays wrong nothing that Basiq still sends. ``seen_at`` and ``hold_until``
    are what an earlier process knew.
    """

    def __init__(self, clock: TimeSource, *, seen_at: float | None = None, hold_until: float = -math.inf) -> None:
        self._clock = in_seconds(clock)
        self.seen_at = self._clock() if seen_at is None else seen_at
        self.hold_until = hold_until

    def now(self) -> float:
        """Read the clock, and notice a jump."""
        now = self._clock()
        if now - self.seen_at >= JUMP:
            self.hold_until = now + _HOLD
        elif self.hold_until > now + _HOLD:
            self.hold_until = now + _HOLD  # the clock has jumped back
        self.seen_at = now
        return now

    def horizon(self, now: float) -> float:
        """Entries that expired at this moment or before it are forgotten."""
        return -math.inf if now < self.hold_until else now
