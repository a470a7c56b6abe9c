"""The body that Basiq posts for a message. No I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..models import Message
from .writing import write_json

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
_encode_ascii = json.JSONEncoder(separators=(",", ":")).encode


def payload_bytes(message: Message) -> bytes:
    """Return the body that Basiq posts for a message: its payload as compact JSON.

    If the payload lacks the event type or event id, it is added from the message.
    """
    return encode_payload(delivered_payload(message))


def delivered_payload(message: Message) -> Mapping[str, Any]:
    """Return the payload. If it lacks the event type or event id, that is added from the message."""
    payload = message.payload
    if payload.get("eventTypeId") and payload.get("eventId"):  # the usual case
        return payload
    ids = {"eventTypeId": message.event_type_id, "eventId": message.event_id}
    missing = {name: value for name, value in ids.items() if value is not None and not payload.get(name)}
    return {**payload, **missing} if missing else payload


def encode_payload(payload: Mapping[str, Any]) -> bytes:
    """Return a payload as compact JSON."""
    try:
        return write_json(payload, _encode).encode()
    except UnicodeEncodeError:  # a lone surrogate cannot be encoded in UTF-8, but can be escaped in JSON
        return write_json(payload, _encode_ascii).encode()
