"""The recorded state of a replay, and the protocol of checkpoints, which keep it."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, Self, runtime_checkable

import attrs

from ..._work.calls import HOST
from ...errors import CheckpointError

Source = Literal["messages", "events"]


@attrs.frozen
class ReplayJob:
    """The identity of a replay: a checkpoint belongs to one job.

    filter: the text that is sent to Basiq, empty for none; a JSON list of texts for several filters.
    source: "messages" for the webhook's message history, "events" for the event list.
    selection: the ``where`` of the replay in words, empty for none.
    """

    webhook_id: str
    filter: str = ""
    source: str = "messages"
    selection: str = ""


@attrs.frozen
class DeadLetter:
    """A message that failed, and that the checkpoint keeps.

    ``message`` is the message as Basiq sent it, and ``error`` the reason. The checkpoint assigns ``number``, which is
    greater for later dead letters.
    """

    id: str
    error: str
    failed_at: datetime
    message: Mapping[str, Any] = attrs.field(hash=False, repr=False)
    number: int = attrs.field(default=0, eq=False)


@attrs.frozen
class State:
    """The recorded state of a job.

    cursor: the replay's place in the history, as a text that only the replay reads; None at the beginning.
    position: the number of messages before the cursor.
    done: the ids of messages after the cursor that are done too.
    handled, failed: totals over all runs.
    dead: the number of dead letters.
    interrupted: maximum number of messages that killed runs handled without recording them.
    token: a random text that names the job, the same in all runs.
    notes: what the replay found out about the history, as a text that only the replay reads.
    """

    cursor: str | None = None
    position: int = 0
    done: frozenset[str] = frozenset()
    handled: int = 0
    failed: int = 0
    dead: int = 0
    interrupted: int = 0
    token: str = attrs.field(factory=lambda: secrets.token_hex(16), repr=False)
    notes: str = ""


@attrs.frozen
class Advance:
    """A new cursor, with the ids of the messages after it that are done: they replace the recorded ones."""

    cursor: str | None
    position: int
    done: Collection[str]


@attrs.frozen
class Commit:
    """A change of the state, to record atomically.

    done: ids of messages that are done, in addition to those recorded before; ignored if there is an ``advance``.
    advance: the new cursor, if it moved.
    handled, failed: numbers to add to the totals.
    dead: dead letters to add; one with a known id replaces the earlier one.
    revived: ids of dead letters to remove.
    ended: whether the run ends properly, so that all its handled messages are recorded.
    interrupted: the new value of ``State.interrupted``; only read if the run ``ended``.
    notes: the new value of ``State.notes``; None leaves it unchanged.
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


def apply(state: State, commit: Commit) -> State:
    """Return the state after a commit. The number of dead letters is not changed: a store counts them."""
    advance = commit.advance
    return attrs.evolve(
        state,
        cursor=state.cursor if advance is None else advance.cursor,
        position=state.position if advance is None else advance.position,
        done=state.done.union(commit.done) if advance is None else frozenset(advance.done),
        handled=state.handled + commit.handled,
        failed=state.failed + commit.failed,
        interrupted=commit.interrupted if commit.ended else state.interrupted,
        notes=state.notes if commit.notes is None else commit.notes,
    )


@attrs.frozen
class Entry:
    """A row of the log that a store keeps of a job: what one commit changed. The log is the state.

    fields: new values of the state's fields, as JSON.
    done: the ids of messages that are done, as a JSON list.
    whole: whether all fields are there, so that this entry replaces all that came before.
    """

    fields: str
    done: str
    whole: bool

    @classmethod
    def of(cls, state: State, done: Collection[str], before: State | None = None) -> Self:
        """Return the entry with the whole state, or with what has changed since ``before``."""
        fields = {name: getattr(state, name) for name in _FIELDS}
        if before is not None:
            fields = {name: value for name, value in fields.items() if value != getattr(before, name)}
        return cls(json.dumps(fields), json.dumps(list(done)), before is None)


_FIELDS = [each.name for each in attrs.fields(State) if each.name not in ("done", "dead")]


def read_log(entries: Iterable[tuple[str, str]], dead: int) -> State:
    """Return the state that the entries of a log make, each with its fields and done ids.

    dead: the number of dead letters. Raises ``ValueError``, ``TypeError`` or ``KeyError`` for what ``Entry`` did not
    write.
    """
    fields: dict[str, Any] = {}
    done: set[str] = set()
    for changed, ids in entries:
        fields |= json.loads(changed)
        done.update(json.loads(ids))
    return State(**{name: fields.pop(name) for name in _FIELDS}, **fields, done=frozenset(done), dead=dead)


def write_dead_letter(dead_letter: DeadLetter) -> str:
    """Return a dead letter as JSON in ASCII, which any store can hold, also with odd characters in an id."""
    fields = attrs.asdict(dead_letter, recurse=False)
    del fields["number"]
    return json.dumps({**fields, "failed_at": dead_letter.failed_at.isoformat()})


def read_dead_letter(text: str, number: int) -> DeadLetter:
    """Return a dead letter that was written as JSON. Raises as ``read_log`` does."""
    fields = json.loads(text)
    fields["failed_at"] = datetime.fromisoformat(fields["failed_at"])
    return DeadLetter(**fields, number=number)


@runtime_checkable
class Checkpoint(Protocol):
    """Keeps the state of one job, for one run at a time.

    ``basiq_async.testing.check_checkpoint`` checks an implementation. Every failure raises a ``CheckpointError`` whose
    text says what to do, and overwrites nothing. Each call may be cancelled. A ``save`` that is cancelled has recorded
    all of its commit or none of it. If a checkpoint keeps the jobs of both sources apart, as ``SQLCheckpoint`` does,
    its attribute ``both_sources`` is True, and ``recover`` needs only that one.
    """

    async def open(self, job: ReplayJob, *, concurrency: int) -> State:
        """Begin a run, and return the state of the job; a new state if nothing is recorded.

        No other run can open the checkpoint, in this process or another, until ``aclose``, or until this process dies.
        ``concurrency`` is added to ``State.interrupted`` until a commit has ``ended``. Raises ``CheckpointInUseError``
        if another run has the checkpoint open, and ``CheckpointError`` if it belongs to another job or cannot be read.
        After an error or a cancellation, the checkpoint is not open.
        """
        ...

    async def peek(self, job: ReplayJob) -> State | None:
        """Return the state without beginning a run or creating anything; None if nothing is recorded."""
        ...

    async def save(self, commit: Commit) -> None:
        """Record a commit. It is durable when the call returns. If it raises an ``Exception``, nothing is recorded."""
        ...

    async def dead_letters(self, *, after: int = 0, limit: int = 250) -> Sequence[DeadLetter]:
        """Return up to ``limit`` dead letters with numbers greater than ``after``, ordered by number.

        A dead letter that replaced an earlier one keeps its number.
        """
        ...

    async def aclose(self) -> None:
        """End the run, so that another can begin. May be called twice. A cancellation does not prevent it."""
        ...


class _Closing:
    """Makes a checkpoint an async context manager, which is closed at the end."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """See ``Checkpoint``."""
        raise NotImplementedError


def describe_run() -> str:
    """Describe this run for the error of another one: this process, its machine, and the present time."""
    return f"process {os.getpid()} on {HOST}, since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"


def keeps_both_sources(checkpoint: Checkpoint) -> bool:
    """Return whether a checkpoint keeps the jobs of both sources, messages and events, apart."""
    return getattr(checkpoint, "both_sources", False) is True


def another_job(name: str, recorded: ReplayJob, asked: ReplayJob) -> CheckpointError:
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


def _describe(job: ReplayJob) -> str:
    source = "" if job.source == "messages" else f"{job.source} of "
    return f"{source}webhook {job.webhook_id!r} with " + (f"filter {job.filter!r}" if job.filter else "no filter")


def _describe_selection(job: ReplayJob) -> str:
    return f"where={job.selection}" if job.selection else "all messages (where=None)"
