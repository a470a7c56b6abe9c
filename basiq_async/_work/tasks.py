"""Background tasks with an owner, and work that a cancellation does not interrupt."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from ..errors import ConnectionFailedError

T = TypeVar("T")

_MOST_STARTS = 3


class TaskOwner:
    """Starts tasks. When it is closed, it cancels and awaits all that still run."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self.closed = False

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a task that this owner awaits."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio does not log it as never retrieved

    async def aclose(self) -> None:
        """Cancel the tasks and wait until they have ended."""
        self.closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def result_of(task: asyncio.Task[T]) -> T:
    """Return the result of a task. Raises ``ConnectionFailedError`` if the task's owner cancelled it."""
    try:
        return await task
    except asyncio.CancelledError:
        current = asyncio.current_task()
        if task.cancelled() and (current is None or not current.cancelling()):
            raise ConnectionFailedError("the client is closed", sent=False) from None
        raise


def cancelling() -> bool:
    """Return whether the current task is being cancelled.

    If it is not, a ``CancelledError`` comes from something that the task awaited.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def run_to_completion(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run ``work`` to its end, even if the calling task is cancelled meanwhile; then raise the cancellation.

    Use it for the end of a unit of work: the last commit, a close, or the release of a claim. ``work`` runs in a
    separate task and needs its own time limit. An event loop that shuts down cancels that task too; ``work`` is then
    started again, so it must be safe to repeat. An exception of ``work`` is raised here unless the caller was
    cancelled, so ``work`` should log its errors.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work())
    cancelled = await wait_uncancelled(task)
    for _ in range(_MOST_STARTS - 1):
        if not task.cancelled():
            break
        task = loop.create_task(work())
        cancelled = await wait_uncancelled(task) or cancelled
    if cancelled is not None:
        if not task.cancelled():
            task.exception()
        raise cancelled
    return task.result()


async def run_cancel_once(work: Coroutine[Any, Any, T], *, again: float | None = None) -> T:
    """Run ``work`` in a separate task, and cancel that task once if the caller is cancelled.

    However often the caller is cancelled, ``work`` is cancelled once and has time to end. Then the cancellation is
    raised here. With ``again``, ``work`` is cancelled another time if it still runs after so many seconds:
    ``asyncio.wait_for`` of Python 3.11, which redis-py uses, loses a cancellation that arrives together with a result.
    """
    task = asyncio.get_running_loop().create_task(work)
    try:
        await asyncio.wait((task,))
    except asyncio.CancelledError as exc:
        cancelled = exc
        while not task.done():
            task.cancel()
            cancelled = await wait_uncancelled(task, again) or cancelled
    else:
        return task.result()
    if not task.cancelled():
        task.exception()
    raise cancelled


async def wait_uncancelled(future: asyncio.Future[Any], timeout: float | None = None) -> asyncio.CancelledError | None:
    """Wait until ``future`` is done, even if this task is cancelled. Return the last cancellation, or None.

    With ``timeout``, wait for at most so many seconds. ``future`` is not cancelled, and its result is not retrieved.
    """
    if future.done():
        return None
    clock = asyncio.get_running_loop().time
    until = None if timeout is None else clock() + timeout
    try:
        await asyncio.wait((future,), timeout=timeout)
    except asyncio.CancelledError as exc:
        cancelled = exc
    else:
        return None
    with _shield():
        while not future.done():
            left = None if until is None else until - clock()
            if left is not None and left <= 0:
                break
            try:
                await asyncio.wait((future,), timeout=left)
            except asyncio.CancelledError as exc:
                cancelled = exc
    return cancelled


def _shield() -> AbstractContextManager[object]:
    # A cancelled anyio scope cancels its tasks again in every cycle of the event loop, until they leave the scope.
    # Without a shield, waiting would keep a processor busy. If anyio is not imported, no such scope exists.
    anyio = sys.modules.get("anyio")
    shield: AbstractContextManager[object] = nullcontext() if anyio is None else anyio.CancelScope(shield=True)
    return shield
