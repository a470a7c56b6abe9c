"""One time limit for many tasks, at a fraction of what a timer for each of them costs."""

from __future__ import annotations

import asyncio


class Deadline:
    """One task's limit: a context manager, as ``asyncio.timeout`` but for less.

    Raises ``TimeoutError`` in place of the cancellation that it made; a cancellation by others stays one.
    """

    __slots__ = ("_cancelling", "_owner", "_seconds", "_timer", "at", "expired", "task")

    def __init__(self, owner: Deadlines, seconds: float | None) -> None:
        self._owner = owner
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None
        self.expired = False
        self.at = 0.0

    def __enter__(self) -> Deadline:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a time limit is for a task")
        self.task = task
        self._cancelling = task.cancelling()
        if self._seconds is None:
            self._owner.add(self)
        else:
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self.expire)
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self._timer is None:
            self._owner.remove(self)
        else:
            self._timer.cancel()
        if self.expired and self.task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError

    def expire(self) -> None:
        """Cancel the task: its time is over."""
        self.expired = True
        self.task.cancel()


class Deadlines:
    """Cancels each task that is still in its ``limit()`` after ``seconds``.

    All limits are of the same length, so the one that began first ends first, and one timer, for that one, is
    enough: a task that is done in time costs two operations on a dict.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._running: dict[Deadline, None] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def limit(self, seconds: float | None = None) -> Deadline:
        """A new limit, for the task that enters it. One that is shorter than the others has its own timer."""
        return Deadline(self, None if seconds is None or seconds >= self.seconds else seconds)

    def add(self, deadline: Deadline) -> None:
        """Begin to watch."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # a later asyncio.run(), whose loop knows nothing of our timer
            self._loop, self._timer = loop, None
            self._running.clear()
        deadline.at = loop.time() + self.seconds
        self._running[deadline] = None
        if self._timer is None:
            self._timer = loop.call_at(deadline.at, self._sweep, loop)

    def remove(self, deadline: Deadline) -> None:
        """Watch no more."""
        self._running.pop(deadline, None)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is not self._loop:
            return
        self._timer = None
        now = loop.time()
        for deadline in list(self._running):
            if deadline.at > now:
                self._timer = loop.call_at(deadline.at, self._sweep, loop)
                return
            del self._running[deadline]
            deadline.expire()
