"""Streaming a list item by item: constant memory, one page requested ahead, and a cursor to resume from."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

import attrs

from ._arguments import check_whole
from ._wire.codec import ListPage, Unreadable
from ._wire.cursors import DAMAGED, Cursor, UnusableCursor, id_in_cursor
from ._wire.lenient import BrokenItem
from ._wire.walk import Listing, PageFetcher, Position, id_at
from .errors import ConfigurationError, ResponseDecodeError

__all__ = ["Page", "Paginator", "UnreadableItem"]

T = TypeVar("T")
_log = logging.getLogger("basiq_async.pagination")


@attrs.frozen
class Page(Generic[T]):
    """One page. ``next_cursor`` resumes after it; None on the last page."""

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
        return self._on_unreadable(UnreadableItem(raw, failure, id_at(items, index)))

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
                # After the item only once it has been read, or replaced. It is no local variable any more: they can be
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

    def next_ready(self) -> T | None:
        """The next item where it is on the page and can be read; None where ``__anext__`` has to be asked."""
        position = self._position
        try:
            for item in position.left:
                return self._hook(item, self._model)
        except BaseException as exc:
            item = None
            position.offset -= 1  # ``__anext__`` reads it once more
            if not isinstance(exc, Exception):
                raise
        return None


class _Pages(_Reading[T]):
    """Page after page; otherwise as ``_Items``."""

    __slots__ = ("_lock",)

    def __init__(self, walk: PageFetcher[T], on_unreadable: OnUnreadable[T] | None) -> None:
        super().__init__(walk, on_unreadable)
        self._lock = asyncio.Lock()

    def __aiter__(self) -> AsyncIterator[Page[T]]:
        return self

    async def __anext__(self) -> Page[T]:
        async with self._lock:
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
        after = position.cursor(listing.base) if position.next_url is not None else None
        return Page(items, None if after is None else listing.encode(after))

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

    A list begins at its start, at a ``cursor``, or after the item with the id ``after``, which is looked for from
    the start. With both, the item is looked for where the cursor cannot be opened. Links to pages expire: where Basiq
    refuses one (400, 404, 410), the list is read from its start, to resume after the last item by its id.

    Raises while iterating, after the last item before the fault:

    - ``PaginationError`` for a next link that loops or leads to another origin, and where the item to resume after is
      no longer in the list.
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
        self._position: Position | None = None

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


def watch_pages(paginator: Paginator[T], on_page: Callable[[str, ListPage], ListPage]) -> None:
    """Have ``on_page`` see each page of a paginator that was not begun, with its url, and say what is to be read of it.

    A page that was requested again, after a cancellation, comes again.
    """
    listing = paginator._listing
    fetch = listing.fetch

    async def watched(url: str) -> ListPage:
        return on_page(url, await fetch(url))

    paginator._listing = attrs.evolve(listing, fetch=watched)


def take_ready(items: AsyncIterator[T]) -> Callable[[], T | None]:
    """Return a function that returns the next item of a paginator's loop, and None where that needs waiting."""
    return items.next_ready if isinstance(items, _Items) else _nothing_ready


def _nothing_ready() -> None:
    return None


def seeks_item(paginator: Paginator[T]) -> bool:
    """Whether a paginator that was begun looks for the item to resume after, and does not merely begin with a page."""
    return paginator._position is not None and paginator._position.resume_target is not None


def count_restarts(paginator: Paginator[T]) -> int:
    """How often a paginator began the list again, because a page of it was lost."""
    return 0 if paginator._position is None else paginator._position.restarts


def last_raw(paginator: Paginator[T]) -> object:
    """The JSON of the item that was passed last, as long as its page is there; else None."""
    position = paginator._position
    if position is not None and position.resume_target is not None:
        return position.resume_raw
    if position is None or not 0 < position.offset <= len(position.items):
        return None
    return position.items[position.offset - 1]


def _start_at(listing: Listing[T], cursor: str | None, after: str | None) -> Cursor | None:
    """Where to begin. Raises ``ConfigurationError``."""
    if after is not None and (not isinstance(after, str) or not after):
        raise ConfigurationError("after must be the id of an item of the list, as text")
    item_id = None if after is None else id_in_cursor(after)
    if cursor is None:
        return None if item_id is None else listing.after(item_id)
    opened = listing.seal.open(cursor, listing.name)
    if isinstance(opened, Cursor):
        if listing.has_page(listing.base.url(opened.page)):
            return opened if item_id is None or opened.after is not None else attrs.evolve(opened, after=item_id)
        opened = UnusableCursor(DAMAGED)
    if item_id is None or opened.elsewhere:
        raise ConfigurationError(opened.text)
    _log.info("%s; walking the list to the item %r", opened.text, item_id, extra={"item_id": item_id})
    return listing.after(item_id)
