"""Streaming a list page by page: constant memory, one page requested ahead, and a cursor to go on from."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from operator import length_hint
from typing import Any, Generic, TypeAlias, TypeVar

import attrs

from ._arguments import check_whole
from ._concurrency.tasks import TaskOwner, result_of
from ._wire.codec import ListPage, Reader, Unreadable
from ._wire.cursors import ANYWHERE, DAMAGED, MAX_ID, Cursor, CursorSeal, Refusal, id_in_cursor
from ._wire.lenient import BrokenItem
from ._wire.urls import BaseURL, LinkError
from .errors import APIError, BasiqError, ConfigurationError, PaginationError, ResponseDecodeError

__all__ = ["Page", "Paginator", "UnreadableItem"]

T = TypeVar("T")
_log = logging.getLogger("basiq_async.pagination")
_MOST_EMPTY = 10_000
"""Empty pages in a row, as a filter can make them; more of them are a server that has lost its way."""
_REFUSED_PAGE = (400, 404, 410)
"""Statuses that can mean: this page's link is no longer valid."""


@attrs.frozen
class Page(Generic[T]):
    """One page. ``next_cursor`` goes on behind it; None on the last page."""

    items: Sequence[T]
    next_cursor: str | None


@attrs.frozen
class UnreadableItem:
    """An item of a list that cannot be read.

    ``raw`` is its JSON value as it came, and ``error`` says where the fault is and what. Of an item that is not JSON,
    ``raw`` is the text, up to 65,536 characters. ``id`` is the item's id, where that much can be read.
    """

    raw: Any = attrs.field(repr=False)
    error: ResponseDecodeError
    id: str | None


OnUnreadable: TypeAlias = Callable[[UnreadableItem], T | None]
"""Called for an item that cannot be read. Returns an item in its place, None to go past it, or raises."""


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
    seal: CursorSeal
    redact: Callable[[str], str] = str
    """Takes credentials out of a link that is shown."""

    def explain(self, exc: Unreadable, index: int) -> ResponseDecodeError:
        """The error for an item that cannot be read."""
        failure = self.reader.explain(exc, index)
        failure.method, failure.path = "GET", self.base.path_of(self.start)
        return failure

    def encode(self, cursor: Cursor) -> str:
        """The text of a cursor of this list. One whose page has another path keeps the item alone."""
        if not self.has_page(self.base.url(cursor.page)):
            cursor = self.behind(cursor.after) if cursor.after else Cursor(self.base.relative(self.start))
        return self.seal.seal(cursor, self.name)

    def behind(self, item_id: str) -> Cursor:
        """The place behind an item, wherever in the list it is."""
        return Cursor(self.base.relative(self.start), ANYWHERE, item_id)

    def has_page(self, url: str) -> bool:
        """Whether a url is a page of this list, and may be requested."""
        try:
            return self.base.resolve(url, self.start) == url and self.base.have_same_path(url, self.start)
        except LinkError:
            return False


class _Position:
    """The page that is being consumed, and how far."""

    __slots__ = ("before", "items", "left", "next_url", "sought", "url")

    def __init__(self, url: str, sought: Cursor | None) -> None:
        self.url = url
        self.sought = sought
        """The item to stand behind, as long as its page has not been found."""
        self.items: list[Any] = []
        self.left = iter(self.items)
        """The items that have not been passed yet. A loop takes them from here, which no count could keep up with."""
        self.next_url: str | None = url
        self.before: str | None = None
        """The id of the last item of the pages before this one."""

    def turn(self, url: str, items: list[Any]) -> None:
        """Go to the beginning of another page."""
        self.before = self.last_id
        self.url, self.items, self.left = url, items, iter(items)

    @property
    def offset(self) -> int:
        """How many items of this page have been passed."""
        return len(self.items) - length_hint(self.left)

    @offset.setter
    def offset(self, offset: int) -> None:
        self.left = iter(self.items[offset:] if offset else self.items)

    @property
    def last_id(self) -> str | None:
        """The id of the item that was passed last; of the one before it where that has none."""
        if self.sought is not None:
            return self.sought.after
        for index in range(min(self.offset, len(self.items)) - 1, -1, -1):
            found = _id_of(self.items, index)
            if found is not None:
                return found
        return self.before

    def cursor(self, base: BaseURL) -> Cursor | None:
        """None where no item has been passed yet."""
        if self.sought is not None or (not self.items and self.next_url == self.url):
            return None
        if self.offset >= len(self.items) and self.next_url is not None:
            return Cursor(base.relative(self.next_url), 0, self.last_id)
        return Cursor(base.relative(self.url), self.offset, _id_of(self.items, self.offset - 1))


def _id_of(items: list[Any], index: int) -> str | None:
    return raw_id(items[index]) if 0 <= index < len(items) else None


def raw_id(item: object) -> str | None:
    """The id of an item's JSON, as a cursor has it; None where it has none."""
    found = item.get("id") if isinstance(item, dict) else item.id if isinstance(item, BrokenItem) else None
    return id_in_cursor(found if isinstance(found, str) else json.dumps(found)) if found is not None else None


class PageFetcher(Generic[T]):
    """From page to page. Owns the page that is requested ahead: dropping the walk cancels it."""

    def __init__(self, listing: Listing[T], start: Cursor | None, prefetch: int) -> None:
        self.listing = listing
        url = listing.start if start is None else listing.base.url(start.page)
        self.position = _Position(url, start if start is not None and start.offset else None)
        self._again = start.after if start is not None and start.offset != ANYWHERE else None
        """The item to look for from the start of the list, should the cursor's page be refused."""
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
                raise PaginationError(
                    f"the item {position.sought.after!r}, behind which to go on, is not in the list; begin at its start"
                )
            return False
        ahead, self._ahead = self._ahead, None
        found: str | None = None
        try:
            page = await (self.listing.fetch(url) if ahead is None else result_of(ahead))
        except BasiqError as exc:
            found = self._item_to_find(exc, url)
            if found is None:
                if self.listing.redact(url) != url:
                    # A server can send our own token back in a link, and reporters show the frames' variables.
                    del url, ahead
                    raise exc.with_traceback(None) from exc.__cause__
                raise
            page = None
        if page is None:
            url = self._begin_again(found)
            page = await self.listing.fetch(url)
        self._seen.add(hash(url))
        self._pages += 1
        self._empty = 0 if page.items else self._empty + 1
        position.turn(url, page.items)
        position.next_url = self._resolve(page.next_link, url)
        if position.sought is not None:
            self._seek(position.sought)
        if position.next_url is not None and self._prefetch:
            self._ahead = self.listing.owner.spawn(_fetch(self.listing.fetch, position.next_url))
            # A consumer that never waits would not let it begin before the end of this page.
            await asyncio.sleep(0)
        return True

    def _item_to_find(self, exc: BasiqError, url: str) -> str | None:
        """The item to look for from the start of the list, where the cursor's page can no longer be requested."""
        if self._pages or url == self.listing.start or not isinstance(exc, APIError) or exc.status not in _REFUSED_PAGE:
            return None
        if self._again is not None:
            _log.info(
                "the page of the cursor was refused (%d); walking the list to the item %r",
                exc.status,
                self._again,
                extra={"http_status": exc.status, "correlation_id": exc.correlation_id, "item_id": self._again},
            )
        return self._again

    def _begin_again(self, item_id: str | None) -> str:
        """Go back to the start of the list, to look for an item. Returns the url of its first page."""
        self._again = None
        self.position.sought = self.listing.behind(item_id or "")
        self.position.url = self.position.next_url = self.listing.start
        return self.listing.start

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
            self._error = self._refuse(link, f"{exc}; it was not followed")
            return None
        if self._empty > _MOST_EMPTY:
            self._error = self._refuse(link, f"comes after {self._empty} empty pages in a row")
            return None
        if hash(url) in self._seen:
            self._error = self._refuse(link, "loops: its page has been read")
            return None
        return url

    def _refuse(self, link: str, why: str) -> PaginationError:
        redact = self.listing.redact
        shown = redact(link)
        return PaginationError(f"the next link {_shorten(shown)} {redact(why)}", link=shown)

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
        """Give up the page that was requested ahead."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and not ahead.done() and not ahead.get_loop().is_closed():
            ahead.cancel()
        return ahead

    async def aclose(self) -> None:
        """Give up the page that was requested ahead, and wait until its request has ended."""
        ahead = self.cancel()
        if ahead is not None:
            await asyncio.wait([ahead])

    def __del__(self) -> None:
        self.cancel()


async def _fetch(fetch: Callable[[str], Awaitable[ListPage]], url: str) -> ListPage:
    return await fetch(url)


def _shorten(link: str) -> str:
    return repr(link if len(link) <= 200 else link[:200] + "…")


class _Reading(Generic[T]):
    """Reads the items of a walk one by one."""

    __slots__ = ("_hook", "_model", "_on_unreadable", "_position", "_walk")

    def __init__(self, walk: PageFetcher[T], on_unreadable: OnUnreadable[T] | None) -> None:
        self._walk = walk
        self._position = walk.position
        self._on_unreadable = on_unreadable
        # Taken out here: this is done for every message of a history.
        self._hook, self._model = walk.listing.reader.hook, walk.listing.reader.model

    def _replace(self, index: int, failure: ResponseDecodeError) -> T | None:
        """What the caller puts in the place of an item that cannot be read; raises where there is no such caller."""
        if self._on_unreadable is None:
            raise failure
        items = self._position.items
        item = items[index]
        raw = item.text if isinstance(item, BrokenItem) else item
        return self._on_unreadable(UnreadableItem(raw, failure, _id_of(items, index)))

    async def aclose(self) -> None:
        """Leave the list."""
        await self._walk.aclose()


class _Items(_Reading[T]):
    """Item after item. A class and not a generator: leaving a loop drops it, and that ends all it has begun."""

    __slots__ = ()

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        position = self._position
        while True:
            try:
                for item in position.left:
                    return self._hook(item, self._model)
            except BaseException as exc:
                # Behind the item only once it has been read, or replaced. It is no local variable any more: they can be
                # seen in reports, and an item can hold a secret.
                item = None
                offset = position.offset = position.offset - 1
                if not isinstance(exc, Unreadable):
                    raise
                failure = self._walk.listing.explain(exc, offset)
            else:
                if not await self._walk.advance():
                    raise StopAsyncIteration
                continue
            replacement = self._replace(offset, failure)
            position.offset = offset + 1
            if replacement is not None:
                return replacement


class _Pages(_Reading[T]):
    """Page after page; otherwise as ``_Items``."""

    __slots__ = ("_turn",)

    def __init__(self, walk: PageFetcher[T], on_unreadable: OnUnreadable[T] | None) -> None:
        super().__init__(walk, on_unreadable)
        self._turn = asyncio.Lock()

    def __aiter__(self) -> AsyncIterator[Page[T]]:
        return self

    async def __anext__(self) -> Page[T]:
        async with self._turn:
            return await self._next()

    async def _next(self) -> Page[T]:
        listing, position = self._walk.listing, self._position
        # A page that could not be read is still there: it must not be skipped.
        if position.offset >= len(position.items) and not await self._walk.advance():
            raise StopAsyncIteration
        hook, model, offset = self._hook, self._model, position.offset
        try:
            items = [hook(item, model) for item in (position.items[offset:] if offset else position.items)]
        except Unreadable:
            items = self._read_one_by_one(offset)
        position.offset = len(position.items)
        behind = position.cursor(listing.base) if position.next_url is not None else None
        return Page(items, None if behind is None else listing.encode(behind))

    def _read_one_by_one(self, offset: int) -> list[T]:
        """The items of a page with one that cannot be read."""
        items: list[T] = []
        for index in range(offset, len(self._position.items)):
            try:
                items.append(self._hook(self._position.items[index], self._model))
                continue
            except Unreadable as exc:
                failure = self._walk.listing.explain(exc, index)
            replacement = self._replace(index, failure)
            if replacement is not None:
                items.append(replacement)
        return items


class Paginator(Generic[T]):
    """A list of any length, streamed.

    ``async for item in paginator`` holds at most two pages. With ``prefetch=1`` the next page is requested while
    this one is consumed; with 0 it is not. Each loop begins anew, where the list was asked to begin. Leaving a loop
    early leaves nothing behind.

    A list begins at its start, at a ``cursor``, or behind the item with the id ``after``, which is looked for from
    the start. With both, the item is looked for where the cursor cannot be opened. A cursor whose page can no longer
    be requested (400, 404, 410) finds its item by itself in the same way.

    Raises while iterating, after the last item before the fault:

    - ``PaginationError`` for a next link that loops or leads to another origin, and where the item to go on behind is
      not in the list.
    - ``ResponseDecodeError``, with its place, for an item that cannot be read. ``on_unreadable`` gets past it: it is
      called with an ``UnreadableItem``, and returns an item to yield in its place, or None. What it raises ends the
      loop in front of the item.
    - What a request raises.
    """

    def __init__(
        self,
        listing: Listing[T],
        *,
        cursor: str | None = None,
        after: str | None = None,
        prefetch: int = 1,
        on_unreadable: OnUnreadable[T] | None = None,
    ) -> None:
        check_whole("prefetch", prefetch, most=1, or_else="how many pages to request ahead")
        if on_unreadable is not None and not callable(on_unreadable):
            raise ConfigurationError("on_unreadable must be a function that takes an UnreadableItem, or None")
        self._listing = listing
        self._prefetch = prefetch
        self._on_unreadable = on_unreadable
        self._start = _start_at(listing, cursor, after)
        self._position: _Position | None = None

    @property
    def cursor(self) -> str | None:
        """Behind the last item that was yielded: an opaque text. None at the start of the list.

        It is sealed with a key derived from the API key: a client with another key cannot open it.
        """
        reached = self._position.cursor(self._listing.base) if self._position is not None else None
        reached = reached or self._start
        return None if reached is None else self._listing.encode(reached)

    @property
    def last_id(self) -> str | None:
        """The id of the last item that was passed, for ``after``. It survives a new API key, as a cursor does not."""
        reached = self._position.last_id if self._position is not None else None
        return self._start.after if reached is None and self._start is not None else reached

    def __aiter__(self) -> AsyncIterator[T]:
        return _Items(self._begin(self._prefetch), self._on_unreadable)

    def pages(self) -> AsyncIterator[Page[T]]:
        """The same list as whole pages. An empty page can come before the end."""
        return _Pages(self._begin(self._prefetch), self._on_unreadable)

    async def collect(self, max_items: int | None = None) -> list[T]:
        """The items as a list, at most ``max_items``."""
        if max_items is not None:
            check_whole("max_items", max_items, or_else="or None for all")
        found: list[T] = []
        if max_items == 0:
            return found
        async for item in self:
            found.append(item)
            if len(found) == max_items:
                break
        return found

    async def first(self) -> T | None:
        """The first item, or None of an empty list. Requests no page ahead."""
        async for item in _Items(self._begin(0), self._on_unreadable):
            return item
        return None

    def _begin(self, prefetch: int) -> PageFetcher[T]:
        walk = PageFetcher(self._listing, self._start, prefetch)
        self._position = walk.position
        return walk


def raw_ids(items: list[Any]) -> list[str | None]:
    """``raw_id`` of each item of a page."""
    return [
        found if type(item) is dict and type(found := item.get("id")) is str and len(found) <= MAX_ID else raw_id(item)
        for item in items
    ]


def watch_pages(paginator: Paginator[T], on_page: Callable[[str, ListPage], ListPage]) -> None:
    """Have ``on_page`` see each page of a paginator that was not begun, with its url, and say what is to be read of it.

    A page that was requested again, after a cancellation, comes again.
    """
    listing = paginator._listing
    fetch = listing.fetch

    async def watched(url: str) -> ListPage:
        return on_page(url, await fetch(url))

    paginator._listing = attrs.evolve(listing, fetch=watched)


def seeks_item(paginator: Paginator[T]) -> bool:
    """Whether a paginator that was begun looks for the item to begin behind, and does not merely begin with a page."""
    return paginator._position is not None and paginator._position.sought is not None


def last_raw(paginator: Paginator[T]) -> object:
    """The JSON of the item that was passed last, as long as its page is there; else None."""
    position = paginator._position
    if position is None or not 0 < position.offset <= len(position.items):
        return None
    return position.items[position.offset - 1]


def _start_at(listing: Listing[T], cursor: str | None, after: str | None) -> Cursor | None:
    """Where to begin. Raises ``ConfigurationError``."""
    if after is not None and (not isinstance(after, str) or not after):
        raise ConfigurationError("after must be the id of an item of the list, as text")
    item_id = None if after is None else id_in_cursor(after)
    if cursor is None:
        return None if item_id is None else listing.behind(item_id)
    opened = listing.seal.open(cursor, listing.name)
    if isinstance(opened, Cursor):
        if listing.has_page(listing.base.url(opened.page)):
            return opened if item_id is None or opened.after is not None else attrs.evolve(opened, after=item_id)
        opened = Refusal(DAMAGED)
    if item_id is None or opened.elsewhere:
        raise ConfigurationError(opened.text)
    _log.info("%s; walking the list to the item %r", opened.text, item_id, extra={"item_id": item_id})
    return listing.behind(item_id)
