"""The problems of a webhook: each with what it is about, since when, and its remedy. This module does no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

import attrs

from .._redaction.text import amount
from .._work.places import MOST_JOBS
from .._work.protocol import Waiting
from ..models import Webhook, read_datetime
from .coverage import Inactivity, describe_before_joining

if TYPE_CHECKING:
    from .diagnosis import Diagnosis, EndpointCheck, Lacking

_MANY_FAILURES = 0.1
_TOLERANCE = 300.0
"""Seconds by which a receiver's clock may differ from Basiq's: by default it refuses other deliveries."""
_LONG_WAIT = 300.0
"""Seconds after which a deferred delivery that still waits is a problem."""
_MOST_TYPES = 5
_WORKING = ("active", "pending-approval")

ProblemCode = Literal[
    "clock",
    "forbidden",
    "disabled",
    "pending",
    "no-secret",
    "endpoint-unreachable",
    "endpoint-refuses",
    "not-joined",
    "no-event-types",
    "refused",
    "retired-event-types",
    "unknown-event-types",
    "unhandled-event-types",
    "unsubscribed-event-types",
    "failing",
    "undelivered",
    "unknown",
    "never-sent",
    "unrecorded",
    "joined-later",
    "unrecoverable",
    "unknown-activity",
    "quarantined",
    "waiting",
    "deferred-failing",
    "unreadable",
    "partial",
    "unread",
]
"""In the order in which a diagnosis has them: what keeps more events from their handlers comes first."""


@attrs.frozen
class Problem:
    """A problem that keeps events from their handlers. ``str`` returns a description with the remedy.

    ``about`` is what it is about, where the code alone does not say it: event types, paths, a status, a number, the
    period that is unrecoverable, or the moment before which nothing is known. ``since`` is when it began; None if
    nothing tells that.
    """

    code: ProblemCode
    text: str
    about: tuple[str, ...] | int | Inactivity | datetime | None = None
    since: datetime | None = None

    def __str__(self) -> str:
        return self.text


def is_inactive(webhook: Webhook) -> bool:
    """Whether a webhook gets no deliveries: its status is known, and neither ``active`` nor ``pending-approval``."""
    return webhook.status is not None and webhook.status.lower() not in _WORKING


def subscribed_at(webhook: Webhook) -> datetime | None:
    """Return when a webhook was created or last changed; None if its JSON, beyond the reference, does not say so."""
    try:
        return read_datetime(webhook.raw.get("lastUpdated") or webhook.raw.get("createdDate"))
    except ValueError:
        return None


def find_clock_problem(lead: float) -> Problem | None:
    """Return the problem with this machine's clock, or None. ``lead``: seconds by which it is ahead of Basiq's."""
    if abs(lead) <= _TOLERANCE:
        return None
    return Problem(
        "clock",
        f"this machine's clock is {ahead(lead)} Basiq's, so that a "
        "receiver here refuses each delivery, and a signature from here is refused: set the clock, for example by NTP",
    )


def _forbidden_problem(paths: tuple[str, ...]) -> Problem:
    reads = ", ".join(f"GET {path}" for path in paths)
    return Problem(
        "forbidden",
        f"Basiq refuses {reads} to this API key with 403, so nothing of that was looked at: give the key these "
        "permissions in Basiq's dashboard, or use another key",
        paths,
    )


def _describe_refusal(status: int) -> str:
    newest = (
        f"the webhook's url responded {status} to Basiq's newest attempt, and none has succeeded since: most often "
    )
    if status == 401:
        return newest + (
            "the receiver does not have the secret that the webhook has by now, because an update made a new one. Get "
            "it, which may renew it, and give the receiver both. If the receiver's log says too-old or too-new, its "
            "clock is wrong: a signed test tells"
        )
    return newest + "its path is not the receiver's, or a proxy changes it. See what it responds to a test"


def find_status_problem(
    webhook: Webhook, cool_off_left: float | None, disabled_at: datetime | None = None
) -> Problem | None:
    """Return the problem with the status of a webhook, or None."""
    if is_inactive(webhook):
        return Problem(
            "disabled",
            f"the webhook's status is {webhook.status!r}, so it gets no deliveries: reactivate it, give its receiver "
            "the secret of the response if that is another, then recover the events that happened meanwhile",
            since=disabled_at,
        )
    if webhook.status is not None and webhook.status.lower() == "pending-approval":
        more = f"; that can take {cool_off_left:.0f} s more" if cool_off_left else ""
        text = f"the webhook is not active yet{more}: wait for it"
        return Problem("pending", text)
    return None


def find_unknown_problem(count: int) -> Problem:
    """Return the problem with messages for which Basiq does not tell whether they were delivered."""
    return Problem(
        "unknown",
        f"Basiq does not tell of {amount(count, 'message', 'messages')} whether "
        f"{'it was' if count == 1 else 'they were'} delivered, neither in the list nor alone: look at what the service "
        "has handled. A recovery of everything handles them, and what was delivered too, some of it perhaps again",
        count,
    )


def find_forgotten_problem(count: int, before: datetime) -> Problem:
    """Return the problem with what a job may have handled before, because its notes lost their place to others."""
    return Problem(
        "unknown",
        f"the inbox keeps the notes of {MOST_JOBS} jobs, and this one may have lost its place: nothing tells of "
        f"{amount(count, 'message or event', 'messages and events')} before {before.astimezone(UTC):%Y-%m-%d %H:%M} "
        "UTC whether it wanted and posted them. Say with since= (--since) from when on all is wanted that the inbox "
        "does not know, or pass another inbox",
        before,
    )


def find_unknown_activity(before: datetime) -> Problem:
    """Return the problem that nothing tells whether the webhook was active before a moment."""
    return Problem(
        "unknown-activity",
        "neither Basiq's list nor the inbox tells whether the webhook was active before "
        f"{before.astimezone(UTC):%Y-%m-%d %H:%M} UTC, and the event list no longer has the events of that time: "
        "if it may have been disabled, fetch the present state from the API, then acknowledge a time up to a day later",
        before,
    )


def describe_waiting(waiting: Waiting) -> str:
    """Return the problem with deferred deliveries that wait, with the remedy."""
    age = max(waiting.age or 0.0, waiting.failing_age or 0.0)
    what = amount(waiting.count, "deferred delivery waits", "deferred deliveries wait")
    failed = f"{waiting.failing:,} of them {'has' if waiting.failing == 1 else 'have'} failed"
    oldest = f"the oldest for {_age(age)}"
    return f"{what} to be handled, {oldest}, and {failed}: let a process handle them, and look at its log"


def waiting_since(waiting: Waiting, now: datetime | None) -> datetime | None:
    """Return since when the oldest delivery that never failed waits; None if that is not known."""
    return None if now is None or waiting.age is None else now - timedelta(seconds=waiting.age)


def _age(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def find_problems(found: Diagnosis) -> Iterator[Problem]:
    webhook, attempts = found.webhook, found.attempts
    clock = find_clock_problem(found.clock_lead)
    if clock is not None:
        yield clock
    if found.look.forbidden:
        yield _forbidden_problem(found.look.forbidden)
    status = find_status_problem(webhook, found.cool_off_left, attempts.disabled_at)
    if status is not None:
        yield status
    if found.endpoint is not None and not found.endpoint.ok:
        yield _endpoint_problem(found.endpoint, clock=clock)
    if found.not_joined:
        others = ", ".join(found.not_joined)
        yield Problem(
            "not-joined",
            f"the inbox is of the webhook {others}, so it refuses each delivery of this one: if this one took its "
            "place, say so, and see what waits and is in the quarantine; for another service, name an inbox of its own",
            found.not_joined,
        )
    if not webhook.subscribed_events and found.look.latest is None:
        yield Problem(
            "no-event-types", "Basiq names no event type of the webhook, and no message: it gets every event, or none"
        )
    failing_since = attempts.first_failure or attempts.oldest_undelivered
    if attempts.refused is not None:
        yield Problem("refused", _describe_refusal(attempts.refused), attempts.refused, failing_since)
    yield from _type_problems(found)
    if attempts.failed_share is not None and attempts.failed_share > _MANY_FAILURES:
        yield Problem(
            "failing",
            f"{attempts.failed_share:.0%} of the attempts of the last 24 hours failed, for messages that are still not "
            "delivered; after 8 failures of one delivery Basiq may disable the webhook",
            since=failing_since,
        )
    if found.undelivered:
        count = amount(found.undelivered, "message was", "messages were")
        text = f"{count} not delivered: recover what is missing"
        for event_id, ends in found.look.unended:
            processes = amount(ends, "process was killed, or hung,", "processes were killed, or hung,")
            text += f". {processes} while it handled the event {event_id}: after three it is in the quarantine"
        yield Problem("undelivered", text, since=attempts.oldest_undelivered)
    if found.look.unknown:
        yield find_unknown_problem(found.look.unknown)
    if found.never_sent:
        yield Problem(
            "never-sent",
            amount(found.never_sent, "event", "events")
            + f" of the last 7 days never became a message: {_explain_unsent(found)}. Recover while the event list has "
            + "what is missing",
            since=min((each[0] for each in found.look.unsent.values() if each is not None), default=None),
        )
    if found.unrecorded:
        yield Problem(
            "unrecorded",
            amount(found.unrecorded, "message was", "messages were")
            + f" delivered, as Basiq says, and this inbox lacks {'it' if found.unrecorded == 1 else 'them'}: "
            + _explain_lacking(found.look.lacking)
            + ". A recovery passes them to the handler, once more if another inbox has them",
            since=found.look.lacking.first,
        )
    if found.before_joining:
        last = found.look.lacking.last_before_joining
        yield Problem("joined-later", describe_before_joining(found.before_joining, last), last)
    for period in found.unrecoverable:
        yield Problem("unrecoverable", str(period), period, period.since)
    if found.look.unknown_reach is not None:
        yield find_unknown_activity(found.look.unknown_reach)
    if found.quarantined:
        yield Problem(
            "quarantined",
            amount(found.quarantined, "message or delivery failed, and is", "messages or deliveries failed, and are")
            + " in the quarantine of the inbox: mend the handler, then retry"
            + "".join(f". The event {each} is there because it ended three processes" for each in found.look.killers),
            since=found.quarantined_since,
        )
    if (found.waiting.age or 0) > _LONG_WAIT:
        since = waiting_since(found.waiting, found.look.at)
        yield Problem("waiting", describe_waiting(found.waiting), since=since)
    for each in found.failing_types:
        verb = "fails" if each.count == 1 else "fail"
        text = f"{each.count:,} of {each.event_type_id} {verb} since {each.since:%Y-%m-%d %H:%M} UTC: {each.error}"
        alone = [event_id for event_type_id, event_id in found.look.alone if event_type_id == each.event_type_id]
        text += f"; handled alone: {', '.join(alone)}" if alone else ""
        yield Problem("deferred-failing", text, (each.event_type_id,), each.since)
    if found.look.unreadable:
        yield Problem(
            "unreadable",
            amount(found.look.unreadable, "message or event", "messages or events") + " could not be read",
        )
    if not (found.look.complete or found.look.forbidden):
        yield Problem(
            "partial",
            f"only {found.look.items:,} messages and events were read{_describe_look(found)}, and there are more: read "
            "all of them",
        )


def _explain_lacking(found: Lacking) -> str:
    """Return why an inbox may lack what Basiq delivered: what is seen, else each cause that there may be."""
    if found.first is not None and found.last_recorded is not None and found.first > found.last_recorded:
        # A receiver responds 204 to what it has no handler for, too, and records nothing.
        unhandled = "" if found.statuses.keys() - {204} else "; or the service had no handler for these types then"
        return (
            f"all of it came after the inbox last recorded something, at {_minute(found.last_recorded)}. So it is a "
            "copy or a restored backup, or a failover lost what came last, or the service has another inbox by now: "
            f"see which one it uses{unhandled}"
        )
    period = (
        "" if found.first is None or found.last is None else (f" from {_minute(found.first)} to {_minute(found.last)}")
    )
    if found.statuses and found.statuses.keys() <= {204}:
        return (
            f"it was answered with 204{period}, as a receiver responds that has handled an event, or has no handler "
            "for its type. Either a deploy had no handler then, or the inbox has lost entries (a failover, a restore), "
            "or a receiver with another inbox has the webhook's url"
        )
    if found.statuses and found.statuses.keys() <= {202}:
        return (
            f"it was answered with 202{period}: a receiver stored it for a deferred handler. So the inbox has lost it "
            "(a failover, a restore), or that receiver has another inbox"
        )
    if found.statuses and 204 not in found.statuses and 202 not in found.statuses:
        shown = " and ".join(str(each) for each in sorted(found.statuses, key=str) if each is not None)
        return (
            f"it was answered with {shown or 'success'}{period}, which a receiver says only of what it knows, or has "
            "in its quarantine: the inbox has lost entries (a failover, a restore), or another program has the "
            "webhook's url, or a receiver with another inbox"
        )
    return (
        "something else at the webhook's url answered it, or a receiver with another inbox, or one without a handler "
        "for its type; or the inbox has lost entries (a failover, a restore)"
    )


def _explain_unsent(found: Diagnosis) -> str:
    """Return why events may have no message: what is seen, else each cause that there may be."""
    times = [each for each in found.look.unsent.values() if each is not None]
    first, last = min((each[0] for each in times), default=None), max((each[1] for each in times), default=None)
    changed = subscribed_at(found.webhook)
    types = ", ".join(sorted(found.look.unsent)[:_MOST_TYPES]) + (", …" if len(found.look.unsent) > _MOST_TYPES else "")
    period = "" if first is None or last is None else f" from {_minute(first)} to {_minute(last)}"
    shown = f"{types}{period}" if types else "of its types"
    if (
        is_inactive(found.webhook)
        and found.attempts.disabled_at is not None
        and first is not None
        and first >= found.attempts.disabled_at
    ):
        return f"{shown}, after the webhook was disabled"
    if changed is not None and last is not None and last < changed and not is_inactive(found.webhook):
        return (
            f"{shown}, before the webhook was made or last changed, at {_minute(changed)}: it was inactive, or not "
            "subscribed to that, until then"
        )
    now = f" (now it is {found.webhook.status})" if is_inactive(found.webhook) else ""
    return (
        f"{shown}: the webhook was inactive then{now}, or was not subscribed to that, or Basiq does not list the "
        "messages any more"
    )


def _minute(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _describe_look(found: Diagnosis) -> str:
    if found.look.earliest is None or found.look.latest is None:
        return ""
    first, last = (f"{each.astimezone(UTC):%Y-%m-%d %H:%M}" for each in (found.look.earliest, found.look.latest))
    return f", with messages from {first} to {last} UTC"


def _endpoint_problem(endpoint: EndpointCheck, *, clock: Problem | None) -> Problem:
    if endpoint.unsigned:
        return Problem("no-secret", f"no test was posted: {endpoint.error}")
    if endpoint.status is None:
        return Problem("endpoint-unreachable", f"the webhook's url cannot be reached: {endpoint.error}")
    text = f"the webhook's url responded {endpoint.status} to a signed test"
    if endpoint.status in (401, 403) and clock is not None:
        text = f"{text}: set the clock of this machine first"
    elif endpoint.status == 401 and endpoint.lead is not None and 200 <= (endpoint.status_by_its_clock or 0) <= 299:
        text = (
            f"{text}, and accepted one that was signed with the time of its response: its secret is right, and its "
            f"clock is {ahead(endpoint.lead)} this machine's, so that it refuses each delivery: set the clock there"
        )
    elif endpoint.status in (401, 403):
        text = f"{text}: is the receiver's secret this webhook's?"
        if endpoint.status == 401:
            text = f"{text} {CLOCK_CAUSE}"
    return Problem("endpoint-refuses", text, endpoint.status)


CLOCK_CAUSE = (
    "If the service's log says too-old or too-new, its clock is wrong; if it says no-match, the secret is. The time of "
    "the response does not decide it: behind a proxy, that is the proxy's"
)
"""How to tell the two causes of a 401 apart, where nothing does."""


def ahead(lead: float) -> str:
    return f"{abs(lead):,.0f} s {'ahead of' if lead > 0 else 'behind'}"


def _type_problems(found: Diagnosis) -> Iterator[Problem]:
    if found.types.retired:
        text = f"the webhook is subscribed to {_join(found.types.retired)}, which Basiq does not have: unsubscribe"
        yield Problem("retired-event-types", text, found.types.retired)
    if found.types.unknown:
        text = f"handlers exist for {_join(found.types.unknown)}, which Basiq does not have"
        yield Problem("unknown-event-types", text, found.types.unknown)
    if found.types.unhandled:  # a deploy may have lost the handler
        waits = (
            f", and {amount(found.waiting.count, 'delivery waits', 'deliveries wait')}" if found.waiting.count else ""
        )
        yield Problem(
            "unhandled-event-types",
            f"no handler exists for {_join(found.types.unhandled)}{waits}: deploy the one that there was, or write "
            "one; unsubscribe the webhook if nothing needs them",
            found.types.unhandled,
        )
    if found.types.unsubscribed:
        text = f"handlers exist for {_join(found.types.unsubscribed)}, which the webhook is not subscribed to"
        yield Problem("unsubscribed-event-types", text, found.types.unsubscribed)


def _join(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)
