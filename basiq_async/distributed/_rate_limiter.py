"""One rate for the whole fleet. Each process draws time slots from the record; a slot that is missed is dropped."""

from __future__ import annotations

import asyncio
from collections import deque
from weakref import WeakSet

from ._record import Record

_LATE = 0.015
"""A slot may be used up to this many seconds late. Any 0.1 s then has at most 1.15 times the rate, plus one."""
_LEAST = 0.002
"""A slot can be used for at least this many seconds, even if the store's clock is known less precisely."""
_AHEAD = 0.005
"""Seconds of the rate that one request draws. A worker that dies wastes at most that many."""


class SharedRateLimiter:
    """The part of a job's rate that one process uses.

    Slots that were missed, in a pause or while the event loop was blocked, are dropped: no burst follows.
    """

    def __init__(self, record: Record, key: str) -> None:
        self._record = record
        self._key = key
        self._waiting: deque[asyncio.Future[bool]] = deque()
        self._slots: deque[tuple[float, float]] = deque()
        self._earliest, self._latest = float("-inf"), float("inf")
        self._serving: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._segments: WeakSet[SegmentRate] = WeakSet()  # weak: a segment without messages is never stopped
        self.rate: float | None = None
        """The current rate of the job; None for no limit."""

    def for_segment(self) -> SegmentRate:
        """Return the limiter of one segment, which can be stopped separately."""
        segment = SegmentRate(self)
        self._segments.add(segment)
        return segment

    def set_rate(self, rate: float | None) -> None:
        """Set the current rate of the job."""
        if rate != self.rate:
            self.rate = rate
            self._slots.clear()
            self._changed.set()
            for segment in self._segments:
                segment.open = rate is None

    def forget(self, segment: SegmentRate) -> None:
        """Stop telling a segment about changes of the rate."""
        self._segments.discard(segment)

    def ask(self) -> asyncio.Future[bool]:
        """Return a future that is done when a slot has begun."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        self._waiting.append(future)
        if self._serving is None or self._serving.done():
            self._serving = loop.create_task(self._serve())
        return future

    async def aclose(self) -> None:
        """Cancel the background task."""
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.wait([self._serving])

    async def _serve(self) -> None:
        try:
            while self._waiting:
                await self._next()
        except Exception as exc:
            while self._waiting:
                future = self._waiting.popleft()
                if not future.done():
                    future.set_exception(exc)

    async def _next(self) -> None:
        clock = asyncio.get_running_loop().time
        while self._waiting and self._waiting[0].done():
            self._waiting.popleft()
        while self._slots and self._slots[0][1] < clock():
            self._slots.popleft()
        if not self._slots:
            if self.rate is None:
                self._let_all()
                return
            if self._waiting:
                await self._draw()
            return
        wait = self._slots[0][0] - clock()
        if wait > 0:
            await self._sleep(wait)
            return  # the next call checks again whether the slot is late or the rate has changed
        self._slots.popleft()
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(True)
                return

    async def _sleep(self, seconds: float) -> None:
        """Wait ``seconds``, or until the rate changes."""
        self._changed.clear()
        timer = asyncio.get_running_loop().call_later(seconds, self._changed.set)
        try:
            await self._changed.wait()
        finally:
            timer.cancel()

    async def _draw(self) -> None:
        clock = asyncio.get_running_loop().time
        rate = self.rate or 1.0
        wanted = max(1, min(len(self._waiting), int(rate * _AHEAD)))
        asked = clock()
        slots = await self._record.rate_slots(self._key, wanted)
        if slots is None:
            self.set_rate(None)
            return
        self._measure(asked - slots.now, clock() - slots.now)
        begin = self._latest
        end = max(self._earliest + _LATE, begin + _LEAST)
        for i in range(wanted):
            slot = slots.first + slots.interval * i
            self._slots.append((slot + begin, slot + end))

    def _measure(self, earliest: float, latest: float) -> None:
        """Narrow down the offset of the store's clock, which was read between the request and the response."""
        self._earliest, self._latest = max(self._earliest, earliest), min(self._latest, latest)
        if self._earliest > self._latest:  # one of the clocks was set
            self._earliest, self._latest = earliest, latest

    def _let_all(self) -> None:
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(True)


class SegmentRate:
    """The limiter of one segment. Its engine waits for it in place of a ``RateLimiter``."""

    def __init__(self, limiter: SharedRateLimiter) -> None:
        self._limiter = limiter
        self.open = limiter.rate is None
        """Whether the job has no rate: a message need not ``wait``."""
        self._asked: set[asyncio.Future[bool]] = set()
        self._stopped = False

    async def wait(self) -> bool:
        """Wait for a slot, and return True; False once the segment is stopped."""
        if self._stopped:
            return False
        if self._limiter.rate is None:
            return True
        future = self._limiter.ask()
        self._asked.add(future)
        try:
            return await future
        finally:
            self._asked.discard(future)

    def stop(self) -> None:
        """End all waits: they return False."""
        self._stopped, self.open = True, False
        self._limiter.forget(self)
        for future in self._asked:
            if not future.done():
                future.set_result(False)
