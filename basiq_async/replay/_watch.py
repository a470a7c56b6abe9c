"""Watch the pages of one pass over a list: find the order of the list, and the end of the pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

import attrs

from .._wire.codec import ListPage
from .._wire.cursors import id_in_cursor
from .._wire.order import SLACK, Order, OrderDetector, raw_time, raw_times
from .._wire.walk import raw_id, raw_ids
from ..pagination import Paginator, count_restarts, seeks_item

_TOP = 8
"""The number of first items to remember. More than one, because an item can be gone in the next pass."""
_SAMPLES = 20
"""The number of items of a page whose times are read to find the order."""
_OVERLAP = 2_000
"""The number of earlier items that a page is compared with: new items at the top can shift others to the next page."""


@attrs.frozen
class Place:
    """A place in a list, from which to resume: after the item with the id ``after`` and the time ``time``.

    ``cursor`` leads to that place, or to the beginning of its page. In that case, ``offset`` is the number of the
    page's items before the place.
    """

    cursor: str | None = None
    offset: int = 0
    after: str | None = None
    time: datetime | None = None

    @property
    def begun(self) -> bool:
        """Whether the place is after the beginning of the list."""
        return self.cursor is not None or self.after is not None


@attrs.frozen
class Top:
    """The first items of a list when a pass began: their ids, and the first of their times."""

    ids: tuple[str, ...] = ()
    time: datetime | None = None


@attrs.frozen(kw_only=True)
class Before:
    """What earlier passes found out, when a pass begins or resumes at ``start``.

    order, sure: the order of the list, and whether it is sure.
    known: the first items of an earlier pass, if this pass ends there; None for a pass to the end of the list.
    end: the id of the last item of the list, as an earlier pass found it.
    end_is_gone: whether that item is no longer in the list.
    note_times: called with the times of each page, if the list begins with the newest.
    """

    start: Place
    order: Order
    sure: bool
    known: Top | None = None
    end: str | None = None
    end_is_gone: bool = False
    note_times: Callable[[Sequence[datetime]], None] | None = None


class Watch:
    """Watches the pages of a pass: finds the order, remembers the first items, and ends it where an earlier one began.

    It is called with each page, and returns the page without the items that were read before.
    """

    def __init__(self, before: Before, paginator: Paginator[Any] | None = None) -> None:
        self._before = before
        self._paginator = paginator
        start = before.start
        self._resume_after = None if start.after is None or start.offset else id_in_cursor(start.after)
        """The id of the last item before the first page. The item may have moved onto that page meanwhile."""
        self._looked_on: str | None = None
        """The URL of the last page on which that item was searched for."""
        self.at_start = not start.begun
        self.detector = OrderDetector()
        self.pages = 0
        self.top = Top()
        self.met: int | None = None
        """The number of items on a page before the first one that an earlier pass read."""
        self.shifted = False
        """Whether the list begins with the oldest items, and the first items that it had are gone."""
        self._seen: list[tuple[str, set[str]]] = []
        self._restarts = 0

    @property
    def order(self) -> Order:
        """The order of the list, as far as it is known."""
        seen, before = self.detector, self._before
        order = seen.order
        counts = seen.mixed if order == "unknown" else seen.sure or not before.sure
        return order if counts else before.order

    def __call__(self, url: str, page: ListPage) -> ListPage:
        if self._paginator is not None and (restarts := count_restarts(self._paginator)) != self._restarts:
            self._restarts = restarts
            self._begin_again()
        items = page.items
        ids = raw_ids(items)
        again = bool(self._seen) and self._seen[-1][0] == url
        if again:
            self._seen.pop()
        else:
            self.pages += 1
            self._find_order(items)
        if self.at_start and not self.top.ids:
            times = (raw_time(item) for item in islice(items, _TOP))
            self.top = Top(
                tuple(each for each in ids[:_TOP] if each is not None), next((t for t in times if t is not None), None)
            )
        if self._before.known is not None:
            keep = self._find_end(self._before.known, items, ids)
            if keep is not None:
                page = ListPage(items[:keep], None)
        return self._drop_seen(url, self._drop_before(url, page), ids)

    def _begin_again(self) -> None:
        """Keep what is known of the order, when the list is read again from its start after a page was lost."""
        seen, before = self.detector, self._before
        sure = seen.sure if seen.sure or seen.mixed else before.sure
        self._before = attrs.evolve(before, order=self.order, sure=sure)
        self.detector = OrderDetector()
        self._seen.clear()

    def _find_order(self, items: list[Any]) -> None:
        step = max(1, len(items) // _SAMPLES)
        for time in raw_times([*items[: len(items) - 1 : step], *items[-1:]]):
            self.detector.see(time)
        note_times = self._before.note_times
        if note_times is not None and self.order == "newest-first":
            note_times(raw_times(items))

    def _find_end(self, known: Top, items: list[Any], ids: list[str | None]) -> int | None:
        """Return the number of items on a page before the first one that was read earlier; None if all are new."""
        seen = self.detector
        index = next((index for index, each in enumerate(ids) if each in known.ids), None)
        if index is not None:
            if index and seen.order == "oldest-first" and seen.sure:
                return None  # the order has changed, so new items can be anywhere
            self.met = index
            return index
        if self.at_start and self.pages == 1 and self._is_shifted(ids):
            self.shifted = True
            return 0
        if items and known.time is not None and self.order == "newest-first":
            limit = known.time - SLACK
            last = raw_time(items[-1])
            if last is None or last < limit:
                older = (index for index, item in enumerate(items) if (raw_time(item) or limit) < limit)
                self.met = next(older, None)
        return self.met

    def _is_shifted(self, ids: list[str | None]) -> bool:
        """Return whether the first page has nothing new, although it begins differently: the oldest items are gone."""
        before, seen = self._before, self.detector
        if before.order != "oldest-first" or seen.order == "newest-first" or before.end_is_gone:
            return False
        return before.end in ids or (seen.order == "oldest-first" and (before.sure or seen.sure))

    def _drop_before(self, url: str, page: ListPage) -> ListPage:
        """Return the page without the items before the place to resume at. Pages by number can have shifted."""
        after = self._resume_after
        if after is None or self._looked_on not in (None, url):
            return page
        if self._paginator is not None and seeks_item(self._paginator):
            return page  # the paginator itself seeks the place
        items = page.items
        found = max((index for index, item in enumerate(items) if raw_id(item) == after), default=None)
        self._looked_on = url
        if found is not None:
            return ListPage(items[found + 1 :], page.next_link)
        last, time = raw_time(items[-1]) if items else None, self._before.start.time
        if self.order == "newest-first" and last is not None and time is not None and last > time:
            self._looked_on = None  # the whole page is newer than the place, which comes later
            return ListPage([], page.next_link)
        return page

    def _drop_seen(self, url: str, page: ListPage, ids: list[str | None]) -> ListPage:
        mine = {each for each in ids if each is not None}
        for _, earlier in self._seen:
            if not earlier.isdisjoint(mine):
                fresh = [item for item in page.items if raw_id(item) not in earlier]
                page = ListPage(fresh, page.next_link)
        self._seen.append((url, mine))
        while len(self._seen) > 1 and sum(len(each) for _, each in self._seen[1:]) >= _OVERLAP:
            self._seen.pop(0)
        return page
