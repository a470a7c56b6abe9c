"""One time limit for many tasks, at a fraction of what a timer for each of them costs."""

from __future__ import annotations

import asyncio

__all__ = ["Deadline", "Deadlines"]


class Deadline:
    """One task's limit: a context manager, as ``asyncio.timeout`` but for less.

    Raises ``TimeoutError`` in place of the cancellation that it made; a cancellation by others stays one.
    """

    __slots__ = ("_cancelling", "_owner", "at", "expired", "task")

    def __init__(self, owner: Deadlines) -> None:
        self._owner = owner
        self.expired = False
        self.at = 0.0

    def __enter__(self) -> Deadline:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a time limit is for a task")
        self.task = task
        self._cancelling = task.cancelling()
        self._owner.add(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._owner.remove(self)
        if self.expired and self.task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError


class Deadlines:
    """Cancels each task that is still in its ``limit()`` after ``seconds``.

    All limits are of the same length, so the one that began first ends first, and one timer, for that one, is
    enough: a task that is done in time costs two operations on a dict.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._running: dict[Deadline, None] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._armed = False

    def limit(self) -> Deadline:
        """A new limit, for the task that enters it."""
        return Deadline(self)

    def add(self, deadline: Deadline) -> None:
        """Begin to watch."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # a later asyncio.run(), whose loop knows nothing of our timer
            self._loop, self._armed = loop, False
            self._running.clear()
        deadline.at = loop.time() + self._seconds
        self._running[deadline] = None
        if not self._armed:
            self._arm(loop, deadline.at)

    def remove(self, deadline: Deadline) -> None:
        """Watch no more."""
        self._running.pop(deadline, None)

    def _arm(self, loop: asyncio.AbstractEventLoop, at: float) -> None:
        self._armed = True
        loop.call_at(at, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is not self._loop:
            return
        self._armed = False
        now = loop.time()
        for deadline in list(self._running):
            if deadline.at > now:
                self._arm(loop, deadline.at)
                return
            del self._running[deadline]
            deadline.expired = True
            deadline.task.cancel()
