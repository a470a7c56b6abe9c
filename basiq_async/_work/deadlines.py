"""Time limits for many tasks, with one timer for all."""

from __future__ import annotations

import asyncio


class Deadlines:
    """Cancels each task whose ``Deadline`` lasts longer than ``seconds``.

    All limits have the same length, so the first to begin is the first to end, and one timer is enough. A task that
    ends in time costs two operations on a dict.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.running: dict[Deadline, None] = {}
        self.loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the timer on this loop, unless it is running."""
        if loop is not self.loop:  # a later asyncio.run(): the timer was on the former loop
            self.loop, self._timer = loop, None
            self.running.clear()
        if self._timer is None:
            self._timer = loop.call_later(self.seconds, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is not self.loop:
            return
        self._timer = None
        now = loop.time()
        for deadline in list(self.running):
            if deadline.at > now:
                self._timer = loop.call_at(deadline.at, self._sweep, loop)
                return
            del self.running[deadline]
            deadline.expire()


class Deadline:
    """A time limit for the current task: a context manager like ``asyncio.timeout``, but cheaper.

    A limit of fewer ``seconds`` than its owner's has its own timer. Pass ``loop`` if you have the running loop: CPython
    3.11 makes a system call to find it. When the time is over, the task is cancelled, and the context raises
    ``TimeoutError``. Other cancellations are not changed.
    """

    __slots__ = ("_cancelling", "_loop", "_owner", "_seconds", "_task", "_timer", "at", "expired")

    def __init__(
        self, owner: Deadlines, seconds: float | None = None, loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        self._owner = owner
        self._loop = loop
        self._seconds = None if seconds is None or seconds >= owner.seconds else seconds
        self.expired = False

    def __enter__(self) -> Deadline:
        loop = self._loop or asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("a time limit can only be set in a task")
        self._task = task
        self._cancelling = task.cancelling()
        if self._seconds is not None:
            self._timer = loop.call_later(self._seconds, self.expire)
            return self
        owner = self._owner
        if loop is not owner.loop or not owner.running:
            owner.begin(loop)
        self.at = loop.time() + owner.seconds
        owner.running[self] = None
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self._seconds is None:
            self._owner.running.pop(self, None)
        else:
            self._timer.cancel()
        if self.expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError

    def expire(self) -> None:
        """Cancel the task, because its time is over."""
        self.expired = True
        self._task.cancel()


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
