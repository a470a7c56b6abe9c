"""Signed deliveries, and a service that receives them, for tests."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime
from typing import Any

from basiq_async.receiver import (
    Delivery,
    DeliveryEvent,
    InboxEntry,
    MemoryInbox,
    Outcome,
    WebhookReceiver,
    sign,
)

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER_SECRET = "whsec_c29tZSBvdGhlciBzaWduaW5nIHNlY3JldA=="
NOW = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)

_numbers = itertools.count()


def new_id() -> str:
    return f"event-{next(_numbers)}"


def payload(event_type_id: str = "consent.revoked", event_id: str | None = None, **more: object) -> bytes:
    event_id = event_id or new_id()
    body = {
        "eventTypeId": event_type_id,
        "eventId": event_id,
        "links": {
            "event": f"https://au-api.basiq.io/events/{event_id}",
            "eventEntity": "https://au-api.basiq.io/users/u-1/consents",
        },
        **more,
    }
    return json.dumps(body).encode()


def signed(
    body: bytes, *, secret: str = SECRET, message_id: str = "msg_1", at: datetime | None = None
) -> dict[str, str]:
    return sign(secret, message_id, at or datetime.now(UTC), body)


async def post(receiver: WebhookReceiver, body: bytes | None = None, **options: Any) -> Outcome:
    """Deliver a body, or a new one, to a receiver."""
    body = payload() if body is None else body
    return await receiver.handle(signed(body, **options), body)


def quarantined_delivery(key: str, *, failures: int = 3, at: datetime = NOW) -> InboxEntry:
    """Return a quarantined delivery."""
    return InboxEntry(key, "msg_1", "user.created", "e-1", b"{}", NOW, "ValueError: no", failures, at)


def taking(secret: Any = SECRET, *patterns: str, got: list[Delivery] | None = None, **options: Any) -> WebhookReceiver:
    """Return a receiver that takes each delivery of these types, by default of all, into the list ``got``."""
    receiver = WebhookReceiver(secret, **options)

    @receiver.on(*(patterns or "*"))
    async def handle(delivery: Delivery) -> None:
        if got is not None:
            got.append(delivery)

    return receiver


class Service:
    """A receiver with the lists of its deliveries and events.

    Its handler fails for types that end in ``.broken``, or else as ``broken`` says.
    """

    broken: bool | None = None

    def __init__(self, pattern: str = "*", **options: Any) -> None:
        self.handled: list[Delivery] = []
        self.events: list[DeliveryEvent] = []
        if not isinstance(options.get("inbox", MemoryInbox()), MemoryInbox):
            options.setdefault("webhook_id", "w1")
        self.receiver = WebhookReceiver(SECRET, on_delivery=self.events.append, **options)
        self.receiver.on(pattern)(self.handle)

    async def handle(self, delivery: Delivery) -> None:
        self.handled.append(delivery)
        if delivery.event_type_id.endswith(".broken") if self.broken is None else self.broken:
            raise RuntimeError("broken")

    async def post(self, body: bytes | None = None, **signing: Any) -> Outcome:
        """Have a body delivered, or a new one."""
        return await post(self.receiver, body, **signing)
