"""Go from page to page of a list: follow the next links, request one page ahead, and resume at a cursor."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from operator import length_hint
from typing import Any, Generic, TypeGuard, TypeVar

import attrs

from .._work.tasks import TaskOwner, result_of
from ..errors import APIError, BasiqError, PaginationError, ResponseDecodeError
from .broken_items import BrokenItem
from .codec import ListPage, Reader, Unreadable
from .cursors import ANYWHERE, Cursor, CursorSeal, id_in_cursor
from .urls import BaseURL, LinkError

T = TypeVar("T")
_log = logging.getLogger("basiq_async.pagination")
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
    fetch: Callable[[str], Awaitable[ListPage]]
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


class Position:
    """The page that is being consumed, and the number of its items that were consumed."""

    __slots__ = ("before", "items", "left", "next_url", "place", "resume_target", "url")

    def __init__(self, url: str, resume_target: Cursor | None) -> None:
        self.url = url
        self.resume_target = resume_target
        """The item to resume after, until its page has been found."""
        self.items: list[Any] = []
        self.left = iter(self.items)
        """An iterator over the items that were not consumed yet. A loop consumes it directly, which is faster than
        counting."""
        self.next_url: str | None = url
        self.before: str | None = None
        """The id of the last item of the pages before this one."""
        self.place: Cursor | None = None
        """The cursor of that item."""

    def leave_page(self, base: BaseURL) -> None:
        """Forget the items of this page, but not the place of the last one.

        The next page is decoded afterwards: a page at a time is faster, because its memory is used again.
        """
        if self.resume_target is None:
            self.place = self.cursor(base)
        self.before = self.last_id
        self.items = []
        self.left = iter(self.items)

    @property
    def offset(self) -> int:
        """The number of items of this page that were consumed."""
        return len(self.items) - length_hint(self.left)

    @offset.setter
    def offset(self, offset: int) -> None:
        self.left = iter(self.items[offset:] if offset else self.items)

    @property
    def last_id(self) -> str | None:
        """The id of the last consumed item that has an id."""
        if self.resume_target is not None:
            return self.resume_target.after
        for index in range(min(self.offset, len(self.items)) - 1, -1, -1):
            found = id_at(self.items, index)
            if found is not None:
                return found
        return self.before

    def cursor(self, base: BaseURL) -> Cursor | None:
        """Return the cursor of this position: the page that holds the last item, and its id. None without an item.

        The next page is no such place: what moved to the page before it would be skipped.
        """
        if self.resume_target is not None:
            return self.resume_target
        offset = self.offset
        return Cursor(base.relative(self.url), offset, id_at(self.items, offset - 1)) if offset else self.place

    def next_page(self, base: BaseURL) -> Cursor | None:
        """Return the cursor of the next page, which is requested alone; None at the end."""
        if self.next_url is None or self.resume_target is not None:
            return self.resume_target
        return Cursor(base.relative(self.next_url), 0, self.last_id)


def id_at(items: list[Any], index: int) -> str | None:
    """Return ``raw_id`` of the item at an index; None if the index is outside the page."""
    return raw_id(items[index]) if 0 <= index < len(items) else None


def raw_id(item: object) -> str | None:
    """Return the id in an item's JSON, in the form of ``id_in_cursor``; None if it has none."""
    found = item.get("id") if isinstance(item, dict) else item.id if isinstance(item, BrokenItem) else None
    return id_in_cursor(found if isinstance(found, str) else json.dumps(found)) if found is not None else None


class PageFetcher(Generic[T]):
    """Goes from page to page. When it is deleted, the request for the page ahead is cancelled."""

    def __init__(self, listing: Listing[T], start: Cursor | None, prefetch: int) -> None:
        self.listing = listing
        url = listing.start if start is None else listing.base.url(start.page)
        self.position = Position(url, start if start is not None and start.offset else None)
        self.position.before = None if start is None else start.after
        self._from_start = url == listing.start
        """Whether the pages have been read from the start of the list."""
        self._looked_for = start.after if start is not None and start.offset == ANYWHERE else None
        """The last item that was searched for from the start of the list: a second search would not find it either."""
        self._prefetch = prefetch
        self._ahead: asyncio.Task[ListPage] | None = None
        self._seen: set[int] = set()
        self._error: BasiqError | None = None
        self._lock = asyncio.Lock()
        self._pages = 0

    async def advance(self) -> bool:
        """Go to the next page; return False at the end. After a failure or a cancellation it can be called again.

        If several tasks that share an iterator call this at once, one of them fetches the page, for all.
        """
        pages, position = self._pages, self.position
        async with self._lock:
            if self._pages != pages:
                return True
            if self._error is not None:
                raise self._error
            url = position.next_url
            target = position.resume_target
            if url is None and target is not None and not self._from_start and self._may_look(target.after):
                url = self._begin_again()  # the item may have moved to a page before the one where it was
            if url is None:
                if position.resume_target is not None:
                    raise PaginationError(
                        f"cannot resume: item {position.resume_target.after!r} is no longer in the list. "
                        "Start again without cursor= and after="
                    )
                return False
            if position.items:
                position.leave_page(self.listing.base)
            ahead, self._ahead = self._ahead, None
            try:
                page = await (self.listing.fetch(url) if ahead is None else result_of(ahead))
            except BasiqError as exc:
                if not self._can_look(exc, url):
                    if self.listing.redact(url) != url:
                        # A server can send the token back in a link, and error reporters show local variables.
                        del url, ahead
                        raise exc.with_traceback(None) from exc.__cause__
                    raise
                page = None
            if page is None:
                url = self._begin_again()
                page = await self.listing.fetch(url)
            self._seen.add(hash(url))
            self._pages += 1
            position.url, position.items, position.left = url, page.items, iter(page.items)
            position.next_url = None if page.next_link is None else self._resolve(page.next_link, url)
            if position.resume_target is not None:
                self._seek(position.resume_target)
            if position.next_url is not None and self._prefetch:
                self._ahead = self.listing.owner.spawn(_fetch(self.listing.fetch, position.next_url))
                # A consumer that never awaits would not let the request start before the end of this page.
                await asyncio.sleep(0)
            return True

    def _can_look(self, exc: BasiqError, url: str) -> bool:
        """Return whether to search for the last item from the start of the list, because its next page was refused."""
        item_id = self.position.last_id
        if url == self.listing.start or not is_lost(exc) or not self._may_look(item_id):
            return False
        _log.info(
            "a page of the list was refused with status %d; reading the list again from its start to the item %r",
            exc.status,
            item_id,
            extra={"http_status": exc.status, "correlation_id": exc.correlation_id, "item_id": item_id},
        )
        return True

    def _may_look(self, item_id: str | None) -> bool:
        return item_id is not None and item_id != self._looked_for

    def _begin_again(self) -> str:
        """Go back to the start of the list, to search for the last item. Return the URL of the first page."""
        position = self.position
        item_id = position.last_id or ""
        position.resume_target = self.listing.after(item_id)
        position.url = position.next_url = self.listing.start
        self._looked_for, self._from_start = item_id, True
        self._seen.clear()
        return self.listing.start

    def _resolve(self, link: Any, current: str) -> str | None:
        """Return the URL of the next page. An error in the link is kept, and raised after this page's items."""
        url, self._error = self.listing.resolve(link, current)
        if url is not None and hash(url) in self._seen:
            url, self._error = None, self.listing.refuse(link, "loops: it leads to a page that was read before")
        return url

    def _seek(self, target: Cursor) -> None:
        """Move to the place after the cursor's item, if this page has it. The item can have moved since."""
        position = self.position
        last = min(target.offset, len(position.items)) - 1
        if last != target.offset - 1 or id_at(position.items, last) != target.after:
            same = (i for i in reversed(range(len(position.items))) if id_at(position.items, i) == target.after)
            last = next(same, -1)
        if last < 0:
            position.offset = len(position.items)
        else:
            position.offset, position.resume_target = last + 1, None

    def cancel(self) -> asyncio.Task[ListPage] | None:
        """Cancel the request for the page ahead. Return its task, or None."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and not ahead.done() and not ahead.get_loop().is_closed():
            ahead.cancel()
        return ahead

    async def aclose(self) -> None:
        """Cancel the request for the page ahead, and wait until it has ended."""
        ahead = self.cancel()
        if ahead is not None:
            await asyncio.wait([ahead])

    def __del__(self) -> None:
        if self._ahead is not None:
            self.cancel()


async def _fetch(fetch: Callable[[str], Awaitable[ListPage]], url: str) -> ListPage:
    return await fetch(url)


def _shorten(link: str) -> str:
    return repr(link if len(link) <= 200 else link[:200] + "…")
