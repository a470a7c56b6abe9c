"""Text from elsewhere, made safe to show. Pure.

An id, an error's detail or a url comes from the other side, and a terminal obeys what it is sent: an escape sequence
sets its title or its clipboard, a bidi control reorders a line, a newline forges a second line of a log.
"""

from __future__ import annotations

import json
import re
from datetime import date
from typing import Any

_JOINERS = "\u200c\u200d"
"""Zero-width (non-)joiners are part of ordinary Persian, Hindi and emoji, and steer nothing."""
_PERHAPS_UNPRINTABLE = re.compile(r"[^ -~]")


def printable(value: object) -> str:
    """Return text with everything that is not printable escaped as in a Python literal, such as ``\\x1b``.

    Escapes C0 and C1 controls, newlines, bidi and other format characters, lone surrogates, private use and
    unassigned characters. All other text is returned as it is.
    """
    text = value if isinstance(value, str) else str(value)
    if text.isprintable():
        return text
    return "".join([char if char.isprintable() or char in _JOINERS else _escape(char) for char in text])


def json_line(value: Any, *, ascii: bool = False) -> str:
    """Return a value as one line of JSON that is safe to show and decodes to exactly the same value.

    ``ascii`` escapes everything outside ASCII, for a stream that cannot encode it. Raises ``TypeError`` for a value
    without a JSON form and ``RecursionError`` for one that is nested too deeply.
    """
    text = json.dumps(value, default=_plain, ensure_ascii=ascii)
    return text if text.isprintable() else _PERHAPS_UNPRINTABLE.sub(_escape_for_json, text)


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def _escape_for_json(found: re.Match[str]) -> str:
    char = found[0]
    if char.isprintable() or char in _JOINERS:
        return char
    return json.dumps(char)[1:-1] if ord(char) > 0x7F else f"\\u{ord(char):04x}"


def _plain(value: object) -> Any:
    if isinstance(value, date):  # a datetime too
        return value.isoformat()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    from ..models import Secret

    if isinstance(value, Secret):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
