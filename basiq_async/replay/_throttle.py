"""Delay messages: by the rate, and by pauses of the target. Times are the event loop's."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol


class Limiter(Protocol):
    """Decides when the next message may begin. ``open``: whether it may begin without ``wait``."""

    @property
    def open(self) -> bool: ...

    async def wait(self) -> bool:
        """Wait until a message may begin. Return False if the job stops."""
        ...

    def stop(self) -> None:
        """Let every waiting call return False."""
        ...


class RateLimiter:
    """Lets ``rate`` messages a second begin, evenly spaced. Slots that were not used are lost."""

    def __init__(self, rate: float) -> None:
        self.open = False
        self._interval = 1.0 / rate
        self._due = float("-inf")
        self._waiting: set[asyncio.Future[bool]] = set()
        self._stopped = False

    async def wait(self) -> bool:
        """Wait until a message may begin. Return False if the job stops."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        slot = max(self._due, now)
        self._due = slot + self._interval
        if self._stopped:
            return False
        if slot == now:
            return True
        return await self._wait_until(slot, loop)

    async def _wait_until(self, slot: float, loop: asyncio.AbstractEventLoop) -> bool:
        future: asyncio.Future[bool] = loop.create_future()
        timer = loop.call_at(slot, _resolve, future)
        self._waiting.add(future)
        try:
            return await future
        finally:
            timer.cancel()
            self._waiting.discard(future)

    def stop(self) -> None:
        """Let every waiting call return False."""
        self._stopped = True
        for future in self._waiting:
            _resolve(future, False)


class Backpressure:
    """Holds callers back while the target asks for a pause, and admits them slowly afterwards.

    After a pause it admits a single caller. Each success raises the number of callers by one, until ``width`` callers
    are admitted and it is open again. If it admitted all at once, the target would refuse them again.
    """

    def __init__(self, width: int) -> None:
        self.open = True
        """Whether callers need not call ``enter`` and ``leave``."""
        self.pauses = 0
        """The number of pauses since the last success."""
        self._width = width
        self._window = 0
        self._inside = 0
        self._until = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: deque[asyncio.Future[bool]] = deque()
        self._resting: set[asyncio.Future[bool]] = set()
        self._stopped = False

    @property
    def closed(self) -> bool:
        """Whether the target has a pause now."""
        return self._timer is not None

    @property
    def paused_until(self) -> float | None:
        """The end of the pause, in the event loop's time; None without a pause."""
        return None if self._until <= asyncio.get_running_loop().time() else self._until

    def pause(self, seconds: float) -> None:
        """Close for ``seconds``. A pause that is under way is lengthened, never shortened."""
        if self._stopped:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._timer is None:
            self.pauses += 1
        self.open = False
        self._window = 1
        if now + seconds > self._until or self._timer is None:
            self._until = max(self._until, now + seconds)
            if self._timer is not None:
                self._timer.cancel()
            self._timer = loop.call_at(self._until, self._reopen)

    def _reopen(self) -> None:
        self._timer = None
        self._until = float("-inf")
        self._admit()

    async def rest(self, seconds: float) -> bool:
        """Let only the calling task wait. Return False if the job stops."""
        if self._stopped:
            return False
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        timer = loop.call_later(seconds, _resolve, future)
        self._resting.add(future)
        try:
            return await future
        finally:
            timer.cancel()
            self._resting.discard(future)

    async def enter(self) -> bool:
        """Wait to be admitted. Return False if the job stops. Each caller that was admitted must call ``leave``."""
        if self._stopped:
            return False
        if not self._may_pass():
            future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            try:
                return await future  # counted as inside by ``_admit``
            except asyncio.CancelledError:
                if future.done() and not future.cancelled() and future.result():
                    self.leave()
                raise
        self._inside += 1
        return True

    def leave(self) -> None:
        """Make room for the next caller, after ``enter`` returned True."""
        self._inside -= 1
        self._admit()

    def succeed(self) -> None:
        """Admit one caller more, because the target accepted a message."""
        self.pauses = 0
        if not self.open and self._timer is None:
            self._window += 1
            self.open = self._window >= self._width
            self._admit()

    def stop(self) -> None:
        """Let every waiting call, and every later one, return False."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting:
            _resolve(self._waiting.popleft(), False)
        for future in self._resting:
            _resolve(future, False)

    def _may_pass(self) -> bool:
        return self._timer is None and (self.open or self._inside < self._window)

    def _admit(self) -> None:
        while self._waiting and self._may_pass():
            future = self._waiting.popleft()
            if not future.done():
                self._inside += 1
                future.set_result(True)


def _resolve(future: asyncio.Future[bool], value: bool = True) -> None:
    if not future.done():
        future.set_result(value)
