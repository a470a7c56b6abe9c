"""The inbox keys of messages and events as Basiq sent them, read or not: the same keys as those of the models."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from .._wire.broken_items import BrokenItem
from .._wire.codec import event_type_of
from .._wire.paging import raw_id
from .._work.keys import inbox_key
from ..models import read_text

EVENT_PREFIX = "event-"
"""Begins the id of a message that was made from an event."""
_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,200}", re.ASCII)


def message_key(item: Any, webhook_id: str | None) -> str:
    """Return the inbox key of a message of a list, from its JSON or the ``BrokenItem`` in its place.

    A message that cannot be read has the key that it would have if it could.
    """
    kind = event_id = None
    if type(item) is dict:
        payload = item.get("payload")
        if type(payload) is not dict:
            payload = {}
        kind = payload.get("eventTypeId") or item.get("eventTypeId")
        event_id = payload.get("eventId") or item.get("eventId")
        if kind and event_id and type(kind) is str and type(event_id) is str:
            return inbox_key(kind, event_id, None, webhook_id)
    return inbox_key(read_text(kind), read_text(event_id), item_id(item), webhook_id)


def event_key(item: Any, webhook_id: str | None) -> str:
    """Return the inbox key of an event of a list: that of the messages that are sent of it. See ``message_key``."""
    kind = event_type_of(item) if isinstance(item, dict) else None
    event_id = item_id(item)
    return inbox_key(kind, event_id, event_message_id(event_id), webhook_id)


def item_id(item: Any) -> str:
    """Return the id of an item of a list; one made of its content if it has none."""
    found = item.get("id") if isinstance(item, dict) else None
    if isinstance(found, str) and found:
        return found
    raw = {"raw": item.text if isinstance(item, BrokenItem) else item} if not isinstance(item, dict) else item
    return raw_id(item) or made_up_id(raw)


def made_up_id(raw: dict[str, Any]) -> str:
    """Return an id for an item that has none."""
    return "unreadable-" + hashlib.sha256(json.dumps(raw, sort_keys=True).encode()).hexdigest()[:16]


def event_message_id(event_id: str) -> str:
    """Return an id that a delivery can have, and whose prefix tells that it comes from an event."""
    plain = event_id if _PLAIN.fullmatch(event_id) else hashlib.sha256(event_id.encode(errors="replace")).hexdigest()
    return EVENT_PREFIX + plain
