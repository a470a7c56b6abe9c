"""Write JSON values of any depth. No I/O.

A decoder may read what is nested more deeply than Python's own encoder can write: orjson reads 1,024 levels.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Encode = Callable[[Any], str]


class _Piece(str):
    """A part of the text that is finished."""

    __slots__ = ()


def write_json(value: Any, encode: Encode = json.dumps) -> str:
    """Return a value as JSON text. ``encode`` writes it, or each scalar in it if it is nested too deeply for that."""
    try:
        return encode(value)
    except RecursionError:
        pass
    written: list[str] = []
    left = [value]
    while left:
        part = left.pop()
        if isinstance(part, _Piece):
            written.append(part)
        elif isinstance(part, dict):
            left.append(_Piece("}"))
            for place, (name, each) in reversed(list(enumerate(part.items()))):
                left += [each, _Piece(f"{',' if place else '{'}{encode(name)}:")]
            if not part:
                left.append(_Piece("{"))
        elif isinstance(part, list):
            left.append(_Piece("]"))
            for place, each in reversed(list(enumerate(part))):
                left += [each, _Piece("," if place else "[")]
            if not part:
                left.append(_Piece("["))
        else:
            written.append(encode(part))
    return "".join(written)
