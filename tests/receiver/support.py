"""Signed deliveries, as a test needs them."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime

from basiq_async.receiver import sign

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
