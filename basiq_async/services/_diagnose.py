"""Collects what a ``Diagnosis`` says."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from .._arguments import check_whole
from .._urls import absolute_url
from ..diagnosis import Attempts, Diagnosis, EndpointCheck, cool_off_left
from ..errors import BasiqError, ConfigurationError
from ..models import Event, EventType, Message, Secret, Webhook, read_datetime
from ..pagination import Paginator, UnreadableItem
from ..transports.base import Request
from ._api import Api

if TYPE_CHECKING:
    from ..receiver import WebhookReceiver

_TEST_TYPE = "basiq-async.test"
_TIMEOUT = 15.0


class _Reading:
    """How much was read, and what could not be."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.looked_at = 0
        self.unreadable = 0
        self.complete = True

    def skip(self, item: UnreadableItem) -> None:
        self.unreadable += 1

    def enough(self, count: int) -> bool:
        """Whether to stop after ``count`` items of a list."""
        if count < self.most:
            return False
        self.complete = False
        return True


async def diagnose(
    api: Api,
    webhook_id: str,
    *,
    receiver: WebhookReceiver | None,
    secret: str | Secret | Sequence[str | Secret] | None,
    max_items: int,
) -> Diagnosis:
    """See ``Webhooks.diagnose``."""
    check_whole("max_items", max_items, least=1)
    try:
        signer = _Signer(receiver, secret)
    finally:
        del secret  # error reporters show local variables
    now = datetime.now(UTC)
    endpoint = api.at("/notifications/webhooks/{webhook_id}", webhook_id=webhook_id)
    webhook = await api.get(Webhook, endpoint)
    offered = {one.id async for one in api.listing(EventType, api.at("/events/types"), prefetch=0)}
    reading = _Reading(max_items)
    attempts, sent = await _read_messages(api, webhook_id, reading, now)
    never_sent = await _count_never_sent(api, webhook, sent, reading)
    subscribed = webhook.subscribed_events
    patterns = receiver.patterns if receiver is not None else ()
    return Diagnosis(
        webhook=webhook,
        status=webhook.status,
        cool_off_left=cool_off_left(webhook, _subscribed_at(webhook), now),
        retired=tuple(one for one in subscribed if one not in offered),
        unknown=tuple(one for one in patterns if not one.endswith("*") and one not in offered),
        unhandled=tuple(one for one in subscribed if receiver is not None and not receiver.handles(one)),
        unsubscribed=tuple(one for one in patterns if not any(_matches(one, each) for each in subscribed)),
        failed_share=attempts.failed_share,
        last_success=attempts.last_success,
        endpoint=await signer.test(webhook.url, now) if signer.can_sign else None,
        undelivered=attempts.undelivered,
        never_sent=never_sent,
        unreadable=reading.unreadable,
        looked_at=reading.looked_at,
        complete=reading.complete,
    )


async def _read_messages(
    api: Api, webhook_id: str, reading: _Reading, now: datetime
) -> tuple[Attempts, set[tuple[str | None, str | None]]]:
    attempts = Attempts(now)
    sent: set[tuple[str | None, str | None]] = set()
    endpoint = api.at("/notifications/webhooks/{webhook_id}/messages", webhook_id=webhook_id)
    messages: Paginator[Message] = api.listing(Message, endpoint, query={"limit": "500"}, on_unreadable=reading.skip)
    count = 0
    async for message in messages:
        attempts.add(message)
        sent.add((message.event_type_id, message.event_id))
        count += 1
        if reading.enough(count):
            break
    reading.looked_at += count
    return attempts, sent


async def _count_never_sent(
    api: Api, webhook: Webhook, sent: set[tuple[str | None, str | None]], reading: _Reading
) -> int:
    """Events of the last 7 days, of subscribed types, without a message. 0 where not all messages were read."""
    if not reading.complete:
        return 0
    wanted = set(webhook.subscribed_events)
    found = count = 0
    events: Paginator[Event] = api.listing(Event, api.at("/events"), on_unreadable=reading.skip)
    async for event in events:
        found += event.type in wanted and (event.type, event.id) not in sent
        count += 1
        if reading.enough(count):
            break
    reading.looked_at += count
    return found


def _subscribed_at(webhook: Webhook) -> datetime | None:
    """When it was created or last changed, where the API says so; the reference does not have the field."""
    try:
        return read_datetime(webhook.raw.get("lastUpdated") or webhook.raw.get("createdDate"))
    except ValueError:
        return None


def _matches(pattern: str, event_type_id: str) -> bool:
    if pattern.endswith("*"):
        return event_type_id.startswith(pattern[:-1])
    return pattern == event_type_id


class _Signer:
    """Posts a signed test to an endpoint."""

    def __init__(self, receiver: WebhookReceiver | None, secret: str | Secret | Sequence[str | Secret] | None) -> None:
        self._receiver = receiver
        if receiver is None and secret is None:
            return
        from ..receiver import WebhookReceiver

        if receiver is not None and not isinstance(receiver, WebhookReceiver):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError("receiver must be a WebhookReceiver, or None")
        if secret is not None:
            # A receiver without handlers holds the keys, and does not show them.
            try:
                self._receiver = WebhookReceiver(secret)
            finally:
                del secret  # error reporters show local variables

    @property
    def can_sign(self) -> bool:
        return self._receiver is not None

    async def test(self, url: str, now: datetime) -> EndpointCheck:
        """Post one test delivery. Redirects are not followed; one attempt, as Basiq's own first."""
        from ..transports.aiohttp import AiohttpTransport, read_status

        try:
            absolute_url(url)
        except ConfigurationError as exc:
            return EndpointCheck(None, str(exc))
        transport = AiohttpTransport(timeout=_TIMEOUT, read_response=read_status)
        try:
            response = await transport.send(Request("POST", url, *self._sign_test(now)))
        except BasiqError as exc:
            return EndpointCheck(None, str(exc))
        finally:
            await transport.aclose()
        return EndpointCheck(response.status)

    def _sign_test(self, now: datetime) -> tuple[Mapping[str, str], bytes]:
        assert self._receiver is not None  # noqa: S101  # can_sign was asked
        body = json.dumps({"eventTypeId": _TEST_TYPE, "eventId": str(uuid.uuid4())}).encode()
        headers = self._receiver.sign(f"test_{uuid.uuid4().hex}", now, body)
        return {**headers, "content-type": "application/json"}, body
