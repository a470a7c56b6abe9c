"""The attempts to handle events: how each ended, and those that are under way in this process."""

from __future__ import annotations

import asyncio
import enum
import logging
from typing import Any, Generic, TypeVar

import attrs

from .owed import Owed
from .protocol import Claim, Inbox

logger = logging.getLogger("basiq_async.receiver")

T = TypeVar("T")


class KilledError(Exception):
    """The process was killed so often while it handled an event that it is not handled any more."""

    def __init__(self, count: int) -> None:
        super().__init__(f"the process was killed {count} times while it handled this")
        self.count = count


class AttemptResult(enum.Enum):
    """How the attempt to handle an event ended."""

    HANDLED = "handled"
    """The work is done."""
    DONE = "handled-before"
    """It was handled before, or is in the quarantine and was acknowledged."""
    BUSY = "busy"
    """Another worker holds it."""
    ALONE = "alone"
    """An attempt before this one had no end. It is to be handled alone, when nothing else is under way."""
    FAILED = "failed"
    """The work failed."""
    UNAVAILABLE = "unavailable"
    """The inbox failed. Nothing was recorded, and the event is free to be handled again."""
    LATE = "late"
    """The work was cancelled, because its time is over, and still runs. The claim is kept until it ends."""
    CANCELLED = "cancelled"


@attrs.frozen
class AttemptEnd(Generic[T]):
    """How an attempt ended, with the ``value`` of the work, its ``error``, or the ``claim`` of another worker.

    ``unrecorded``: why the inbox could not record that it was handled.
    """

    how: AttemptResult
    value: T | None = None
    error: Exception | None = None
    claim: Claim | None = None
    unrecorded: Exception | None = None


class UnderWay:
    """The units under way in this process, and what they have in common. Wait for them before the inbox is closed.

    lease: seconds for which a claim keeps other workers away. ``renew``: whether it is renewed while the work lasts.
    trace_lease: the seconds of a lease beside a transaction, by which a killed process is seen; those of ``lease`` by
    default.
    call_timeout: the limit for each call of the inbox, in seconds.
    work_timeout: after so many seconds, the work is cancelled. None is for no limit.
    grace: for how many seconds a caller waits for work that was cancelled.
    """

    def __init__(
        self,
        inbox: Inbox,
        *,
        lease: float,
        call_timeout: float,
        grace: float,
        work_timeout: float | None = None,
        renew: bool = False,
        trace_lease: float | None = None,
        logger: logging.Logger = logger,
    ) -> None:
        self.inbox = inbox
        self.lease = lease
        self.call_timeout = call_timeout
        self.grace = grace
        self.work_timeout = work_timeout
        self.renew = renew
        self.logger = logger
        self.owed = Owed(call_timeout)
        self.trace_lease = lease if trace_lease is None else trace_lease
        self.leaves_trace = False
        """Whether work with a session is claimed by a lease too, which is seen to run out if the process is killed."""
        self.tasks: set[asyncio.Task[Any]] = set()
        self.by_key: dict[str, asyncio.Task[Any]] = {}
        """For each key, the task whose turn it is: the others wait for it."""
        self.is_ending = False
        """Whether no unit waits for another worker any more, because all of them are to end."""

    def __len__(self) -> int:
        return len(self.tasks)

    async def wait(self, seconds: float) -> int:
        """Wait until the units have ended, for at most so many seconds. Return the number of those that still run."""
        return len((await asyncio.wait(self.tasks, timeout=seconds))[1]) if self.tasks else 0
