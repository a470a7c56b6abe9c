"""Collect the data of a ``Diagnosis``."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from .._arguments import check_whole
from .._redaction.tracebacks import hide_arguments
from .._signing.signature import SigningKeys
from .._wire.order import BEYOND, FAR, ListOrder, item_time
from .._wire.urls import absolute_url
from .._work.keys import inbox_key
from .._work.limits import inbox_limit
from .._work.owners import read_webhooks
from .._work.protocol import Inbox, Waiting
from .._work.quarantine import count_quarantined
from .._work.waiting import count_waiting
from ..errors import BasiqError, ConfigurationError
from ..models import Event, EventType, Message, Secret, Webhook, read_datetime
from ..pagination import Paginator, UnreadableItem
from ..transports.base import Request
from .api import MOST_A_PAGE, Api
from .coverage import MOST_ATTEMPTS, Activity, Coverage, Inactivity, coverage_note, is_left_alone, is_recent
from .diagnosis import (
    DiagnosedReceiver,
    Diagnosis,
    EndpointCheck,
    cool_off_left,
    is_inactive,
    matches,
)
from .resources import EVENT_TYPES, EVENTS, MESSAGES, WEBHOOKS

LATELY = timedelta(hours=24)

_TEST_TYPE = "basiq-async.test"
_TIMEOUT = 15.0
_INBOX_TIMEOUT = 5.0
_MOST_EVENTS = 100_000
"""Maximum number of events in memory, to compare them with the messages."""
_Sign = Callable[[str, datetime, bytes], Mapping[str, str]]
_KEPT = 1_000


async def diagnose(
    api: Api,
    webhook_id: str,
    *,
    receiver: DiagnosedReceiver | None,
    secret: str | Secret | Sequence[str | Secret] | None,
    inbox: Inbox | None,
    max_items: int | None,
    test: bool,
) -> Diagnosis:
    """See ``Webhooks.diagnose``."""
    if max_items is not None:
        check_whole("max_items", max_items, least=1, or_else="or None for all")
    try:
        sign = _find_signer(receiver, secret)
    finally:
        del secret  # error reporters show local variables
    known = _KnownEvents(inbox, receiver, webhook_id)
    webhook = await api.get(Webhook, api.at(WEBHOOKS.one, webhook_id=webhook_id))
    now = api.now()  # by Basiq's clock, from the response above
    offered = tuple([one.id async for one in api.listing(EventType, api.at(EVENT_TYPES.path), prefetch=0)])
    await known.open()
    scan = _HistoryScan(api, webhook, known, now)
    await scan.read(max_items)
    subscribed = webhook.subscribed_events
    patterns = receiver.patterns if receiver is not None else ()
    return Diagnosis(
        webhook=webhook,
        status=webhook.status,
        cool_off_left=cool_off_left(webhook, _subscribed_at(webhook), now),
        retired=tuple(one for one in subscribed if one not in offered),
        unknown=tuple(one for one in patterns if not one.endswith("*") and one not in offered),
        unhandled=tuple(one for one in subscribed if receiver is not None and not receiver.handles(one)),
        unsubscribed=tuple(one for one in patterns if not any(matches(one, each) for each in subscribed)),
        failed_share=scan.attempts.failed_share,
        last_success=scan.attempts.last_success,
        by_status=dict(scan.attempts.by_status),
        first_failure=scan.attempts.first_failure,
        disabled_at=scan.attempts.disabled_at if is_inactive(webhook) else None,
        oldest_undelivered=scan.attempts.oldest_undelivered,
        out_of_reach=scan.out_of_reach,
        endpoint=await _test(sign, webhook.url) if test and sign is not None else None,
        undelivered=scan.undelivered,
        never_sent=scan.never_sent,
        unrecorded=scan.unrecorded,
        recovered=scan.recovered,
        quarantined=await known.count_quarantined(),
        waiting=await known.count_waiting(),
        unreadable=scan.unreadable,
        clock_lead=api.clock_lead(),
        looked_at=scan.looked_at,
        earliest=scan.earliest,
        latest=scan.latest,
        complete=scan.complete,
        offered=offered,
    )


class _KnownEvents:
    """What an inbox knows of a webhook. Without one, it knows nothing."""

    def __init__(self, inbox: Inbox | None, receiver: DiagnosedReceiver | None, webhook_id: str) -> None:
        self._inbox, self._owner = inbox, webhook_id if inbox is not None or receiver is None else receiver.webhook_id
        self._webhook_id = webhook_id
        self._is_live = inbox is None and receiver is not None
        if inbox is None and receiver is not None:
            self._inbox = receiver.inbox
            if receiver.webhook_id not in (None, webhook_id):
                raise ConfigurationError(
                    f"the receiver is of the webhook {receiver.webhook_id!r}, not of {webhook_id!r}: it cannot tell "
                    "what was handled of the other"
                )
        self.coverage = Coverage()
        self.recording_since: datetime | None = None
        """Since when the inbox has recorded every live delivery; None if it has none."""

    @property
    def has_inbox(self) -> bool:
        """Whether there is an inbox."""
        return self._inbox is not None

    async def open(self) -> None:
        """Find out whose the inbox is, and what recoveries noted in it. Raises ``ConfigurationError`` for another's."""
        inbox = self._inbox
        if inbox is None:
            return
        webhooks = await read_webhooks(inbox, timeout=_INBOX_TIMEOUT)
        if webhooks and self._webhook_id not in webhooks and not self._is_live:
            raise ConfigurationError(
                f"the inbox is of the webhook {', '.join(map(repr, webhooks))}, not of {self._webhook_id!r}: it "
                "cannot tell what was handled of the other"
            )
        live = webhooks.get(self._webhook_id)
        async with inbox_limit(_INBOX_TIMEOUT):
            since = await inbox.known_since()
            self.coverage = Coverage.read(await inbox.note(coverage_note(self._webhook_id)))
        if self._is_live or live is not None:
            self.recording_since = since if live is None else max(since, live)

    async def find(self, ids: Sequence[_Ids]) -> list[bool]:
        """Return for the ids of each event type, event and message whether the inbox knows that event."""
        if self._inbox is None or not ids:
            return [False] * len(ids)
        keys = [inbox_key(*each, self._owner) for each in ids]
        async with inbox_limit(_INBOX_TIMEOUT):
            known = frozenset(await self._inbox.known(keys))
        return [key in known for key in keys]

    async def count_quarantined(self) -> int:
        """Return how many entries of the webhook are in the quarantine."""
        if self._inbox is None:
            return 0
        return await count_quarantined(self._inbox, self._owner, timeout=_INBOX_TIMEOUT)

    async def count_waiting(self) -> Waiting:
        """Return what waits of the webhook to be handled."""
        return await count_waiting(self._inbox, self._owner, timeout=_INBOX_TIMEOUT)


class _HistoryScan:
    """Reads the events of the last 7 days, then the messages, so that the messages of all these events are listed."""

    def __init__(self, api: Api, webhook: Webhook, known: _KnownEvents, now: datetime) -> None:
        self._api = api
        self._webhook = webhook
        self._known = known
        self._now = now
        self._without_message: dict[tuple[str | None, str | None], datetime | None] = {}
        """The creation times of events for which no message was found, by event type and id."""
        self._activity = Activity()
        self.attempts = _Attempts(now)
        self.undelivered = self.never_sent = self.unrecorded = self.recovered = self.unreadable = self.looked_at = 0
        self.earliest: datetime | None = None
        self.latest: datetime | None = None
        self.complete = True
        self._stopped = False

    async def read(self, most: int | None) -> None:
        """Read the newest ``most`` messages and events; None for all."""
        await self._read_events(most)
        await self._read_messages(most)
        left = list(self._without_message.items())
        for start in range(0, len(left), MOST_A_PAGE):
            page = left[start : start + MOST_A_PAGE]
            known = await self._known.find([(*ids, None) for ids, _ in page])
            for (_, created), is_known in zip(page, known, strict=True):
                self._judge_event(created, known=is_known)

    @property
    def out_of_reach(self) -> tuple[Inactivity, ...]:
        """The periods whose events are lost, as far as the messages and the recoveries with the inbox show it."""
        if not self._known.has_inbox:
            return ()
        coverage = self._known.coverage
        inactive = self._now if is_inactive(self._webhook) else None
        return coverage.out_of_reach(self._activity.periods(coverage.seen_inactive, inactive), self._now)

    async def _read_events(self, most: int | None) -> None:
        wanted, order = frozenset(self._webhook.subscribed_events), ListOrder()
        events: Paginator[Event] = self._api.listing(Event, self._api.at(EVENTS.path), on_unreadable=self._skip)
        async for event in events:
            self.looked_at += 1
            if event.type in wanted:
                self._without_message[event.type, event.id] = event.created
            order.see(event.created)
            newest_first = order.sure and order.order == "newest-first"
            enough = most is not None and len(self._without_message) >= most and newest_first
            if enough and self._is_covered(event.created):
                return  # all older ones were recovered too
            if enough or len(self._without_message) >= _MOST_EVENTS:
                self.complete = False
                return

    def _is_covered(self, created: datetime | None) -> bool:
        """Return whether a recovery has read all events of that time."""
        covered = self._known.coverage.read_up_to
        return created is not None and covered is not None and created < covered - FAR

    async def _read_messages(self, most: int | None) -> None:
        endpoint = self._api.at(MESSAGES.path, webhook_id=self._webhook.id)
        messages: Paginator[Message] = self._api.listing(Message, endpoint, limit=MOST_A_PAGE, on_unreadable=self._skip)
        order, read = ListOrder(), 0
        async for page in messages.pages():
            known = await self._known.find([_ids_of(each) for each in page.items])
            times = [item_time(each) for each in page.items]
            self._activity.see([each.raw for each in page.items], times)
            for message, time, is_known in zip(page.items, times, known, strict=True):
                read += 1
                self.looked_at += 1
                self._judge_message(message, known=is_known)
                if time is None:
                    continue
                order.see(time)
                self.earliest = time if self.earliest is None else min(time, self.earliest)
                self.latest = time if self.latest is None else max(time, self.latest)
                if order.sure and order.order == "newest-first":
                    if time < self._enough:
                        self._stopped = True  # all older messages were recovered
                        return
                    if most is not None and read > most + BEYOND:
                        self.complete = False
                        return

    def _judge_message(self, message: Message, *, known: bool) -> None:
        """Count the attempts of a message, and whether it was missed."""
        self._without_message.pop((message.event_type_id, message.event_id), None)
        missed = not known and not is_left_alone(message, self._known.recording_since)
        if message.delivered:
            self.unrecorded += missed
        elif message.attempts:
            self.recovered += known
            self.undelivered += missed
        self.attempts.add(message, recovered=known)

    @property
    def _enough(self) -> datetime:
        """Messages before this time need not be read: they were recovered, and are too old for ``failed_share``."""
        covered = self._known.coverage.read_up_to
        if covered is None:
            return datetime.min.replace(tzinfo=UTC)
        return min(covered, self._now - LATELY) - FAR * 4

    def _judge_event(self, created: datetime | None, *, known: bool) -> None:
        """Count an event that has no message."""
        if is_recent(created, self._now) and not is_inactive(self._webhook):
            return  # its message may still come
        known = known or self._is_covered(created)
        if self._is_before_look(created):  # it may have a message that was not read
            self.complete = self.complete and known
        else:
            self.recovered += known
            self.never_sent += not known

    def _is_before_look(self, created: datetime | None) -> bool:
        partial = self._stopped or not self.complete
        return partial and created is not None and self.earliest is not None and created < self.earliest + FAR

    def _skip(self, item: UnreadableItem) -> None:
        self.unreadable += 1


_Ids = tuple[str | None, str | None, str | None]


def _ids_of(message: Message) -> _Ids:
    return message.event_type_id, message.event_id, message.id


class _Attempts:
    """Counts the attempts of messages, one message after the other."""

    def __init__(self, now: datetime) -> None:
        self._since = now - LATELY
        self._failed = self._all = 0
        self.by_status: Counter[int | None] = Counter()
        self.last_success: datetime | None = None
        self.oldest_undelivered: datetime | None = None
        self._failures: list[datetime] = []
        """The times of the first failed attempts of undelivered messages, and of their eighth ones."""
        self._ends: list[datetime] = []

    def add(self, message: Message, *, recovered: bool = False) -> None:
        """Count the attempts of one message. One that was recovered tells only when Basiq disabled the webhook."""
        times: list[datetime] = []
        for attempt in message.attempts:
            at = attempt.timestamp
            if at is None:
                continue
            times.append(at)
            if at >= self._since and not recovered:
                self._all += 1
                self._failed += not message.delivered
                self.by_status[attempt.status_code] += 1
            if attempt.succeeded and (self.last_success is None or at > self.last_success):
                self.last_success = at
        if not times or message.delivered:
            return
        if len(message.attempts) >= MOST_ATTEMPTS:
            self._ends = self._keep_few([*self._ends, max(times)])
        if not recovered:
            self.oldest_undelivered = min(
                times if self.oldest_undelivered is None else [*times, self.oldest_undelivered]
            )
            self._failures = self._keep_few([*self._failures, *times])

    @property
    def failed_share(self) -> float | None:
        """See ``Diagnosis``."""
        return self._failed / self._all if self._all else None

    @property
    def first_failure(self) -> datetime | None:
        """See ``Diagnosis``."""
        return self._first_after_success(self._failures)

    @property
    def disabled_at(self) -> datetime | None:
        """See ``Diagnosis``."""
        return self._first_after_success(self._ends)

    def _first_after_success(self, times: list[datetime]) -> datetime | None:
        return min((each for each in times if self.last_success is None or each > self.last_success), default=None)

    def _keep_few(self, times: list[datetime]) -> list[datetime]:
        """Return the times; of many, the earliest and the latest of those after the last success."""
        if len(times) <= 2 * _KEPT:
            return times
        times = sorted(each for each in times if self.last_success is None or each > self.last_success)
        return times if len(times) <= _KEPT else [*times[: _KEPT // 2], *times[-_KEPT // 2 :]]


def _subscribed_at(webhook: Webhook) -> datetime | None:
    """Return when a webhook was created or last changed; None if its JSON, beyond the reference, does not say so."""
    try:
        return read_datetime(webhook.raw.get("lastUpdated") or webhook.raw.get("createdDate"))
    except ValueError:
        return None


@hide_arguments
def _find_signer(
    receiver: DiagnosedReceiver | None, secret: str | Secret | Sequence[str | Secret] | None
) -> _Sign | None:
    """Return the function that signs a test delivery; None without a secret."""
    if receiver is not None and not isinstance(receiver, DiagnosedReceiver):
        raise ConfigurationError("receiver must be a WebhookReceiver, or None")
    if secret is not None:
        return SigningKeys.read(secret).headers
    return None if receiver is None else receiver.sign


async def _test(sign: _Sign, url: str) -> EndpointCheck:
    """Post one signed test delivery, with one attempt. Redirects are not followed."""
    from ..transports.aiohttp import StatusTransport

    body = json.dumps({"eventTypeId": _TEST_TYPE, "eventId": str(uuid.uuid4())}).encode()
    transport = StatusTransport(timeout=_TIMEOUT)
    try:
        moment, kind = datetime.now(UTC), {"content-type": "application/json"}
        # No local variable holds the headers: error reports show local variables.
        request = Request("POST", absolute_url(url), {**sign(f"test_{uuid.uuid4().hex}", moment, body), **kind}, body)
        response = await transport.send(request)
    except BasiqError as exc:
        return EndpointCheck(None, str(exc))
    finally:
        await transport.aclose()
    return EndpointCheck(response.status)
