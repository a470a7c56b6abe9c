"""Read a list that changes, from one run to the next: yield every item that the record does not know.

Whatever the list does, a reading that says ``finished`` has yielded, or found in the record, every item that was
listed throughout it. The record alone decides whether an item is yielded. A ``ResumePoint`` only says where to begin,
and when to stop early. No source says in which order Basiq lists messages or events, so nothing here depends on one:

1. *Tail*: if the page of the resume point still shows what an earlier reading read last, the list is read from there
on.
2. *Top*: from the start of the list until enough of the items were met that an earlier reading read first. A list that
   shows no order, or whose tail was not found, is read to its end.
3. *Proof*: items slip to the page before, between two requests, if others vanish above them. They do not while the
   first item of a pass is still listed. If it is not, the list is read once more, and after each page the page before
   it again, where whatever slipped is.

What no reader can see: in a list with numbered pages, the item that slips to the page before because one vanished from
the *middle* of the list at that moment.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar, cast

import attrs

from .._wire.codec import Unreadable
from .._wire.order import ListOrder, Order
from .._wire.paging import PageRequests, is_lost, with_limit
from .._work.ids import IdSet, digest_of
from ..errors import APIError
from ..pagination import Paginator, unreadable_item
from ..services.details import Details, Judge, RawMessages
from ._listed import MOST_FIRST, ListedPage, Pass, ResumePoint, place_after
from ._sources import Batch, plain_ids

T = TypeVar("T")
Known = Callable[[Sequence[str]], Awaitable[Collection[str]]]

_LATE = 64
"""An item may come late by so many places, or by a page if that is shorter."""
_MOST_KEYS = 500
_MOST_REFUSED = 10
"""How often the link to the next page may be refused before the list is taken to be broken."""
_FEW_TIMES = 8
"""The number of items of a page that are read by their ids, if the page shows fewer times."""
_FEW_FIRST = 32
"""The number of items that are requested to see whether the first one is still listed."""
_SAMPLES = 40
"""The number of items of a page whose times are compared."""


class Reading(PageRequests, Generic[T]):
    """The items of a list that the record does not know::

        reading = Reading(client.messages.list(webhook_id), known=record.known, key_of=key_of)
        while (batch := await reading.advance()) is not None:
            for item in batch.items:
                ...                  # record it
                batch.mark_done()
        reading.finished             # whether nothing is left

    ``known`` is asked which of at most 500 keys the record knows; ``key_of`` returns the key of an item as Basiq sent
    it, by default its plain id. An item whose key occurs again is yielded once.

    ``resume_point`` is the text of an earlier reading's ``resume_point()``. It counts only for the same ``selection``,
    which names what is selected. Without a selection, none is read or written. A resume point that is lost costs
    requests, and never an item.

    ``convert`` makes of each item of the list what is yielded, or None for one that is not wanted. ``choose`` says
    whether that is selected, None if it does not tell, and the error with which it then fails at once. An item that is
    not selected hides no other one with its key. With ``raw_items``, items are yielded as Basiq sent them, even
    those that cannot be read. ``now`` returns the time by the API's clock, as soon as a response was read. ``on_page``
    is called with the items of each page, as Basiq sent them, that this run has not read before, and their times.
    ``passed`` are the keys of another list, whose items are not yielded. ``is_enough`` is called with the times of
    each page and the order of the list: the list ends for this reading after a page for which it returns True. Where
    the list does not tell of an item what ``judge`` needs, ``details`` reads it by its id; and a few of each page if
    ``is_enough`` needs times.

    The memory grows by 20 bytes an item. After an error or a cancellation a reading is over: another one, made from its
    last ``resume_point()``, goes on.
    """

    def __init__(
        self,
        paginator: Paginator[Any],
        *,
        known: Known,
        key_of: Callable[[Any], str] | None = None,
        resume_point: str | None = None,
        selection: str | None = None,
        convert: Callable[[Any], T | None] | None = None,
        choose: Callable[[T], tuple[bool | None, Exception | None]] | None = None,
        raw_items: bool = False,
        now: Callable[[], datetime] | None = None,
        on_page: Callable[[Sequence[Any], Sequence[datetime | None]], object] | None = None,
        passed: IdSet | None = None,
        is_enough: Callable[[Sequence[datetime | None], Order], bool] | None = None,
        details: Details | None = None,
        judge: Judge | None = None,
    ) -> None:
        super().__init__(paginator._listing)
        self._on_unreadable = paginator._on_unreadable
        self._ask, self._key_of, self._convert, self._choose = known, key_of, convert, choose
        self._on_page, self._is_enough, self.raw_items, self._now = on_page, is_enough, raw_items, now or _now
        self._details, self._judge = details, judge
        self._is_cut = False  # whether the rest of the list was not needed
        self._selection = None if selection is None else f"{self._listing.name} {selection}"
        self._former = None
        if resume_point is not None and self._selection is not None:
            self._former = ResumePoint.read(resume_point, self._selection, self._listing)
        self._order = ListOrder(None if self._former is None else [*self._former.steps])
        self._longest = 1 if self._former is None else self._former.page
        self._passed = IdSet() if passed is None else passed  # the keys that the record knew or that were yielded
        self._left_out = IdSet()  # the ids of items that were not selected. Another item with the same key can be
        self._refused = 0
        self._steps: deque[tuple[ResumePoint | None, Batch[Any]]] = deque()
        """Each page with the resume point to note once its items, and those of all pages before it, are done."""
        self._noted: ResumePoint | None = None
        self.began: datetime | None = None
        """When the first page was requested, by the API's clock; None before it was read."""
        self.finished = False
        """Whether every item that was listed throughout this run is in the record, or was yielded."""
        self.known_count = self.read_count = self.unselected_count = self.unknown_count = 0
        """The number of items that the record knew, of those that were read, of those that were not selected, and of
        those that do not tell whether they are."""
        self._batches = self._read_all()

    def advance(self) -> Awaitable[Batch[T] | None]:
        """Return the next page that has anything to yield; None at the end.

        Raises the errors of requests, of ``known``, and of items that cannot be read.
        """
        return anext(self._batches, None)

    @property
    def start(self) -> str:
        """The URL of the first page."""
        return self._listing.start

    def relative(self, url: str) -> str:
        """Return the part of a page's URL below that of the API."""
        return self._listing.base.relative(url)

    def absolute(self, link: str) -> str:
        """Return the URL of a page from that part."""
        return self._listing.url(link)

    async def read_page(
        self, url: str, seen: Collection[int] = frozenset(), *, ahead: bool = False
    ) -> tuple[ListedPage, Batch[T]]:
        """Return one page, wherever it is in the list, and what it has to yield. No resume point follows from it.

        ``seen`` are the hashes of the URLs before it. ``ahead``: whether to request the next one already.
        """
        page = await self._request(url, seen)
        if ahead:
            self.request_ahead(page.next_url)
        batch = await self._enter(Pass(url), page, is_next=False)
        self._steps.clear()
        return page, batch

    async def aclose(self) -> None:
        """End the reading, and cancel the request for the next page."""
        self.forget_ahead()
        await self._batches.aclose()

    @property
    def read_by_id(self) -> int:
        """The number of items that were read by their ids."""
        return 0 if self._details is None else self._details.count

    def note_no_details(self) -> None:
        """Do not note what is read by its id: another process does that for all pages."""
        if self._details is not None:
            self._details.is_noting = False

    async def forget_details(self, *, filtered: bool) -> None:
        """Forget what was remembered of messages that are not listed any more, if this reading has finished.

        filtered: whether the list has a filter, so that it does not show all.
        """
        if self._details is not None and self.finished:
            await self._details.forget(filtered=filtered or self._is_cut)

    @property
    def order(self) -> Order:
        """The order of the list, as far as the times of its items show it."""
        return self._order.order

    def resume_point(self) -> str | None:
        """Return the resume point to note now: for the last page until which all is done. None for nothing.

        A resume point whose link is the first page is none: the next reading begins there anyway.
        """
        while self._steps and self._steps[0][1].is_done:
            self._noted = self._steps.popleft()[0] or self._noted
        first_page = self._listing.base.relative(self._listing.start)
        if self._noted is None or self._selection is None or self._noted.link == first_page:
            return None
        return attrs.evolve(self._noted, page=self._longest, steps=[*self._order.steps]).write(self._selection)

    # --- passes ---

    async def _passes(self) -> AsyncGenerator[Pass]:
        """Yield each pass to read. Go on when it has ended."""
        start, former = self._listing.start, self._former
        base = None
        unproven: list[Pass] = []
        if former is not None and (url := self._listing.url(former.link)) != start:
            tail = Pass(url, former)
            yield tail
            if tail.run is not None and tail.at_end and self._order.sure and not former.is_due(self._now()):
                base = attrs.evolve(tail.run, proven=former.proven)
                unproven.append(tail)
        top = Pass(start, until=base)
        yield top
        if base is None or former is None or not top.joined:
            run, unproven = top.run, [top]
        else:
            first = list(dict.fromkeys([*(top.run or base).first, *base.first]))[:MOST_FIRST]
            run = attrs.evolve(base, first=first)
            if former.first[0] in top.met:  # still listed: nothing slipped away since the resume point was written
                unproven = []
            unproven.append(top)
        # Noted before the proof, it would call the tail proven while the first item of the top is listed.
        for each in unproven:
            if each.pages > 1 and not await self._begins_as(each):
                proof = Pass(start, proves=True)
                yield proof
                if not proof.at_end:
                    return
                run = proof.run
                break
        self.finished = True
        if run is not None:
            self._steps.append((attrs.evolve(run, proven=True), Batch()))

    async def _begins_as(self, now: Pass) -> bool:
        """Return whether the first item of a pass is still on its first page, so that nothing slipped away in it."""
        try:
            # Few items show it mostly, and cost less. Only the list of messages has a documented ``limit``.
            if now.first_ids and now.first_url == self._listing.start and "limit=" in now.first_url:
                few = await self._request(with_limit(now.first_url, _FEW_FIRST))
                if now.first_ids[0] in few.ids:
                    return True
            page = await self._request(now.first_url)
        except APIError as exc:
            if not is_lost(exc) or now.first_url == self._listing.start:
                raise
            return False
        return bool(now.first_ids) and now.first_ids[0] in page.ids

    async def _read_all(self) -> AsyncGenerator[Batch[T]]:
        """Yield what each page of each pass has to yield."""
        async with aclosing(self._passes()) as passes:
            async for now in passes:
                while (page := await self._next_page(now)) is not None:
                    behind = await self._read_behind(now, page) if now.proves and now.pages else []
                    for each in (*behind, page):
                        batch = await self._enter(now, each, is_next=each is page)
                        each.items = []  # the next page is decoded faster where memory is used again
                        if batch.items:
                            yield batch
                        del batch
                        if each.error is not None:
                            raise each.error

    async def _next_page(self, now: Pass) -> ListedPage | None:
        """Return the next page of a pass; None if it has ended. A link that is refused has it begin again."""
        while now.next_url is not None:
            try:
                return await self._request(now.next_url, now.seen)
            except APIError as exc:
                self._refused += 1
                if not is_lost(exc) or now.next_url == self._listing.start or self._refused > _MOST_REFUSED:
                    raise
                if now.url != self._listing.start:
                    break
            now.begin()
        return None

    async def _read_behind(self, now: Pass, page: ListedPage) -> list[ListedPage]:
        """Return the pages before a page, up to one that shows what was read last: what slipped away is there.

        If none shows it, the pass ends.
        """
        found: list[ListedPage] = []
        last = set(() if now.run is None else now.run.last)
        shown = place_after(page.ids, last) is not None
        for url in reversed(now.behind):
            if shown:
                return found
            try:
                found.insert(0, await self._request(url))
            except APIError as exc:
                if not is_lost(exc):
                    raise
                break
            shown = url == self._listing.start or place_after(found[0].ids, last) is not None
        if not shown:
            page.next_url, page.is_last = None, False
        return found

    async def _request(self, url: str, seen: Collection[int] = frozenset()) -> ListedPage:
        """Return the page of a URL. ``seen`` are the hashes of the URLs that were read before: a link loops."""
        asked = asyncio.get_running_loop().time()
        found = await self.fetch(url)
        if self.began is None:
            took = timedelta(seconds=asyncio.get_running_loop().time() - asked)
            self.began = (self._now() - took).replace(microsecond=0)
        return ListedPage(url, found.items, *self._listing.resolve(found.next_link, url, seen))

    # --- pages ---

    async def _enter(self, now: Pass, page: ListedPage, *, is_next: bool) -> Batch[T]:
        """Return what a page has to yield. ``is_next``: whether it is not a page before the present one."""
        self._longest = max(self._longest, len(page.ids))
        late = min(_LATE, self._longest)
        if self._is_enough is not None:
            self._end_if_enough(page)
        if is_next:
            now.meet(page, late)
            if now.until is None and now.connected:
                self.request_ahead(page.next_url)
        if self._key_of is None:
            keys = page.ordinary_ids or plain_ids(page.items)
        else:
            keys = list(map(self._key_of, page.items))
        digests = list(map(digest_of, keys))
        unread = self._find_unread(page, digests)
        asked = list(dict.fromkeys(map(keys.__getitem__, unread)))
        known: set[str] = set()
        for place in range(0, len(asked), _MOST_KEYS):
            known.update(await self._ask(asked[place : place + _MOST_KEYS]))
        fresh = [index for index in unread if keys[index] not in known] if known else unread
        if self._details is not None:
            await self._fill(self._details, page, fresh)
        if self._on_page is not None and unread:
            self._on_page([page.items[index] for index in unread], [page.times[index] for index in unread])
        shown = page.find_timed(unread if self._former is None else fresh)
        for index in shown[:: max(1, len(shown) // _SAMPLES)]:
            self._order.see(page.time_of(index))
        if known:
            self._passed.extend(map(digest_of, known))
        batch = self._make_batch(page, fresh, keys, digests)
        self.read_count += len(unread)
        self.known_count += len(unread) - len(fresh)
        resume_point = (
            self._advance(now, page, late, is_astray=bool(batch.items)) if is_next and not page.failed else None
        )
        self._steps.append((resume_point, batch))
        return batch

    async def _fill(self, details: Details, page: ListedPage, fresh: Sequence[int]) -> None:
        """Read by their ids the messages of a page that do not tell what must be known."""
        page.items = raw = RawMessages(page.items)
        await details.fill(raw, fresh, self._judge)
        page.forget_times()
        is_bounded = self._is_enough is not None and (not self._order.sure or self._order.order == "newest-first")
        if is_bounded and len(page.find_timed(range(len(page.items)))) < _FEW_TIMES:
            await details.fill(raw, range(0, len(raw), max(1, len(raw) // _FEW_TIMES)))
            page.forget_times()
        self._end_if_enough(page)

    def _end_if_enough(self, page: ListedPage) -> None:
        order = self._order.order if self._order.sure else "unknown"
        if self._is_enough is not None and self._is_enough(page.times, order):
            page.next_url, self._is_cut = None, True

    def _advance(self, now: Pass, page: ListedPage, late: int, *, is_astray: bool) -> ResumePoint | None:
        """Find out whether a pass goes on after a page. Return the resume point, if any, for when all is done."""
        now.behind.append(page.url)
        now.next_url = page.next_url
        if not now.connected:
            if is_astray or page.is_last:
                now.next_url = None
            return None
        now.lengthen(page, late, self.began or self._now(), self._listing.base.relative)
        if (until := now.until) is not None:
            enough = len(now.met) >= min(late, len(until.first)) and self._order.sure
            now.joined = enough and (until.proven or until.first[0] in now.met)
            now.next_url = None if now.joined else page.next_url
            self.request_ahead(now.next_url)
        is_noted = not now.proves and now.until is None
        return now.run if is_noted else None

    def _find_unread(self, page: ListedPage, digests: Sequence[bytes]) -> list[int]:
        """Return the indexes of the items that this run has not passed. ``digests`` are those of their keys."""
        unread = [index for index, passed in enumerate(self._passed.known(digests)) if not passed]
        if len(self._left_out):
            left_out = self._left_out.known([digest_of(page.ids[index]) for index in unread])
            unread = [index for index, each in zip(unread, left_out, strict=True) if not each]
        return unread

    def _make_batch(
        self, page: ListedPage, fresh: Sequence[int], keys: Sequence[str], digests: Sequence[bytes]
    ) -> Batch[T]:
        """Read the items of a page that the record does not know, up to the first one that fails."""
        if self.raw_items and self._choose is None and len(set(map(keys.__getitem__, fresh))) == len(fresh):
            self._passed.extend([digests[index] for index in fresh])
            return Batch([page.items[index] for index in fresh], [keys[index] for index in fresh])
        items: list[Any] = []
        handed: dict[str, int] = {}
        errors: dict[int, Exception] = {}
        left_out: set[bytes] = set()
        unknown = 0
        for index in fresh:
            if keys[index] in handed:
                continue
            item = page.items[index] if self.raw_items else self._read(page, index)
            if page.failed:
                break
            chosen: bool | None = item is not None or self.raw_items
            error: Exception | None = None
            if chosen and self._choose is not None:
                chosen, error = self._choose(cast("T", item))
                self.unselected_count += chosen is False
                unknown += chosen is None
            if not chosen:
                left_out.add(digest_of(page.ids[index]))
                continue
            if error is not None:
                errors[len(items)] = error
            items.append(item)
            handed[keys[index]] = index
        self._passed.extend([digests[index] for index in handed.values()])
        self._left_out.extend(left_out)
        batch = Batch(items, list(handed), errors)
        if unknown:
            self.unknown_count += unknown
            batch.keep_unread()
        return batch

    def _read(self, page: ListedPage, index: int) -> Any:
        """Return an item to yield; None for one that is not wanted, or if the page has failed at it."""
        # No local variable holds an item: error reports show them.
        reader = self._listing.reader
        try:
            if self._convert is None:
                return reader.hook(page.items[index], reader.model)
            return self._convert(reader.hook(page.items[index], reader.model))
        except Unreadable as exc:
            failure = self._listing.explain(exc, index)
        if self._on_unreadable is None:
            page.error, page.failed, page.is_last = failure, True, False
            return None
        found = self._on_unreadable(unreadable_item(page.items[index], failure))
        return found if found is None or self._convert is None else self._convert(found)


def _now() -> datetime:
    return datetime.now(UTC)
