"""What a fleet's record exchanges with its callers: jobs, claims, pages, results and states."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

import attrs

from .._redaction.text import printable
from .._work.throughput import seconds_left
from ..errors import BasiqError, CheckpointError, ReplayError
from ..models import Message
from ..replay import DeadLetter

LONGEST_KEY = 200
"""The longest key of a job, in characters."""
SEGMENT_NAME = re.compile(r"d?[0-9]{1,9}\.[0-9]{1,15}")
"""A list's number, or "d" and that of a retry of dead letters, and the page's number."""

LONGEST_NAME = 200
"""The longest name of a job function, in characters."""


def is_notification(key: object, segment: object) -> bool:
    """Whether what a broker carried is the key of a job and the name of a segment: it may carry what others wrote."""
    if not isinstance(key, str) or not isinstance(segment, str):
        return False
    return 0 < len(key) <= LONGEST_KEY and SEGMENT_NAME.fullmatch(segment) is not None


EDGE = 20
"""How many ids before a page are recorded: the place is found again as long as one of them is listed."""

JobState = Literal["waiting", "running", "paused", "finished", "failed", "cancelled"]
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
    """A job as it was submitted. ``id`` is random, and differs from earlier jobs with the same key."""

    key: str
    name: str
    lists: tuple[ListSpec, ...]
    source: Source = "messages"
    rate: float | None = None
    submitted_at: datetime
    lease: float
    most_dead: int = 100_000
    total: int | None = None
    id: str = attrs.field(factory=lambda: secrets.token_hex(16))


@attrs.frozen(kw_only=True)
class SegmentClaim:
    """A segment that the caller owns until its lease ends.

    cursor: where its page begins.
    before: where the page that holds the last message before it begins; None at the start of the list.
    after: the ids of the last messages before the page, at most ``EDGE``; empty for the first page.
    count, last: the number of messages on the page at its first reading, and the id of the last; None before that.
    quota: how many of the chosen messages to handle; None before the page was recorded.
    upto: for a segment of dead letters, the number of the last one to retry.
    done: the ids of the messages that former owners recorded as done.
    rate: the rate of the job.
    paused: the remaining seconds of a pause that the target asked for.
    """

    cursor: str | None
    before: str | None
    after: Sequence[str]
    count: int | None
    last: str | None
    quota: int | None
    upto: int | None
    done: Sequence[str]
    rate: float | None
    paused: float


@attrs.frozen
class ClaimRefusal:
    """The reason why a segment could not be claimed.

    gone: the segment is finished, or was rolled back.
    held: another worker owns it.
    stopped: the job is not running; ``detail`` is its state.
    another: the key belongs to another job by now.
    selection: the job's first worker selected other messages, described in ``detail``.
    """

    reason: Literal["gone", "held", "stopped", "another", "selection"]
    detail: str = ""


@attrs.frozen(kw_only=True)
class SegmentPage:
    """The page of a segment, as it was read.

    messages: its messages. The record keeps none of them.
    marks: a digit for each message: "0" if it was not chosen, "1" if it was, and "2" if it was and does not count
        against a limit, because the target will skip it.
    last: the id of the last message or, for dead letters, its number.
    cursor: where the page of the list that holds the last message begins; None at the start of the list.
    next_cursor: the cursor of the next page; None at the end of the list.
    edge: the ids by which the next segment finds its place: none for dead letters and for an empty page.
    problem: a text for the job's progress; empty for a page without problems.
    """

    messages: Sequence[Message] = ()
    marks: str = ""
    last: str | None
    cursor: str | None = None
    next_cursor: str | None
    edge: Sequence[str] = ()
    problem: str = ""


@attrs.frozen
class StoredDeadLetter:
    """A dead letter as a store keeps it: with its webhook's id, and a seal that shows changes by another program."""

    dead_letter: DeadLetter
    webhook_id: str = ""
    seal: str = ""


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
class JobProgress:
    """The progress of a job at one moment.

    state: waiting (no worker looks at the job), running, paused, finished, failed or cancelled.
    reason: why the job is paused, failed or cancelled. problem: the last problem that did not stop the job.
    read: messages read from the lists. ``lag`` of them are not handled, failed or skipped yet.
    handled, failed, skipped: as in ``Report``. ``dead`` is the number of dead letters that the job keeps now.
    rate: messages a second, handled or failed, over the last ten seconds.
    elapsed: seconds from the submission until now, or until the job ended.
    remaining, eta: the remaining messages, and the seconds that they will take. None if the job was submitted without
        a plan; ``eta`` is None while nothing finishes, too.
    worker_names: the worker processes that looked at the job within the last lease, as host and process id.
    segments: open segments. ``held`` of them are owned by a worker.
    takeovers: how often a worker took over a segment whose owner had died or was stopped. ``interrupted`` messages were
        under way then, at most: they may have been handled twice.
    paused: remaining seconds of a pause that the target asked for.
    cut: whether ``limit()`` ended the job before the end of its lists.
    """

    state: JobState
    reason: str
    problem: str
    read: int
    handled: int
    failed: int
    skipped: Mapping[str, int]
    dead: int
    rate: float
    elapsed: float
    remaining: int | None
    worker_names: Sequence[str]
    segments: int
    held: int
    takeovers: int
    interrupted: int
    paused: float
    cut: bool

    @property
    def ended(self) -> bool:
        """Whether the state is finished, failed or cancelled."""
        return self.state in ("finished", "failed", "cancelled")

    @property
    def lag(self) -> int:
        """The messages that were read, and are not handled, failed or skipped yet."""
        return max(0, self.read - self.handled - self.failed - sum(self.skipped.values()))

    @property
    def workers(self) -> int:
        """The number of worker processes."""
        return len(self.worker_names)

    @property
    def eta(self) -> float | None:
        """The seconds that the remaining messages will take; None if that is unknown."""
        return seconds_left(self.remaining, self.rate)


def new_token() -> str:
    """Return the token of one lease, or the id of a call. It is random: a counter could be rolled back and repeat."""
    return secrets.token_hex(16)


def describe(error: Exception) -> str:
    """Return an error as one printable line of limited length, for a log and for a job's reason or problem.

    Its text may come from Basiq, from Redis, or from a message.
    """
    return printable(shorten(str(error) if isinstance(error, BasiqError) else f"{type(error).__name__}: {error}"))


def shorten(text: str) -> str:
    """Return a text of limited length: Redis may hold what others wrote."""
    return text if len(text) <= 1_000 else text[:1_000] + "…"
