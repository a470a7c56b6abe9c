"""The notes of a record as its storages hold them: JSON in ASCII, so that any name and any text can be stored."""

from __future__ import annotations

import json
import secrets


def check_note() -> tuple[str, str]:
    """Return the name and text of the note that a check writes. No other note has this name, and the text is new."""
    return "checked", secrets.token_hex(8)


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
