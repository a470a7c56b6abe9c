"""Collect the data of a ``Diagnosis``."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from .._arguments import check_whole
from .._redaction.tracebacks import hide_arguments
from .._signing.signature import SigningKeys
from .._wire.order import BEYOND, FAR, ListOrder, item_time
from .._wire.urls import absolute_url
from .._work.keys import inbox_key
from .._work.limits import inbox_limit
from .._work.protocol import Inbox
from .._work.quarantine import count_quarantined
from ..errors import BasiqError, ConfigurationError
from ..models import Event, EventType, Message, Secret, Webhook, read_datetime
from ..pagination import Paginator, UnreadableItem
from ..transports.base import Request
from .api import MOST_A_PAGE, Api
from .diagnosis import (
    DiagnosedReceiver,
    Diagnosis,
    EndpointCheck,
    Recovered,
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
_SOON = timedelta(minutes=1)
"""The time that Basiq may need to make a message of an event."""
_MOST_ATTEMPTS = 8
_Sign = Callable[[str, datetime, bytes], Mapping[str, str]]
_KEPT = 1_000


async def diagnose(
    api: Api,
    webhook_id: str,
    *,
    receiver: DiagnosedReceiver | None,
    secret: str | Secret | Sequence[str | Secret] | None,
    inbox: Inbox | None,
    recovered: Recovered | None,
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
    webhook = await api.get(Webhook, api.at(WEBHOOKS.one, webhook_id=webhook_id))
    now = api.now()  # by Basiq's clock, from the response above
    offered = tuple([one.id async for one in api.listing(EventType, api.at(EVENT_TYPES.path), prefetch=0)])
    owner: str | None = webhook_id
    if inbox is None and receiver is not None:
        inbox, owner = receiver.inbox, receiver.webhook_id

    async def is_handled(event_type_id: str | None, event_id: str | None, message_id: str | None) -> bool:
        if inbox is None:
            return False
        async with inbox_limit(_INBOX_TIMEOUT):
            return await inbox.seen(inbox_key(event_type_id, event_id, message_id, owner))

    scan = _HistoryScan(api, webhook, is_handled, recovered or Recovered(), now)
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
        out_of_reach=() if recovered is None else recovered.out_of_reach(now),
        given_up=0 if recovered is None else recovered.given_up,
        endpoint=await _test(sign, webhook.url) if test and sign is not None else None,
        undelivered=scan.undelivered,
        never_sent=scan.never_sent,
        recovered=scan.recovered,
        dead_letters=0 if recovered is None else recovered.dead_letters,
        quarantined=0 if inbox is None else await count_quarantined(inbox, owner, timeout=_INBOX_TIMEOUT),
        unreadable=scan.unreadable,
        looked_at=scan.looked_at,
        earliest=scan.earliest,
        latest=scan.latest,
        complete=scan.complete,
        offered=offered,
    )


class _HistoryScan:
    """Reads the events of the last 7 days, then the messages, so that the messages of all these events are listed."""

    def __init__(
        self,
        api: Api,
        webhook: Webhook,
        is_handled: Callable[[str | None, str | None, str | None], Awaitable[bool]],
        recovered: Recovered,
        now: datetime,
    ) -> None:
        self._api = api
        self._webhook = webhook
        self._is_handled = is_handled
        """Called with the ids of an event type, event and message: whether the inbox has handled or quarantined it."""
        self._recoveries = recovered
        self._now = now
        self._without_message: dict[tuple[str | None, str | None], datetime | None] = {}
        """The creation times of events for which no message was found, by event type and id."""
        self.attempts = _Attempts(now)
        self.undelivered = self.never_sent = self.recovered = self.unreadable = self.looked_at = 0
        self.earliest: datetime | None = None
        self.latest: datetime | None = None
        self.complete = True
        self._stopped = False

    async def read(self, most: int | None) -> None:
        """Read the newest ``most`` messages and events; None for all."""
        await self._read_events(most)
        await self._read_messages(most)
        for (event_type_id, event_id), created in self._without_message.items():
            await self._judge(event_type_id, event_id, created)

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
            if enough and event.created is not None and self._recoveries.has_events_before(event.created, self._now):
                return
            if enough or len(self._without_message) >= _MOST_EVENTS:
                self.complete = False
                return

    async def _read_messages(self, most: int | None) -> None:
        endpoint = self._api.at(MESSAGES.path, webhook_id=self._webhook.id)
        messages: Paginator[Message] = self._api.listing(Message, endpoint, limit=MOST_A_PAGE, on_unreadable=self._skip)
        order, read = ListOrder(), 0
        async for message in messages:
            read += 1
            self.looked_at += 1
            time = item_time(message)
            await self._examine(message, time)
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

    async def _examine(self, message: Message, time: datetime | None) -> None:
        """Count the attempts of a message, unless a recovery has handled it."""
        recovered = False
        self._without_message.pop((message.event_type_id, message.event_id), None)
        if message.attempts and not message.delivered:
            ids = message.event_type_id, message.event_id, message.id
            recovered = self._recoveries.has_message(message.id, time) or await self._is_handled(*ids)
            self.recovered += recovered
            self.undelivered += not recovered
        self.attempts.add(message, recovered=recovered)

    @property
    def _enough(self) -> datetime:
        """Messages before this time need not be read: they were recovered, and are too old for ``failed_share``."""
        until = self._recoveries.messages_until
        return datetime.min.replace(tzinfo=UTC) if until is None else min(until, self._now - LATELY) - FAR * 4

    async def _judge(self, event_type_id: str | None, event_id: str | None, created: datetime | None) -> None:
        """Count an event that has no message."""
        if created is not None and created > self._now - _SOON and not is_inactive(self._webhook):
            return  # its message may still come
        recovered = self._recoveries.has_event(event_id, created) or await self._is_handled(
            event_type_id, event_id, None
        )
        if self._is_before_look(created):  # it may have a message that was not read
            self.complete = self.complete and recovered
        else:
            self.recovered += recovered
            self.never_sent += not recovered

    def _is_before_look(self, created: datetime | None) -> bool:
        partial = self._stopped or not self.complete
        return partial and created is not None and self.earliest is not None and created < self.earliest + FAR

    def _skip(self, item: UnreadableItem) -> None:
        self.unreadable += 1


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
        if len(message.attempts) >= _MOST_ATTEMPTS:
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
