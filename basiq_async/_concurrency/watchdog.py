"""A time limit for what a target does with one message, that costs its workers nearly nothing."""

from __future__ import annotations

import asyncio

_LOOKS = 4
"""How often within the limit the watchdog looks: an attempt is cancelled at most a quarter late."""


class Watched:
    """A worker. ``attempt`` counts its attempts, while one is under way; 0 between them."""

    __slots__ = ("_looks", "_seen", "attempt", "expired", "task")

    def __init__(self, task: asyncio.Task[object]) -> None:
        self.task = task
        self.attempt = 0
        self.expired = False
        """Whether the watchdog has cancelled the attempt."""
        self._seen = 0
        self._looks = 0

    def look(self) -> None:
        """Cancel the attempt where it has been the same for too many looks."""
        if self.attempt == 0 or self.attempt != self._seen:
            self._seen, self._looks = self.attempt, 0
            return
        self._looks += 1
        if self._looks > _LOOKS and not self.expired:
            self.expired = True
            self.task.cancel()

    def settle(self) -> bool:
        """Return whether the cancellation that came was the watchdog's alone, which ends with this."""
        if not self.expired:
            return False
        self.expired = False
        return self.task.uncancel() == 0


class Watchdog:
    """Cancels the attempts of workers that take longer than ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._workers: list[Watched] = []

    def watch(self, task: asyncio.Task[object]) -> Watched:
        """Begin to watch a worker."""
        watched = Watched(task)
        self._workers.append(watched)
        return watched

    async def run(self) -> None:
        """Look after the workers until cancelled."""
        while True:
            await asyncio.sleep(self.seconds / _LOOKS)
            for worker in self._workers:
                worker.look()
