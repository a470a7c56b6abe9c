"""Time limits for many tasks, at a fraction of what a timer for each of them costs."""

from __future__ import annotations

import asyncio


class Deadlines:
    """Cancels each task that is still within its ``Deadline`` after ``seconds``.

    All limits have the same length, so the one that began first ends first, and one timer, for that one, is
    enough: a task that ends in time costs two operations on a dict.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.running: dict[Deadline, None] = {}
        self.loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the timer of this loop, if it is not running."""
        if loop is not self.loop:  # a later asyncio.run(), whose loop knows nothing of our timer
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
    """The limit of the task that enters it: a context manager like ``asyncio.timeout``, at less cost.

    One of fewer ``seconds`` than its owner's has a separate timer. ``loop`` is the running loop, where the caller has
    it: CPython 3.11 makes a system call each time it looks for it. Raises ``TimeoutError`` in place of the cancellation
    that it made; a cancellation by others stays one.
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
            raise RuntimeError("a time limit is for a task")
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
        """Cancel the task: its time is over."""
        self.expired = True
        self._task.cancel()


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
        """Return whether the cancellation was the watchdog's alone; if so, it is cleared."""
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
