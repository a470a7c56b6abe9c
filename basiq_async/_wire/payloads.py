"""The body that Basiq posts for a message. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..models import Message

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def payload_bytes(message: Message) -> bytes:
    """The body that Basiq posts for a message: its payload as compact JSON.

    An event type or event id that the message has beside its payload is part of it.
    """
    return encode_payload(delivered_payload(message))


def delivered_payload(message: Message) -> Mapping[str, Any]:
    """The payload, with the ids that the message has beside it."""
    payload = message.payload
    if payload.get("eventTypeId") and payload.get("eventId"):  # as nearly always
        return payload
    ids = {"eventTypeId": message.event_type_id, "eventId": message.event_id}
    missing = {name: value for name, value in ids.items() if value is not None and not payload.get(name)}
    return {**payload, **missing} if missing else payload


def encode_payload(payload: Mapping[str, Any]) -> bytes:
    """A payload as compact JSON."""
    try:
        return _encode(payload).encode()
    except UnicodeEncodeError:  # a lone surrogate has no UTF-8, and is JSON all the same
        return json.dumps(payload, separators=(",", ":")).encode()
