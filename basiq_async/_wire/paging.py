"""A list of the API: its first page, its next links, and the cursors of its items. No I/O of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeGuard, TypeVar

import attrs

from .._work.tasks import TaskOwner
from ..errors import APIError, BasiqError, PaginationError, ResponseDecodeError
from .broken_items import BrokenItem
from .codec import ListPage, Reader, Unreadable
from .cursors import ANYWHERE, Cursor, CursorSeal, id_in_cursor
from .urls import BaseURL, LinkError

T = TypeVar("T")
_REFUSED_PAGE = (400, 404, 410)
"""Statuses by which Basiq may refuse the link to a page that has expired."""


def is_lost(error: Exception) -> TypeGuard[APIError]:
    """Return whether ``error`` can mean that the link to a page has expired.

    The error of a POST cannot: that is a token request which was refused.
    """
    return isinstance(error, APIError) and error.status in _REFUSED_PAGE and error.method != "POST"


@attrs.frozen
class Listing(Generic[T]):
    """A list of the API: the URL of its first page, and the functions that fetch a page and read an item.

    ``name`` is different for every list, so that a cursor of another list is refused.
    """

    name: str
    start: str
    base: BaseURL
    fetch: Callable[[str], Coroutine[Any, Any, ListPage]]
    reader: Reader[T]
    owner: TaskOwner
    seal: CursorSeal
    redact: Callable[[str], str] = str
    """Removes credentials from a link that is shown."""

    def explain(self, exc: Unreadable, index: int) -> ResponseDecodeError:
        """Return the error for an item that cannot be read."""
        failure = self.reader.explain(exc, index)
        failure.method, failure.path = "GET", self.base.path_of(self.start)
        return failure

    def encode(self, cursor: Cursor) -> str:
        """Return the text of a cursor of this list. If the page's path is not this list's, it names only the item."""
        if not self.has_page(self.base.url(cursor.page)):
            cursor = self.after(cursor.after) if cursor.after else Cursor(self.base.relative(self.start))
        return self.seal.seal(cursor, self.name)

    def after(self, item_id: str) -> Cursor:
        """Return a cursor for the place after an item, on any page of the list."""
        return Cursor(self.base.relative(self.start), ANYWHERE, item_id)

    def resolve(self, link: Any, current: str) -> tuple[str | None, BasiqError | None]:
        """Return the URL of a next link, or the error to raise where it would be followed; None for the last page."""
        if link is None or link == "":
            return None, None
        if not isinstance(link, str):
            return None, ResponseDecodeError("expected text", location="$.links.next")
        try:
            return self.base.resolve(link, current), None
        except LinkError as exc:
            return None, self.refuse(link, f"{exc}; it was not followed")

    def refuse(self, link: str, why: str) -> PaginationError:
        """Return the error for a next link that is not followed. It shows no credentials."""
        shown = self.redact(link)
        return PaginationError(f"the next link {_shorten(shown)} {self.redact(why)}", link=shown)

    def has_page(self, url: str) -> bool:
        """Return whether a URL is a page of this list, and may be requested."""
        try:
            return self.base.resolve(url, self.start) == url and self.base.have_same_path(url, self.start)
        except LinkError:
            return False


def id_at(items: list[Any], index: int) -> str | None:
    """Return ``raw_id`` of the item at an index; None if the index is outside the page."""
    return raw_id(items[index]) if 0 <= index < len(items) else None


def raw_id(item: object) -> str | None:
    """Return the id in an item's JSON, in the form of ``id_in_cursor``; None if it has none."""
    found = item.get("id") if isinstance(item, dict) else item.id if isinstance(item, BrokenItem) else None
    return id_in_cursor(found if isinstance(found, str) else json.dumps(found)) if found is not None else None


def _shorten(link: str) -> str:
    return repr(link if len(link) <= 200 else link[:200] + "…")
