"""The keys under which an inbox knows events."""

from __future__ import annotations

import hashlib
from json.encoder import encode_basestring_ascii as _quoted

from ..errors import ConfigurationError

_LONGEST_KEY = 400


def inbox_key(
    event_type_id: str | None, event_id: str | None, message_id: str | None, webhook_id: str | None = None
) -> str:
    """Make the key of an event: the same for a delivery and for a replayed message.

    It holds the payload's event type and event id, or, where one of them is missing, the id of the message
    (``webhook-id`` of a delivery). With a ``webhook_id`` it belongs to that webhook alone, so that two webhooks can
    share an inbox and each gets every event; the first webhook of an inbox has keys without it. ASCII, at most 400
    characters. Raises ``ConfigurationError`` where all ids are missing.
    """
    if event_type_id and event_id:
        # JSON keeps the border between the two, and writes lone surrogates and control characters as ASCII.
        key = f"event:[{_quoted(event_type_id)},{_quoted(event_id)}]"
    elif message_id:
        key = "message:" + _quoted(message_id)
    else:
        raise ConfigurationError("an inbox key needs an event type and event id, or the id of the message")
    if webhook_id:
        key = f"webhook:{_quoted(webhook_id)}:{key}"
    return _shorten(key)


def prefix_key(prefix: str, key: str) -> str:
    """Make a key that says something else of the same event."""
    return _shorten(f"{prefix}:{key}")


def _shorten(key: str) -> str:
    return key if len(key) <= _LONGEST_KEY else "sha256:" + hashlib.sha256(key.encode()).hexdigest()
