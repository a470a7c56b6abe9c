"""The keys of messages and events as Basiq sends them: the same as those of the parsed models. (work in progress)"""

from __future__ import annotations

from typing import Any

from .._wire.broken_items import BrokenItem
from .._work.keys import inbox_key
from ..models import read_text


def ids_of(raw: Any) -> tuple[str | None, str | None, str | None]:
    """Return the event type, the event id and the message id of a message's JSON; None for each that it lacks."""
    if isinstance(raw, BrokenItem):
        return None, None, raw.id
    if not isinstance(raw, dict):
        return None, None, None
    payload = raw.get("payload")
    payload = payload if isinstance(payload, dict) else {}
    return (
        read_text(payload.get("eventTypeId") or raw.get("eventTypeId")),
        read_text(payload.get("eventId") or raw.get("eventId")),
        read_text(raw.get("id")),
    )


def message_key(raw: Any, *, webhook_id: str | None) -> str:
    """Return the inbox key of a message."""
    event_type_id, event_id, message_id = ids_of(raw)
    if not (event_type_id and event_id) and not message_id:
        message_id = "without-id"
    return inbox_key(event_type_id, event_id, message_id, webhook_id)


def event_key(raw: Any, *, webhook_id: str | None) -> str:
    """Return the inbox key of an event."""
    if isinstance(raw, BrokenItem):
        return inbox_key(None, None, raw.id or "without-id", webhook_id)
    kind = f"{raw.get('entity')}.{raw.get('eventType')}" if isinstance(raw, dict) else None
    if isinstance(raw, dict) and "." in str(raw.get("eventType") or raw.get("eventTypeId") or ""):
        kind = raw.get("eventType") or raw.get("eventTypeId")
    return inbox_key(kind, read_text(raw.get("id")), "x", webhook_id)
