"""Where a feed is in a list: the place that is recorded, and the pass that lengthens it. No I/O."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeAlias, TypeVar

import attrs
import cattrs
from attrs.validators import max_len, min_len

from .._wire.order import Order, raw_times
from .._wire.urls import BaseURL
from ..errors import CheckpointError
from ..services.diagnosis import Stretch
from ._list_pages import ListedPage

T = TypeVar("T")

WINDOW = 1_000
"""The number of items before a place whose ids are retained."""
TOP = 200
"""The number of items at the top of the list whose ids are retained."""
_VERSION = 1
RUN = 64
"""An item may come late by so many places, or by a page if that is shorter."""
_LONGEST_LINK = 8_192
_END = ""
"""Stands for the end of the list in a gap."""

Gap: TypeAlias = tuple[str, str]
"""Two ids that followed each other on different pages. Between the requests for these pages, an item that is between
them may have slipped to the page that was read already."""


@attrs.define
class Part:
    """A part of the list that was read without a gap.

    top: the ids of its first items. last: those of its last ones, in the order of the list.
    link: the page to resume at, which begins a little before the last item.
    """

    top: list[str] = attrs.Factory(list)
    last: dict[str, None] = attrs.Factory(dict)
    link: str | None = None

    def passed(self, ids: list[str]) -> dict[str, None]:
        """Return ``last`` after these ids."""
        last = {**self.last}
        for each in ids:
            last.pop(each, None)
            last[each] = None
        return last if len(last) <= 2 * WINDOW else dict.fromkeys(list(last)[-WINDOW:])


@attrs.define
class Place:
    """Where a feed resumes, and what it knows of the list.

    base: the part that reaches, or is to reach, the end of the list.
    whole: whether it has reached the end, in passes that are proven.
    above: a part that was begun at the top, and has not reached the base.
    begin: the page where the passes began that are not proven, and its first ids; None if all are.
    steps: see ``ListOrder``.
    grows: where new items were found, "top" or "end"; empty before there were any, and if they came at both ends.
    page: the number of items of the longest page.
    read: the times of which all items were read, as the API's clock tells them.
    """

    base: Part = attrs.Factory(Part)
    whole: bool = False
    above: Part | None = None
    begin: Part | None = None
    steps: list[int] = attrs.field(factory=lambda: [0, 0, 0, 0], validator=[min_len(4), max_len(4)])
    grows: str = ""
    page: int = 1
    read: tuple[Stretch, ...] = ()

    def learn(self, grows: str) -> None:
        """Note at which end of the list new items were found, "top" or "end"."""
        self.grows = grows if self.grows in ("", grows) else ""

    def ids(self) -> frozenset[str]:
        """Return the ids of items that were handed out."""
        above = self.above or Part()
        return frozenset((*self.base.top, *self.base.last, *above.top, *above.last))


_TEXTS = cattrs.Converter(forbid_extra_keys=True, detailed_validation=False)


def _moment(value: Any, _: object = None) -> datetime:
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None:
        raise ValueError("no time zone")
    return moment


_TEXTS.register_unstructure_hook(datetime, datetime.isoformat)
_TEXTS.register_structure_hook(datetime, _moment)
_TEXTS.register_unstructure_hook(
    Part, lambda part: {"top": part.top, "last": list(part.last)[-WINDOW:], "link": part.link}
)
_TEXTS.register_structure_hook(
    Part, lambda value, _: Part(list(map(str, value["top"])), dict.fromkeys(map(str, value["last"])), value["link"])
)


def write_text(record: attrs.AttrsInstance) -> str:
    """Return the text from which ``read_text`` makes the same object."""
    return json.dumps({"version": _VERSION, **_TEXTS.unstructure(record)}, separators=(",", ":"))


def read_text(text: str, kind: type[T], what: str) -> T:
    """Parse the text of ``write_text``. Raises ``CheckpointError``, which says what of the checkpoint is damaged."""
    try:
        fields = json.loads(text)
        if fields.pop("version") != _VERSION:
            raise ValueError("another version")
        return _TEXTS.structure(fields, kind)
    except Exception as exc:
        raise damaged(what) from exc


def damaged(what: str) -> CheckpointError:
    """Return the error of a checkpoint whose text cannot be read."""
    return CheckpointError(
        f"the checkpoint's {what} cannot be read (it is damaged, or of another release): pass another checkpoint to "
        "begin anew, with an inbox, so that nothing is handled twice"
    )


@attrs.frozen
class PassTimes:
    """The times of the first and of the last item that a pass has passed; None before there were any.

    in_order: whether all of them went one way.
    """

    first: datetime | None = None
    last: datetime | None = None
    in_order: bool = True

    def after(self, times: Sequence[datetime]) -> PassTimes:
        """Return them after items with these times were passed too."""
        if not times:
            return self
        ends = [each for each in (self.first, self.last) if each is not None]
        in_order = self.in_order and _go_one_way(times) and _go_one_way([*ends, times[0], times[-1]])
        return PassTimes(times[0] if self.first is None else self.first, times[-1], in_order)

    def stretch(
        self, order: Order, oldest: datetime, newest: datetime, *, at_start: bool, at_end: bool
    ) -> list[Stretch]:
        """Return the stretch of time whose items were all passed, in a list from ``oldest`` to ``newest``.

        ``at_start`` and ``at_end`` say whether the pass has both ends of the list. Without an order it has no stretch.
        """
        first, last = self.first, self.last
        if first is None or last is None or not self.in_order:
            return []
        if order == "newest-first":
            # Items with the time of the last one may follow.
            begin, end = oldest if at_end else last + timedelta(microseconds=1), newest if at_start else first
        else:
            begin, end = oldest if at_start else first, newest if at_end else last
        begin = max(begin, oldest)
        return [(begin, end)] if begin < end else []


def _go_one_way(times: Sequence[datetime]) -> bool:
    return list(times) in (sorted(times), sorted(times, reverse=True))


class Pass:
    """A pass that lengthens a ``part`` of the list, which is the place's base or above it.

    ``gaps`` are those of earlier passes that are not closed, in the order of the list.
    """

    def __init__(self, place: Place, part: Part, base: BaseURL, *, from_start: bool, gaps: Sequence[Gap] = ()) -> None:
        self._place = place
        self._base = base
        self.part = part
        """What the pass lengthens, once the items of a page were handed out."""
        self.from_start = from_start
        """Whether the pass began at the start of the list, so that its first items are the part's top."""
        if from_start:
            part.top = []
        self.ends: Collection[str] = ()
        """Known ids of the base, by which a pass from the top ends."""
        if part is not place.base:
            self.ends = {*place.base.top, *place.base.last}
            place.above = part
        self._below: set[str] = set()
        """Those of them that the pass has met. Pages that shift show an item twice."""
        self.grew_above = False
        """Whether anything was handed out above the item at which the base began, and nothing else that is known."""
        self._former_end = next(reversed(part.last), None)
        self.met_end = False
        """Whether the item at which the part ended was met."""
        self.grew = self.met = False
        """Whether anything was handed out, and whether anything was known."""
        self.ended = self.at_end = False
        """Whether the pass has ended, and whether that is at the end of the list."""
        self.pages = self._passed = 0
        self.seen: set[int] = set()
        """The pages that it has read."""
        self._trail: deque[tuple[str, int]] = deque()
        """The links of the last pages, and the number of items before each."""
        self._first: Part | None = None
        """The first page of the pass."""
        self.was_fresh = False
        """Whether the last item of the last page was handed out."""
        self.gaps: list[Gap] = []
        """The gaps of this pass."""
        self._last = ""
        """The last id of the pages so far."""
        self._earlier = gaps
        self._gap_after: dict[str, Gap] = {}
        self._gap_before: dict[str, Gap] = {}
        for gap in gaps:
            self._gap_after[gap[0]] = self._gap_before[gap[1]] = gap
        self._closed: set[Gap] = set()
        self._inside: set[Gap] = set()
        """Earlier gaps whose first id was met, and whose second one was not. Items between may have slipped away."""
        self._begins_unseen = False
        """Whether the second id of an earlier gap was met on a further page, and its first one was not."""
        self._met_gaps: dict[Gap, None] = {}
        """Earlier gaps that were met again, and those of this pass beside an item that was handed out, in order."""
        self.times = PassTimes()

    @property
    def _enough(self) -> int:
        return min(RUN, self._place.page)

    def meet(self, item_id: str, *, fresh: bool) -> bool:
        """Pass a known item. Return whether the pass ends there. ``fresh``: whether its page has items to hand out."""
        self.met = True
        self.met_end = self.met_end or item_id == self._former_end
        if item_id in self.ends:
            if not self._below:
                self.grew_above = [item_id] == self._place.base.top[:1] and (self.grew or fresh)
            self._below.add(item_id)
            self.ended = len(self._below) >= self._enough
        return self.ended

    def enter(self, page: ListedPage) -> None:
        """Note a page whose items to hand out are chosen, and at which item it begins, for the proof of the pass."""
        place, ids = self._place, page.ids
        self.pages += 1
        self.grew = self.grew or bool(page.fresh)
        self.seen.add(hash(page.url))
        self._trail.append((page.url, self._passed))
        while len(self._trail) > 1 and self._passed - self._trail[1][1] >= self._enough:
            self._trail.popleft()
        if self.part is not place.base:
            return
        if page.fresh:
            place.whole = False
        if self._first is None:
            self._first = self.begin_at(page)
        elif place.begin is None:
            place.begin = self._first
        if self.pages > 1 and (ids or page.next_url is None):
            gap = self._last, ids[0] if ids else _END
            self.gaps.append(gap)
            if self.was_fresh or page.fresh[:1] == [0] or self._inside:
                self._met_gaps[gap] = None
                self._closed.discard(gap)
        if self._earlier:
            self._close_gaps(ids, first=self.pages == 1, last=page.next_url is None)
        if ids:
            self._last = ids[-1]
            self.was_fresh = page.fresh[-1:] == [len(ids) - 1]

    def _close_gaps(self, ids: list[str], *, first: bool, last: bool) -> None:
        """Close the earlier gaps of which this page shows what follows the first id, or precedes the second one."""
        for index, each in enumerate(ids):
            after, before = self._gap_after.get(each), self._gap_before.get(each)
            if after is not None:
                self._inside.add(after)
                self._met_gaps.setdefault(after)
                if index + 1 < len(ids) or last:
                    self._closed.add(after)
            if before is not None:
                self._begins_unseen = self._begins_unseen or (before not in self._inside and bool(self.gaps))
                self._inside.discard(before)
                self._met_gaps.setdefault(before)
                if index or (first and self.from_start):
                    self._closed.add(before)
        if first and self.from_start and self._met_gaps:
            above = self._earlier.index(next(iter(self._met_gaps)))
            self._closed.update(self._earlier[:above])  # they are above the first item of the list

    def open_gaps(self) -> list[Gap]:
        """Return the gaps that are open after this pass. An item that no pass handed out can only be in one of them.

        If an earlier gap was not met again, or not where it begins, nothing shows whether it is closed: then all gaps
        of this pass are open.
        """
        if self._begins_unseen or any(gap not in self._closed and gap not in self._met_gaps for gap in self._earlier):
            return self.gaps
        return [gap for gap in self._met_gaps if gap not in self._closed]

    def leave(self, page: ListedPage, *, reads_times: bool) -> None:
        """Add a page whose items were handed out to the part."""
        part, now = self.part, self.after(page.ids)
        part.top, part.last, part.link = now.top, now.last, now.link
        self._passed += len(page.ids)
        if reads_times:
            self.times = self.times.after(raw_times(page.items[: len(page.ids)]))

    def after(self, passed: list[str]) -> Part:
        """Return the part with more items."""
        top = self.part.top
        if self.from_start and len(top) < TOP:
            top = [*top, *passed][:TOP]
        return Part(top, self.part.passed(passed), self._link_at(self._passed + len(passed)))

    def begin_at(self, page: ListedPage) -> Part:
        """Return the beginning of a page."""
        return Part(page.ids[:RUN], {}, self._base.relative(page.url))

    def _link_at(self, count: int) -> str | None:
        """Return the last page of the pass that begins a run of items before its ``count``-th item, or earlier."""
        link = None
        for url, before in self._trail:
            if link is None or count - before >= self._enough:
                link = self._base.relative(url)
        return self.part.link if link is None or len(link) > _LONGEST_LINK else link
