"""A list of the API: its first page, its next links, the cursors of its items, and the requests for its pages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from hashlib import blake2b
from typing import Any, Generic, TypeGuard, TypeVar

import attrs

from .._redaction.tracebacks import UnshownText
from .._work.tasks import TaskOwner, result_of
from ..errors import APIError, BasiqError, PaginationError, ResponseDecodeError
from .broken_items import BrokenItem
from .codec import ListPage, Reader, Unreadable
from .cursors import ANYWHERE, Cursor, CursorSeal, id_in_cursor
from .urls import BaseURL, LinkError
from .writing import write_json

T = TypeVar("T")
_READ_TO_GROW = 4
_REFUSED_PAGE = (400, 404, 410)
"""Statuses by which Basiq may refuse the link to a page that has expired."""


def is_lost(error: Exception) -> TypeGuard[APIError]:
    """Return whether ``error`` can mean that the link to a page has expired.

    The error of a POST cannot: that is a token request which was refused.
    """
    return isinstance(error, APIError) and error.status in _REFUSED_PAGE and error.method != "POST"


def is_too_large(error: BasiqError) -> bool:
    """Return whether a response was refused for its size alone: a smaller page, or a part of it, may be read."""
    return error._too_large


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

    def url(self, page: str) -> str:
        """Return the URL of a page from its part below the base. ``repr`` does not show one that holds a credential."""
        return self._hide(self.base.url(page))

    def resolve(
        self, link: Any, current: str, seen: Collection[int] = frozenset()
    ) -> tuple[str | None, BasiqError | None]:
        """Return the URL of a next link, or the error to raise where it would be followed; None for the last page.

        ``seen`` are the hashes of the URLs that were read before ``current``: a link to one of them loops. ``repr``
        does not show a URL that holds a credential.
        """
        if link is None or link == "":
            return None, None
        if not isinstance(link, str):
            return None, ResponseDecodeError("expected text", location="$.links.next")
        try:
            url = self.base.resolve(link, current)
        except LinkError as exc:
            return None, self._refuse(link, f"{exc}; it was not followed")
        if url == current or hash(url) in seen:
            return None, self._refuse(link, "loops: it leads to a page that was read before")
        return self._hide(url), None

    def _hide(self, url: str) -> str:
        return url if self.redact(url) == url else UnshownText(url)

    def _refuse(self, link: str, why: str) -> PaginationError:
        """Return the error for a next link that is not followed. It shows no credentials."""
        shown = self.redact(link)
        return PaginationError(f"the next link {_shorten(shown)} {self.redact(why)}", link=shown)

    def has_page(self, url: str) -> bool:
        """Return whether a URL is a page of this list, and may be requested."""
        try:
            return self.base.resolve(url, self.start) == url and self.base.have_same_path(url, self.start)
        except LinkError:
            return False


def with_limit(url: str, limit: int) -> str:
    """Return a page's URL with another number of items."""
    path, _, query = url.partition("?")
    kept = [part for part in query.split("&") if part and not part.startswith("limit=")]
    return f"{path}?{'&'.join([*kept, f'limit={limit}'])}"


class PageSize:
    """The size of the pages of a list: halved for a page that is too large to be read, and later doubled again.

    Basiq keeps the responses of endpoints, so that after a long outage one page may have a hundred megabytes. A next
    link is opaque: the smaller size replaces its parameter ``limit``, or is added. A page that is too large with a
    limit of 1 too, because one item is, or because the API ignores the limit, is read ``abridged``: the link past it is
    in that response. If that does not help, the list cannot go on, and the error says where.
    """

    def __init__(self, usual: int) -> None:
        self._usual = self._size = usual
        self.abridged = False
        """Whether to read the next page without its long texts."""
        self._is_said = False
        self._read = 0

    def url(self, url: str) -> str:
        """Return the URL with which to request a page of a link."""
        return with_limit(url, self._size) if self._is_said else url

    def shrink(self, failure: BasiqError, place: str = "at an unknown place") -> None:
        """Read less after a page was too large. Raises the failure, with its place, if it cannot be smaller."""
        if not is_too_large(failure):
            raise failure
        if self._size == 1 and self.abridged:
            said = (
                "that is so with a limit of 1 too, and without long texts: Basiq ignores the limit, or one item is too "
                f"large, {place}. Only that response says what comes after: to read the rest, leave it out with a "
                "filter, such as by type"
            )
            failure.args = (f"{failure.args[0]}; {said}", *failure.args[1:])
            raise failure
        self.abridged = self._size == 1
        self._size, self._read, self._is_said = max(1, self._size // 2), 0, True
        failure.__traceback__ = None  # its frames would hold what the caller reads next, until circles are looked for

    def grow(self) -> None:
        """Double the size, up to the usual one, after some pages were read."""
        self._read, self.abridged = self._read + 1, False
        if self._size < self._usual and self._read >= _READ_TO_GROW:
            self._size, self._read = min(self._usual, 2 * self._size), 0


class PageRequests:
    """Requests the pages of a list, one of them ahead. When it is deleted, the request ahead is cancelled."""

    def __init__(self, listing: Listing[Any]) -> None:
        self._listing = listing
        self._ahead: tuple[str, asyncio.Task[ListPage]] | None = None

    def fetch(self, url: str) -> Coroutine[Any, Any, ListPage]:
        """Return the request for the page of a URL, to be awaited at once. It raises the errors of the request."""
        ahead = self._ahead
        if ahead is not None and ahead[0] == url:
            self._ahead = None
            found = result_of(ahead[1])
        else:
            if ahead is not None:
                self.forget_ahead()
            found = self._listing.fetch(str(url))
        return _without_frames(found) if isinstance(url, UnshownText) else found

    def request_ahead(self, url: str | None) -> None:
        """Begin the request for a page that ``fetch`` will return; None for no page."""
        self.forget_ahead()
        if url is not None:
            self._ahead = url, self._listing.owner.spawn(self._listing.fetch(str(url)))

    def forget_ahead(self) -> asyncio.Task[ListPage] | None:
        """Cancel the request for the page ahead. Return its task, or None."""
        if self._ahead is None:
            return None
        (_, task), self._ahead = self._ahead, None
        if not task.done() and not task.get_loop().is_closed():
            task.cancel()
        return task

    def __del__(self) -> None:
        if self._ahead is not None:
            self.forget_ahead()


async def _without_frames(found: Awaitable[ListPage]) -> ListPage:
    try:
        return await found
    except BasiqError as exc:
        # A server can send a credential back in a link, and error reporters show the variables of all frames.
        raise exc.with_traceback(None) from exc.__cause__


def id_at(items: list[Any], index: int) -> str | None:
    """Return ``raw_id`` of the item at an index; None if the index is outside the page."""
    return raw_id(items[index]) if 0 <= index < len(items) else None


def raw_id(item: object) -> str | None:
    """Return the id in an item's JSON, in the form of ``id_in_cursor``; None if it has none."""
    found = item.get("id") if isinstance(item, dict) else item.id if isinstance(item, BrokenItem) else None
    return id_in_cursor(found if isinstance(found, str) else json.dumps(found)) if found is not None else None


def ordinary_ids(items: Sequence[Any]) -> list[str] | None:
    """Return the ids in the JSON of a page's items; None if one of them has none, or not as a text."""
    try:
        ids = [item["id"] for item in items]
    except (KeyError, TypeError):
        return None
    return ids if set(map(type, ids)) <= {str} and all(ids) else None


_encode_sorted = json.JSONEncoder(sort_keys=True).encode


def made_up_id(item: object) -> str:
    """Return an id for an item that has none: a digest of its JSON."""
    text = item.text if isinstance(item, BrokenItem) else write_json(item, _encode_sorted)
    return "without-id-" + blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def _shorten(link: str) -> str:
    return repr(link if len(link) <= 200 else link[:200] + "…")
