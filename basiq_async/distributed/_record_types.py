"""What a fleet's record exchanges with its callers: jobs, claims, pages, results and states."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

import attrs

from ..errors import CheckpointError, ReplayError
from ..replay import DeadLetter

PROTOCOL = 1
"""The version of the record. A worker claims only segments of jobs with its own version."""

JobState = Literal["running", "paused", "finished", "failed", "cancelled"]
StateChange = Literal["pause", "resume", "cancel", "fail"]
Source = Literal["messages", "events"]


class LeaseLostError(ReplayError):
    """The worker no longer owns the segment, or its lease may have run out. It must stop working on it."""


class RecordUnavailableError(CheckpointError):
    """The store did not respond, or refused a call. The call may succeed later, and repeating it is safe."""


@attrs.frozen
class ListSpec:
    """One list of a job: the messages of a webhook that match a filter. Its pages are read one after the other."""

    webhook_id: str
    filter: str = ""


@attrs.frozen(kw_only=True)
class JobSpec:
    """A job as it was submitted. ``token`` is random, and differs from earlier jobs with the same key."""

    key: str
    name: str
    lists: tuple[ListSpec, ...]
    source: Source = "messages"
    rate: float | None = None
    submitted_at: datetime
    lease: float
    most_dead: int = 100_000
    total: int | None = None
    protocol: int = PROTOCOL
    token: str = attrs.field(factory=lambda: secrets.token_hex(16), repr=False)


@attrs.frozen(kw_only=True)
class SegmentClaim:
    """A segment that the caller owns until its lease ends.

    cursor, position: where its page begins, and the number of messages before it in the list.
    after: the id of the last message before the page, for when Basiq no longer accepts the cursor.
    count, last: the number of messages on the page at its first reading, and the id of the last; None before that.
    quota: how many of the chosen messages to handle; None before the page was recorded.
    upto: for a segment of dead letters, the number of the last one to retry.
    done: the ids of the messages that former owners recorded as done.
    waits: how often in a row the segment was released because Basiq, the network or the store was away.
    job_token, rate: the job's token and rate.
    paused: the remaining seconds of a pause that the target asked for.
    """

    cursor: str | None
    after: str | None
    position: int
    count: int | None
    last: str | None
    quota: int | None
    upto: int | None
    done: Sequence[str]
    waits: int
    job_token: str = attrs.field(repr=False)
    rate: float | None
    paused: float


@attrs.frozen
class ClaimRefusal:
    """The reason why a segment could not be claimed.

    gone: the segment is finished, or was rolled back.
    held: another worker owns it.
    stopped: the job is not running; ``detail`` is its state.
    another: the key belongs to another job by now.
    version: the job uses another version of the record, which is ``detail``.
    selection: the job's first worker selected other messages, described in ``detail``.
    """

    reason: Literal["gone", "held", "stopped", "another", "version", "selection"]
    detail: str = ""


@attrs.frozen(kw_only=True)
class PageMark:
    """A page as it was read. ``chosen`` says for each message whether to handle it.

    ``last`` is the id of the last message, or the number of the last dead letter. ``problem`` is a text for the job's
    progress; empty for a page without problems.
    """

    last: str | None
    chosen: Sequence[bool]
    next_cursor: str | None
    problem: str = ""


@attrs.frozen
class StoredDeadLetter:
    """A dead letter as a store keeps it: with its webhook's id, and a seal that shows changes by another program."""

    dead_letter: DeadLetter
    webhook_id: str = ""
    seal: str = ""


@attrs.frozen
class Revival:
    """The segment that retries dead letters, and how many are still to be retried."""

    segment: str
    dead_letters: int


@attrs.frozen
class RecordedPage:
    """How many of the chosen messages to handle, and the next segment if this call created it."""

    quota: int
    following: str | None


@attrs.frozen(kw_only=True)
class Saving:
    """What an owner has done since its last save. ``counts`` are totals since its claim: a repeated save counts once.

    before: the number of ids recorded until now; None if ``ids`` replaces all of them.
    """

    counts: Mapping[str, int]
    ids: Sequence[str] = ()
    before: int | None
    dead_letters: Sequence[StoredDeadLetter] = ()
    revived: Sequence[str] = ()
    max_failures: int | None = None


@attrs.frozen
class Heartbeat:
    """The state of a job, for a worker. ``paused`` is in seconds. ``lost`` names segments that it no longer owns."""

    state: JobState | Literal["gone"]
    paused: float = 0.0
    rate: float | None = None
    lost: Sequence[str] = ()


@attrs.frozen
class RateSlots:
    """A batch of rate-limit slots: the store's time now, the first slot and the interval, all in seconds."""

    now: float
    first: float
    interval: float


@attrs.frozen(kw_only=True)
class Status:
    """The state and the counts of a job at one moment."""

    spec: JobSpec
    state: JobState
    reason: str
    problem: str
    read: int
    handled: int
    failed: int
    skipped: Mapping[str, int]
    dead: int
    open: int
    held: int
    workers: int
    takeovers: int
    interrupted: int
    elapsed: float
    paused: float
    cut: bool


def new_token() -> str:
    """Return a token for one lease. It is random: a counter could be rolled back and repeat."""
    return secrets.token_hex(16)
