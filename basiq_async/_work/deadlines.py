"""A limit for the attempts of many tasks, by one watchdog."""

from __future__ import annotations

import asyncio

_LOOKS = 4
"""The watchdog looks this often within the limit: it cancels an attempt at most a quarter of the limit late."""


class Watched:
    """A task whose attempts have a limit. ``attempt`` is the number of the running attempt; 0 between attempts."""

    __slots__ = ("_looks", "_seen", "attempt", "expired", "task")

    def __init__(self, task: asyncio.Task[object]) -> None:
        self.task = task
        self.attempt = 0
        self.expired = False
        """Whether the watchdog has cancelled the attempt."""
        self._seen = 0
        self._looks = 0

    def look(self) -> None:
        """Cancel the attempt if it is still the same after too many looks."""
        if self.attempt == 0 or self.attempt != self._seen:
            self._seen, self._looks = self.attempt, 0
            return
        self._looks += 1
        if self._looks > _LOOKS and not self.expired:
            self.expired = True
            self.task.cancel()

    def settle(self) -> bool:
        """Return whether only the watchdog cancelled the task; if so, clear the cancellation."""
        if not self.expired:
            return False
        self.expired = False
        return self.task.uncancel() == 0


class Watchdog:
    """Cancels attempts that last longer than ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._workers: list[Watched] = []

    def watch(self, task: asyncio.Task[object]) -> Watched:
        """Watch the attempts of a task."""
        watched = Watched(task)
        self._workers.append(watched)
        return watched

    async def run(self) -> None:
        """Check the watched tasks, until cancelled."""
        while True:
            await asyncio.sleep(self.seconds / _LOOKS)
            for worker in self._workers:
                worker.look()
