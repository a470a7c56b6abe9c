"""Where a replay stands, kept so that a killed job goes on: the protocol, and one in memory."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

import attrs

from ...errors import CheckpointError

__all__ = ["Advance", "Checkpoint", "Commit", "DeadLetter", "Job", "MemoryCheckpoint", "State"]


@attrs.frozen
class Job:
    """What a checkpoint belongs to. ``filter`` is the text that is sent to Basiq, empty for none."""

    webhook_id: str
    filter: str = ""


@attrs.frozen
class DeadLetter:
    """A message that the target did not take. ``message`` is the message as Basiq gave it, ``error`` the reason.

    ``number`` is given by the checkpoint: later ones have greater numbers.
    """

    id: str
    error: str
    failed_at: datetime
    message: Mapping[str, Any] = attrs.field(hash=False, repr=False)
    number: int = attrs.field(default=0, eq=False)


@attrs.frozen
class State:
    """What is recorded of a job.

    cursor: all messages before it are done; None at the beginning.
    position: how many messages of the history stand before the cursor.
    done: the ids of messages behind the cursor that are done too.
    handled, failed: how many messages were, in all runs.
    dead: how many dead letters there are.
    interrupted: how many messages may have been handled without being recorded, by runs that did not end in order.
    token: a random text made with the job, the same in all runs.
    """

    cursor: str | None = None
    position: int = 0
    done: frozenset[str] = frozenset()
    handled: int = 0
    failed: int = 0
    dead: int = 0
    interrupted: int = 0
    token: str = attrs.field(factory=lambda: secrets.token_hex(16), repr=False)


@attrs.frozen
class Advance:
    """A cursor that moves on. ``done`` takes the place of all the ids that were recorded as done before."""

    cursor: str | None
    position: int
    done: Collection[str]


@attrs.frozen
class Commit:
    """What is to be recorded, all or nothing.

    done: ids of messages that are done, besides those recorded before; not read where ``advance`` is there.
    advance: the new cursor, where it moved.
    handled, failed: to be added to the counts.
    dead: dead letters to add; one with an id that is there already takes that one's place.
    revived: ids of dead letters to remove.
    ended: the run ends in order: nothing was handled without being recorded.
    """

    done: Sequence[str] = ()
    advance: Advance | None = None
    handled: int = 0
    failed: int = 0
    dead: Sequence[DeadLetter] = ()
    revived: Sequence[str] = ()
    ended: bool = False


@runtime_checkable
class Checkpoint(Protocol):
    """Keeps the state of one job, for one run at a time.

    ``basiq_async.testing.check_checkpoint`` holds an implementation to what is said here. Whatever goes wrong is
    raised as a ``CheckpointError`` that says what to do, and overwrites nothing.
    """

    async def open(self, job: Job, *, concurrency: int) -> State:
        """Begin a run: give the state of the job, a new one where nothing is recorded.

        Until ``close`` no other run can open it, of this process or another; a process that dies lets go of it.
        From here on ``concurrency`` counts as interrupted, on top of what is left from earlier runs, until a
        commit that has ``ended``. Raises ``CheckpointError`` where another run has it, for a checkpoint of
        another job, and for one that cannot be read.
        """
        ...

    async def peek(self, job: Job) -> State | None:
        """The state as it is, without beginning a run or creating anything; None where nothing is recorded."""
        ...

    async def save(self, commit: Commit) -> None:
        """Record a commit. When this returns it is durable; when it raises, none of it is recorded."""
        ...

    async def dead_letters(self, *, after: int = 0, limit: int = 250) -> Sequence[DeadLetter]:
        """Up to ``limit`` dead letters with numbers greater than ``after``, in their order.

        A letter that took the place of an earlier one has that one's number.
        """
        ...

    async def close(self) -> None:
        """End the run and let go. May be called twice."""
        ...


class MemoryCheckpoint:
    """A checkpoint that lives as long as the object: for tests, and for replays that need not survive."""

    def __init__(self) -> None:
        self._job: Job | None = None
        self._state = State()
        self._dead: dict[str, DeadLetter] = {}
        self._numbers = itertools.count(1)
        self._open = False

    async def open(self, job: Job, *, concurrency: int) -> State:
        """See ``Checkpoint``."""
        if self._open:
            raise CheckpointError("another run has this checkpoint open; wait for it, or pass another checkpoint")
        self._check(job)
        self._job, self._open = job, True
        found = self._shown()
        self._state = attrs.evolve(self._state, interrupted=self._state.interrupted + concurrency)
        return found

    async def peek(self, job: Job) -> State | None:
        """See ``Checkpoint``."""
        self._check(job)
        return None if self._job is None else self._shown()

    async def save(self, commit: Commit) -> None:
        """See ``Checkpoint``."""
        if not self._open:
            raise CheckpointError("the checkpoint is not open")
        state, advance = self._state, commit.advance
        self._state = attrs.evolve(
            state,
            cursor=state.cursor if advance is None else advance.cursor,
            position=state.position if advance is None else advance.position,
            done=frozenset(advance.done) if advance is not None else state.done | frozenset(commit.done),
            handled=state.handled + commit.handled,
            failed=state.failed + commit.failed,
            interrupted=0 if commit.ended else state.interrupted,
        )
        for letter in commit.dead:
            earlier = self._dead.get(letter.id)
            number = next(self._numbers) if earlier is None else earlier.number
            self._dead[letter.id] = attrs.evolve(letter, number=number)
        for revived in commit.revived:
            self._dead.pop(revived, None)

    async def dead_letters(self, *, after: int = 0, limit: int = 250) -> Sequence[DeadLetter]:
        """See ``Checkpoint``."""
        return [letter for letter in self._dead.values() if letter.number > after][:limit]

    async def close(self) -> None:
        """See ``Checkpoint``."""
        self._open = False

    def _check(self, job: Job) -> None:
        if self._job is not None and self._job != job:
            raise another_job("this checkpoint", self._job, job)

    def _shown(self) -> State:
        return attrs.evolve(self._state, dead=len(self._dead))


def another_job(name: str, recorded: Job, asked: Job) -> CheckpointError:
    """The error for a checkpoint that belongs to another job."""
    return CheckpointError(
        f"{name} belongs to the replay of {_told(recorded)}, not of {_told(asked)}: "
        "pass that job's webhook and filter to go on with it, or another checkpoint to begin this one"
    )


def _told(job: Job) -> str:
    return f"webhook {job.webhook_id!r} with " + (f"filter {job.filter!r}" if job.filter else "no filter")
