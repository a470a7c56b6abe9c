"""Background tasks, each with an owner that ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from .errors import ConnectionFailedError

T = TypeVar("T")


class TaskOwner:
    """Starts tasks, and cancels and awaits those that are left when it is closed."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self.closed = False

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a task that this owner answers for."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not report it when nobody wants the result

    async def aclose(self) -> None:
        """Cancel the tasks and wait until they are gone."""
        self.closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def result_of(task: asyncio.Task[T]) -> T:
    """Await a task; one that its owner has cancelled is an error here, not this task's own cancellation."""
    try:
        return await task
    except asyncio.CancelledError:
        current = asyncio.current_task()
        if task.cancelled() and (current is None or not current.cancelling()):
            raise ConnectionFailedError("the client is closed", sent=False) from None
        raise
