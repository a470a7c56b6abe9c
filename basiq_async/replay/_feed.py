"""Read a list that changes, from one run to the next: hand out every item once, whatever the list does.

The invariant: whatever the list does between and during runs, every item that is listed throughout a run has been
handed out, in it or in an earlier one. None that is recorded is handed out again while its id is retained. A run never
says finished, and never raises, against that.

No source says in which order Basiq lists messages or events. So nothing here depends on an order:

1. A place is the link of the page that holds the last item, and the ids around it. A run that resumes requests that
   page and looks for these ids. If they are not there, it searches the list for them.
2. Ids are the only reason to skip an item. The order only says where to begin and when to stop early: a list whose
   times and whose growth agree is read at one end, any other list at both, and a list without an order as a whole.
3. Known are the retained ids: those of the last ``WINDOW`` items, and of the first ``TOP`` items. A pass from the top
   ends a run of known ids below the place where the last one began, so an item may come late.
4. A pass over several pages is checked. If the page where it began now begins with another item, items may have slipped
   from one page to the next between two requests. Then the pass is read again, and hands out what is unknown, until
   each two neighbours that were on different pages were on one.

Where the evidence has two readings, items are handed out again rather than lost, and ``repeats`` is True: if nothing
that is retained is listed any more, or if a pass that an earlier run began cannot be proven.

What no reader can see: in a list with numbered pages, the item that slips to the page before because one vanished from
the *middle* of the list at that moment. And a list without an order that is longer than what is retained is handed out
again in each run.
"""

from __future__ import annotations

from array import array
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

import attrs

from .._wire.broken_items import BrokenItem
from .._wire.codec import Unreadable
from .._wire.order import ListOrder, Order, raw_time, raw_times
from .._wire.paging import is_lost, raw_id
from ..errors import APIError
from ..pagination import Paginator, UnreadableItem
from ..services.diagnosis import LONG_AGO, Stretch, join_stretches
from ._list_pages import ListedPage, ListPages
from ._place import RUN, TOP, WINDOW, Gap, Part, Pass, Place, read_text, write_text

T = TypeVar("T")

_MOST_PASSES = 10
_MOST_REFUSED = 10
"""How often in a row the link to the next page may be refused before the list is taken to be broken."""
_MOST_IDS = 1_000_000
"""The number of ids of a run that are kept to read a pass again, with 8 bytes each."""
_REMAINDERS = 65_521
"""A prime number: of a million ids, about fifteen have the same remainder."""
_SAMPLES = 20
"""The number of items of a page whose times are compared."""


class Feed(Generic[T]):
    """The items of a list that earlier runs have not handed out::

        feed = Feed(client.messages.list(webhook_id), recorded_text)
        async for item in feed:
            ...                      # feed.text() resumes after this item
        feed.finished                # whether nothing is left

    ``now`` returns the time by the API's clock, as soon as a response was read. With it, ``read`` tells of which times
    all items were handed out. ``reach`` is the age of the oldest items that the list has; None is for all times.

    ``convert`` makes of each item of the list what is handed out, or None to skip it. ``note_times`` is called with the
    times of each page, before its items are handed out.

    The memory does not grow with the list. After an error or a cancellation a feed is over: make another one from its
    ``text()``.
    """

    def __init__(
        self,
        paginator: Paginator[Any],
        text: str | None = None,
        *,
        convert: Callable[[Any], T | None] | None = None,
        now: Callable[[], datetime] | None = None,
        reach: timedelta | None = None,
        note_times: Callable[[Sequence[datetime]], object] | None = None,
    ) -> None:
        listing = self._listing = paginator._listing
        self._on_unreadable = paginator._on_unreadable
        self._hook, self._model = listing.reader.hook, listing.reader.model
        self._start = listing.base.relative(listing.start)
        state = self._state = Place() if text is None else read_text(text, Place, "place in the list")
        self._recorded = set(state.ids())
        """The ids that were recorded when the run began."""
        self._run: array[int] = array("q")
        """The hashes of the ids that this run handed out."""
        self._in_run: dict[int, array[int]] | None = None
        """The same by their remainders, in a third of a set's memory; from the first time on that they are needed."""
        self._again = False
        """Whether pages may be read a second time."""
        self._resumed = state.begin is not None
        self._convert, self._note_times = convert, note_times
        self._requests = ListPages(listing, now)
        self._reach = reach
        self._shown = ListOrder(state.steps)
        self._refused = 0
        self._page: ListedPage | None = None
        self._offset = 0
        self.finished = False
        """Whether every item that was listed throughout this run has been handed out."""
        self.repeats = False
        """Whether items may have been handed out again, because of what the list no longer shows."""
        self._passes = self._plan()
        self._gaps: list[Gap] = []
        """Where an item may have slipped away in all base passes so far."""
        self._pass = self._begin_pass(state.base)

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        while True:
            item = self.take()
            if item is not None:
                return item
            if not await self.advance():
                raise StopAsyncIteration

    def take(self) -> T | None:
        """Return the next item of the page that is here; None if ``advance`` must request another."""
        page = self._page
        if page is None:
            return None
        while self._offset < len(page.fresh):
            index = page.fresh[self._offset]
            try:
                item: T | None = self._hook(page.items[index], self._model)
            except Unreadable as exc:
                item = self._replace(page, index, exc)
            self._offset += 1
            if item is not None and self._convert is not None:
                item = self._convert(item)
            if item is not None:
                return item
        return None

    async def advance(self) -> bool:
        """Go to the next page that has items to hand out. Return False at the end."""
        while True:
            page = await self._next_page()
            if page is None:
                begun = await anext(self._passes, None)
                if begun is None:
                    return False
                part, page = begun
                state = self._state
                state.read = join_stretches([*state.read, *self._read_in_pass(None)])
                self._again = self._again or bool(self._run)
                self._pass = self._begin_pass(part, from_start=page.url == self._listing.start)
            self._enter(page)
            if page.fresh:
                return True

    def _replace(self, page: ListedPage, index: int, exc: Unreadable) -> T | None:
        failure = self._listing.explain(exc, index)
        if self._on_unreadable is None:
            raise failure
        item = page.items[index]
        return self._on_unreadable(
            UnreadableItem(item.text if isinstance(item, BrokenItem) else item, failure, raw_id(item))
        )

    async def aclose(self) -> None:
        """Cancel the request for the next page."""
        self._requests.forget_ahead()
        await self._passes.aclose()

    @property
    def order(self) -> Order:
        """The order of the list, as far as the times of its items show it."""
        return self._shown.order

    # --- what is recorded ---

    def text(self) -> str:
        """Return the text from which another feed resumes after the last item that was handed out."""
        state, page, part = self._state, self._page, self._pass.part
        read = join_stretches([*state.read, *self._read_in_pass(page)])
        now = part if page is None else self._pass.after(page.ids[: self._passed(page)])
        if part is state.base:
            return write_text(attrs.evolve(state, base=now, read=read))
        return write_text(attrs.evolve(state, above=now, read=read))

    def _passed(self, page: ListedPage) -> int:
        """Return the number of items of a page that were handed out or are known."""
        return page.fresh[self._offset] if self._offset < len(page.fresh) else len(page.ids)

    def _read_in_pass(self, page: ListedPage | None) -> list[Stretch]:
        """Return the stretch of time that the pass has read so far; it has one only if the list is in order."""
        newest, now = self._requests.began, self._pass
        if self._reach is None or newest is None:
            return []
        times, at_end = now.times, now.at_end
        if page is not None:
            passed = self._passed(page)
            times = times.after(raw_times(page.items[:passed]))
            at_end = passed == len(page.ids) and page.next_url is None and page.error is None and not now.ended
        return times.stretch(self.order, self._oldest, newest, at_start=now.from_start, at_end=at_end)

    # --- passes ---

    async def _plan(self) -> AsyncGenerator[tuple[Part, ListedPage]]:
        """Yield each pass to read: the part that it lengthens, and its first page. Go on when it has ended."""
        state, start = self._state, self._listing.start
        if state.whole and state.above is None and self._may_grow_anywhere:
            self._begin_anew()
        if state.above is not None:
            yield state.above, await self._find(state.above)
            self._join()
        proven = not self._resumed
        one_page = False
        newest_first = state.whole and self.order == "newest-first"
        for place in ("top", "end") if newest_first else ("end", "top"):
            if place == "end" and not (state.whole and self._grows("newest-first", "top")):
                was_whole, page = state.whole, await self._find(state.base)
                at_start = page.url == start
                yield state.base, page
                self.repeats = self.repeats or (bool(self._recorded) and self._pass.grew and not self._pass.met)
                if not at_start and self._may_grow_anywhere:
                    self._begin_anew()
                    yield state.base, await self._requests.fetch(start)
                self._gaps = self._pass.gaps if proven else []
                one_page = self._pass.pages == 1 and at_start
                # What comes after anything else may come again, because it is not retained.
                if was_whole and self._pass.was_fresh and self._pass.met_end:
                    state.learn("end")
            elif place == "top" and not one_page and (self._began_at_start or not self._grows("oldest-first", "end")):
                page = await self._requests.fetch(start)
                for again in range(_MOST_PASSES):
                    first = page.ids[:1]
                    yield Part(), page
                    self._join()
                    # What a further pass finds above known items may have slipped away from the one before.
                    if self._pass.grew_above and state.begin is None and not again:
                        state.learn("top")
                    if self._pass.pages == 1:
                        break
                    page = await self._requests.fetch(start)
                    if page.ids[:1] == first:
                        break
        for _ in range(_MOST_PASSES):
            if state.begin is None or await self._is_in_place(state.begin):
                break
            self.repeats = self.repeats or self._resumed
            page = await self._seek([state.begin.top])
            state.begin, state.whole = self._pass.begin_at(page), False
            yield state.base, page
            self._gaps = self._pass.open_gaps() if proven else self._pass.gaps
            proven = True
            if not self._gaps:
                state.begin = None
        self.finished = state.begin is None
        state.whole = True
        if self.finished and self._requests.began is not None:
            state.read = join_stretches([*state.read, (self._oldest, self._requests.began)])

    def _grows(self, order: Order, end: str) -> bool:
        """Return whether times and growth agree that the list has this order, and grows at this end."""
        return self._shown.sure and self.order == order and self._state.grows == end

    @property
    def _may_grow_anywhere(self) -> bool:
        """Whether new items can be anywhere: the list has no order, or shows none and all its ids are known."""
        return self._shown.mixed or (not self._shown.shows and len(self._state.base.last) < WINDOW)

    def _begin_anew(self) -> None:
        """Read the list from its first item again. What is known stays known."""
        state = self._state
        self._pass.part = state.base = Part(last=state.base.last)
        state.begin, state.whole = None, False

    @property
    def _began_at_start(self) -> bool:
        return self._state.begin is not None and self._state.begin.link == self._start

    async def _is_in_place(self, begin: Part) -> bool:
        """Return whether the page where the unproven passes began still begins with the same item."""
        page = await self._requests.find(begin.link)
        if page is None or page.ids[:1] != begin.top[:1]:
            return False
        self._state.begin = None
        return True

    def _begin_pass(self, part: Part, *, from_start: bool = False) -> Pass:
        self._shown.begin_pass()
        return Pass(self._state, part, self._listing.base, from_start=from_start, gaps=self._gaps)

    async def _next_page(self) -> ListedPage | None:
        """Return the next page of the pass; None if it has ended."""
        page = self._page
        if page is None:
            return None
        self._leave(page)
        if self._pass.ended:
            return None
        if page.error is not None:
            raise page.error
        if page.next_url is None:
            self._pass.at_end = True
            return None
        try:
            return await self._requests.fetch(page.next_url)
        except APIError as exc:
            self._refused += 1
            if not is_lost(exc) or self._refused > _MOST_REFUSED:
                raise
        self._pass.seen.clear()
        return await self._find(self._pass.part, lost=True)

    def _enter(self, page: ListedPage) -> None:
        """Choose the items of a page to hand out, and find out whether the pass ends there."""
        state, now, ids = self._state, self._pass, page.ids
        self._page, self._offset = page, 0
        state.page = max(state.page, len(ids))
        here: set[str] = set()
        for index, each in enumerate(ids):
            if each in here:
                continue
            if not self._is_known(each):
                page.fresh.append(index)
                here.add(each)
            elif now.meet(each, fresh=bool(page.fresh)):
                del ids[index + 1 :]
                break
        if page.fresh:
            self._refused = 0
        for index in page.fresh[:: max(1, len(page.fresh) // _SAMPLES)]:
            self._shown.see(raw_time(page.items[index]))
        if self._note_times is not None:
            self._note_times(raw_times(page.items))
        begin = state.begin if now.part is not state.base and self._began_at_start else None
        if begin is not None and not set(begin.top[:1]).isdisjoint(ids):
            state.begin = None  # the first item is listed, and what is new is above it: nothing slipped away
        now.enter(page)
        if page.next_url is not None and hash(page.next_url) in now.seen:
            page.error = self._listing.refuse(page.next_url, "loops: it leads to a page that was read before")
            page.next_url = None
        if page.next_url is not None and not now.ended:
            self._requests.request_ahead(page.next_url)

    def _leave(self, page: ListedPage) -> None:
        """Add a page whose items were handed out to the part and to the known ids."""
        self._page = None
        self._pass.leave(page, reads_times=self._reach is not None)
        hashes = [hash(page.ids[index]) for index in page.fresh]
        self._run.extend(hashes)
        if len(self._run) > _MOST_IDS:
            del self._run[: _MOST_IDS // 2]
            self._in_run = None
        elif self._in_run is not None:
            _add_hashes(self._in_run, hashes)

    def _join(self) -> None:
        """Make one part of the base and the part above it, which has reached it."""
        base, above = self._state.base, self._pass.part
        base.top = list(dict.fromkeys([*above.top, *base.top]))[:TOP]
        if self._pass.at_end:
            base.last, base.link = above.last, above.link
        else:
            base.last = {**{each: None for each in above.last if each not in base.last}, **base.last}
        self._recorded.update(base.top)
        self._pass.part, self._state.above = base, None

    def _is_known(self, each: str) -> bool:
        if each in self._pass.part.last or each in self._recorded or each in self._pass.ends:
            return True
        if not self._again:
            return False
        if self._in_run is None:
            self._in_run = {}
            _add_hashes(self._in_run, self._run)
        found = hash(each)
        return found in self._in_run.get(found % _REMAINDERS, ())

    # --- requests ---

    async def _find(self, part: Part, *, lost: bool = False) -> ListedPage:
        """Return the page at which to resume a part. It begins a little before the last item, or earlier."""
        last, page = list(part.last), self._state.page
        if not lost and (found := await self._requests.find(part.link, last[: 1 - min(RUN, page)] or last)) is not None:
            return found
        # What is before one of these on its page is known too.
        near = last[min(page, len(last) - 1) :] if len(last) >= WINDOW else last
        return await self._seek([near, last, part.top])

    async def _seek(self, wanted: list[list[str]]) -> ListedPage:
        """See ``ListPages.seek``."""
        self._again = True
        page, found = await self._requests.seek(wanted)
        self.repeats = self.repeats or (bool(self._recorded) and not found)
        return page

    @property
    def read(self) -> tuple[Stretch, ...]:
        """The times of which all items were handed out, in this run or in an earlier one."""
        return self._state.read

    @property
    def _oldest(self) -> datetime:
        """The time of the oldest item that the list can have had when the run began."""
        return LONG_AGO if self._reach is None or self._requests.began is None else self._requests.began - self._reach


def _add_hashes(by_remainder: dict[int, array[int]], hashes: Iterable[int]) -> None:
    for each in hashes:
        remainder = each % _REMAINDERS
        if remainder not in by_remainder:
            by_remainder[remainder] = array("q")
        by_remainder[remainder].append(each)
