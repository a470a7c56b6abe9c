"""What the events and messages of a webhook show: which were missed, and how the attempts ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import attrs

from .._wire.order import CLOCK_SLACK, ListOrder, item_time
from ..errors import PermissionDeniedError
from ..models import DeliveryAttempt, Event, Message, Webhook
from ..pagination import OnUnreadable, Paginator, UnreadableItem
from ._diagnosis_inbox import EventIds, KnownEvents
from .api import MOST_A_PAGE, Api
from .coverage import Activity, Inactivity, first_after, gets_type, is_passed_over, is_recent, latest, types_to_cover
from .details import MOST_FOR_ACTIVITY, RawMessages, read_activity
from .diagnosis import Lacking
from .problems import is_inactive
from .resources import EVENTS, MESSAGES

LATELY = timedelta(hours=24)
REFUSALS = (401, 404)
"""What a receiver responds without the right secret, and a server at another path than the receiver's."""

_FEW = 8
"""The number of messages at both ends of the list whose attempts are read though the inbox knows them."""
_MOST_EVENTS = 100_000
"""Maximum number of events in memory, to compare them with the messages."""
_MOST_ASKED = 200
"""Of so many undelivered events the inbox is asked whether attempts had no end."""


@contextmanager
def collecting(forbidden: list[str], path: str) -> Iterator[None]:
    """Keep the template of a path if its read is refused with 403, and go on. A key's permissions are by endpoint."""
    try:
        yield
    except PermissionDeniedError:
        forbidden.append(path)


class HistoryScan:
    """Reads the events of the last 7 days, then the messages, so that the messages of all these events are listed."""

    def __init__(
        self, api: Api, webhook: Webhook, known: KnownEvents, now: datetime, accepts_type: Callable[[str], bool]
    ) -> None:
        self._api = api
        self._accepts_type = accepts_type
        self._wanted = types_to_cover(webhook, accepts_type)
        self._covered = known.coverage.covered(self._wanted, now)
        self._webhook = webhook
        self._known = known
        self._now = now
        self._without_message: dict[tuple[str | None, str | None], datetime | None] = {}
        """The creation times of events for which no message was found, by event type and id."""
        self._activity = Activity()
        self.attempts = AttemptCount(now)
        self.undelivered = self.never_sent = self.unrecorded = self.passed_over = 0
        self.before_joining = self.recovered = 0
        self.unreadable = self.unknown = self.looked_at = 0
        self.missed: list[EventIds] = []
        """Some of the events that were not delivered."""
        self.earliest: datetime | None = None
        self.latest: datetime | None = None
        self.complete = True
        self._stopped = False
        self.lacking = Lacking(last_recorded=known.last_recorded)
        self.unsent: dict[str, tuple[datetime, datetime] | None] = {}
        self._details = known.details(api)
        self._last: Sequence[tuple[Message, bool]] = ()
        """The last messages of the list, and whether the inbox knows them."""
        self._cut = False
        """Whether the messages that were not read may be of any time."""

    async def read(self, most: int | None, forbidden: list[str]) -> None:
        """Read the first ``most`` messages and events of the lists; None for all."""
        before = len(forbidden)
        with collecting(forbidden, EVENTS.path):
            await self._read_events(most)
        with collecting(forbidden, MESSAGES.path):
            await self._read_messages(most)
            await self._see_last()
            if self.complete and self.unknown_reach is not None and self._activity.untold <= MOST_FOR_ACTIVITY:
                self._activity = await read_activity(self._details, self._list_messages(lambda item: None))
        if self._details.is_refused:
            forbidden.append(MESSAGES.one)
        if len(forbidden) > before:
            self.complete = False
            return  # only both lists show which events have no message
        left = list(self._without_message.items())
        for start in range(0, len(left), MOST_A_PAGE):
            page = left[start : start + MOST_A_PAGE]
            known = await self._known.find([(*ids, None) for ids, _ in page])
            for ((event_type, _), created), is_known in zip(page, known, strict=True):
                self._judge_event(event_type or "", created, known=is_known)

    @property
    def refused(self) -> int | None:
        """See ``Diagnosis``. It is of the newest messages only where those were read."""
        return None if self._cut else self.attempts.refused

    @property
    def disabled_at(self) -> datetime | None:
        """See ``Diagnosis``."""
        if self._activity.untold or not is_inactive(self._webhook):
            return None
        return self._activity.first_end(self._activity.last_sign)

    @property
    def unrecoverable(self) -> tuple[Inactivity, ...]:
        """The periods whose events are lost, as far as the messages and the recoveries with the inbox show it."""
        inactive = self._now if is_inactive(self._webhook) else None
        return self._known.unrecoverable(self._activity, inactive, self._now, self._wanted)

    async def _read_events(self, most: int | None) -> None:
        order, read = ListOrder(), 0
        events: Paginator[Event] = self._api.listing(
            Event, self._api.at(EVENTS.path), prefetch=int(most is None), on_unreadable=self._skip
        )
        async for event in events:
            order.see(event.created)
            if read == most or len(self._without_message) >= _MOST_EVENTS:
                # If it is so, all older ones were recovered too.
                self.complete = _is_newest_first(order) and self._is_covered(event.created)
                return
            read += 1
            self.looked_at += 1
            if self._accepts_type(event.type) and gets_type(self._webhook, event.type):
                self._without_message[event.type, event.id] = event.created
            elif "." not in event.type:  # nothing says that it is not wanted
                self.unreadable += 1

    def _is_covered(self, created: datetime | None) -> bool:
        """Return whether a recovery has read all events of that time."""
        return created is not None and self._covered is not None and created < self._covered - CLOCK_SLACK

    def _is_decided(self, time: datetime | None) -> bool:
        """Return whether a recovery has decided all messages of that time, which the inbox may have forgotten since."""
        known_since = self._known.known_since
        return known_since is not None and time is not None and time < min(known_since, self._enough)

    async def _read_messages(self, most: int | None) -> None:
        size = min(most or MOST_A_PAGE, MOST_A_PAGE)
        messages = self._list_messages(self._skip, page_size=size, prefetch=int(most is None))
        order, read = ListOrder(), 0
        async for page in messages.pages():
            items: Sequence[Message] = page.items if most is None else page.items[: most - read]
            found = await self._known.find([_ids_of(each) for each in items])
            known = [is_known or self._is_decided(item_time(each)) for each, is_known in zip(items, found, strict=True)]
            items = await self._fill(items, known, is_first=not read)
            times = [item_time(each) for each in items]
            self._activity.see([each.raw for each in items], times)
            for message, time, is_known in zip(items, times, known, strict=True):
                read += 1
                self.looked_at += 1
                self._judge_message(message, known=is_known)
                if time is None:
                    continue
                order.see(time)
                self.earliest = time if self.earliest is None else min(time, self.earliest)
                self.latest = time if self.latest is None else max(time, self.latest)
                if _is_newest_first(order) and time < self._enough:
                    self._stopped = True  # all older messages were recovered
                    return
            if read == most and (len(items) < len(page.items) or page.next_cursor is not None):
                self.complete, self._cut = False, not _is_newest_first(order)
                return

    def _list_messages(
        self, on_unreadable: OnUnreadable[Message], *, page_size: int = MOST_A_PAGE, prefetch: int = 0
    ) -> Paginator[Message]:
        endpoint = self._api.at(MESSAGES.path, webhook_id=self._webhook.id)
        return self._api.listing(Message, endpoint, page_size=page_size, prefetch=prefetch, on_unreadable=on_unreadable)

    async def _fill(self, items: Sequence[Message], known: Sequence[bool], *, is_first: bool) -> Sequence[Message]:
        """Return the messages of a page with what they tell themselves, where the inbox does not know them.

        Of those that it knows, the first ones of the list tell too, and the last ones: they have the newest attempts.
        """
        asked = [place for place, message in enumerate(items) if not (known[place] or self._is_ignored(message))]
        raws = RawMessages(each.raw for each in items)
        await self._details.fill(raws, asked, self._judge)
        await self._details.fill(raws, range(min(_FEW, len(raws))) if is_first else ())
        told = [each if each.raw is raw else Message(each.id, raw) for each, raw in zip(items, raws, strict=True)]
        self._last = (*self._last, *zip(told, known, strict=True))[-_FEW:]
        return told

    async def _see_last(self) -> None:
        """Read the last messages of the list that do not tell their attempts."""
        raws = RawMessages(each.raw for each, _ in self._last)
        await self._details.fill(raws, range(len(raws)))
        for (message, known), raw in zip(self._last, raws, strict=True):
            if raw is not message.raw:
                told = Message(message.id, raw)
                self.attempts.add(told, recovered=known and told.delivered is not True)

    def _judge(self, message: Message) -> bool | None:
        """Return whether a message was missed; None if it does not tell."""
        if self._is_unwanted(message):
            return False
        passed_over = is_passed_over(message, self._known.live_since.webhook)
        return None if passed_over is None else not passed_over

    def _is_ignored(self, message: Message) -> bool:
        return not self._accepts_type(message.event_type_id or "")  # no recovery can bring it

    def _judge_message(self, message: Message, *, known: bool) -> None:
        """Count the attempts of a message, and whether it was missed."""
        created = self._without_message.pop((message.event_type_id, message.event_id), None)
        is_overdue = created is not None and not is_recent(created, self._now)  # so it should have an attempt
        ignored = self._is_ignored(message)
        skipped = known or ignored or self._is_unwanted(message)
        passed_over = is_passed_over(message, self._known.live_since.webhook)
        missed = passed_over is False and not skipped
        self.unknown += passed_over is None and not skipped
        if message.delivered is True:
            self.unrecorded += missed
            if missed:
                self._see_lacking(next(each for each in message.attempts_by_time if each.succeeded is True))
            if passed_over is True and self._known.has_inbox and not skipped:
                acknowledged = self._known.coverage.acknowledged
                before = self._known.live_since.delivered_before_joining(message, acknowledged)
                self.before_joining += before is not None
                self.passed_over += before is None
                last = latest(self.lacking.last_before_joining, before)
                self.lacking = attrs.evolve(self.lacking, last_before_joining=last)
        elif message.delivered is False and (message.attempts or is_overdue):
            self.recovered += known
            self.undelivered += missed
            if missed and len(self.missed) < _MOST_ASKED:
                self.missed.append((message.event_type_id, message.event_id, message.id))
        self.attempts.add(message, recovered=skipped and message.delivered is not True)

    def _see_lacking(self, attempt: DeliveryAttempt) -> None:
        """Look at the attempt that succeeded with what the inbox lacks."""
        found, status = self.lacking, attempt.status_code
        times = [each for each in (found.first, found.last, attempt.timestamp) if each is not None]
        self.lacking = attrs.evolve(
            found,
            statuses={**found.statuses, status: found.statuses.get(status, 0) + 1},
            first=min(times, default=None),
            last=max(times, default=None),
        )

    @property
    def read_by_id(self) -> int:
        """How many messages were read by their ids."""
        return self._details.count

    @property
    def unknown_reach(self) -> datetime | None:
        """See ``Look``."""
        if not self._known.has_inbox:
            return None
        return self._known.coverage.find_unknown_reach(self._activity, self._now, self._wanted)

    @property
    def _enough(self) -> datetime:
        """Messages before this time need not be read: they were recovered, and are too old for ``failed_share``."""
        if self._covered is None:
            return datetime.min.replace(tzinfo=UTC)
        return min(self._covered, self._now - LATELY) - CLOCK_SLACK * 4

    def _judge_event(self, event_type: str, created: datetime | None, *, known: bool) -> None:
        """Count an event that has no message."""
        if is_recent(created, self._now) and not is_inactive(self._webhook):
            return  # its message may still come
        known = known or self._is_covered(created) or self._known.coverage.is_unwanted(event_type, created, self._now)
        if self._is_before_look(created):  # it may have a message that was not read
            self.complete = self.complete and known
        else:
            self.recovered += known
            self.never_sent += not known
            if not known:
                times = [each for each in (created, *(self.unsent.get(event_type) or ())) if each is not None]
                self.unsent[event_type] = (min(times), max(times)) if times else None

    def _is_unwanted(self, message: Message) -> bool:
        event_type = message.event_id and message.event_type_id  # without an id, each webhook has its own
        return self._known.coverage.is_unwanted(event_type or "", item_time(message), self._now)

    def _is_before_look(self, created: datetime | None) -> bool:
        if self._cut:
            return True
        partial = self._stopped or not self.complete
        return partial and created is not None and self.earliest is not None and created < self.earliest + CLOCK_SLACK

    def _skip(self, item: UnreadableItem) -> None:
        self.unreadable += 1


def _is_newest_first(order: ListOrder) -> bool:
    return order.sure and order.order == "newest-first"


def _ids_of(message: Message) -> EventIds:
    return message.event_type_id, message.event_id, message.id


class AttemptCount:
    """Counts the attempts of messages, one message after the other."""

    def __init__(self, now: datetime) -> None:
        self._since = now - LATELY
        self._failed = self._all = self._untold = 0
        self.by_status: Counter[int | None] = Counter()
        self.last_success: datetime | None = None
        self.oldest_undelivered: datetime | None = None
        self._newest: tuple[datetime, bool, int | None] | None = None
        """The time, the success and the status of the newest attempt."""
        self._failures: dict[int, datetime] = {}
        """The times of attempts of undelivered messages, one in each second."""

    def add(self, message: Message, *, recovered: bool = False) -> None:
        """Count the attempts of one message. One that was recovered tells only the last success."""
        times: list[datetime] = []
        self._untold += message.delivered is None
        for attempt in message.attempts:
            at = attempt.timestamp
            if at is None:
                continue
            times.append(at)
            self._untold += attempt.succeeded is None
            if at >= self._since and not recovered and attempt.succeeded is not None:
                self._all += 1
                self._failed += message.delivered is False
                if attempt.status_code is not None or attempt.succeeded is False:  # a success had a response
                    self.by_status[attempt.status_code] += 1
            newest = (at, attempt.succeeded is True, attempt.status_code)
            if self._newest is None or newest[:2] > self._newest[:2]:
                self._newest = newest
            if attempt.succeeded is True and (self.last_success is None or at > self.last_success):
                self.last_success = at
        if times and message.delivered is False and not recovered:
            self.oldest_undelivered = min(
                times if self.oldest_undelivered is None else [*times, self.oldest_undelivered]
            )
            self._failures.update((int(at.timestamp()), at) for at in times)

    @property
    def failed_share(self) -> float | None:
        """See ``Diagnosis``."""
        return self._failed / self._all if self._all and not self._untold else None

    @property
    def refused(self) -> int | None:
        """See ``Diagnosis``."""
        status = None if self._newest is None or self._newest[1] else self._newest[2]
        return status if status in REFUSALS else None

    @property
    def first_failure(self) -> datetime | None:
        """See ``Diagnosis``."""
        return first_after(self._failures.values(), self.last_success)
