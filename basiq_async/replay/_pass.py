"""A pass of a reading over the pages of a list: what it has read, where it ends, what it may have missed. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import TypeAlias

import attrs

from .._wire.order import ListOrder
from .._wire.urls import BaseURL
from ._hint import FIRST, MOST_LINKS, UNPROVABLE, Part
from ._list_pages import ListedPage

_MARKS = 4
"""The number of ids of a page that are kept with its link."""
Border: TypeAlias = tuple[str | None, str | None]
"""The last id of a page, and the first id of the next one. None stands for the beginning or the end of the list."""


class Borders:
    """The borders between the pages of a pass. What the pass has missed is between the two sides of one.

    A page shows all items that are between any two of its own, so it closes each border whose sides are both within it.
    """

    def __init__(self, borders: Sequence[Border]) -> None:
        self._borders = borders
        sides = [side for border in borders for side in border]
        self._places = {side: place for place, side in enumerate(sides) if side is not None}
        self._open = set(range(len(borders)))

    def see(self, page: ListedPage, *, at_start: bool) -> None:
        """Close the borders that are within a page. ``at_start``: the page is the first one of the list."""
        places = [self._places[each] for each in page.ids if each in self._places]
        if at_start:
            places.append(-1)
        if page.is_last:
            places.append(2 * len(self._borders))
        if places:
            self._open.difference_update(range((min(places) + 1) // 2, (max(places) + 1) // 2))

    @property
    def left(self) -> list[Border]:
        """The borders that are open."""
        return [self._borders[each] for each in sorted(self._open)]


class Pass:
    """A pass over the pages of the list, from a page on.

    part: what it lengthens; None at the start of the list. above: the part's links above the page.
    notes: whether what it has read can be noted.
    until: the part at whose first items it ends, in a list that shows an order; None for the end of the list.
    borders: those of an earlier pass, which this one may close.
    """

    def __init__(
        self,
        url: str,
        part: Part | None = None,
        until: Part | None = None,
        *,
        above: Sequence[tuple[str, list[str]]] = (),
        notes: bool = True,
        borders: Sequence[Border] = (),
    ) -> None:
        self.part = part
        self.until = until
        self.notes = notes
        self._above = above  # the links of the part that are above the first page of the pass
        self.former = Borders(borders)
        self._below = frozenset(until.first) if until is not None else frozenset()
        self.begin(url, from_start=part is None)

    def begin(self, url: str, *, from_start: bool) -> None:
        """Begin with a page, for the first time or again. ``from_start``: it is the first page of the list."""
        self.url = url
        self.next_url: str | None = url  # the page to read next; None at the end of the pass
        self.from_start = from_start
        if from_start:
            self.part, self._above = None, ()
        self.connected = from_start
        """Whether the pass began above where its part ended, by as many places as an item may come late."""
        self.first_ids: list[str] = []  # the ids of the first page
        self.pages = 0
        self.seen: set[int] = set()  # the pages that were read
        self.borders: list[Border] = []
        self.joined = self.at_end = False  # whether the pass has ended at ``until``, or at the end of the list
        self._met: set[str] = set()
        self._last: str | None = None
        self._passed = 0
        self._trail: deque[tuple[str, int]] = deque()
        """The links of the last pages, and the number of items before each."""
        self._ladder: dict[int, tuple[int, str, list[str], int]] = {}
        """For each power of two, the last page whose number in the pass it divides, and no higher one: its number, its
        link, some of its ids, and the number of items until its end."""
        self._lately: list[str] = []  # the ids before those that the pass will read, then those that it has read
        self._marks: frozenset[str] = frozenset()  # ids of the part, above which the pass may begin

    def enter(self, page: ListedPage, late: int) -> None:
        """Note a page. ``late``: the number of places by which an item may come late."""
        ids = page.ids
        self.pages += 1
        self.seen.add(hash(page.url))
        self.former.see(page, at_start=self.from_start and self.pages == 1)
        if self.pages == 1:
            self.first_ids = ids
        elif ids and self._last not in ids:
            self.borders.append((self._last, ids[0]))
        elif page.is_last and not ids:
            self.borders.append((self._last, None))
        if ids:
            self._last = ids[-1]
        self.at_end = page.is_last
        self._trail.append((page.url, self._passed))
        while len(self._trail) > 1 and self._passed - self._trail[1][1] >= late:
            self._trail.popleft()
        self._passed += len(ids)
        some = list(ids[:: len(ids) // _MARKS + 1])
        self._ladder[self.pages & -self.pages] = self.pages, page.url, some, self._passed
        if self.part is not None and self.pages == 1:
            last = self.part.last
            met = next((place for place, each in enumerate(last) if each in ids), 0)
            self._lately = last[:met]
            self._marks = frozenset(last[: max(1, len(last) - late + 1)]).union(*(each for _, each in self.part.links))
        self._lately = [*self._lately, *ids][-FIRST:]
        self.connected = self.connected or not self._marks.isdisjoint(ids)

    def meet(self, page: ListedPage, late: int, order: ListOrder, fresh: Collection[int]) -> None:
        """Find out whether the pass ends with a page, whose ``fresh`` items were not read before.

        It ends after ``late`` items at which ``until`` began, or which are below it by their times.
        """
        until = self.until
        if until is None or not order.sure:
            return
        for index, each in enumerate(page.ids):
            if each in self._below:
                self._met.add(each)
            elif until.oldest is not None and order.order == "oldest-first" and index not in fresh:
                time = page.time_of(index)
                if time is not None and time > until.oldest:
                    self._met.add(each)
        self.joined = len(self._met) >= late

    def lengthen(self, page: ListedPage, late: int, began: datetime, base: BaseURL) -> Part | None:
        """Add a page to the part, and return it. None if it does not follow the part, or may not be noted."""
        if not self.notes or not self.connected:
            return None
        part = self.part or Part(began, oldest=page.time_of(0) if page.items else None)
        first = part.first
        if self.from_start and len(first) < FIRST:
            first = list(dict.fromkeys([*first, *page.ids]))[:FIRST]
        witness = part.witness
        if witness is None and self.pages > 1:
            witness = next(iter(first), UNPROVABLE)
        link = next((url for url, before in reversed(self._trail) if self._passed - before >= late), self._trail[0][0])
        links = [(base.relative(link), list[str]())]
        for _, url, some, end in sorted(self._ladder.values(), reverse=True):
            if url not in (link, page.url):
                links.append((base.relative(url), some if self._passed - end >= late else []))
        self.part = attrs.evolve(
            part,
            first=first,
            last=self._lately,
            links=[*links, *self._above][:MOST_LINKS],
            witness=witness,
        )
        return self.part
