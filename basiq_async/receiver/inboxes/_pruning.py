"""Delete old entries of an inbox while deliveries are handled: a few at a time, with pauses."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable

import attrs

logger = logging.getLogger("basiq_async.receiver")

_FEWEST, _MOST = 20, 1_000
_LONGEST_PAUSE = 1.0


@attrs.frozen
class Pace:
    """How long a batch may last, in seconds, and the pause after it, as a multiple of the batch's duration."""

    seconds: float
    pause: float


LOCKING = Pace(0.0015, 49)
"""For SQLite, whose write lock a batch holds: fewer than 1 delivery in 40 meets a batch, and then waits briefly."""
SHARING = Pace(0.05, 29)
"""For PostgreSQL, where no delivery waits for a batch, but both use the same disk and processors."""


class Pruning:
    """Deletes the expired entries of an inbox, in a task of its own.

    ``batch`` is called with the maximum number to delete, and returns how many it deleted. Batches follow one another
    until none is left. Their size adapts to the speed of the storage, so that each lasts about ``pace.seconds``.
    """

    def __init__(self, batch: Callable[[int], Awaitable[int]], what: str, pace: Pace) -> None:
        self._batch = batch
        self._pace = pace
        self._what = what
        self._task: asyncio.Task[None] | None = None
        self._pid = 0
        self._closed = False

    def start(self) -> None:
        """Start the task, unless it runs or the pruning is closed."""
        if not self._closed and not self._is_running():
            self._pid = os.getpid()
            self._task = asyncio.get_running_loop().create_task(self._prune())

    async def aclose(self) -> None:
        """Stop the task for good. May be called twice."""
        self._closed = True
        await self.stop()

    async def stop(self) -> None:
        """Stop the task after the present batch, and wait for that."""
        task = self._task
        if task is not None and self._is_running() and task.get_loop() is asyncio.get_running_loop():
            task.cancel()
            await asyncio.wait((task,))

    def _is_running(self) -> bool:
        """Return whether the task runs in this process, on a loop that is not closed."""
        task = self._task
        return task is not None and not task.done() and not task.get_loop().is_closed() and self._pid == os.getpid()

    async def _prune(self) -> None:
        clock = asyncio.get_running_loop().time
        most = _FEWEST
        while True:
            began = clock()
            try:
                deleted = await self._batch(most)
            except Exception:
                if not self._closed:
                    logger.warning("old entries of %s could not be pruned", self._what, exc_info=True)
                return
            if deleted < most:
                return
            took = clock() - began
            if took > self._pace.seconds:
                most = max(most // 2, _FEWEST)
            elif took < self._pace.seconds / 2:
                most = min(most * 2, _MOST)
            await asyncio.sleep(min(self._pace.pause * took, _LONGEST_PAUSE))
