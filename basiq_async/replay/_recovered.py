"""The plan of a recovery, and its result: what was handled, and what is left."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import attrs

from .._redaction.text import amount
from .._work.protocol import Waiting
from ..models import Webhook
from ..services.coverage import Inactivity, describe_before_joining
from ..services.problems import (
    Problem,
    describe_waiting,
    find_clock_problem,
    find_forgotten_problem,
    find_status_problem,
    find_unknown_activity,
    find_unknown_problem,
    waiting_since,
)
from ._report import Report
from .targets._base import BUSY


@attrs.frozen
class RecoveryPlan:
    """What a recovery would pass to the handler now.

    first: whether no recovery of the webhook has finished with this inbox.
    messages: the number of messages. events: the number of events that made no message.
    """

    first: bool
    messages: int
    events: int

    @property
    def total(self) -> int:
        """Both numbers together."""
        return self.messages + self.events

    def __str__(self) -> str:
        """Return a text that says how much that is, and what bounds it."""
        which = "the first recovery of this webhook with this inbox" if self.first else "the recovery"
        return (
            f"{which} handles about {amount(self.messages, 'message', 'messages')} and "
            f"{amount(self.events, 'event', 'events')} without a message; since= (--since) leaves out what is older."
        )


@attrs.frozen
class Recovery:
    """The result of a recovery, and what is left.

    messages: the report on the message history.
    events: the report on the event list of the last 7 days; None if the messages were not read to their end.
        ``handled`` counts events that never were a message.
    passed_over: the number of messages that Basiq delivered, and that the inbox need not know. ``everything=True``
        passes them to the handler.
    before_joining: the number of messages that Basiq delivered while the service was live, before this webhook joined
        its inbox, which does not know them. They were passed over too.
    unknown: the number of messages for which Basiq does not tell whether they were delivered: neither the list nor the
        message itself. They were not passed to the handler; ``everything=True`` passes them to the handler.
    recent: the number of events of the last two minutes, if the webhook may not have been active then: the next
        recovery has them.
    quarantined: the number of the webhook's entries in the quarantine of the inbox; of a job that posts, its own.
    at_service: of a job that posts, the number of entries of the service in the quarantine of the inbox.
    waiting: the webhook's deferred deliveries that wait in the inbox to be handled: they were not passed to the
    handler.
    unrecoverable: periods in which the webhook was not active, and whose events left the event list before a recovery
        read them. These events cannot be recovered from Basiq.
    unknown_reach: the moment before which nothing tells whether the webhook was active, because Basiq's list does not
        tell the attempts: events of that time may be unrecoverable. None if that is known.
    webhook: the webhook, read after the recovery.
    """

    messages: Report
    events: Report | None
    passed_over: int
    before_joining: int
    unknown: int
    recent: int
    quarantined: int
    at_service: int
    waiting: Waiting
    unrecoverable: tuple[Inactivity, ...]
    unknown_reach: datetime | None
    webhook: Webhook
    _was_active: bool = attrs.field(alias="was_active")
    """Whether the webhook was active before the messages were read, so that new events became messages."""
    _clock_lead: float = attrs.field(default=0.0, alias="clock_lead")
    """By how many seconds this machine's clock is ahead of Basiq's."""
    _refusal: str | None = attrs.field(default=None, alias="refusal")
    """What is wrong with a target that responded 401 to each message."""
    _ended: datetime | None = attrs.field(default=None, alias="ended")
    """When it ended, by Basiq's clock."""
    _quarantined_since: datetime | None = attrs.field(default=None, alias="quarantined_since")
    """When the oldest entry of the quarantine was quarantined."""
    _last_before_joining: datetime | None = attrs.field(default=None, alias="last_before_joining")
    _forgotten: int = attrs.field(default=0, alias="forgotten")
    """How many messages and events an earlier recovery by this job may have handled, whose notes are gone."""
    _gone_before: datetime | None = attrs.field(default=None, alias="gone_before")
    """The moment before which these notes may have been of use."""

    @property
    def finished(self) -> bool:
        """Whether nothing is left of the messages and events that ``where`` selects. ``problems`` says what is left."""
        return not self.problems

    @property
    def handled(self) -> int:
        """The number of messages and events that the target accepted."""
        return self.messages.handled + (0 if self.events is None else self.events.handled)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The problems that are left, each with its remedy. A clock that is wrong by over 5 minutes comes first."""
        left, clock = tuple(self._find_what_is_left()), find_clock_problem(self._clock_lead)
        return left if clock is None or not left else (clock, *left)

    def _find_what_is_left(self) -> Iterable[Problem]:
        status = find_status_problem(self.webhook, None)
        if status is not None:
            yield status
        elif not self._was_active:
            yield Problem("unread", "the webhook was not active when the messages were read: run the same again")
        for report, name in ((self.messages, "message history"), (self.events, "event list")):
            busy = 0 if report is None else report.skipped.get(BUSY, 0)
            if busy:
                yield Problem("unread", f"another worker holds {busy:,} of the {name}: run the same again")
            elif report is None or not report.read_to_end:
                yield Problem("unread", f"the {name} was not read to its end: run the same again to continue")
            elif not (report.finished or report.skipped.get("unknown")):
                failed = amount(report.failed, "message", "messages")
                yield Problem("unread", f"{failed} of the {name} failed, and are kept nowhere: run the same again")
        if self.unknown:
            yield find_unknown_problem(self.unknown)
        if self._forgotten and self._gone_before is not None:
            yield find_forgotten_problem(self._forgotten, self._gone_before)
        if self.recent:
            what = amount(self.recent, "event", "events")
            yield Problem("unread", f"the last two minutes have {what} that the next run takes: run the same again")
        if self._refusal is not None:
            yield Problem("refused", f"{self._refusal}: sign with the secret that the service has")
        if self.quarantined:
            fix = "" if self._refusal is not None else "fix the handler, then "
            what = amount(
                self.quarantined, "message or delivery failed, and is", "messages or deliveries failed, and are"
            )
            yield Problem("quarantined", f"{what} in the quarantine: {fix}retry", since=self._quarantined_since)
        if self.at_service:
            what = amount(self.at_service, "delivery failed in the service, and is", "deliveries failed there, and are")
            yield Problem("quarantined", f"{what} in its quarantine: fix the handler, then retry with its receiver")
        if self.waiting.count:
            since = waiting_since(self.waiting, self._ended)
            yield Problem("waiting", describe_waiting(self.waiting), since=since)
        if self.before_joining:
            last = self._last_before_joining
            yield Problem("joined-later", describe_before_joining(self.before_joining, last), last)
        for period in self.unrecoverable:
            yield Problem("unrecoverable", str(period), period, period.since)
        if self.unknown_reach is not None:
            yield find_unknown_activity(self.unknown_reach)
