"""Stream a list item by item, in constant memory, with one page requested ahead and a cursor to resume from."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeAlias, TypeVar

import attrs

from ._arguments import check_whole
from ._wire.broken_items import BrokenItem
from ._wire.codec import Unreadable
from ._wire.cursors import DAMAGED, Cursor, UnusableCursor, id_in_cursor
from ._wire.paging import Listing, PageFetcher, Position, id_at
from .errors import ConfigurationError, ResponseDecodeError

__all__ = ["Page", "Paginator", "UnreadableItem"]

T = TypeVar("T")
_log = logging.getLogger("basiq_async.pagination")


@attrs.frozen
class Page(Generic[T]):
    """One page of a list. ``next_cursor`` is the cursor to resume after this page; None on the last page."""

    items: Sequence[T]
    next_cursor: str | None


@attrs.frozen
class UnreadableItem:
    """An item of a list that cannot be read.

    ``raw`` is its JSON value as Basiq sent it. If the item is not JSON, ``raw`` is its text, up to 65,536 characters.
    ``error`` says what is wrong, and in which part of the item. ``id`` is the item's id, or None if it cannot be read.
    """

    raw: Any = attrs.field(repr=False)
    error: ResponseDecodeError
    id: str | None


OnUnreadable: TypeAlias = Callable[[UnreadableItem], T | None]
"""Called for an item that cannot be read. Returns an item to yield instead, or None to skip it, or raises."""


class _Reading(Generic[T]):
    """Reads the items of a list from the pages that a ``PageFetcher`` requests."""

    __slots__ = ("_fetcher", "_hook", "_model", "_on_unreadable", "_position")

    def __init__(self, fetcher: PageFetcher[T], on_unreadable: OnUnreadable[T] | None) -> None:
        self._fetcher = fetcher
        self._position = fetcher.position
        self._on_unreadable = on_unreadable
        # Looked up once, because they are used for every message of a history.
        self._hook, self._model = fetcher.listing.reader.hook, fetcher.listing.reader.model

    def _replace(self, index: int, failure: ResponseDecodeError) -> T | None:
        """Return what ``on_unreadable`` returns for an item. Raises the failure if ``on_unreadable`` is None."""
        if self._on_unreadable is None:
            raise failure
        items = self._position.items
        item = items[index]
        raw = item.text if isinstance(item, BrokenItem) else item
        return self._on_unreadable(UnreadableItem(raw, failure, id_at(items, index)))

    async def aclose(self) -> None:
        """Cancel the request for the next page."""
        await self._fetcher.aclose()


class _Items(_Reading[T]):
    """An iterator over items. It is a class and no generator, so that leaving a loop frees it and all it started."""

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
                # The position moves past the item only once it was read or replaced. The local variable is cleared
                # because error reports show local variables, and an item can hold a secret.
                item = None
                offset = position.offset = position.offset - 1
                if not isinstance(exc, Unreadable):
                    raise
                failure = self._fetcher.listing.explain(exc, offset)
            else:
                if not await self._fetcher.advance():
                    raise StopAsyncIteration
                continue
            replacement = self._replace(offset, failure)
            position.offset = offset + 1
            if replacement is not None:
                return replacement


class _Pages(_Reading[T]):
    """An iterator over whole pages."""

    __slots__ = ("_lock",)

    def __init__(self, fetcher: PageFetcher[T], on_unreadable: OnUnreadable[T] | None) -> None:
        super().__init__(fetcher, on_unreadable)
        self._lock = asyncio.Lock()

    def __aiter__(self) -> AsyncIterator[Page[T]]:
        return self

    async def __anext__(self) -> Page[T]:
        async with self._lock:
            return await self._next()

    async def _next(self) -> Page[T]:
        listing, position = self._fetcher.listing, self._position
        # The rest of a page that could not be read comes first: it must not be skipped.
        if position.offset >= len(position.items) and not await self._fetcher.advance():
            raise StopAsyncIteration
        hook, model, offset = self._hook, self._model, position.offset
        try:
            items = [hook(item, model) for item in (position.items[offset:] if offset else position.items)]
        except Unreadable:
            items = self._read_one_by_one(offset)
        position.offset = len(position.items)
        after = position.next_page(listing.base)
        return Page(items, None if after is None else listing.encode(after))

    def _read_one_by_one(self, offset: int) -> list[T]:
        """Return the items of a page on which at least one cannot be read."""
        items: list[T] = []
        for index in range(offset, len(self._position.items)):
            try:
                items.append(self._hook(self._position.items[index], self._model))
                continue
            except Unreadable as exc:
                failure = self._fetcher.listing.explain(exc, index)
            replacement = self._replace(index, failure)
            if replacement is not None:
                items.append(replacement)
        return items


class Paginator(Generic[T]):
    """A list of any length, streamed.

    ``async for item in paginator`` holds at most two pages. With ``prefetch=1`` the next page is requested while
    the current one is consumed; with 0 it is not. Each loop starts again from the paginator's start. A loop that is
    left early leaves no request or task running.

    A paginator starts at the start of the list, at a ``cursor``, or after the item whose id is ``after``; it searches
    for this item from the start of the list. With both a ``cursor`` and ``after``, it searches for the item only if the
    cursor cannot be opened. Links to pages expire: if Basiq refuses one (400, 404, 410), the list is read again from
    its start, and resumes after the last item by its id.

    Iteration yields all items before a fault, and then raises:

    - ``PaginationError`` for a next link that loops or leads to another origin, and if the item to resume after is no
      longer in the list.
    - ``ResponseDecodeError``, with its ``location``, for an item that cannot be read. To continue past such items, pass
      ``on_unreadable``: it is called with an ``UnreadableItem``, and returns an item to yield instead, or None to skip
      the item. If it raises, the loop ends before the item.
    - The errors of requests.
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
        if type(prefetch) is not int or prefetch not in (0, 1):
            raise ConfigurationError("prefetch must be a whole number from 0 to 1, how many pages to request ahead")
        if on_unreadable is not None and not callable(on_unreadable):
            raise ConfigurationError("on_unreadable must be a function that accepts an UnreadableItem, or None")
        self._listing = listing
        self._prefetch = prefetch
        self._on_unreadable = on_unreadable
        self._start = None if cursor is None and after is None else _start_at(listing, cursor, after)
        self._position: Position | None = None

    @property
    def cursor(self) -> str | None:
        """The position after the last item that was yielded, as an opaque text. None at the start of the list.

        It is sealed with a key derived from the API key: a client with another API key cannot open it.
        """
        reached = self._position.cursor(self._listing.base) if self._position is not None else None
        reached = reached or self._start
        return None if reached is None else self._listing.encode(reached)

    @property
    def last_id(self) -> str | None:
        """The id of the last item that was yielded or skipped, for ``after``. It stays valid with a new API key."""
        reached = self._position.last_id if self._position is not None else None
        return self._start.after if reached is None and self._start is not None else reached

    if not TYPE_CHECKING:  # a type checker refuses the await itself

        def __await__(self) -> NoReturn:
            raise ConfigurationError("a list is not awaited: use async for, or await its collect() or first()")

    def __aiter__(self) -> AsyncIterator[T]:
        return _Items(self._begin(self._prefetch), self._on_unreadable)

    def pages(self) -> AsyncIterator[Page[T]]:
        """Iterate over the list page by page. Pages before the last one can be empty."""
        return _Pages(self._begin(self._prefetch), self._on_unreadable)

    async def collect(self, max_items: int | None = None) -> list[T]:
        """Return the items as a list, at most ``max_items``."""
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
        """Return the first item, or None if the list is empty. Requests no page ahead."""
        async for item in _Items(self._begin(0), self._on_unreadable):
            return item
        return None

    def _begin(self, prefetch: int) -> PageFetcher[T]:
        fetcher = PageFetcher(self._listing, self._start, prefetch)
        self._position = fetcher.position
        return fetcher


def _start_at(listing: Listing[T], cursor: str | None, after: str | None) -> Cursor | None:
    """Return the position to start at; None is the start of the list. Raises ``ConfigurationError``."""
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
    _log.info("%s; searching the list for the item %r", opened.text, item_id, extra={"item_id": item_id})
    return listing.after(item_id)
