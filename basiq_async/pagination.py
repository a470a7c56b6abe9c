"""Stream a list item by item, in constant memory, with one page requested ahead and a cursor to resume from."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from operator import length_hint
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeAlias, TypeVar

import attrs

from ._arguments import check_whole
from ._wire.broken_items import BrokenItem
from ._wire.codec import ListPage, Unreadable
from ._wire.cursors import ANYWHERE, DAMAGED, Cursor
from ._wire.paging import Listing, PageRequests, id_at, is_lost, raw_id
from ._wire.urls import BaseURL
from .errors import BasiqError, ConfigurationError, PaginationError, ResponseDecodeError

__all__ = ["Page", "Paginator", "UnreadableItem"]

T = TypeVar("T")
_log = logging.getLogger("basiq_async.pagination")


@attrs.frozen
class Page(Generic[T]):
    """One page of a list. ``next_cursor`` is the cursor to resume after this page; None on the last page.

    Like ``Paginator.cursor`` it names the last item, and the page that holds it, which is requested again.
    """

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


def unreadable_item(item: object, error: ResponseDecodeError) -> UnreadableItem:
    """Return what is yielded for an item of a page that cannot be read."""
    return UnreadableItem(item.text if isinstance(item, BrokenItem) else item, error, raw_id(item))


OnUnreadable: TypeAlias = Callable[[UnreadableItem], T | None]
"""Called for an item that cannot be read. Returns an item to yield instead, or None to skip it, or raises."""


@attrs.define(eq=False, repr=False)
class _Place:
    """The place of a loop in its list: the page that it consumes, and how many items of this page it has consumed.

    left: an iterator over the items that were not consumed yet. A loop consumes it directly: that is faster than
        counting.
    before: the id of the last item of the pages before this one. ``passed``: the cursor of that item.

    No field has a repr: reporters of errors show fields, and an item can hold a secret.
    """

    url: str = attrs.field(repr=False)
    before: str | None = attrs.field(repr=False)
    next_url: str | None = attrs.field(repr=False)
    items: list[Any] = attrs.field(factory=list, repr=False)
    left: Iterator[Any] = attrs.field(factory=().__iter__, repr=False)
    passed: Cursor | None = attrs.field(default=None, repr=False)

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
        ids = (id_at(self.items, index) for index in range(self.offset - 1, -1, -1))
        return next((found for found in ids if found is not None), self.before)

    def cursor(self, base: BaseURL) -> Cursor | None:
        """Return the cursor of this place: the page that holds the last item, and its id. None without an item.

        The next page is no such place: what moved to the page before it would be skipped.
        """
        offset = self.offset
        return Cursor(base.relative(self.url), offset, id_at(self.items, offset - 1)) if offset else self.passed

    def next_page(self, base: BaseURL) -> Cursor | None:
        """Return the cursor of the next page, which is requested alone; None at the end."""
        return None if self.next_url is None else Cursor(base.relative(self.next_url), 0, self.last_id)

    def leave_page(self, base: BaseURL) -> None:
        """Forget the items of this page, but not the cursor of the last one.

        The next page is decoded afterwards: a page at a time is faster, because its memory is used again.
        """
        self.passed, self.before = self.cursor(base), self.last_id
        self.items = []
        self.left = iter(self.items)


def _find_place(items: list[Any], cursor: Cursor) -> int | None:
    """Return the place after the cursor's item on a page, where it can have moved since; None if it is not there."""
    last = cursor.offset - 1
    if last < len(items) and id_at(items, last) == cursor.after:
        return cursor.offset
    return next((i + 1 for i in reversed(range(len(items))) if id_at(items, i) == cursor.after), None)


class _Loop(Generic[T]):
    """Goes from page to page of a list."""

    def __init__(self, paginator: Paginator[T], prefetch: int) -> None:
        listing, start = paginator._listing, paginator._start
        self._listing = listing
        self._on_unreadable = paginator._on_unreadable
        # Looked up once, because they are used for every message of a history.
        self._hook, self._model = listing.reader.hook, listing.reader.model
        url = listing.start if start is None else listing.url(start.page)
        self._place = paginator._place = _Place(url, None if start is None else start.after, url)
        self._sought = start if start is not None and start.offset else None
        """The item to resume after, until it has been found."""
        self._looked_for: str | None = None
        """The last item that was searched for from the start of the list: a second search would not find it either."""
        self._prefetch = prefetch
        self._requests = PageRequests(listing)
        self._seen: set[int] = set()
        self._error: BasiqError | None = None
        self._lock = asyncio.Lock()
        self._pages = 0

    async def _advance(self) -> bool:
        """Go to the next page; return False at the end. After a failure or a cancellation it can be called again.

        The caller holds the lock.
        """
        if self._error is not None:
            raise self._error
        place, url = self._place, self._place.next_url
        if url is None and self._sought is None:
            return False
        if place.items:
            place.leave_page(self._listing.base)
        if url is not None and self._sought is None:
            try:
                await self._enter(url, await self._requests.fetch(url))
            except BasiqError as exc:
                if not self._can_search(exc, url):
                    raise
                self._sought = self._listing.after(place.last_id or "")
        if self._sought is not None:
            await self._find(self._sought)
        return True

    async def _enter(self, url: str, page: ListPage, offset: int = 0) -> None:
        """Make a page the one to consume, from an offset on, and request the next one ahead."""
        place = self._place
        self._sought = None
        self._pages += 1
        self._seen.add(hash(url))
        place.next_url = self._error = None
        if page.next_link is not None:
            place.next_url, self._error = self._listing.resolve(page.next_link, url, self._seen)
        place.url, place.items = url, page.items
        place.left = iter(page.items[offset:] if offset else page.items)
        if place.next_url is not None and self._prefetch:
            self._requests.request_ahead(place.next_url)
            # A consumer that never awaits would not let the request start before the end of this page.
            await asyncio.sleep(0)

    async def _find(self, sought: Cursor) -> None:
        """Go to the place after an item: on the cursor's page or a later one, else on any page of the list."""
        listing = self._listing
        first = listing.url(sought.page)
        for start in (first, listing.start)[: 1 if first == listing.start or sought.after is None else 2]:
            self._seen.clear()
            if start != first or sought.offset == ANYWHERE:
                self._looked_for = sought.after
            url: str | None = start
            while url is not None:
                try:
                    page = await self._requests.fetch(url)
                except BasiqError as exc:
                    if start == listing.start or not self._can_search(exc, url):
                        raise
                    break
                offset = _find_place(page.items, sought)
                if offset is not None:
                    return await self._enter(url, page, offset)
                self._seen.add(hash(url))
                url, error = listing.resolve(page.next_link, url, self._seen)
                if error is not None:
                    raise error
                if self._prefetch:
                    self._requests.request_ahead(url)
        raise PaginationError(
            f"cannot resume: item {sought.after!r} is no longer in the list. Start again without cursor="
        )

    def _can_search(self, exc: BasiqError, url: str) -> bool:
        """Return whether to search for the last item from the start of the list, because its next page was refused."""
        item_id = self._place.last_id
        if url == self._listing.start or not is_lost(exc) or item_id is None or item_id == self._looked_for:
            return False
        _log.info(
            "a page of the list was refused with status %d; reading the list again from its start to the item %r",
            exc.status,
            item_id,
            extra={"http_status": exc.status, "correlation_id": exc.correlation_id, "item_id": item_id},
        )
        return True

    def _read_odd(self, index: int) -> T | None:
        """Read an item that may be unreadable: return what ``on_unreadable`` returns for it, or raise the failure."""
        place = self._place  # and no item: error reports show local variables
        try:
            return self._hook(place.items[index], self._model)
        except Unreadable as exc:
            failure = self._listing.explain(exc, index)
        if self._on_unreadable is None:
            raise failure
        return self._on_unreadable(unreadable_item(place.items[index], failure))

    async def aclose(self) -> None:
        """Cancel the request for the page ahead, and wait until it has ended."""
        ahead = self._requests.forget_ahead()
        if ahead is not None:
            await asyncio.wait([ahead])


class _Items(_Loop[T]):
    """An iterator over items. It is a class and no generator, so that leaving a loop frees it and all it started."""

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        place = self._place
        while True:
            try:
                for item in place.left:
                    return self._hook(item, self._model)
            except BaseException as exc:
                # The place moves past the item only once it was read or replaced. The local variable is cleared
                # because error reports show local variables, and an item can hold a secret.
                item = None
                offset = place.offset = place.offset - 1
                if not isinstance(exc, Unreadable):
                    raise
            else:
                pages = self._pages
                async with self._lock:
                    # Of several tasks that share this iterator, one requests the page, for all.
                    if self._pages == pages and not await self._advance():
                        raise StopAsyncIteration
                continue
            replacement = self._read_odd(offset)
            place.offset = offset + 1
            if replacement is not None:
                return replacement


class _Pages(_Loop[T]):
    """An iterator over whole pages."""

    def __aiter__(self) -> AsyncIterator[Page[T]]:
        return self

    async def __anext__(self) -> Page[T]:
        listing, place = self._listing, self._place
        async with self._lock:
            # The rest of a page that could not be read comes first: it must not be skipped.
            if place.offset >= len(place.items) and not await self._advance():
                raise StopAsyncIteration
            hook, model, offset = self._hook, self._model, place.offset
            items: list[T] | None = None
            # The frames of an ``Unreadable`` hold the item: no other error has it as its context.
            with suppress(Unreadable):
                items = [hook(item, model) for item in (place.items[offset:] if offset else place.items)]
            if items is None:
                # ``map`` has no frame, in which a failure would show the items before it.
                read = list(map(self._read_odd, range(offset, len(place.items))))
                items = [item for item in read if item is not None]
            place.offset = len(place.items)
            more = place.next_url is not None
            after = place.cursor(listing.base) or place.next_page(listing.base) if more else None
            return Page(items, None if after is None else listing.encode(after))


class Paginator(Generic[T]):
    """A list of any length, streamed.

    ``async for item in paginator`` holds at most two pages. With ``prefetch=1`` the next page is requested while
    the current one is consumed; with 0 it is not. Each loop starts again from the paginator's start. A loop that is
    left early leaves no request or task running.

    A paginator starts at the start of the list, or at a ``cursor``. Links to pages expire: if Basiq refuses one (400,
    404, 410), the list is read again from its start, and resumes after the last item by its id.

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
        self._start = None if cursor is None else _open(listing, cursor)
        self._place: _Place | None = None

    @property
    def cursor(self) -> str | None:
        """The place after the last item that was yielded, as an opaque text. None at the start of the list.

        It is sealed with a key derived from the API key: a client with another API key cannot open it.
        """
        reached = self._place.cursor(self._listing.base) if self._place is not None else None
        reached = reached or self._start
        return None if reached is None else self._listing.encode(reached)

    @property
    def _next_page(self) -> str | None:
        """Cursor of the next page; None on the last. Items that slipped back a page are missed."""
        after = None if self._place is None else self._place.next_page(self._listing.base)
        return None if after is None else self._listing.encode(after)

    if not TYPE_CHECKING:  # a type checker refuses them itself

        def __iter__(self) -> NoReturn:
            raise ConfigurationError("a list is read with `async for`, not with `for`; or await its collect()")

        def __await__(self) -> NoReturn:
            raise ConfigurationError("a list is not awaited: use async for, or await its collect() or first()")

    def __aiter__(self) -> AsyncIterator[T]:
        return _Items(self, self._prefetch)

    def pages(self) -> AsyncIterator[Page[T]]:
        """Iterate over the list page by page. Pages before the last one can be empty."""
        return _Pages(self, self._prefetch)

    async def collect(self, max_items: int | None = None) -> list[T]:
        """Return the items as a list, at most ``max_items``."""
        if max_items is not None:
            check_whole("max_items", max_items, or_else="or None for all")
        found: list[T] = []
        if max_items == 0:
            return found
        item: T | None = None
        try:
            async for item in self:
                found.append(item)
                if len(found) == max_items:
                    break
        except BaseException:
            del found, item  # error reports show local variables
            raise
        return found

    async def first(self) -> T | None:
        """Return the first item, or None if the list is empty. Requests no page ahead."""
        async for item in _Items(self, 0):
            return item
        return None


def _open(listing: Listing[Any], cursor: str) -> Cursor:
    """Return the place of a cursor of this list. Raises ``ConfigurationError`` for any other text."""
    opened = listing.seal.open(cursor, listing.name)
    if not listing.has_page(listing.base.url(opened.page)):
        raise ConfigurationError(DAMAGED)
    return opened
