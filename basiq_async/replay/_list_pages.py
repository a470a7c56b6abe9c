"""Request the pages of a list that a feed reads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

from .._wire.cursors import id_in_cursor
from .._wire.order import raw_time
from .._wire.paging import Listing, PageRequests, made_up_id, ordinary_ids, raw_id
from ..errors import BasiqError
from ._hint import LONGEST_ID, short_id


class ListedPage:
    """A page of the list."""

    __slots__ = ("_times", "error", "failed", "ids", "items", "next_url", "url")

    def __init__(self, url: str, items: list[Any], next_url: str | None, error: BasiqError | None) -> None:
        self.url = url
        self.items = items
        self.ids = _short_ids(items)
        self.next_url = next_url
        self.error = error
        """The fault of the next link, raised after the page's items."""
        self.failed = False
        """Whether an item cannot be read. Then ``error`` is its failure."""
        self._times: list[datetime | None] | None = None

    @property
    def times(self) -> list[datetime | None]:
        """The times of the items, parsed once."""
        if self._times is None:
            self._times = list(map(raw_time, self.items))
        return self._times

    def time_of(self, index: int) -> datetime | None:
        """Return the time of one item."""
        return raw_time(self.items[index]) if self._times is None else self._times[index]

    @property
    def is_last(self) -> bool:
        """Whether the list ends with this page."""
        return self.next_url is None and self.error is None


class ListPages(PageRequests):
    """Requests the pages of a list, in any order. One page can be requested ahead.

    ``now`` returns the time by the API's clock, as soon as a response was read.
    """

    def __init__(self, listing: Listing[Any], now: Callable[[], datetime]) -> None:
        super().__init__(listing)
        self.now = now
        self.began: datetime | None = None
        """When the first page was requested, by the API's clock."""

    async def read(self, url: str, seen: Collection[int] = frozenset()) -> ListedPage:
        """Return the page of a URL. Raises the errors of the request.

        ``seen`` are the hashes of the URLs that were read before: a next link to one of them is an error.
        """
        asked = asyncio.get_running_loop().time()
        found = await self.fetch(url)
        if self.began is None:
            took = timedelta(seconds=asyncio.get_running_loop().time() - asked)
            self.began = (self.now() - took).replace(microsecond=0)
        return ListedPage(url, found.items, *self._listing.resolve(found.next_link, url, seen))


def _short_ids(items: Sequence[Any]) -> list[str]:
    """Return the id of each item of a page as a hint holds it; for one without an id, a digest of its JSON."""
    ids = ordinary_ids(items)
    if ids is None:
        return [short_id(raw_id(item) or made_up_id(item)) for item in items]
    text = "".join(ids)
    short = text.isascii() and text.isprintable() and max(map(len, ids), default=0) <= LONGEST_ID
    return ids if short else list(map(short_id, map(id_in_cursor, ids)))
