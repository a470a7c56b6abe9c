"""What a fleet knows of its jobs, and who may change it: the protocol that a store keeps, and its data."""

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
"""The version of the record: workers of another one do not touch a job."""

JobState = Literal["running", "paused", "finished", "failed", "cancelled"]
StateChange = Literal["pause", "resume", "cancel", "fail"]
Source = Literal["messages", "events"]


class LeaseLostError(ReplayError):
    """The segment has another owner now, or its lease may have run out: nothing more may be done for it."""


class RecordUnavailableError(CheckpointError):
    """The store did not respond, or refused: the same may work later, and nothing is lost by trying again."""


@attrs.frozen
class ListSpec:
    """One list of a job: a webhook's history under a filter. Its pages are read one after the other."""

    webhook_id: str
    filter: str = ""


@attrs.frozen(kw_only=True)
class JobSpec:
    """What was submitted. ``token`` is random and tells this job from one of the same key before it."""

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
    """A segment that is the caller's for the length of its lease.

    cursor, position: where its page begins, and how many messages of the list stand before that.
    after: the id of the last message before it, to find the place by where the cursor cannot be used any more.
    count, last: how many messages its page held when it was read first, and the id of the last; None if it never was.
    quota: how many of the chosen ones are to be handled.
    upto: for dead letters, the number of the last one.
    done: the ids that former owners recorded.
    waits: how often in a row it was given back because something was away.
    job_token, rate, paused: of the job; ``paused`` is for how many seconds a target has asked to be left alone.
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
    """Why a segment could not be claimed.

    gone: it is finished, or was rolled back. held: it has an owner. stopped: the job is not running. another: the key
    is that of another job than the caller means.
    version: the job is of another version of the record, named by ``detail``. selection: the job's is ``detail``.
    """

    reason: Literal["gone", "held", "stopped", "another", "version", "selection"]
    detail: str = ""


@attrs.frozen(kw_only=True)
class PageMark:
    """A page as it was read. ``chosen`` says for each message whether it is to be handled.

    ``last`` is the id of the last message, of dead letters the number. ``problem`` is what the job is to report of it.
    """

    last: str | None
    chosen: Sequence[bool]
    next_cursor: str | None
    problem: str = ""


@attrs.frozen
class StoredDeadLetter:
    """A dead letter as a store keeps it: with the webhook that its message is of, and the seal of who wrote it."""

    dead_letter: DeadLetter
    webhook_id: str = ""
    seal: str = ""


@attrs.frozen
class Revival:
    """The segment that tries dead letters again, and how many are still to be tried."""

    segment: str
    dead_letters: int


@attrs.frozen
class RecordedPage:
    """``quota`` of the chosen messages are to be handled; ``following`` is the next segment, if it was created now."""

    quota: int
    following: str | None


@attrs.frozen(kw_only=True)
class Saving:
    """What an owner has done. ``counts`` are totals since its claim, so that a repeated save counts once.

    before: how many ids were recorded until now; None to let ``ids`` take the place of all of them.
    """

    counts: Mapping[str, int]
    ids: Sequence[str] = ()
    before: int | None
    dead_letters: Sequence[StoredDeadLetter] = ()
    revived: Sequence[str] = ()
    max_failures: int | None = None


@attrs.frozen
class Heartbeat:
    """How a job stands, for its workers. ``paused`` is in seconds, ``lost`` names segments that they no longer own."""

    state: JobState | Literal["gone"]
    paused: float = 0.0
    rate: float | None = None
    lost: Sequence[str] = ()


@attrs.frozen
class RateSlots:
    """A batch of rate-limit slots: the store's clock at issue, the first slot, the interval; seconds."""

    now: float
    first: float
    interval: float


@attrs.frozen(kw_only=True)
class Status:
    """A job as a whole, at one moment."""

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
    """Keeps jobs and their segments, and decides who works on what. Every method is atomic and durable.

    ``basiq_async.testing.check_record`` holds an implementation to what is said here. A call that may or may not
    have been carried out can be made again with the same arguments. Calls with a ``token`` that is not the owner's
    raise ``LeaseLostError`` and change nothing. ``job`` is the token of the job that a worker means: where the key is
    another job's by now, the call changes nothing. What the store itself fails with is a ``RecordUnavailableError``.
    """

    async def check(self) -> Sequence[str]:
        """See whether the store can be trusted. Returns warnings; raises ConfigurationError if it cannot."""
        ...

    async def create(self, spec: JobSpec) -> Sequence[str] | None:
        """Record a job, and return its first segments; None for a key that is known, whose rate is then set.

        From that moment it is among the active ones, until it ends.

        Raises ``ReplayError`` for a known key with another name, source or lists.
        """
        ...

    async def spec(self, key: str) -> JobSpec | None:
        """What was submitted under a key."""
        ...

    async def keys(self, *, active: bool = False) -> Sequence[str]:
        """The keys of all jobs, or of those that may have work left."""
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
        """Take a segment that has no owner, or whose owner's lease ran out.

        ``selection`` says in words which messages the worker chooses; the first one stands for the job.

        ``width`` is how many messages the owner may start before saving; that many count as interrupted if it dies.
        After 20 claims that nobody gave back and that recorded nothing, the job fails and names it.
        """
        ...

    async def record_page(
        self, key: str, segment: str, token: str, page: PageMark, *, lease: float, limit: int | None
    ) -> RecordedPage:
        """Record what the page held and create the next segment. The first call wins."""
        ...

    async def save(self, key: str, segment: str, token: str, saving: Saving, *, lease: float) -> Heartbeat | None:
        """Record what was done; None where ``before`` is not what is recorded, and nothing was changed."""
        ...

    async def finish(self, key: str, segment: str, token: str) -> bool:
        """Take a segment off the job; False if its page was never recorded. The last one finishes the job."""
        ...

    async def release(
        self, key: str, segment: str, token: str, *, delay: float = 0.0, problem: str = "", waits: bool = False
    ) -> None:
        """Let go of a segment, to be claimed again after ``delay`` seconds. ``waits`` says that something was away."""
        ...

    async def heartbeat(
        self, key: str, worker: str, held: Mapping[str, str], *, lease: float, job: str = ""
    ) -> Heartbeat:
        """Prolong the leases of ``held``, from segment to token, and learn how the job stands."""
        ...

    async def reclaim_expired(self, key: str, *, grace: float, limit: int = 100, idle: bool = True) -> Sequence[str]:
        """Segments that wait for a worker, each told to one caller within ``grace`` seconds.

        A caller that is not ``idle`` is told a segment that nobody claims ever more rarely: it and its notification may
        only be waiting in the queue.
        """
        ...

    async def set_state(
        self, key: str, action: StateChange, reason: str = "", *, job: str = ""
    ) -> tuple[str, Sequence[str]]:
        """Change a job's state where that is possible. Returns the state, and the segments to notify of."""
        ...

    async def pause(self, key: str, seconds: float, *, job: str = "") -> None:
        """Have all workers of a job leave its target alone for so many seconds. Never shortens a pause."""
        ...

    async def rate_slots(self, key: str, count: int) -> RateSlots | None:
        """The next ``count`` slots of the job's rate; None where it has none."""
        ...

    async def status(self, key: str) -> Status | None:
        """How a job stands."""
        ...

    async def dead_letters(self, key: str, *, after: int = 0, limit: int = 250) -> Sequence[StoredDeadLetter]:
        """The first ``limit`` dead letters with numbers greater than ``after``, in their order, of one moment."""
        ...

    async def drop_dead(self, key: str, ids: Sequence[str]) -> int:
        """Remove dead letters; returns how many there were."""
        ...

    async def revive(self, key: str, token: str) -> Revival | None:
        """Record a segment that tries the present dead letters again; None if there are none.

        Those that a segment is to try already are left to it, so that each is tried once. ``token`` is random, and
        names this request: made again, it finds the same segment.
        """
        ...

    async def forget(self, key: str) -> None:
        """Remove a job that is not running. Raises ``ReplayError`` for one that is."""
        ...

    async def aclose(self) -> None:
        """Close the connections. May be called twice."""
        ...


def new_token() -> str:
    """A token for one lease: random, because a counter could be rolled back and come again."""
    return secrets.token_hex(16)
