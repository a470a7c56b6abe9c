"""The steps of a task, one after the other: which cancellation reaches which step, when, and how often."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any


class TaskSteps:
    """The steps of one task. Each begins with ``begin``, has a time limit, and is interruptible or is not.

    Three can cancel a step:

    - its time limit: once, whatever the step is. ``expired`` is then True.
    - the caller of the task, by ``cancel``: once, and only an interruptible step that nothing has cancelled yet. Any
      other step comes to its end, and ``cancelled`` says that no interruptible step may begin.
    - the event loop that shuts down: any step, again and again.

    An interruptible step has ``grace`` seconds to end after its time limit; ``on_late`` is called if it has not.
    """

    def __init__(self, grace: float, on_late: Callable[[], None]) -> None:
        self.task: asyncio.Task[Any]
        self.cancelled = False
        """Whether the caller was cancelled, or the event loop shuts down."""
        self.expired = False
        """Whether the time limit has cancelled the present step."""
        self.interruptible = False
        """Whether the present step is. ``end`` resets it."""
        self._grace = grace
        self._on_late: Callable[[], None] | None = on_late
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf
        """When the time of the present step is over, or the time to wait for its end."""

    def begin(self, seconds: float | None) -> None:
        """Start the next step's time limit; forget earlier cancellations.

        The timer is set again only for an earlier time; otherwise it looks again when it comes.
        """
        if self.task.cancelling():
            self.cancelled = self.cancelled or self.is_cancelled_by_others()
            while self.task.cancelling():
                self.task.uncancel()
        self.expired = False
        self._due = math.inf if seconds is None else self._loop.time() + seconds
        if self._due < (math.inf if self._timer is None else self._timer.when()):
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(self._due, self._look_at_time)

    def end(self) -> None:
        """End an interruptible step: from now on nothing interrupts the task."""
        self.interruptible, self._due = False, math.inf

    def cancel(self) -> None:
        """Cancel the present step, if it is interruptible and nothing has cancelled it yet."""
        self.cancelled = True
        if self.interruptible and not self.expired and not self.task.cancelling():
            self._due = math.inf
            self.task.cancel()

    def is_cancelled_by_others(self) -> bool:
        """Return whether someone else cancelled the present step too, not only the time limit."""
        by_time = 1 if self.expired else 0
        return self.task.cancelling() > by_time

    def close(self) -> None:
        """End the last step. What the task held is freed now, without the garbage collector."""
        if self._timer is not None:
            self._timer.cancel()
        self._on_late = None

    def _look_at_time(self) -> None:
        if self._loop.time() >= self._due:
            if self.expired:  # the step has not ended within the grace
                self._due = math.inf
                if self._on_late is not None:
                    self._on_late()
            else:
                self.expired = True
                self._due = self._due + self._grace if self.interruptible else math.inf
                self.task.cancel()
        self._timer = None if self._due == math.inf else self._loop.call_at(self._due, self._look_at_time)
