"""Whether a webhook works, and what is wrong where it does not: what ``webhooks.diagnose`` returns. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Literal

import attrs

from ._event_types import EventTypeId
from .models import Message, Webhook

__all__ = ["Diagnosis", "EndpointCheck", "Problem", "ProblemCode"]

LATELY = timedelta(hours=24)
COOL_OFF = 900.0
"""Up to 15 minutes between subscribing and the first delivery (the vendor's guide), in seconds."""
_MANY_FAILURES = 0.1
_WORKING = ("active", "pending-approval")

ProblemCode = Literal[
    "disabled",
    "pending",
    "no-event-types",
    "retired-event-types",
    "unknown-event-types",
    "unhandled-event-types",
    "unsubscribed-event-types",
    "failing",
    "endpoint-unreachable",
    "endpoint-refuses",
    "undelivered",
    "never-sent",
    "unreadable",
]


@attrs.frozen
class Problem:
    """Something that keeps events from their handlers. ``str`` of it says what, and what to do."""

    code: ProblemCode
    text: str

    def __str__(self) -> str:
        return self.text


@attrs.frozen
class EndpointCheck:
    """What the webhook's url responded to a signed test: its ``status``, or the ``error`` in words."""

    status: int | None
    error: str | None = None

    @property
    def ok(self) -> bool:
        """Whether it was a 2xx, which is what Basiq takes for a success."""
        return self.status is not None and 200 <= self.status <= 299


@attrs.frozen
class Diagnosis:
    """The state of a webhook, as far as ``looked_at`` messages and events show it.

    cool_off_left: the most seconds until deliveries start; 0 for an active webhook, None where that is not known.
    retired: subscribed event types that the vendor's list does not have (any more).
    unknown: event types of handlers that it does not have.
    unhandled, unsubscribed: subscribed without a handler, and the other way round; empty without a receiver.
    failed_share: the share of failed attempts of the last 24 hours; None where there were none.
    last_success: when an attempt last succeeded; None where none did.
    endpoint: the signed test; None where it was not made.
    undelivered: messages without a successful attempt: a replay brings them.
    never_sent: events of the last 7 days, of subscribed types, without a message: a replay of the events brings them.
    complete: whether all messages and events were looked at.
    """

    webhook: Webhook
    status: str | None
    cool_off_left: float | None
    retired: tuple[EventTypeId, ...] = ()
    unknown: tuple[EventTypeId, ...] = ()
    unhandled: tuple[EventTypeId, ...] = ()
    unsubscribed: tuple[str, ...] = ()
    failed_share: float | None = None
    last_success: datetime | None = None
    endpoint: EndpointCheck | None = None
    undelivered: int = 0
    never_sent: int = 0
    unreadable: int = 0
    looked_at: int = 0
    complete: bool = True

    @property
    def healthy(self) -> bool:
        """Whether there is no problem."""
        return not self.problems

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is wrong, the worst first."""
        return tuple(_find_problems(self))


def is_deaf(webhook: Webhook) -> bool:
    """Whether a webhook gets no deliveries, and will not get any: ``disabled``, or another status like it."""
    return webhook.status is not None and webhook.status.lower() not in _WORKING


def cool_off_left(webhook: Webhook, subscribed_at: datetime | None, now: datetime) -> float | None:
    """The most seconds until deliveries start."""
    status = (webhook.status or "").lower()
    if status == "active":
        return 0.0
    if status != "pending-approval":
        return None
    if subscribed_at is None:
        return COOL_OFF
    return min(max(COOL_OFF - (now - subscribed_at).total_seconds(), 0.0), COOL_OFF)


class Attempts:
    """Counts the attempts of messages as they stream by."""

    def __init__(self, now: datetime) -> None:
        self._since = now - LATELY
        self._failed = self._all = 0
        self.undelivered = 0
        self.last_success: datetime | None = None

    def add(self, message: Message) -> None:
        """Count one message."""
        if message.attempts and not message.delivered:
            self.undelivered += 1
        for attempt in message.attempts:
            at = attempt.timestamp
            if at is None:
                continue
            if at >= self._since:
                self._all += 1
                self._failed += not attempt.succeeded
            if attempt.succeeded and (self.last_success is None or at > self.last_success):
                self.last_success = at

    @property
    def failed_share(self) -> float | None:
        """Of the attempts of the last 24 hours; None where there were none."""
        return self._failed / self._all if self._all else None


def _find_problems(found: Diagnosis) -> Iterator[Problem]:
    webhook = found.webhook
    if is_deaf(webhook):
        yield Problem(
            "disabled",
            f"its status is {webhook.status!r}: it gets no deliveries. webhooks.ensure or update reactivates it; then "
            "recover what happened meanwhile",
        )
    elif found.status is not None and found.status.lower() == "pending-approval":
        left = found.cool_off_left
        yield Problem(
            "pending",
            "it is not active yet"
            + (f"; that can take {left:.0f} s more" if left else "")
            + ": wait_until_active waits",
        )
    if found.endpoint is not None and not found.endpoint.ok:
        yield _endpoint_problem(found.endpoint)
    if not webhook.subscribed_events:
        yield Problem("no-event-types", "it is subscribed to no event type: pass subscribed_events to webhooks.update")
    yield from _type_problems(found)
    if found.failed_share is not None and found.failed_share > _MANY_FAILURES:
        yield Problem(
            "failing",
            f"{found.failed_share:.0%} of the attempts of the last 24 hours failed; after 8 failures of one delivery "
            "Basiq can disable the webhook",
        )
    if found.undelivered:
        yield Problem(
            "undelivered", f"{found.undelivered} messages have no successful attempt: replay the message history"
        )
    if found.never_sent:
        yield Problem(
            "never-sent",
            f"{found.never_sent} events of the last 7 days never became messages: replay the events while they can be "
            "listed",
        )
    if found.unreadable:
        yield Problem("unreadable", f"{found.unreadable} messages or events could not be read: see on_unreadable")


def _endpoint_problem(endpoint: EndpointCheck) -> Problem:
    if endpoint.status is None:
        return Problem("endpoint-unreachable", f"its url cannot be reached from here: {endpoint.error}")
    hint = ": is the receiver's secret this webhook's?" if endpoint.status in (401, 403) else ""
    return Problem("endpoint-refuses", f"its url responded {endpoint.status} to a signed test{hint}")


def _type_problems(found: Diagnosis) -> Iterator[Problem]:
    if found.retired:
        yield Problem("retired-event-types", f"Basiq has no event type {_join(found.retired)}: unsubscribe")
    if found.unknown:
        yield Problem("unknown-event-types", f"handlers wait for {_join(found.unknown)}, which Basiq does not have")
    if found.unhandled:
        yield Problem("unhandled-event-types", f"no handler takes {_join(found.unhandled)}")
    if found.unsubscribed:
        yield Problem(
            "unsubscribed-event-types", f"handlers wait for {_join(found.unsubscribed)}, which it is not subscribed to"
        )


def _join(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)
