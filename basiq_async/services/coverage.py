"""What Basiq's two lists and an inbox say of a webhook: what was missed, and what is unrecoverable.

A recovery passes to the handler what is missed, and a diagnosis counts it: both ask this.
"""

from __future__ import annotations

import json
from array import array
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

import attrs

from .._wire.codec import Unreadable, read_message
from .._work.inbox_calls import InboxCalls
from .._work.noted import Noted
from .._work.places import job_places
from .._work.schedule import ATTEMPTED
from ..models import Message, Webhook

LISTED = timedelta(days=7)
"""How far back the event list goes (the vendor's reference)."""
TIME_TO_APPEAR = timedelta(minutes=2)
"""Basiq may need that long to make a message of an event, and to deliver it."""
ALL_TYPES = "*"
"""In place of the event types of a webhook for which Basiq names none."""
MOST_ATTEMPTS = 8
"""After the eighth failed attempt Basiq may disable the webhook (the same page)."""
_MOMENTS = ("read_up_to", "seen_inactive", "acknowledged", "begins", "gone_before")
_MOST_LOST = 200
"""The number of unrecoverable periods that are noted until they are acknowledged."""
_SKEW = timedelta(minutes=5)
"""Maximum difference between Basiq's clock and this machine's."""


@attrs.frozen
class Inactivity:
    """A period in which a webhook was not active. Events of this period made no messages.

    since: the eighth failed attempt of a message, after which Basiq may disable the webhook; or the moment when a
        recovery found the webhook not active.
    until: the next attempt that shows that it was active again: the first one of a message, or one that succeeded;
        None if there is none.
    """

    since: datetime
    until: datetime | None = None

    def __str__(self) -> str:
        """Return a text that says that the events of this period are lost, and what to do."""
        until = "" if self.until is None else f" to {_show(self.until)}"
        return (
            f"the webhook was not active from {_show(self.since)}{until}, and the event list no longer has the events "
            "of that time: fetch the present state from the API, then pass the end of that time as acknowledged"
        )


class Activity:
    """Finds the periods in which a webhook was not active, from the attempts of its messages in any order.

    Only an active webhook gets a message, so a first attempt shows that it was active then, and so does any attempt
    that succeeded. After the eighth failed attempt of a message, Basiq may have disabled the webhook, or not.
    """

    def __init__(self) -> None:
        self._signs = array("d")
        """When the webhook was active, as seconds since the epoch."""
        self._ends: dict[datetime, datetime] = {}
        """The times of eighth failed attempts, each with the first attempt of its message."""
        self.untold = 0
        """How many messages do not show their attempts: what they would show of the webhook is not known."""

    def see(self, items: Sequence[Any], times: Iterable[datetime | None]) -> None:
        """Record the attempts of messages, as Basiq sent them. ``times`` are those of their first attempts."""
        self._signs.extend(time.timestamp() for time in times if time is not None)
        for item in items:
            attempts = item.get("attempts") if isinstance(item, dict) else []
            if not isinstance(attempts, list) or not all(isinstance(each, dict) for each in attempts):
                self.untold += 1
            elif len(attempts) > 1:
                self._see_retries(item)

    def _see_retries(self, item: dict[str, Any]) -> None:
        try:
            message = read_message(item)
            times = [each.timestamp for each in message.attempts if each.timestamp is not None]
        except (Unreadable, ValueError):
            return
        if len(message.attempts) >= MOST_ATTEMPTS and times and message.delivered is False:
            self._ends[max(times)] = min(times)
        for each in message.attempts:
            if each.succeeded is True and each.timestamp is not None:
                self._signs.append(each.timestamp.timestamp())

    def first_end(self, after: datetime | None) -> datetime | None:
        """Return the first eighth failed attempt after a moment, or of all."""
        return first_after(self._ends, after)

    @property
    def last_sign(self) -> datetime | None:
        """The last moment at which the webhook surely was active; None if no message shows one."""
        return _moment(max(self._signs)) if self._signs else None

    def periods(self, *seen_inactive: datetime | None) -> tuple[Inactivity, ...]:
        """Return the periods, earliest first.

        ``seen_inactive``: moments at which the webhook was found not active.

        After an eighth failed attempt the webhook counts as active if it soon shows that it was: after no longer a
        silence than there was while that message was attempted. Where messages do not show their attempts, a silence
        shows nothing, and only ``seen_inactive`` counts.
        """
        signs, seen = sorted(self._signs), {each for each in seen_inactive if each is not None}
        found: dict[float | None, Inactivity] = {}
        for since in sorted(seen if self.untold else {*self._ends, *seen}):
            place = bisect_right(signs, since.timestamp())
            until = signs[place] if place < len(signs) else None
            if until in found:
                continue
            if until is None or since in seen or not self._is_usual(until - since.timestamp(), since, signs, place):
                found[until] = Inactivity(since, None if until is None else _moment(until))
        return tuple(found.values())

    def _is_usual(self, silence: float, end: datetime, signs: Sequence[float], place: int) -> bool:
        """Whether the webhook was silent for so long before ``end`` too, since the first attempt of that message."""
        first, later = self._ends[end].timestamp(), end.timestamp()
        while later - first >= silence:
            place -= 1
            earlier = max(first, signs[place]) if place >= 0 else first
            if later - earlier >= silence:
                return True
            later = earlier
        return False


@attrs.frozen
class Coverage:
    """What the recoveries of a webhook found out. It is a note in their inbox. All times are by Basiq's clock.

    read_up_to: all that happened before was read from both lists, and was handled or quarantined.
    seen_inactive: when a recovery found the webhook not active, since which it did not read up to a later moment.
    acknowledged: what is unrecoverable before this moment is known to the user.
    begins: what happened before is not wanted.
    lost: what was unrecoverable when it was read up to then, until it is acknowledged.
    types: the event types that were read up to then, each with the time since which the event list of 7 days was read
        without a gap. Whatever webhook an event of that time went to, it was read.
    gone_before: the moment before which an earlier note of a job may have lost its place, so that what recoveries found
        out is not known; None if none has. Up to a recovery that reads all.
    others: what the recoveries of the other webhooks of its service found out. It is not written.
    """

    read_up_to: datetime | None = None
    seen_inactive: datetime | None = None
    acknowledged: datetime | None = None
    begins: datetime | None = None
    lost: tuple[Inactivity, ...] = ()
    types: Mapping[str, datetime] = attrs.field(factory=dict)
    gone_before: datetime | None = None
    others: tuple[Coverage, ...] = attrs.field(default=(), eq=False)

    @classmethod
    def read(cls, text: str | None) -> Coverage:
        """Parse the text of ``write``. Any other text is as good as none: then more is said to be unrecoverable."""
        try:
            fields = dict(json.loads(text or "{}"))
            lost = [[datetime.fromisoformat(each) for each in pair] for pair in fields.pop("lost", ())]
            types = {name: datetime.fromisoformat(value) for name, value in dict(fields.pop("types", ())).items()}
            moments: dict[str, Any] = {name: datetime.fromisoformat(value) for name, value in fields.items() if value}
            if any(each.tzinfo is None for each in chain(moments.values(), types.values(), *lost)):
                return cls()
            return cls(**moments, types=types, lost=tuple(Inactivity(since, until) for since, until in lost))
        except (ValueError, TypeError, AttributeError, RecursionError):
            return cls()

    def write(self) -> str:
        """Return the coverage as text."""
        moments = {name: getattr(self, name) for name in _MOMENTS}
        periods = [(each.since, each.until) for each in self.lost if each.until is not None]
        if len(periods) > _MOST_LOST:  # the oldest are one, which names also what was handled between them
            oldest = periods[: 1 - _MOST_LOST]
            periods = [(oldest[0][0], oldest[-1][1]), *periods[1 - _MOST_LOST :]]
        lost = [[since.isoformat(), until.isoformat()] for since, until in periods]
        texts = {name: each and each.isoformat() for name, each in moments.items()}
        types = {name: since.isoformat() for name, since in self.types.items()}
        return json.dumps({**texts, "lost": lost, "types": types})

    @property
    def is_new(self) -> bool:
        """Whether no recovery has found anything out."""
        return self.read_up_to is None and self.seen_inactive is None

    def inherit(self, others: Mapping[str, Coverage], working: Collection[str] | None) -> Coverage:
        """Return the coverage with those of the other webhooks of its service, by their ids.

        working: the webhooks that Basiq lists and that are active; None if that cannot be known. If no recovery of this
            one has run, it may be new: it was not active since one that is gone or not active was read last, and what
            is not wanted of the others is not wanted of it.
        """
        seen, begins = self.seen_inactive, self.begins
        if self.is_new and begins is None:
            begins = latest(*(each.begins for each in others.values()))
        if self.is_new and working is not None:
            former = [each for webhook_id, each in others.items() if webhook_id not in working]
            seen = latest(*(latest(each.seen_inactive or each.read_up_to, each.acknowledged) for each in former))
        return attrs.evolve(self, seen_inactive=seen, begins=begins, others=tuple(others.values()))

    def read_types(self, types: Iterable[str], now: datetime) -> Mapping[str, datetime]:
        """Return since when these types are read without a gap, if both lists were read to their ends now."""
        listed = now - LISTED + TIME_TO_APPEAR
        kept = self.types if self.read_up_to is not None and self.read_up_to >= listed else {}
        return {each: kept.get(each, listed) for each in types}

    def is_forgotten(self, time: datetime | None) -> bool:
        """Return whether nothing tells if a recovery before this one wanted, or handled, what happened at a time."""
        if self.gone_before is None or self.begins is not None:  # a person has said since when all is wanted
            return False
        return time is None or time < self.gone_before

    def is_unwanted(self, event_type: str, time: datetime | None, now: datetime) -> bool:
        """Return whether it happened before recoveries begin, or was read through another webhook of the service."""
        if time is None:
            return False
        elsewhere = self._spans_elsewhere((event_type,), now)
        return (self.begins is not None and time < self.begins) or any(each <= time < end for each, end in elsewhere)

    def _spans_elsewhere(self, types: Collection[str], now: datetime) -> Iterator[tuple[datetime, datetime]]:
        """Yield from when to when all events of these types were read through each other webhook of the service."""
        for each in self.others:
            until = each.covered(types, now)
            if types and until is not None:
                yield latest(*(each.types[name] for name in types), each.begins) or until, until

    def _begin(self, types: Collection[str], now: datetime) -> datetime | None:
        """Return the time up to which nothing is unrecoverable that is not known; None if there is none.

        A person who knew of what is unrecoverable of another webhook, or did not want it, knew it of the service.
        """
        known = [latest(each.acknowledged, each.begins) for each in self.others if {*types} <= {*each.types}]
        begin = latest(self.read_up_to, self.acknowledged, self.begins, *(known if types else ()))
        for since, until in self._spans_elsewhere(types, now):
            begin = begin if begin is None or begin < since else max(begin, until)
        return begin

    def covered(self, types: Iterable[str], now: datetime) -> datetime | None:
        """Return the time up to which the events of all these types were read; None if one of them was not.

        A moment in the future is of a clock that was wrong, and shows nothing.
        """
        is_past = self.read_up_to is not None and self.read_up_to <= now
        return self.read_up_to if is_past and set(types) <= set(self.types) else None

    def read_back_to(self, now: datetime) -> datetime | None:
        """Return the time of the oldest messages to read; None for all, because no recovery has read them before.

        The messages of all listed events are later, and those whose attempts had not ended at an earlier recovery.
        """
        if self.read_up_to is None:
            return self.begins
        return latest(min(now - LISTED, self.read_up_to) - ATTEMPTED, self.begins)

    def find_unknown_reach(self, activity: Activity, now: datetime, types: Collection[str] = ()) -> datetime | None:
        """Return the moment before which nothing tells whether the webhook was active; None if that is known.

        What happened later is still in the event list, or a recovery has read it, or it is acknowledged. ``types``:
        those that are wanted; what was read through another webhook of the service counts if it was of all these.
        """
        reach, begin = now - LISTED, self._begin(types, now)
        if not activity.untold:
            reach = min(reach, self.gone_before or now)
        is_unknown = activity.untold or self.gone_before is not None
        return reach if is_unknown and (begin is None or begin < reach) else None

    def unrecoverable(
        self, periods: Iterable[Inactivity], now: datetime, types: Collection[str] = ()
    ) -> tuple[Inactivity, ...]:
        """Return the parts of periods whose events no recovery has read, and which are no longer in the event list.

        types: see ``find_unknown_reach``.
        """
        reach, active_at = now - LISTED, self.read_up_to if self.seen_inactive is None else None
        begin, spans = self._begin(types, now), sorted(self._spans_elsewhere(types, now))
        lost = [each for each in self.lost if self.acknowledged is None or (each.until or now) > self.acknowledged]
        for period in periods:
            if active_at is not None and period.since <= active_at:
                continue  # it had ended when a recovery found the webhook active
            since = period.since if begin is None else max(begin, period.since)
            until = reach if period.until is None else min(reach, period.until)
            for first, last in spans:  # that was read through another webhook
                if since < first < until:
                    lost.append(Inactivity(since, first))
                since = last if first <= until and since < last else since
            if since < until:
                lost.append(Inactivity(since, until))
        return tuple(lost)


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def first_after(moments: Iterable[datetime], after: datetime | None) -> datetime | None:
    """Return the earliest of the moments that are later than ``after``, or of all; None if there is none."""
    return min((each for each in moments if after is None or each > after), default=None)


def latest(*moments: datetime | None) -> datetime | None:
    """Return the latest of these moments; None if there is none."""
    return max((each for each in moments if each is not None), default=None)


@attrs.frozen
class LiveSince:
    """Since when an inbox has recorded every live delivery, as its receivers noted it when they started.

    webhook: of one webhook; None if it records none, as where only a job has noted it. service: of the first webhook of
        its service.
    """

    webhook: datetime | None = None
    service: datetime | None = None

    def delivered_before_joining(self, message: Message, acknowledged: datetime | None) -> datetime | None:
        """Return when a message was delivered, if the service was live then, and its webhook had not joined its inbox.

        The inbox does not know it, though the service was there: something else responded, or the inbox is a backup of
        before. None if it was delivered before the moment that was ``acknowledged``.
        """
        if self.service is None:
            return None
        after = max(self.service + _SKEW, acknowledged or self.service)
        times = [each.timestamp for each in message.attempts if each.succeeded is True and each.timestamp is not None]
        if not times or max(times) < after or (self.webhook is not None and max(times) >= self.webhook + _SKEW):
            return None
        return max(times)


async def find_live_since(calls: InboxCalls, noted: Noted, webhook_id: str) -> LiveSince:
    """Return since when an inbox has recorded the live deliveries of a webhook, and of its service."""
    found, all_since = noted.webhooks.get(webhook_id), [each.since for each in noted.webhooks.values() if each.since]
    known = await calls.known_since() if all_since else None
    own = None if found is None or found.since is None else latest(known, found.since)
    return LiveSince(own, latest(known, min(all_since)) if all_since else None)


def describe_before_joining(count: int, last: datetime | None) -> str:
    """Return the problem with messages that were delivered before their webhook joined, with the remedy.

    last: when the last one was delivered.
    """
    moment = "the time" if last is None else f"a time after {_show(last)}"
    return (
        f"delivered while this service was live, before this webhook joined: {count:,}. The inbox does not know them: "
        "something else responded, or it is a backup of before. Handle all with everything=True (--everything), or, "
        f"if they were handled, pass {moment} as acknowledged"
    )


async def read_coverage(
    calls: InboxCalls,
    webhook_id: str,
    webhook_ids: Collection[str],
    find_working: Callable[[], Awaitable[Collection[str] | None]],
    *,
    job: str | None = None,
    now: Callable[[], datetime],
) -> Coverage:
    """Return what the recoveries of a webhook noted in an inbox, and what it inherits of those of its service.

    job: whose recoveries, of a job that posts to a place without an inbox. ``now``: by Basiq's clock.
    find_working: returns the webhooks that Basiq lists and that are active; None if that cannot be known. It is called
        if that matters.
    """

    async def read(each: str) -> Coverage:
        if job is None:
            return Coverage.read(await calls.note(coverage_note(each)))
        found = await job_places(calls, now).read(f"{job} {each}", "recovery")
        return Coverage(gone_before=found.gone_before) if found.text is None else Coverage.read(found.text)

    own = await read(webhook_id)
    others = {each: await read(each) for each in webhook_ids if each != webhook_id}
    return own.inherit(others, await find_working() if others and own.is_new else None)


async def note_coverage(
    calls: InboxCalls, webhook_id: str, coverage: Coverage, job: str | None, now: Callable[[], datetime]
) -> None:
    """Note what recoveries found out. See ``read_coverage``."""
    if job is None:
        await calls.set_note(coverage_note(webhook_id), coverage.write())
    else:
        await job_places(calls, now).write(coverage.write(), f"{job} {webhook_id}", "recovery")


def coverage_note(webhook_id: str) -> str:
    """Return the name of the note that keeps the coverage of a webhook of a service."""
    return f"recovery {json.dumps(webhook_id)}"


def is_passed_over(message: Message, recording_since: datetime | None) -> bool | None:
    """Return whether a message that the inbox does not know is none of a recovery's: Basiq delivered it.

    None: the message does not tell.

    recording_since: since when the inbox has recorded every live delivery; None for an inbox that has no live ones. If
        the delivery was later, the inbox would know it: something else said 2xx, and it was missed.
    """
    if message.delivered is not True:
        return message.delivered
    if recording_since is None:
        return True
    times = [each.timestamp for each in message.attempts if each.succeeded is True and each.timestamp is not None]
    return max(times) < recording_since + _SKEW if times else None


def gets_type(webhook: Webhook, event_type: str) -> bool:
    """Return whether a webhook gets events of a type. One for which Basiq names no types gets every event."""
    return not webhook.subscribed_events or event_type in webhook.subscribed_events


def types_to_cover(webhook: Webhook, accepts_type: Callable[[str], bool]) -> tuple[str, ...]:
    """Return the event types that a webhook gets and that have a handler; ``ALL_TYPES`` for one that gets every event.

    What was read of some types does not cover all, nor the other way round.
    """
    return tuple(filter(accepts_type, webhook.subscribed_events)) if webhook.subscribed_events else (ALL_TYPES,)


def is_recent(created: datetime | None, requested: datetime) -> bool:
    """Return whether an event is too recent to say that it has no message. ``requested``: when those were requested."""
    return created is not None and created >= requested - TIME_TO_APPEAR


def _show(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
