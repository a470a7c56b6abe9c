"""Streaming a list page by page: constant memory, one page asked for ahead, and a cursor to go on from."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

import attrs
from cattrs.errors import BaseValidationError

from ._codec import UNREADABLE, ListPage, Malformed, Reader
from ._cursor import Cursor, id_in_cursor
from ._tasks import TaskOwner, result_of
from ._urls import BaseURL, LinkError
from .errors import BasiqError, ConfigurationError, PaginationError, ResponseDecodeError

T = TypeVar("T")
_MOST_EMPTY = 10_000
"""Empty pages in a row, as a filter can make them; more of them are a server that has lost its way."""


@attrs.frozen
class Page(Generic[T]):
    """One page. ``next_cursor`` goes on behind it; None on the last page."""

    items: Sequence[T]
    next_cursor: str | None


@attrs.frozen
class Listing(Generic[T]):
    """A list of the API: where it begins, how a page of it is fetched, how an item is read.

    ``name`` tells it from every other list, for cursors.
    """

    name: str
    start: str
    base: BaseURL
    fetch: Callable[[str], Awaitable[ListPage]]
    reader: Reader[T]
    owner: TaskOwner
    redact: Callable[[str], str] = str
    """Takes credentials out of a link that is shown."""

    def unreadable(self, exc: Malformed | BaseValidationError, index: int) -> ResponseDecodeError:
        """The error for an item that cannot be read."""
        failure = self.reader.explain(exc, index)
        failure.method, failure.path = "GET", self.base.path_of(self.start)
        return failure


class _Position:
    """The page that is being consumed, and how far."""

    __slots__ = ("items", "next_url", "offset", "sought", "url")

    def __init__(self, url: str, sought: Cursor | None) -> None:
        self.url = url
        self.sought = sought
        """The item to stand behind, as long as its page has not been found."""
        self.items: list[Any] = []
        self.offset = 0
        self.next_url: str | None = url

    def cursor(self, base: BaseURL) -> Cursor | None:
        """None where nothing has been given out yet."""
        if self.sought is not None or (not self.items and self.next_url == self.url):
            return None
        if self.offset >= len(self.items) and self.next_url is not None:
            return Cursor(base.relative(self.next_url))
        return Cursor(base.relative(self.url), self.offset, _id_of(self.items, self.offset - 1))


def _id_of(items: list[Any], index: int) -> str | None:
    found = items[index].get("id") if 0 <= index < len(items) and isinstance(items[index], dict) else None
    return id_in_cursor(found if isinstance(found, str) else json.dumps(found)) if found is not None else None


class _Walk(Generic[T]):
    """From page to page. Owns the page that is asked for ahead: dropping the walk cancels it."""

    def __init__(self, listing: Listing[T], start: Cursor | None, prefetch: int) -> None:
        self.listing = listing
        url = listing.start if start is None else listing.base.url(start.page)
        self.position = _Position(url, start if start is not None and start.offset else None)
        self._prefetch = prefetch
        self._ahead: asyncio.Task[ListPage] | None = None
        self._seen: set[int] = set()
        self._error: BasiqError | None = None
        self._turn = asyncio.Lock()
        self._pages = 0
        self._empty = 0

    async def advance(self) -> bool:
        """Go to the next page; False at the end. After a failure or a cancellation it can be called again.

        Of several tasks that share an iterator and all want the next page, one goes there and the others follow.
        """
        pages = self._pages
        async with self._turn:
            return self._pages != pages or await self._advance()

    async def _advance(self) -> bool:
        position = self.position
        if self._error is not None:
            raise self._error
        url = position.next_url
        if url is None:
            if position.sought is not None:
                raise PaginationError("the item that the cursor stands behind is not in the list; begin without cursor")
            return False
        ahead, self._ahead = self._ahead, None
        page = await (self.listing.fetch(url) if ahead is None else result_of(ahead))
        self._seen.add(hash(url))
        self._pages += 1
        self._empty = 0 if page.items else self._empty + 1
        position.url, position.items, position.offset = url, page.items, 0
        position.next_url = self._resolve(page.next_link, url)
        if position.sought is not None:
            self._seek(position.sought)
        if position.next_url is not None and self._prefetch:
            self._ahead = self.listing.owner.spawn(_fetched(self.listing.fetch, position.next_url))
            # A consumer that never waits would not let it begin before the end of this page.
            await asyncio.sleep(0)
        return True

    def _resolve(self, link: Any, current: str) -> str | None:
        """The next url. What is wrong with it is raised when it is needed: behind this page's items."""
        if link is None or link == "":
            return None
        if not isinstance(link, str):
            self._error = ResponseDecodeError("expected text", location="$.links.next")
            return None
        try:
            url = self.listing.base.resolve(link, current)
        except LinkError as exc:
            self._error = self._refused(link, f"{exc}; it was not followed")
            return None
        if self._empty > _MOST_EMPTY:
            self._error = self._refused(link, f"comes after {self._empty} empty pages in a row")
            return None
        if hash(url) in self._seen:
            self._error = self._refused(link, "loops: its page has been read")
            return None
        return url

    def _refused(self, link: str, why: str) -> PaginationError:
        redact = self.listing.redact
        shown = redact(link)
        return PaginationError(f"the next link {_shown(shown)} {redact(why)}", link=shown)

    def _seek(self, sought: Cursor) -> None:
        """Stand behind the item of the cursor, which can have moved on since."""
        position = self.position
        last = min(sought.offset, len(position.items)) - 1
        if last != sought.offset - 1 or _id_of(position.items, last) != sought.after:
            same = (i for i in reversed(range(len(position.items))) if _id_of(position.items, i) == sought.after)
            last = next(same, -1)
        if last < 0:
            position.offset = len(position.items)
        else:
            position.offset, position.sought = last + 1, None

    def cancel(self) -> asyncio.Task[ListPage] | None:
        """Give up the page that was asked for ahead."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and not ahead.done() and not ahead.get_loop().is_closed():
            ahead.cancel()
        return ahead

    async def aclose(self) -> None:
        ahead = self.cancel()
        if ahead is not None:
            await asyncio.wait([ahead])

    def __del__(self) -> None:
        self.cancel()


async def _fetched(fetch: Callable[[str], Awaitable[ListPage]], url: str) -> ListPage:
    return await fetch(url)


def _shown(link: str) -> str:
    return repr(link if len(link) <= 200 else link[:200] + "…")


class _Items(Generic[T]):
    """Item after item. A class and not a generator: leaving a loop drops it, and that ends all it has begun."""

    __slots__ = ("_hook", "_model", "_position", "_walk")

    def __init__(self, walk: _Walk[T]) -> None:
        self._walk = walk
        self._position = walk.position
        # Taken out here: this is done for every message of a history.
        self._hook, self._model = walk.listing.reader.hook, walk.listing.reader.model

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        position = self._position
        offset = position.offset
        while offset >= len(position.items):
            if not await self._walk.advance():
                raise StopAsyncIteration
            offset = position.offset
        try:
            item = self._hook(position.items[offset], self._model)
        except UNREADABLE as exc:
            failure = self._walk.listing.unreadable(exc, offset)
        else:
            position.offset = offset + 1
            return item
        raise failure

    async def aclose(self) -> None:
        await self._walk.aclose()


class _Pages(Generic[T]):
    """Page after page; otherwise as ``_Items``."""

    __slots__ = ("_turn", "_walk")

    def __init__(self, walk: _Walk[T]) -> None:
        self._walk = walk
        self._turn = asyncio.Lock()

    def __aiter__(self) -> AsyncIterator[Page[T]]:
        return self

    async def __anext__(self) -> Page[T]:
        async with self._turn:
            return await self._next()

    async def _next(self) -> Page[T]:
        listing, position = self._walk.listing, self._walk.position
        # A page that could not be read is still there: it must not be skipped.
        if position.offset >= len(position.items) and not await self._walk.advance():
            raise StopAsyncIteration
        items: list[T] = []
        for index in range(position.offset, len(position.items)):
            try:
                items.append(listing.reader.hook(position.items[index], listing.reader.model))
            except UNREADABLE as exc:
                failure = listing.unreadable(exc, index)
                break
        else:
            failure = None
        if failure is not None:
            raise failure
        position.offset = len(position.items)
        behind = position.cursor(listing.base) if position.next_url is not None else None
        return Page(items, None if behind is None else behind.encode(listing.name))

    async def aclose(self) -> None:
        await self._walk.aclose()


class Paginator(Generic[T]):
    """A list of any length, streamed.

    ``async for item in paginator`` holds at most two pages. With ``prefetch=1`` the next page is asked for while
    this one is consumed; with 0 it is not. Each loop begins anew, at the ``cursor`` that the list was asked for
    with. Leaving a loop early leaves nothing behind.

    Raises, while iterating: ``PaginationError`` for a next link that loops or leads to another origin,
    ``ResponseDecodeError`` with its place for an item that cannot be read, and whatever a request raises, each
    behind the last item before it.
    """

    def __init__(self, listing: Listing[T], *, cursor: str | None = None, prefetch: int = 1) -> None:
        if isinstance(prefetch, bool) or prefetch not in (0, 1):
            raise ConfigurationError("prefetch must be 0 or 1: how many pages to ask for ahead")
        self._listing = listing
        self._given = cursor
        self._start = None if cursor is None else _start_at(cursor, listing)
        self._prefetch = prefetch
        self._position: _Position | None = None

    @property
    def cursor(self) -> str | None:
        """Behind the last item that was given out: an opaque text. None before the first, if none was passed."""
        reached = self._position.cursor(self._listing.base) if self._position is not None else None
        return self._given if reached is None else reached.encode(self._listing.name)

    def __aiter__(self) -> AsyncIterator[T]:
        return _Items(self._begin(self._prefetch))

    def pages(self) -> AsyncIterator[Page[T]]:
        """The same list as whole pages. An empty page can come before the end."""
        return _Pages(self._begin(self._prefetch))

    async def collect(self, max_items: int | None = None) -> list[T]:
        """The items as a list, at most ``max_items``."""
        if max_items is not None and (isinstance(max_items, bool) or not isinstance(max_items, int) or max_items < 0):
            raise ConfigurationError("max_items must be a whole number of at least 0, or None for all")
        found: list[T] = []
        if max_items == 0:
            return found
        async for item in self:
            found.append(item)
            if len(found) == max_items:
                break
        return found

    async def first(self) -> T | None:
        """The first item, or None of an empty list. Asks for no page ahead."""
        async for item in _Items(self._begin(0)):
            return item
        return None

    def _begin(self, prefetch: int) -> _Walk[T]:
        walk = _Walk(self._listing, self._start, prefetch)
        self._position = walk.position
        return walk


def _start_at(cursor: str, listing: Listing[T]) -> Cursor:
    start = Cursor.decode(cursor, listing.name)
    url = listing.base.url(start.page)
    try:
        if listing.base.resolve(url, url) == url:
            return start
    except LinkError:
        pass
    raise ConfigurationError("cursor is damaged: pass the text of a paginator's .cursor as it was")
