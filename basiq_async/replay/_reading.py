"""Read a list that changes, from one run to the next: hand out every item that the record does not know.

Whatever the list does, a reading that says ``finished`` has handed out, or found in the record, every item that was
listed throughout it. The record alone decides whether an item is handed out. A ``Hint`` only says where to begin, and
when to stop early. No source says in which order Basiq lists messages or events, so nothing here depends on one:

1. *Tail*: if the page of the hint still shows what an earlier reading read last, the list is read from there on.
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
import json
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any, Generic, TypeVar, cast

import attrs

from .._wire.codec import Unreadable
from .._wire.cursors import id_in_cursor
from .._wire.order import ListOrder, Order, raw_time
from .._wire.paging import Listing, PageRequests, is_lost, made_up_id, ordinary_ids, raw_id
from .._work.ids import Ids, digest_of
from ..errors import APIError, BasiqError
from ..pagination import Paginator, unreadable_item
from ._sources import Batch, plain_ids

T = TypeVar("T")
Known = Callable[[Sequence[str]], Awaitable[Collection[str]]]

_LATE = 64
"""An item may come late by so many places, or by a page if that is shorter."""
_FIRST, _LAST = 256, 128
"""The number of ids at the beginning and at the end of what was read that a hint keeps."""
_LONGEST_ID = 48
_MOST_TEXT = 60_000
_DAY, _EARLY = timedelta(hours=24), timedelta(minutes=15)
_MOST_KEYS = 500
_MOST_REFUSED = 10
"""How often the link to the next page may be refused before the list is taken to be broken."""
_MOST_BEHIND = 10
"""How many pages before a page may be requested again, to find what slipped away from it."""
_SAMPLES = 40
"""The number of items of a page whose times are compared."""


@attrs.frozen
class Hint:
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
    def read(cls, text: str, selection: str, listing: Listing[Any]) -> Hint | None:
        """Return the hint of a text; None if it is of another selection or list, or if another program wrote it."""
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
        self.ids = short_ids(items)
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


def short_ids(items: Sequence[Any]) -> list[str]:
    """Return the id of each item of a page: unchanged, or a digest if it is long, unusual or missing."""
    ids = ordinary_ids(items)
    if ids is None:
        return [_short_id(raw_id(item) or made_up_id(item)) for item in items]
    text = "".join(ids)
    short = text.isascii() and text.isprintable() and max(map(len, ids), default=0) <= _LONGEST_ID
    return ids if short else list(map(_short_id, map(id_in_cursor, ids)))


def _short_id(item_id: str) -> str:
    if len(item_id) <= _LONGEST_ID and item_id.isascii() and item_id.isprintable():
        return item_id
    return "#" + blake2b(item_id.encode(errors="surrogatepass"), digest_size=16).hexdigest()


class _Pass:
    """A way over the pages of the list.

    run: what it lengthens; None for a pass from the start of the list.
    until: what it ends at, in a list that shows an order; None for the end of the list.
    proves: whether it reads the page before each page again.
    """

    def __init__(self, url: str, run: Hint | None = None, *, until: Hint | None = None, proves: bool = False) -> None:
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
        run = self.run or Hint(began, [], [], "", at_end=False, proven=True, page=1, steps=[0, 0])
        self.at_end = page.is_last
        self._trail.append((page.url, self._count))
        while len(self._trail) > 1 and self._count - self._trail[1][1] + len(page.ids) >= late:
            self._trail.popleft()
        self._count += len(page.ids)
        first = run.first
        if self._begin is None and len(first) < _FIRST:
            first = list(dict.fromkeys([*first, *page.ids]))[:_FIRST]
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


class Reading(PageRequests, Generic[T]):
    """The items of a list that the record does not know::

        reading = Reading(client.messages.list(webhook_id), known=record.known, key_of=key_of)
        while (batch := await reading.advance()) is not None:
            for item in batch.items:
                ...                  # record it
                batch.finish()
        reading.finished             # whether nothing is left

    ``known`` is asked which of at most 500 keys the record knows; ``key_of`` returns the key of an item as Basiq sent
    it, by default its plain id. An item whose key occurs again is handed out once.

    ``hint`` is the text of an earlier reading's ``hint()``. It counts only for the same ``selection``, which names what
    is selected. Without a selection, none is read or written. A hint that is lost costs requests, and never an item.

    ``convert`` makes of each item of the list what is handed out, or None for one that is not wanted. ``choose`` says
    whether that is selected, and the error with which it then fails at once. An item that is not selected hides no
    other one with its key. With ``as_sent``, items are handed out as Basiq sent them, even those that cannot be read.
    ``now`` returns the time by the API's clock, as soon as a response was read. ``note_page`` is called with the items
    of each page, as Basiq sent them, that this run has not read before, and their times. ``passed`` are the keys of
    another list, whose items are not handed out. ``is_enough`` is called with the times of each page and the order of
    the list: the list ends for this reading after a page for which it returns True.

    The memory grows by 20 bytes an item. After an error or a cancellation a reading is over: another one, made from its
    last ``hint()``, goes on.
    """

    def __init__(
        self,
        paginator: Paginator[Any],
        *,
        known: Known,
        key_of: Callable[[Any], str] | None = None,
        hint: str | None = None,
        selection: str | None = None,
        convert: Callable[[Any], T | None] | None = None,
        choose: Callable[[T], tuple[bool, Exception | None]] | None = None,
        as_sent: bool = False,
        now: Callable[[], datetime] | None = None,
        note_page: Callable[[Sequence[Any], Sequence[datetime | None]], object] | None = None,
        passed: Ids | None = None,
        is_enough: Callable[[Sequence[datetime | None], Order], bool] | None = None,
    ) -> None:
        super().__init__(paginator._listing)
        self._on_unreadable = paginator._on_unreadable
        self._ask, self._key_of, self._convert, self._choose = known, key_of, convert or _unchanged, choose
        self._note_page, self._is_enough, self._as_sent, self._now = note_page, is_enough, as_sent, now or _now
        self._selection = None if selection is None else f"{self._listing.name} {selection}"
        self._former = None
        if hint is not None and self._selection is not None:
            self._former = Hint.read(hint, self._selection, self._listing)
        self._order = ListOrder(None if self._former is None else [*self._former.steps])
        self._longest = 1 if self._former is None else self._former.page
        self._passed = Ids() if passed is None else passed  # the keys that the record knew or that were handed out
        self._left_out = Ids()  # the ids of items that were not selected. Another item with the same key can be
        self._refused = 0
        self._steps: deque[tuple[Hint | None, Batch[Any]]] = deque()
        """Each page with the hint that may be noted once its items, and those of all pages before it, are done."""
        self._noted: Hint | None = None
        self.began: datetime | None = None
        """When the first page was requested, by the API's clock; None before it was read."""
        self.finished = False
        """Whether every item that was listed throughout this run is in the record, or was handed out."""
        self.known_count = self.read_count = self.unselected_count = 0
        """The number of items that the record knew, of those that were read, and of those that were not selected."""
        self._batches = self._read_all()

    async def advance(self) -> Batch[T] | None:
        """Return the next page that has anything to hand out; None at the end.

        Raises the errors of requests, of ``known``, and of items that cannot be read.
        """
        return await anext(self._batches, None)

    async def aclose(self) -> None:
        """End the reading, and cancel the request for the next page."""
        self.forget_ahead()
        await self._batches.aclose()

    @property
    def order(self) -> Order:
        """The order of the list, as far as the times of its items show it."""
        return self._order.order

    def hint(self) -> str | None:
        """Return the hint to note now: for the last page until which all is done. None if there is nothing to note.

        A hint whose link is the first page is none: the next reading begins there anyway.
        """
        while self._steps and self._steps[0][1].is_done:
            self._noted = self._steps.popleft()[0] or self._noted
        first_page = self._listing.base.relative(self._listing.start)
        if self._noted is None or self._selection is None or self._noted.link == first_page:
            return None
        return attrs.evolve(self._noted, page=self._longest, steps=[*self._order.steps]).write(self._selection)

    # --- passes ---

    async def _passes(self) -> AsyncGenerator[_Pass]:
        """Yield each pass to read. Go on when it has ended."""
        start, former = self._listing.start, self._former
        base = None
        unproven: list[_Pass] = []
        if former is not None and (url := self._listing.url(former.link)) != start:
            tail = _Pass(url, former)
            yield tail
            if tail.run is not None and tail.at_end and self._order.sure and not former.is_due(self._now()):
                base = attrs.evolve(tail.run, proven=former.proven)
                unproven.append(tail)
        top = _Pass(start, until=base)
        yield top
        if base is None or former is None or not top.joined:
            run, unproven = top.run, [top]
        else:
            first = list(dict.fromkeys([*(top.run or base).first, *base.first]))[:_FIRST]
            run = attrs.evolve(base, first=first, proven=False)
            if former.first[0] in top.met:  # it is still listed: nothing slipped away since the hint was written
                unproven = []
            unproven.append(top)
        if run is not None:
            self._steps.append((run, Batch()))
        for each in unproven:
            if each.pages > 1 and not await self._begins_as(each):
                proof = _Pass(start, proves=True)
                yield proof
                if not proof.at_end:
                    return
                run = proof.run
                break
        self.finished = True
        if run is not None:
            self._steps.append((attrs.evolve(run, proven=True), Batch()))

    async def _begins_as(self, now: _Pass) -> bool:
        """Return whether the first item of a pass is still on its first page, so that nothing slipped away in it."""
        try:
            page = await self._request(now.first_url)
        except APIError as exc:
            if not is_lost(exc) or now.first_url == self._listing.start:
                raise
            return False
        return bool(now.first_ids) and now.first_ids[0] in page.ids

    async def _read_all(self) -> AsyncGenerator[Batch[T]]:
        """Yield what each page of each pass has to hand out."""
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

    async def _next_page(self, now: _Pass) -> ListedPage | None:
        """Return the next page of a pass; None if it has ended. A link that is refused has it begin anew."""
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

    async def _read_behind(self, now: _Pass, page: ListedPage) -> list[ListedPage]:
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

    async def _enter(self, now: _Pass, page: ListedPage, *, is_next: bool) -> Batch[T]:
        """Return what a page has to hand out. ``is_next``: whether it is not a page before the present one."""
        self._longest = max(self._longest, len(page.ids))
        late = min(_LATE, self._longest)
        if self._is_enough is not None:
            order = self._order.order if self._order.sure else "unknown"
            if self._is_enough(page.times, order):
                page.next_url = None
        if is_next:
            now.meet(page, late)
            if now.until is None and now.connected:
                self.request_ahead(page.next_url)
        keys = plain_ids(page.items) if self._key_of is None else list(map(self._key_of, page.items))
        digests = list(map(digest_of, keys))
        unread = self._find_unread(page, digests)
        asked = list(dict.fromkeys([keys[index] for index in unread]))
        known: set[str] = set()
        for place in range(0, len(asked), _MOST_KEYS):
            known.update(await self._ask(asked[place : place + _MOST_KEYS]))
        fresh = [index for index in unread if keys[index] not in known]
        if self._note_page is not None and unread:
            self._note_page([page.items[index] for index in unread], [page.times[index] for index in unread])
        shown = unread if self._former is None else fresh
        for index in shown[:: max(1, len(shown) // _SAMPLES)]:
            self._order.see(page.time_of(index))
        self._passed.extend(map(digest_of, known))
        batch = self._make_batch(page, fresh, keys, digests)
        self.read_count += len(unread)
        self.known_count += len(unread) - len(fresh)
        hint = self._advance(now, page, late, is_astray=bool(batch.items)) if is_next and not page.failed else None
        self._steps.append((hint, batch))
        return batch

    def _advance(self, now: _Pass, page: ListedPage, late: int, *, is_astray: bool) -> Hint | None:
        """Find out whether a pass goes on after a page. Return the hint for when all until there is done, if any."""
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
        if unread and len(self._left_out):
            left_out = self._left_out.known([digest_of(page.ids[index]) for index in unread])
            unread = [index for index, each in zip(unread, left_out, strict=True) if not each]
        return unread

    def _make_batch(
        self, page: ListedPage, fresh: Sequence[int], keys: Sequence[str], digests: Sequence[bytes]
    ) -> Batch[T]:
        """Read the items of a page that the record does not know, up to the first one that fails."""
        items: list[Any] = []
        handed: dict[str, int] = {}
        errors: dict[int, Exception] = {}
        left_out: set[bytes] = set()
        for index in fresh:
            if keys[index] in handed:
                continue
            item = page.items[index] if self._as_sent else self._read(page, index)
            if page.failed:
                break
            chosen, error = item is not None or self._as_sent, None
            if chosen and self._choose is not None:
                chosen, error = self._choose(cast("T", item))
                self.unselected_count += not chosen
            if not chosen:
                left_out.add(digest_of(page.ids[index]))
                continue
            if error is not None:
                errors[len(items)] = error
            items.append(item)
            handed[keys[index]] = index
        self._passed.extend([digests[index] for index in handed.values()])
        self._left_out.extend(left_out)
        return Batch(items, list(handed), errors)

    def _read(self, page: ListedPage, index: int) -> Any:
        """Return an item to hand out; None for one that is not wanted, or if the page has failed at it."""
        # No local variable holds an item: error reports show them.
        reader = self._listing.reader
        try:
            return self._convert(reader.hook(page.items[index], reader.model))
        except Unreadable as exc:
            failure = self._listing.explain(exc, index)
        if self._on_unreadable is None:
            page.error, page.failed, page.is_last = failure, True, False
            return None
        found = self._on_unreadable(unreadable_item(page.items[index], failure))
        return None if found is None else self._convert(found)


def place_after(ids: Sequence[str], read: Collection[str]) -> int | None:
    """Return the place on a page after the last item that was read before; None if the page shows none of them.

    A fleet and a reading prove by it that nothing slipped away between two pages.
    """
    return next((place + 1 for place in reversed(range(len(ids))) if ids[place] in read), None)


def _unchanged(item: Any) -> Any:
    return item


def _now() -> datetime:
    return datetime.now(UTC)
