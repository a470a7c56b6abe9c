"""The pages of one pass over a list, as they come: in which order they are, and where the pass ends."""

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
"""How many of the first items are remembered: one of them can be gone the next time."""
_SAMPLES = 20
"""How many items of a page are looked at for their times."""
_OVERLAP = 2_000
"""How many earlier items a page is compared with: what arrives at the top can shift items to the next page."""


@attrs.frozen
class Place:
    """Where a list resumes: after the item ``after``, whose time is ``time``.

    ``cursor`` leads to that place, or to the beginning of its page; then ``offset`` items of the page come before it.
    """

    cursor: str | None = None
    offset: int = 0
    after: str | None = None
    time: datetime | None = None

    @property
    def begun(self) -> bool:
        """Whether anything comes before it."""
        return self.cursor is not None or self.after is not None


@attrs.frozen
class Top:
    """The first items of a list when a pass began: their ids, and the time of the first that has one."""

    ids: tuple[str, ...] = ()
    time: datetime | None = None


@attrs.frozen(kw_only=True)
class Before:
    """What is known when a pass begins, or resumes, at ``start``.

    order, sure: what earlier passes found of the order, and whether that was no accident.
    known: where an earlier pass began, for a pass that ends there; None for one that goes to the end of the list.
    end: the id of the last item at the end of the list, as an earlier pass found it.
    note_times: called with the times of each page, where the list begins with the newest.
    """

    start: Place
    order: Order
    sure: bool
    known: Top | None = None
    end: str | None = None
    end_is_gone: bool = False
    note_times: Callable[[Sequence[datetime]], None] | None = None


class Watch:
    """Sees the pages of a pass: finds the order, remembers the first items, and ends it where an earlier one began."""

    def __init__(self, before: Before, paginator: Paginator[Any] | None = None) -> None:
        self._before = before
        self._paginator = paginator
        start = before.start
        self._resume_after = None if start.after is None or start.offset else id_in_cursor(start.after)
        """The item before the first page. It may have moved onto that page meanwhile."""
        self._looked_on: str | None = None
        """The page on which that item was looked for last."""
        self.at_start = not start.begun
        self.detector = OrderDetector()
        self.pages = 0
        self.top = Top()
        self.met: int | None = None
        """How many items of a page came before one of an earlier pass."""
        self.shifted = False
        """Whether the list begins with the oldest, and lacks the first of those that it had."""
        self._seen: list[tuple[str, set[str]]] = []
        self._restarts = 0

    @property
    def order(self) -> Order:
        """The order of the list, as far as it is known by now."""
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
        """A page was lost, and the list comes from its start once more: what is known of the order stays."""
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
        """How many items of a page are above what was read before; None where all are."""
        seen = self.detector
        index = next((index for index, each in enumerate(ids) if each in known.ids), None)
        if index is not None:
            if index and seen.order == "oldest-first" and seen.sure:
                return None  # the order changed since: what is new can be anywhere
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
        """Whether nothing is above what was read, though the list no longer begins with it: its oldest are gone."""
        before, seen = self._before, self.detector
        if before.order != "oldest-first" or seen.order == "newest-first" or before.end_is_gone:
            return False
        return before.end in ids or (seen.order == "oldest-first" and (before.sure or seen.sure))

    def _drop_before(self, url: str, page: ListPage) -> ListPage:
        """Leave out what comes before the place where the pass resumes: a page by its number has shifted."""
        after = self._resume_after
        if after is None or self._looked_on not in (None, url):
            return page
        if self._paginator is not None and seeks_item(self._paginator):
            return page  # the paginator itself goes to the place
        items = page.items
        found = max((index for index, item in enumerate(items) if raw_id(item) == after), default=None)
        self._looked_on = url
        if found is not None:
            return ListPage(items[found + 1 :], page.next_link)
        last, time = raw_time(items[-1]) if items else None, self._before.start.time
        if self.order == "newest-first" and last is not None and time is not None and last > time:
            self._looked_on = None  # all of it is newer than the place, which is further down
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
