"""The result of ``webhooks.diagnose``: whether a webhook works, and its problems. This module does no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol, runtime_checkable

import attrs

from .._work.failing import FailingType
from .._work.protocol import Inbox, Waiting
from ..models import EventTypeId, Webhook
from .coverage import Inactivity
from .problems import Problem, find_problems

COOL_OFF = 900.0
"""The longest time between subscribing and the first delivery, in seconds: 15 minutes (the vendor's guide)."""


@runtime_checkable
class DiagnosedReceiver(Protocol):
    """The part of a ``WebhookReceiver`` that a diagnosis uses."""

    @property
    def inbox(self) -> Inbox:
        """The receiver's inbox."""
        ...

    @property
    def webhook_ids(self) -> tuple[str, ...]:
        """Its webhooks."""
        ...

    @property
    def patterns(self) -> tuple[str, ...]:
        """The event types that handlers are registered for."""
        ...

    def accepts_type(self, event_type_id: str) -> bool:
        """Whether there is a handler for an event type."""
        ...

    async def sign(self, message_id: str, timestamp: datetime, body: bytes) -> Mapping[str, str]:
        """Return the headers of a delivery, signed with the receiver's secrets."""
        ...


@attrs.frozen
class EndpointCheck:
    """The result of a signed test delivery to a webhook's url: the response's ``status``, or the ``error`` as text.

    It was signed with a secret of ours. So a success proves the address, and not that Basiq signs with that secret.

    unsigned: nothing was posted, because there is no secret; ``error`` says which.
    lead: after a 401, by how many seconds the time of the response was ahead of this machine's; None if it was the
        same. status_by_its_clock: the status of a second test, which was signed with that time.
    """

    status: int | None
    error: str | None = None
    unsigned: bool = False
    lead: float | None = None
    status_by_its_clock: int | None = None

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx. Basiq counts such a delivery as a success."""
        return self.status is not None and 200 <= self.status <= 299


@attrs.frozen
class TypeDifferences:
    """How the event types of a webhook differ from Basiq's list and from a receiver's handlers.

    retired: subscribed event types that are not in Basiq's list.
    unknown: event types of handlers that are not in Basiq's list.
    unhandled: subscribed event types without a handler, as the receiver has them, or has noted them in the inbox; empty
        where neither tells.
    unsubscribed: event types with a handler that the webhook is not subscribed to; empty without a receiver.
    """

    retired: tuple[EventTypeId, ...] = ()
    unknown: tuple[EventTypeId, ...] = ()
    unhandled: tuple[EventTypeId, ...] = ()
    unsubscribed: tuple[str, ...] = ()


@attrs.frozen
class Attempts:
    """What the attempts show of the messages that were read.

    failed_share: the share of the attempts in the last 24 hours that failed for messages which are still undelivered,
        from 0 to 1; None if there were no attempts, or if not all messages tell theirs. Messages that were recovered do
        not count.
    last_success: the time of the last successful attempt; None if there was none.
    refused: the status of the newest attempt if that is 401 or 404: none has succeeded since, whether or not the
        messages were recovered; else None.
    by_status: how many attempts of the last 24 hours got each status; None is for no response, Basiq's code 0 too.
    first_failure: the time of the first failed attempt after the last success, for a message that is still undelivered;
        None if there was none.
    oldest_undelivered: the time of the first attempt of the oldest message that is not delivered; None without one.
    disabled_at: when the webhook was disabled: the time of the first eighth failed attempt of a message after the
        webhook last showed that it was active; None if it is not disabled, if no message that was read has one, or if
        Basiq's list does not tell when the webhook was active.
    """

    failed_share: float | None = None
    last_success: datetime | None = None
    refused: int | None = None
    by_status: Mapping[int | None, int] = attrs.field(factory=dict)
    first_failure: datetime | None = None
    oldest_undelivered: datetime | None = None
    disabled_at: datetime | None = None


@attrs.frozen
class Look:
    """What a diagnosis read.

    at: when it began, by Basiq's clock.
    items: how many messages and events were read.
    earliest, latest: the times of the oldest and the newest message that was read; None if there was none.
    complete: whether all messages and events that no recovery covers were read. If not, there may be more problems.
    unreadable: how many messages and events could not be read.
    unknown: for how many messages Basiq does not tell whether they were delivered: neither the list nor the message
        itself. They may be undelivered.
    forbidden: the paths that the API key may not read. What they would show is missing.
    read_by_id: how many messages were read by their ids, because the list does not tell their attempts.
    unknown_reach: the moment before which nothing tells whether the webhook was active, so that events may be
        unrecoverable; None if that is known, or without an inbox.
    lacking: what is seen of the messages that Basiq delivered, and the inbox lacks.
    killers: the ids of events in the quarantine because three processes were killed while each was handled.
    alone: the types and ids of those that wait and are handled alone, because an attempt had no end.
    unended: the ids of undelivered events of which attempts had no end, as the inbox tells it, each with how many.
    unsent: the types of the events that never became a message, with the times of the first and the last of each; None
        if they do not tell it.
    """

    at: datetime | None = None
    items: int = 0
    earliest: datetime | None = None
    latest: datetime | None = None
    complete: bool = True
    unreadable: int = 0
    unknown: int = 0
    forbidden: tuple[str, ...] = ()
    read_by_id: int = 0
    unknown_reach: datetime | None = None
    lacking: Lacking = attrs.field(factory=lambda: Lacking())
    killers: tuple[str, ...] = ()
    alone: tuple[tuple[str, str], ...] = ()
    unended: tuple[tuple[str, int], ...] = ()
    unsent: Mapping[str, tuple[datetime, datetime] | None] = attrs.field(factory=dict)


@attrs.frozen
class Lacking:
    """What is seen of the messages that Basiq delivered, and that the inbox lacks.

    statuses: how many of them got each status; None is for an attempt that does not tell it.
    first, last: the times of the first and the last of these responses; None if no attempt tells its time.
    last_recorded: when the inbox last recorded something; None if it does not tell.
    last_before_joining: when the last of those before the webhook joined was delivered, which are not counted here.
    """

    statuses: Mapping[int | None, int] = attrs.field(factory=dict)
    first: datetime | None = None
    last: datetime | None = None
    last_recorded: datetime | None = None
    last_before_joining: datetime | None = None


@attrs.frozen
class Diagnosis:
    """The state of a webhook, as far as the messages and events that were read show it.

    cool_off_left: maximum seconds until deliveries start; 0 for an active webhook, None if that is not known.
    types: how its event types differ from Basiq's list and from the handlers.
    attempts: what they show.
    unrecoverable: the periods whose events are lost, as far as the recoveries with this inbox show, without
        acknowledged ones.
    endpoint: the result of the signed test delivery; None if no test was made.
    undelivered: how many messages have no successful attempt, and are not known to the inbox.
    never_sent: how many events of the last 7 days, of subscribed types, have no message, and are not known to it.
    unrecorded: how many messages Basiq delivered, and the inbox would know, but lacks.
    before_joining: how many messages Basiq delivered while the service was live, before this webhook joined its inbox,
        which does not know them: a recovery passes them over, and is not finished.
    passed_over: how many messages Basiq delivered, and the inbox need not know: a recovery passes them over.
    recovered: how many messages and events would count as undelivered or never sent, but the inbox knows them, or a
        recovery decided them and the inbox forgot them.
    quarantined: how many deliveries are in the quarantine of the inbox, the oldest ``quarantined_since`` then.
    waiting: the deferred deliveries that wait in the inbox to be handled. Those that never failed are a problem after
        5 minutes.
    failing_types: the types whose deferred deliveries fail, with the number, since when, and an error: a problem from
        the first failure on.
    clock_lead: by how many seconds this machine's clock is ahead of Basiq's; negative if it is behind.
    not_joined: the webhooks that the inbox has noted, if this one is none of them.
    look: what was read.
    """

    webhook: Webhook
    cool_off_left: float | None
    types: TypeDifferences = attrs.field(factory=TypeDifferences)
    attempts: Attempts = attrs.field(factory=Attempts)
    unrecoverable: tuple[Inactivity, ...] = ()
    endpoint: EndpointCheck | None = None
    undelivered: int = 0
    never_sent: int = 0
    unrecorded: int = 0
    passed_over: int = 0
    before_joining: int = 0
    recovered: int = 0
    quarantined: int = 0
    quarantined_since: datetime | None = None
    waiting: Waiting = attrs.field(factory=Waiting)
    failing_types: tuple[FailingType, ...] = ()
    clock_lead: float = 0.0
    not_joined: tuple[str, ...] = ()
    look: Look = attrs.field(factory=Look)

    @property
    def status(self) -> str | None:
        """The status of the webhook."""
        return self.webhook.status

    @property
    def healthy(self) -> bool:
        """Whether the webhook has no problem."""
        return not self.problems

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The problems of the webhook, the worst first."""
        return tuple(find_problems(self))


def cool_off_left(webhook: Webhook, subscribed_at: datetime | None, now: datetime) -> float | None:
    """Return the maximum seconds until deliveries start: 0 for an active webhook, None if that is not known."""
    status = (webhook.status or "").lower()
    if status == "active":
        return 0.0
    if status != "pending-approval":
        return None
    if subscribed_at is None:
        return COOL_OFF
    return min(max(COOL_OFF - (now - subscribed_at).total_seconds(), 0.0), COOL_OFF)


def matches(pattern: str, event_type_id: str) -> bool:
    """Whether a handler's pattern matches an event type."""
    if pattern.endswith("*"):
        return event_type_id.startswith(pattern[:-1])
    return pattern == event_type_id
