"""One rate for the whole fleet: slots are drawn from the record and used on time, or not at all."""

from __future__ import annotations

import asyncio
from collections import deque
from weakref import WeakSet

from .record import Record

_LATE = 0.015
"""Seconds that a slot may be used late. A window of 0.1 s then holds at most 1.15 times the rate, and one more."""
_LEAST = 0.002
"""Seconds for which a slot can be used though the store is so far away that its time is not known as well as that."""
_AHEAD = 0.005
"""Seconds of the rate that are drawn at once: what a worker that dies wastes, and what a request is spread over."""


class SharedRateLimiter:
    """The share of one process in the rate of a job.

    Slots that could not be used on time, after a pause or a stalled event loop, are dropped, never made up for.
    """

    def __init__(self, record: Record, key: str) -> None:
        self._record = record
        self._key = key
        self._waiting: deque[asyncio.Future[bool]] = deque()
        self._slots: deque[tuple[float, float]] = deque()
        self._earliest, self._latest = float("-inf"), float("inf")
        self._serving: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._segments: WeakSet[SegmentRate] = WeakSet()  # one that had nothing to handle is never stopped
        self.rate: float | None = None
        """The rate of the job as it is now; None for no limit."""

    def for_segment(self) -> SegmentRate:
        """The view of one segment, which can be stopped alone."""
        segment = SegmentRate(self)
        self._segments.add(segment)
        return segment

    def set_rate(self, rate: float | None) -> None:
        """Set the rate of the job as it is now."""
        if rate != self.rate:
            self.rate = rate
            self._slots.clear()
            self._changed.set()
            for segment in self._segments:
                segment.open = rate is None

    def forget(self, segment: SegmentRate) -> None:
        """Tell a segment no more of the rate."""
        self._segments.discard(segment)

    def ask(self) -> asyncio.Future[bool]:
        """A future that is done when a slot has come."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        self._waiting.append(future)
        if self._serving is None or self._serving.done():
            self._serving = loop.create_task(self._serve())
        return future

    async def aclose(self) -> None:
        """End what is under way."""
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
            return  # whether it is late by now, or the rate another one, is seen anew
        self._slots.popleft()
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(True)
                return

    async def _sleep(self, seconds: float) -> None:
        """Wait so long, or until the rate is another one."""
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
        """Narrow down what to add to the store's time: its moment lies between request and response."""
        self._earliest, self._latest = max(self._earliest, earliest), min(self._latest, latest)
        if self._earliest > self._latest:  # one of the clocks was set
            self._earliest, self._latest = earliest, latest

    def _let_all(self) -> None:
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(True)


class SegmentRate:
    """What an engine waits for, in place of a ``RateLimiter`` of its own."""

    def __init__(self, limiter: SharedRateLimiter) -> None:
        self._limiter = limiter
        self.open = limiter.rate is None
        """Whether the job has no rate: a message need not ``wait``."""
        self._asked: set[asyncio.Future[bool]] = set()
        self._stopped = False

    async def wait(self) -> bool:
        """Wait for a slot; False once it is stopped."""
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
        """Send everyone who waits away."""
        self._stopped, self.open = True, False
        self._limiter.forget(self)
        for future in self._asked:
            if not future.done():
                future.set_result(False)
