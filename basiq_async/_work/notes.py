"""The notes of a record as its storages hold them: JSON in ASCII, so that any name and any text can be stored."""

from __future__ import annotations

import json


def write_note(text: str) -> str:
    """Return a note's name or text as the storage holds it."""
    return json.dumps(text)


def read_note(stored: str | bytes) -> str | None:
    """Return a note's text; None for what no record has written."""
    try:
        text = json.loads(stored)
    except (ValueError, TypeError, RecursionError):
        return None
    return text if isinstance(text, str) else None
