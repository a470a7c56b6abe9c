"""The keys of messages and events, from their JSON as Basiq sends it: the same as those of the parsed models."""

from __future__ import annotations

from typing import Any

from .._wire.broken_items import BrokenItem
from .._wire.codec import event_type_of
from .._wire.paging import raw_id
from .._work.keys import inbox_key
from ..models import read_text
from ._sources import as_object, message_id_of, plain_id


def message_key(raw: Any, webhook_id: str | None) -> str:
    """Return the inbox key of a message."""
    return inbox_key(*ids_of(raw), webhook_id)


def event_key(raw: Any, webhook_id: str | None) -> str:
    """Return the inbox key of an event: that of the message which it would have made."""
    return inbox_key(*ids_of_event(raw), webhook_id)


def ids_of(raw: Any) -> tuple[str | None, str | None, str]:
    """Return the event type, the event id and the message id of a message; None for each of an event that it lacks."""
    item = as_object(raw)
    payload = item.get("payload")
    payload = payload if isinstance(payload, dict) else {}
    event_type_id = read_text(payload.get("eventTypeId") or item.get("eventTypeId"))
    return event_type_id, read_text(payload.get("eventId") or item.get("eventId")), _id_of(raw)


def ids_of_event(raw: Any) -> tuple[str | None, str | None, str]:
    """Return the event type, the event id and the message id for an event of the event list."""
    item = as_object(raw)
    return event_type_of(item), read_text(item.get("id")), message_id_of(_id_of(raw))


def _id_of(raw: Any) -> str:
    return (isinstance(raw, BrokenItem) and raw_id(raw)) or plain_id(as_object(raw))
