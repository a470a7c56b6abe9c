"""One rate for the whole fleet. Each process draws time slots from the record; a slot that is missed is dropped."""

from __future__ import annotations

import asyncio
from collections import deque

import attrs

from .._work.limits import wait_for_event
from .._work.tasks import cancelling
from ._job_store import JobStore

_LATE = 0.015
"""A slot may be used up to this many seconds late. Any 0.1 s then has at most 1.15 times the rate, plus one."""
_LEAST = 0.002
"""A slot can be used for at least this many seconds, even if the store's clock is known less precisely."""
_AHEAD = 0.005
"""Seconds of the rate that one request draws. A worker that dies wastes at most that many."""


@attrs.define
class SharedRateLimiter:
    """The part of a job's rate that one process uses.

    Slots that were missed, in a pause or while the event loop was blocked, are dropped: no burst follows.
    """

    _store: JobStore
    _key: str
    rate: float | None = None
    """The current rate of the job; None for no limit."""
    _turn: asyncio.Lock = attrs.field(factory=asyncio.Lock)
    _callers: int = 0
    _slots: deque[tuple[float, float]] = attrs.field(factory=deque)
    _changed: asyncio.Event = attrs.field(factory=asyncio.Event)

    def set_rate(self, rate: float | None) -> None:
        """Set the current rate of the job."""
        if rate != self.rate:
            self.rate = rate
            self._slots.clear()
            self._changed.set()

    async def wait(self) -> None:
        """Wait for a slot. Callers get slots in turn."""
        clock = asyncio.get_running_loop().time
        self._callers += 1
        try:
            async with self._turn:
                while self.rate is not None:
                    while self._slots and self._slots[0][1] < clock():
                        self._slots.popleft()
                    if not self._slots:
                        await self._draw(self.rate)
                    elif self._slots[0][0] <= clock():
                        self._slots.popleft()
                        return
                    else:
                        self._changed.clear()
                        await wait_for_event(self._changed, self._slots[0][0] - clock())
        finally:
            self._callers -= 1

    async def _draw(self, rate: float) -> None:
        clock = asyncio.get_running_loop().time
        wanted = max(1, min(self._callers, int(rate * _AHEAD)))
        asked = clock()
        slots = await self._store.rate_slots(self._key, wanted)
        if slots is None:
            self.set_rate(None)
            return
        # The store's clock was read between the request and the response.
        begin = clock() - slots.now
        end = max(asked - slots.now + _LATE, begin + _LEAST)
        for i in range(wanted):
            slot = slots.first + slots.interval * i
            self._slots.append((slot + begin, slot + end))


@attrs.define
class SegmentRate:
    """The limiter of one segment, which can be stopped separately. Its engine uses it in place of a ``RateLimiter``."""

    _limiter: SharedRateLimiter
    _waits: set[asyncio.Task[None]] = attrs.field(factory=set)
    _stopped: bool = False

    async def wait(self) -> bool:
        """Wait for a slot, and return True; False once the segment is stopped."""
        if self._limiter.rate is None or self._stopped:
            return not self._stopped
        wait = asyncio.create_task(self._limiter.wait())
        self._waits.add(wait)
        try:
            await wait
        except asyncio.CancelledError:
            if cancelling():
                raise
            return False
        finally:
            self._waits.discard(wait)
        return True

    def stop(self) -> None:
        """End all waits: they return False."""
        self._stopped = True
        for wait in self._waits:
            wait.cancel()
