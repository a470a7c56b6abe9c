"""What a replay remembers of its progress, and the protocol of the store that keeps it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import attrs

from ...errors import CheckpointError

T = TypeVar("T")
Source = Literal["messages", "events"]


@attrs.frozen
class Job:
    """What a checkpoint belongs to.

    filter: the text that is sent to Basiq, empty for none; a JSON list of texts for several lists.
    source: "messages" for the webhook's message history, "events" for the event list.
    selection: the ``where`` of the replay in words, empty for none.
    """

    webhook_id: str
    filter: str = ""
    source: str = "messages"
    selection: str = ""


@attrs.frozen
class DeadLetter:
    """A message that could not be handled. ``message`` is the message as Basiq sent it, ``error`` the reason.

    The checkpoint assigns ``number``; later ones have greater numbers.
    """

    id: str
    error: str
    failed_at: datetime
    message: Mapping[str, Any] = attrs.field(hash=False, repr=False)
    number: int = attrs.field(default=0, eq=False)


@attrs.frozen
class State:
    """The recorded state of a job.

    cursor: a text of the replay's own: what of the history is done, and where to continue; None at the beginning.
    position: how many messages of the history that is.
    last_id: the id of the last of them, by which the place is found again should nobody be able to read the cursor.
    done: the ids of messages after the cursor that are done too.
    handled, failed: totals over all runs.
    dead: how many dead letters there are.
    interrupted: how many messages may have been handled without being recorded, in runs that were killed.
    token: a random text that names the job, the same in all runs.
    notes: a text of the replay's own: what it has learned of the history.
    """

    cursor: str | None = None
    position: int = 0
    done: frozenset[str] = frozenset()
    handled: int = 0
    failed: int = 0
    dead: int = 0
    interrupted: int = 0
    token: str = attrs.field(factory=lambda: secrets.token_hex(16), repr=False)
    last_id: str | None = None
    notes: str = ""


@attrs.frozen
class Advance:
    """A cursor that moves on. ``done`` replaces all ids that were recorded as done before."""

    cursor: str | None
    position: int
    done: Collection[str]
    last_id: str | None = None


@attrs.frozen
class Commit:
    """A change to record, all or nothing.

    done: ids of messages that are done, besides those recorded before; ignored where there is an ``advance``.
    advance: the new cursor, where it moved.
    handled, failed: to be added to the totals.
    dead: dead letters to add; one with a known id replaces the earlier one.
    revived: ids of dead letters to remove.
    ended: the run ends in order: all that it handled is recorded.
    interrupted: the new value of ``State.interrupted``; only read where the run ``ended``.
    notes: the new value of ``State.notes``; None leaves it as it is.
    """

    done: Sequence[str] = ()
    advance: Advance | None = None
    handled: int = 0
    failed: int = 0
    dead: Sequence[DeadLetter] = ()
    revived: Sequence[str] = ()
    ended: bool = False
    interrupted: int = 0
    notes: str | None = None


@runtime_checkable
class Checkpoint(Protocol):
    """Keeps the state of one job, for one run at a time.

    ``basiq_async.testing.check_checkpoint`` tests an implementation against this. Every failure is raised as a
    ``CheckpointError`` that says what to do, and overwrites nothing. Each call may be cancelled; a ``save`` that is
    cancelled has recorded all of its commit or none of it. One that keeps the jobs of both sources apart, as
    ``SQLCheckpoint``, says so by an attribute ``both_sources`` that is True; ``recover`` then needs one only.
    """

    async def open(self, job: Job, *, concurrency: int) -> State:
        """Begin a run and return the state of the job, a new one where nothing is recorded.

        Until ``aclose`` no other run can open it, in this process or another; a process that dies lets go of it.
        ``concurrency`` is added to ``State.interrupted`` until a commit has ``ended``. Raises ``CheckpointInUseError``
        where another run has it open, and ``CheckpointError`` for a checkpoint of another job, or one that cannot be
        read. When it raises or is cancelled, it is not open.
        """
        ...

    async def peek(self, job: Job) -> State | None:
        """Return the state without beginning a run or creating anything; None where nothing is recorded."""
        ...

    async def save(self, commit: Commit) -> None:
        """Record a commit. It is durable when this returns; when it raises an ``Exception``, nothing is recorded."""
        ...

    async def dead_letters(self, *, after: int = 0, limit: int = 250) -> Sequence[DeadLetter]:
        """Return up to ``limit`` dead letters with numbers greater than ``after``, in order.

        One that replaced an earlier one has that one's number.
        """
        ...

    async def aclose(self) -> None:
        """End the run and let go. May be called twice. When it is cancelled, it ends the run all the same."""
        ...


class LimitedCheckpoint:
    """Passes each call on, and raises ``CheckpointError`` where it takes longer than ``timeout`` seconds."""

    def __init__(self, checkpoint: Checkpoint, timeout: float) -> None:
        self._checkpoint = checkpoint
        self._timeout = timeout

    async def open(self, job: Job, *, concurrency: int) -> State:
        """See ``Checkpoint``."""
        return await self._within_limit(self._checkpoint.open(job, concurrency=concurrency))

    async def peek(self, job: Job) -> State | None:
        """See ``Checkpoint``."""
        return await self._within_limit(self._checkpoint.peek(job))

    async def save(self, commit: Commit) -> None:
        """See ``Checkpoint``."""
        await self._within_limit(self._checkpoint.save(commit))

    async def dead_letters(self, *, after: int = 0, limit: int = 250) -> Sequence[DeadLetter]:
        """See ``Checkpoint``."""
        return await self._within_limit(self._checkpoint.dead_letters(after=after, limit=limit))

    async def aclose(self) -> None:
        """See ``Checkpoint``."""
        await self._within_limit(self._checkpoint.aclose())

    async def _within_limit(self, call: Awaitable[T]) -> T:
        limit = asyncio.timeout(self._timeout)
        try:
            async with limit:
                return await call
        except TimeoutError as exc:
            if not limit.expired():
                raise
            raise CheckpointError(
                f"the checkpoint did not finish within {self._timeout:g} s: mend it, then run the same again to "
                "continue"
            ) from exc


def keeps_both_sources(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint keeps the job on the messages and the job on the events apart by itself."""
    return getattr(checkpoint, "both_sources", False) is True


def another_job(name: str, recorded: Job, asked: Job) -> CheckpointError:
    """Return the error for a checkpoint that belongs to another job."""
    if attrs.evolve(recorded, selection=asked.selection) == asked:
        return CheckpointError(
            f"{name} belongs to a replay of {_describe_selection(recorded)}, not of {_describe_selection(asked)}: "
            "pass that selection to continue it, or another checkpoint to begin this one"
        )
    return CheckpointError(
        f"{name} belongs to the replay of {_describe(recorded)}, not of {_describe(asked)}: "
        "pass that job's webhook, source and filter to continue it, or another checkpoint to begin this one"
    )


def _describe(job: Job) -> str:
    source = "" if job.source == "messages" else f"{job.source} of "
    return f"{source}webhook {job.webhook_id!r} with " + (f"filter {job.filter!r}" if job.filter else "no filter")


def _describe_selection(job: Job) -> str:
    return f"where={job.selection}" if job.selection else "all messages (where=None)"
