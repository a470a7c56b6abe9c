"""Request the pages of a list that a feed reads."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from .._wire.broken_items import BrokenItem
from .._wire.codec import ListPage
from .._wire.paging import Listing, is_lost, raw_id
from .._work.tasks import result_of
from ..errors import APIError, BasiqError
from ._hint import short_id

T = TypeVar("T")


class ListedPage:
    """A page of the list. ``fresh`` are the indexes of the items to hand out."""

    __slots__ = ("error", "failed", "fresh", "ids", "items", "next_url", "url")

    def __init__(self, url: str, items: list[Any], next_url: str | None, error: BasiqError | None) -> None:
        self.url = url
        self.items = items
        self.ids = [short_id(raw_id(item) or _made_up_id(item)) for item in items]
        self.next_url = next_url
        self.error = error
        """The fault of the next link, raised after the page's items."""
        self.failed = False
        """Whether an item cannot be read. Then ``error`` is its failure."""
        self.fresh: list[int] = []

    @property
    def is_last(self) -> bool:
        """Whether the list ends with this page."""
        return self.next_url is None and self.error is None


class ListPages(Generic[T]):
    """Requests the pages of a list, in any order. One page can be requested ahead.

    ``now`` returns the time by the API's clock, as soon as a response was read.
    """

    def __init__(self, listing: Listing[T], now: Callable[[], datetime] | None) -> None:
        self._listing = listing
        self._now = now
        self.began: datetime | None = None
        """When the first page was requested, by the API's clock; None without ``now``."""
        self._ahead: tuple[str, asyncio.Task[ListPage]] | None = None

    async def find(self, link: str | None, ids: Collection[str] | None = None) -> ListedPage | None:
        """Return the page of a link; None if Basiq refuses it, or if the page has none of the ids."""
        listing = self._listing
        if link is None:
            return await self.fetch(listing.start)
        url, page = listing.base.url(link), None
        if not listing.has_page(url):
            return None
        try:
            page = await self.fetch(url)
            if ids is None or url == listing.start:
                return page
            while not page.ids and page.next_url is not None:
                page = await self.fetch(page.next_url)
        except APIError as exc:
            if not is_lost(exc) or (page is None and url == listing.start):
                raise
            return None
        return None if set(ids).isdisjoint(page.ids) else page

    async def seek(self, wanted: Sequence[Collection[str]]) -> tuple[ListedPage, bool]:
        """Return the first page of the list that has one of the first ids, and True.

        Else return the last page that has one of the second ids, or of the third, or the first page; and False.
        """
        first, *others = [frozenset(each) for each in wanted]
        found: list[ListedPage | None] = [None for _ in others]
        page: ListedPage | None = await self.fetch(self._listing.start)
        seen: set[int] = set()
        while page is not None:
            if not first.isdisjoint(page.ids):
                return page, True
            found = [each if ids.isdisjoint(page.ids) else page for ids, each in zip(others, found, strict=True)]
            seen.add(hash(page.url))
            if page.next_url is None or hash(page.next_url) in seen:
                break
            page = await self.find(self._listing.base.relative(page.next_url))
        near = next((each for each in found if each is not None), None)
        return near or await self.fetch(self._listing.start), False

    async def fetch(self, url: str) -> ListedPage:
        """Return the page of a URL. Raises the errors of the request."""
        asked = asyncio.get_running_loop().time()
        ahead = self._ahead
        if ahead is not None and ahead[0] == url:
            self._ahead = None
            found = await result_of(ahead[1])
        else:
            self.forget_ahead()
            found = await self._listing.fetch(url)
        if self._now is not None and self.began is None:
            took = timedelta(seconds=asyncio.get_running_loop().time() - asked)
            self.began = (self._now() - took).replace(microsecond=0)
        return ListedPage(url, found.items, *self._listing.resolve(found.next_link, url))

    def request_ahead(self, url: str) -> None:
        """Begin the request for a page that ``fetch`` will return."""
        self.forget_ahead()
        self._ahead = url, self._listing.owner.spawn(self._listing.fetch(url))

    def forget_ahead(self) -> None:
        """Cancel the request for the page ahead."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead[1].cancel()


def _made_up_id(item: object) -> str:
    """Return an id for an item that has none."""
    text = item.text if isinstance(item, BrokenItem) else json.dumps(item, sort_keys=True)
    return "without-id-" + hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()
