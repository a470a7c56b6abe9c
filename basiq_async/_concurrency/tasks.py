"""Background tasks, each with an owner that ends it, and work that a cancellation does not interrupt."""

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
    """Starts tasks, and cancels and awaits those that are left when it is closed."""

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


def cancelling() -> bool:
    """Whether somebody has asked the current task to end.

    A ``CancelledError`` in a task that nobody cancels comes from something that it awaited.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def run_to_completion(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run ``work`` to its end, however often the calling task is cancelled meanwhile; then raise the cancellation.

    This is for the end of a unit of work: the last commit, a close, giving back a claim. ``work`` runs in a
    separate task. A loop that shuts down cancels that task too; ``work`` is then started again, so it must be safe to
    repeat. It has to have a time limit. Its own exception is raised where the caller was not cancelled; otherwise
    the cancellation wins, and ``work`` has to report what failed.
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
    """Run ``work`` in a separate task, which the caller's cancellation cancels once.

    However often the caller is cancelled, and by whatever library, ``work`` sees one cancellation and has the time
    that it needs to end; only then is the cancellation raised here. With ``again``, work that has not ended after so
    many seconds is cancelled again: ``asyncio.wait_for`` of Python 3.11 loses a cancellation that comes together with
    a result, and redis-py is built on it.
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
    """Wait until ``future`` is done, however often this task is cancelled; return the last cancellation.

    After ``timeout`` seconds, where given, it returns though ``future`` is not done. ``future`` is not cancelled, and
    its result is not looked at.
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
    # A cancelled scope of anyio cancels its tasks in every turn of the loop until they have left it: without a
    # shield the waiting would keep a processor busy. Where anyio is not loaded, there is no such scope.
    anyio = sys.modules.get("anyio")
    shield: AbstractContextManager[object] = nullcontext() if anyio is None else anyio.CancelScope(shield=True)
    return shield
