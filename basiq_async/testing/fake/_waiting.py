"""Waiting on the fake's clock: as soon as nobody else has anything to do, time jumps to the end of the next wait."""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from ._clock import Clock

T = TypeVar("T")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST = 1e9
_STEPS = 50
"""How many turns of the loop other tasks get, to begin a wait of their own, before time jumps."""


# When the running code's innermost limit is over, on the fake's clock.
_limit: ContextVar[datetime | None] = ContextVar("limit on the fake's clock", default=None)


class VirtualWaits:
    """Clock that take no real time, in the order in which they end.

    ``time`` is in seconds, as an event loop's is. A wait that ends moves the fake's clock, and the deliveries that
    are due on the way are made.
    """

    def __init__(self, clock: Clock, advance_to: Callable[[datetime], Awaitable[None]]) -> None:
        self._clock = clock
        self._advance_to = advance_to
        self._sleepers: list[tuple[datetime, int]] = []
        self._serial = 0
        self._waiting: set[asyncio.Future[None]] = set()

    def time(self) -> float:
        """Seconds on the fake's clock."""
        return (self._clock() - _EPOCH).total_seconds()

    def now(self) -> datetime:
        """Return the fake's time."""
        return self._clock()

    async def sleep(self, seconds: float) -> None:
        """Return when the fake's clock is ``seconds`` later. Raises TimeoutError at the end of a ``limit``."""
        # Rounded up: a caller that waits until a moment must not find itself just before it.
        until = self._clock() + timedelta(microseconds=math.ceil(max(seconds, 0.0) * 1e6))
        await asyncio.sleep(0)
        end = _limit.get()
        if end is not None and end < until:
            await self._sleep_until(end)
            raise TimeoutError
        await self._sleep_until(until)

    async def limit(self, work: Awaitable[T], seconds: float) -> T:
        """Await ``work``, whose waits last at most that many seconds on the fake's clock. Raises TimeoutError."""
        end = self._clock() + timedelta(seconds=min(seconds, _LONGEST))
        outer = _limit.get()
        token = _limit.set(end if outer is None else min(outer, end))
        try:
            return await work
        finally:
            _limit.reset(token)

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
        """Let the sleepers look at the clock."""
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    async def _is_quiet(self, me: tuple[datetime, int]) -> bool:
        """Let the others go on; whether nobody began a wait that ends earlier, or moved the clock."""
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
