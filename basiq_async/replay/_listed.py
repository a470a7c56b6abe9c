"""A list as a reading sees it: its pages, each way over them, and the resume point that a later reading begins with.

Nothing here makes a request.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Any

import attrs

from .._wire.cursors import id_in_cursor
from .._wire.order import raw_time
from .._wire.paging import Listing, made_up_id, ordinary_ids, raw_id
from ..errors import BasiqError

MOST_FIRST, _LAST = 256, 128
"""The number of ids at the beginning and at the end of what was read that a resume point keeps."""
_LONGEST_ID = 48
_PRINTABLE = bytes(range(32, 127))
_MOST_TEXT = 60_000
_DAY, _EARLY = timedelta(hours=24), timedelta(minutes=15)
_MOST_BEHIND = 10
"""How many pages before a page may be requested again, to find what slipped away from it."""


@attrs.frozen
class ResumePoint:
    """What was read of the list: one run, from its start and without a gap, whose items are done.

    since: when the reading began that began at the start of the list, by the API's clock.
    first, last: the ids (see ``short_ids``) of its first and of its last items, in the order of the list.
    link: a page that shows some of the last ids, at least as many before the end as an item may come late.
    at_end: whether it reached the end of the list.
    proven: whether nothing can have slipped away between its pages; else that is so if its first item is still listed.
    page: the number of items of the longest page. steps: see ``ListOrder``.
    """

    since: datetime
    first: list[str]
    last: list[str]
    link: str
    at_end: bool
    proven: bool
    page: int
    steps: list[int]

    def write(self, selection: str) -> str | None:
        """Return its text, in ASCII; None if that is too long. ``selection`` names the list and what it is for."""
        fields = {**attrs.asdict(self, recurse=False), "since": self.since.isoformat()}
        body = json.dumps(fields, separators=(",", ":"))
        text = f"{_check(body, selection)} {body}"
        return text if len(text) <= _MOST_TEXT else None

    @classmethod
    def read(cls, text: str, selection: str, listing: Listing[Any]) -> ResumePoint | None:
        """Return the resume point of a text; None for one of another selection, list or program."""
        check, _, body = text.partition(" ")
        if check != _check(body, selection):
            return None
        try:
            fields = json.loads(body)
            found = cls(**{**fields, "since": datetime.fromisoformat(fields["since"])})
            texts = [found.link, *found.first, *found.last]
            newer, older = found.steps
            numbers = [found.page, newer, older]
            if not all(type(each) is str for each in texts) or not all(type(each) is int for each in numbers):
                return None
            is_usable = found.since.tzinfo is not None and listing.has_page(listing.base.url(found.link))
            return found if is_usable and found.last and found.page > 0 else None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None

    def is_due(self, now: datetime) -> bool:
        """Return whether the whole list must be read again: an item may have come anywhere since."""
        return self.at_end and not -_EARLY <= now - self.since <= _DAY


def _check(body: str, selection: str) -> str:
    return blake2b(f"{json.dumps(selection)} {body}".encode(errors="surrogatepass"), digest_size=16).hexdigest()


class ListedPage:
    """A page of the list. ``error`` is the fault of its next link, or of an item: then the page has ``failed``."""

    def __init__(self, url: str, items: list[Any], next_url: str | None, error: BasiqError | None) -> None:
        self.url, self.items, self.next_url, self.error = url, items, next_url, error
        self.is_last = next_url is None and error is None
        self.failed = False
        self.ordinary_ids = ordinary_ids(items)
        self.ids = short_ids(items, self.ordinary_ids)
        self._times: list[datetime | None] | None = None

    @property
    def times(self) -> list[datetime | None]:
        """The times of the items, parsed once."""
        if self._times is None:
            self._times = list(map(raw_time, self.items))
        return self._times

    def forget_times(self) -> None:
        """Read the times again: items were replaced."""
        self._times = None

    def find_timed(self, indexes: Sequence[int]) -> Sequence[int]:
        """Return the indexes of the items that have a time, of those at ``indexes``; all of them if none was parsed."""
        times = self._times
        return indexes if times is None else [index for index in indexes if times[index] is not None]

    def time_of(self, index: int) -> datetime | None:
        """Return the time of one item."""
        return raw_time(self.items[index]) if self._times is None else self._times[index]


def short_ids(items: Sequence[Any], ids: list[str] | None) -> list[str]:
    """Return the id of each item of a page: unchanged, or a digest if it is long, unusual or missing.

    ids: those of the items, if all have an ordinary one.
    """
    if ids is None:
        return [_short_id(raw_id(item) or made_up_id(item)) for item in items]
    text = "".join(ids)
    ordinary = text.isascii() and not text.encode().translate(None, _PRINTABLE)  # faster than to ask each character
    short = ordinary and max(map(len, ids), default=0) <= _LONGEST_ID
    return ids if short else list(map(_short_id, map(id_in_cursor, ids)))


def _short_id(item_id: str) -> str:
    if len(item_id) <= _LONGEST_ID and item_id.isascii() and item_id.isprintable():
        return item_id
    return "#" + blake2b(item_id.encode(errors="surrogatepass"), digest_size=16).hexdigest()


class Pass:
    """A way over the pages of the list.

    run: what it lengthens; None for a pass from the start of the list.
    until: what it ends at, in a list that shows an order; None for the end of the list.
    proves: whether it reads the page before each page again.
    """

    def __init__(
        self, url: str, run: ResumePoint | None = None, *, until: ResumePoint | None = None, proves: bool = False
    ) -> None:
        self.url, self.run, self.until, self.proves = url, run, until, proves
        self._begin = run
        self.begin()

    def begin(self) -> None:
        """Begin, for the first time or again."""
        self.next_url: str | None = self.url  # the page to read next; None at the end of the pass
        self.run = self._begin
        self.connected = self.run is None  # whether it began above what was read last
        self.joined = self.at_end = False  # whether it has ended at ``until``, or at the end of the list
        self.pages = 0
        self.seen: set[int] = set()  # the pages that were read
        self.first_url, self.first_ids = self.url, list[str]()  # the first page with items
        self.behind: deque[str] = deque(maxlen=_MOST_BEHIND)  # the pages before the present one
        self.met: set[str] = set()
        self._count = 0
        self._trail: deque[tuple[str, int]] = deque()
        """The last pages, and the number of items before each."""

    def meet(self, page: ListedPage, late: int) -> None:
        """Find out what of the items of an earlier reading a page shows. ``late``: as many places an item may be."""
        self.pages += 1
        self.seen.add(hash(page.url))
        if not self.first_ids:  # a filter can empty pages
            self.first_url, self.first_ids = page.url, page.ids
        if not self.connected and self.run is not None:
            last = self.run.last
            self.connected = not set(last[: max(1, len(last) - late + 1)]).isdisjoint(page.ids)
        if self.until is not None:
            self.met.update(set(self.until.first).intersection(page.ids))

    def lengthen(self, page: ListedPage, late: int, began: datetime, relative: Callable[[str], str]) -> None:
        """Add a page to what was read. ``began``: when the reading began, by the API's clock."""
        run = self.run or ResumePoint(began, [], [], "", at_end=False, proven=True, page=1, steps=[0, 0])
        self.at_end = page.is_last
        self._trail.append((page.url, self._count))
        while len(self._trail) > 1 and self._count - self._trail[1][1] + len(page.ids) >= late:
            self._trail.popleft()
        self._count += len(page.ids)
        first = run.first
        if self._begin is None and len(first) < MOST_FIRST:
            first = list(dict.fromkeys([*first, *page.ids]))[:MOST_FIRST]
        last = run.last
        if self._begin is not None and self._count == len(page.ids):  # it lengthens what an earlier reading has read
            shown = set(page.ids)
            last = last[: next((place for place, each in enumerate(last) if each in shown), len(last))]
        self.run = attrs.evolve(
            run,
            first=first,
            last=[*last, *page.ids][-_LAST:],
            link=relative(self._trail[0][0]),
            at_end=page.is_last,
            proven=run.proven and self.pages == 1,
        )


def place_after(ids: Sequence[str], read: Collection[str]) -> int | None:
    """Return the place on a page after the last item that was read before; None if the page shows none of them.

    A reading proves by it that nothing slipped away between two pages.
    """
    return next((place + 1 for place in reversed(range(len(ids))) if ids[place] in read), None)
