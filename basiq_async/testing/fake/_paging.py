"""Pages and the opaque cursors between them."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterable
from typing import TypeVar

import attrs

from ._ids import digest
from ._responses import bad_parameter

T = TypeVar("T")
MAX_LIMIT = 500
MOST_SCANNED = 20_000
"""How many items a request may look at, so that a filter over millions does not hold everything up."""


@attrs.frozen
class Window:
    """Which part of a list is asked for: from a position on, at most ``limit`` items, that match a filter.

    Without a ``start`` it begins where the list does.
    """

    scope: str
    start: int | None
    limit: int
    filter: str | None

    @classmethod
    def of(cls, scope: str, query: dict[str, str], page_size: int) -> Window:
        """The window that a query asks for.

        ``scope`` is the list's own path: a cursor of another list is refused.
        """
        cursor = query.get("next")
        start, limit, expression = (None, page_size, None) if cursor is None else _read(scope, cursor)
        if "limit" in query:
            limit = min(_limit(query["limit"]), page_size)
        return cls(scope, start, limit, query.get("filter", expression))

    def cursor(self, position: int) -> str:
        """The cursor of what follows, from ``position`` on."""
        state = json.dumps([position, self.limit, self.filter], separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(_seal(self.scope, state) + state).decode().rstrip("=")

    def take(self, items: Iterable[tuple[int, T]], matches: Callable[[T], bool] | None) -> tuple[list[T], str | None]:
        """The items of the window, and the cursor of the next one where more are left.

        It looks at so many items at the most: where few match, a page is short, or empty, and leads on.
        """
        taken: list[T] = []
        for looked_at, (position, item) in enumerate(items):
            if looked_at == MOST_SCANNED:
                return taken, self.cursor(position)
            if matches is not None and not matches(item):
                continue
            if len(taken) == self.limit:
                return taken, self.cursor(position)
            taken.append(item)
        return taken, None


def _seal(scope: str, state: bytes) -> bytes:
    return digest(scope, state.hex(), size=6)


def _read(scope: str, cursor: str) -> tuple[int, int, str | None]:
    refusal = bad_parameter("The cursor is not one that this list has given out.", "next")
    try:
        raw = base64.urlsafe_b64decode((cursor + "=" * (-len(cursor) % 4)).encode("ascii"))
    except (ValueError, binascii.Error):
        raise refusal from None
    if raw[:6] != _seal(scope, raw[6:]):
        raise refusal
    position, limit, expression = json.loads(raw[6:])
    return position, limit, expression


def _limit(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= MAX_LIMIT:
        return int(text)
    raise bad_parameter(f"The limit has to be a whole number from 1 to {MAX_LIMIT}.", "limit")
