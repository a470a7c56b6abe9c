"""The event types that Basiq documents today. New ones appear: nothing here closes the list."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Literal, get_args

from .models import DocumentedEventType, EventTypeId

__all__ = ["EVENT_TYPES", "EventTypeId", "EventTypePattern", "nearest_pattern"]

_Beginning = Literal["account.*", "connection.*", "consent.*", "transactions.*", "user.*", "*"]

EventTypePattern = DocumentedEventType | _Beginning | str
"""An event type, the beginning of some (``consent.*``), or ``*`` for all."""

EVENT_TYPES: tuple[str, ...] = get_args(DocumentedEventType)


def nearest_pattern(pattern: str) -> str | None:
    """None for a pattern that matches a documented type; else the nearest one that does, or an empty text."""
    known = [*EVENT_TYPES, *get_args(_Beginning)]
    if pattern in known:
        return None
    return next(iter(get_close_matches(pattern, known, n=1)), "")
