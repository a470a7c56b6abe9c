"""What a fleet's record exchanges with its callers: jobs, claims, pages, results and states."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

import attrs

from .._redaction.text import printable
from .._work.protocol import StoredDelivery
from .._work.throughput import seconds_left
from ..errors import BasiqError, RecordError, ReplayError
from ..models import Message

LONGEST_KEY = 200
"""The longest key of a job, in characters."""
SEGMENT_NAME = re.compile(r"q?[0-9]{1,9}\.[0-9]{1,15}")
"""A list's number, or "q" and that of a retry of the quarantine, and the page's number."""

LONGEST_NAME = 200
"""The longest name of a job function, in characters."""


def is_notification(key: object, segment: object) -> bool:
    """Whether what a broker carried is the key of a job and the name of a segment: it may carry what others wrote."""
    if not isinstance(key, str) or not isinstance(segment, str):
        return False
    return 0 < len(key) <= LONGEST_KEY and SEGMENT_NAME.fullmatch(segment) is not None


def is_retry(segment: str) -> bool:
    """Whether a segment retries entries of the quarantine, in place of messages from Basiq."""
    return segment.startswith("q")


EDGE = 20
"""How many ids before a page are recorded: the place is found again as long as one of them is listed."""

JobState = Literal["waiting", "running", "paused", "finished", "failed", "cancelled"]
StateChange = Literal["pause", "resume", "cancel", "fail"]
Source = Literal["messages", "events"]


class LeaseLostError(ReplayError):
    """The worker no longer owns the segment, or its lease may have run out. It must stop working on it."""


class RecordUnavailableError(RecordError):
    """The store did not respond, or refused a call. The call may succeed later, and repeating it is safe."""


@attrs.frozen
class ListSpec:
    """One list of a job: the messages of a webhook that match a filter. Its pages are read one after the other."""

    webhook_id: str
    filter: str = ""


@attrs.frozen(kw_only=True)
class JobSpec:
    """A job as it was submitted. ``id`` is random, and differs from earlier jobs with the same key.

    identity: that of its webhooks in an inbox, if it is given.
    """

    key: str
    name: str = attrs.field(validator=attrs.validators.max_len(LONGEST_NAME))
    lists: tuple[ListSpec, ...]
    source: Source = "messages"
    rate: float | None = None
    submitted_at: datetime
    lease: float
    most_quarantined: int = 100_000
    total: int | None = None
    identity: str | None = None
    id: str = attrs.field(factory=lambda: secrets.token_hex(16))


@attrs.frozen(kw_only=True)
class SegmentClaim:
    """A segment that the caller owns until its lease ends.

    cursor: where its page begins.
    before: where the page that holds the last message before it begins; None at the start of the list.
    after: the ids of the last messages before the page, at most ``EDGE``; empty for the first page.
    edge: the ids of the last messages of the page, behind which the next segment begins; empty until it was read.
    upto: for a segment of the quarantine, the number of the last entry to retry.
    done: the ids of the messages that are recorded as finished.
    rate: the rate of the job.
    paused: the remaining seconds of a pause that the target asked for.
    """

    cursor: str | None
    before: str | None
    after: Sequence[str]
    edge: Sequence[str]
    upto: int | None
    done: Sequence[str]
    rate: float | None
    paused: float


@attrs.frozen(kw_only=True)
class SegmentPage:
    """The page of a segment, as it was read.

    messages: its messages. The record keeps none of them.
    cursor: where the page of the list that holds the last message begins; None at the start of the list.
    next_cursor: the cursor of the next page; None at the end of the list.
    edge: the ids by which the next segment finds its place. For the quarantine, the number of the last entry.
    """

    messages: Sequence[Message] = ()
    cursor: str | None = None
    next_cursor: str | None
    edge: Sequence[str] = ()


@attrs.frozen(kw_only=True)
class JobEntry(StoredDelivery):
    """An entry of a job's quarantine. It is sealed for this job and this webhook. ``number`` is its place."""

    job: str = attrs.field(default="", eq=False)
    """The key of the job and the name of its job function."""
    webhook_id: str = attrs.field(default="", eq=False)
    number: int = attrs.field(default=0, eq=False)

    def sealed_parts(self) -> Sequence[bytes]:
        """See ``StoredDelivery``."""
        names = (self.job, self.webhook_id)
        return [*(name.encode("utf-8", "surrogatepass") for name in names), *super().sealed_parts()]


@attrs.frozen
class Outcome:
    """How a message that was handed out ended: "handled", "failed", or "skipped:" and the reason.

    entry: what is set aside of it.
    """

    id: str
    result: str
    entry: JobEntry | None = None


@attrs.frozen
class LeftAtService:
    """What is left in the inbox of a service that a job posts to: deliveries that wait, and those that failed."""

    waiting: int
    failed: int


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
    handled, failed, skipped: as in ``Report``. ``quarantined`` is the number of messages in the job's quarantine now.
    waiting, at_service: as in ``Report``: of a job that posts with the service's inbox, at its end; else 0.
    rate: messages a second, handled or failed, over the last ten seconds.
    elapsed: seconds from the submission until now, or until the job ended.
    remaining, eta: the remaining messages, and the seconds that they will take. None if the job was submitted without
        a plan; ``eta`` is None while nothing finishes, too.
    worker_names: the worker processes that looked at the job within the last lease, as host and process id.
    segments: open segments.
    takeovers: how often a worker took over a segment whose owner had died or was stopped. At most ``concurrency``
        messages were under way each time, and may have been handled twice.
    paused: remaining seconds of a pause that the target asked for.
    """

    state: JobState
    reason: str
    problem: str
    read: int
    handled: int
    failed: int
    skipped: Mapping[str, int]
    quarantined: int
    waiting: int
    at_service: int
    _given_up: int = attrs.field(alias="given_up")  # failed, and not set aside
    rate: float
    elapsed: float
    remaining: int | None
    worker_names: Sequence[str]
    segments: int
    _held: int = attrs.field(alias="held")  # segments that a worker owns
    takeovers: int
    paused: float

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
