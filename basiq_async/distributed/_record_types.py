"""``Record``: the protocol of a store for a fleet's jobs, and the data that it exchanges."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal, Protocol, runtime_checkable

import attrs

from ..errors import CheckpointError, ReplayError
from ..replay import DeadLetter

__all__ = [
    "PROTOCOL",
    "ClaimRefusal",
    "Heartbeat",
    "JobSpec",
    "JobState",
    "LeaseLostError",
    "ListSpec",
    "PageMark",
    "RateSlots",
    "Record",
    "RecordUnavailableError",
    "RecordedPage",
    "Revival",
    "Saving",
    "SegmentClaim",
    "Source",
    "StateChange",
    "Status",
    "StoredDeadLetter",
    "new_token",
]

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


@runtime_checkable
class Record(Protocol):
    """A store for jobs and their segments, which decides which worker owns a segment.

    Every method is atomic and durable. A call whose result is unknown can be repeated with the same arguments. A call
    with a ``token`` that is not the owner's raises ``LeaseLostError`` and changes nothing. ``job`` is the token of the
    job that a worker means: if the key belongs to another job by now, the call changes nothing. An error of the store
    itself is raised as ``RecordUnavailableError``. ``basiq_async.testing.check_record`` tests an implementation.
    """

    async def check(self) -> Sequence[str]:
        """Check the store's settings. Return warnings; raise ``ConfigurationError`` if messages could be lost."""
        ...

    async def create(self, spec: JobSpec) -> Sequence[str] | None:
        """Record a job, and return its first segments. For a known key, set the job's rate and return None.

        The job is active from then until it ends. Raises ``ReplayError`` for a known key with another name, source or
        other lists.
        """
        ...

    async def spec(self, key: str) -> JobSpec | None:
        """Return the job that was submitted under a key; None for an unknown key."""
        ...

    async def keys(self, *, active: bool = False) -> Sequence[str]:
        """Return the keys of all jobs, or only of the active ones: those that are running or paused."""
        ...

    async def claim(
        self,
        key: str,
        segment: str,
        token: str,
        *,
        lease: float,
        worker: str,
        width: int,
        selection: str = "",
        job: str = "",
    ) -> SegmentClaim | ClaimRefusal:
        """Claim a segment that has no owner, or whose owner's lease has run out.

        selection: a description of the messages that the worker chooses. The first claim sets it for the job, and
            workers with another one are refused.
        width: the most messages that the owner handles at once. That many count as interrupted if it dies.

        If a segment was claimed 20 times without a release or a saved message, the job fails.
        """
        ...

    async def record_page(
        self, key: str, segment: str, token: str, page: PageMark, *, lease: float, limit: int | None
    ) -> RecordedPage:
        """Record the segment's page, and create the next segment. Later calls for the segment change nothing."""
        ...

    async def save(self, key: str, segment: str, token: str, saving: Saving, *, lease: float) -> Heartbeat | None:
        """Record finished messages. Return None and change nothing if ``before`` is not the number of recorded ids."""
        ...

    async def finish(self, key: str, segment: str, token: str) -> bool:
        """Remove a finished segment; the last one finishes the job. Return False if its page was never recorded."""
        ...

    async def release(
        self, key: str, segment: str, token: str, *, delay: float = 0.0, problem: str = "", waits: bool = False
    ) -> None:
        """Release a segment, to be claimed again after ``delay`` seconds. Set ``waits`` after a temporary error."""
        ...

    async def heartbeat(
        self, key: str, worker: str, held: Mapping[str, str], *, lease: float, job: str = ""
    ) -> Heartbeat:
        """Prolong the leases of ``held``, which maps segments to tokens. Return the state of the job."""
        ...

    async def reclaim_expired(self, key: str, *, grace: float, limit: int = 100, idle: bool = True) -> Sequence[str]:
        """Return segments without an owner. Each is returned to only one caller within ``grace`` seconds.

        A caller that is not ``idle`` gets an unclaimed segment only the first, second, fourth, eighth … time: its
        notification may still wait in the broker's queue.
        """
        ...

    async def set_state(
        self, key: str, action: StateChange, reason: str = "", *, job: str = ""
    ) -> tuple[str, Sequence[str]]:
        """Change a job's state if the current state allows it. Return the state, and the segments to notify of."""
        ...

    async def pause(self, key: str, seconds: float, *, job: str = "") -> None:
        """Pause all workers of a job for so many seconds. A longer pause is not shortened."""
        ...

    async def rate_slots(self, key: str, count: int) -> RateSlots | None:
        """Return the next ``count`` slots of the job's rate; None for a job without a rate."""
        ...

    async def status(self, key: str) -> Status | None:
        """Return the state and the counts of a job; None for an unknown key."""
        ...

    async def dead_letters(self, key: str, *, after: int = 0, limit: int = 250) -> Sequence[StoredDeadLetter]:
        """Return the first ``limit`` dead letters with numbers greater than ``after``, in order, as of one moment."""
        ...

    async def drop_dead(self, key: str, ids: Sequence[str]) -> int:
        """Remove dead letters, and return how many were removed."""
        ...

    async def revive(self, key: str, token: str) -> Revival | None:
        """Record a segment that retries the present dead letters; None if the job has none.

        Dead letters that another segment is to retry already are left to it, so that each is retried once. ``token`` is
        random and identifies this request: a repeated request returns the same segment.
        """
        ...

    async def forget(self, key: str) -> None:
        """Remove a job. Raises ``ReplayError`` if it is running or paused."""
        ...

    async def aclose(self) -> None:
        """Close the connections. May be called twice."""
        ...


def new_token() -> str:
    """Return a token for one lease. It is random: a counter could be rolled back and repeat."""
    return secrets.token_hex(16)
