"""Read a list that changes, from one run to the next: hand out every item that the record does not know.

Whatever the list does, a reading that says ``finished`` has handed out, or found in the record, every item that was
listed throughout it. The record alone decides whether an item is handed out. Where to begin and when to stop early is a
hint, see ``_hint``. No source says in which order Basiq lists messages or events, so nothing here depends on one:

1. *Tail*: if the page of the hint still shows what an earlier reading read last, the list is read from there on.
2. *Top*: from the start of the list until enough of the items were met that an earlier reading read first. A list that
   shows no order is read to its end.
3. *Proof*: items may slip to the page before, between two requests, if others vanish above them. They do not if the
   first item of a pass is still where it was. If it is not, they are between two pages: another pass must show both
   sides of each such border on one page.

What no reader can see: in a list with numbered pages, the item that slips to the page before because one vanished from
the *middle* of the list at that moment.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import attrs

from .._wire.codec import Unreadable
from .._wire.order import ListOrder, Order
from .._wire.paging import is_lost
from .._work.ids import Ids, digest_of
from ..errors import APIError
from ..pagination import Paginator, unreadable_item
from ._hint import Hint, Part, read_hint, write_hint
from ._list_pages import ListedPage, ListPages
from ._pass import Pass
from ._sources import Batch, plain_ids

T = TypeVar("T")
Known = Callable[[Sequence[str]], Awaitable[Collection[str]]]

_LATE = 64
"""An item may come late by so many places, or by a page if that is shorter."""
_MOST_KEYS = 500
_MOST_PASSES = 10
_MOST_REFUSED = 10
"""How often in a row the link to the next page may be refused before the list is taken to be broken."""
_SAMPLES = 40
"""The number of items of a page whose times are compared."""


@attrs.frozen
class _Step:
    """A page, or the end of a pass. ``hint`` may be noted once its items, and those of all steps before it, are
    done."""

    hint: Hint | None
    batch: Batch[Any]


class Reading(Generic[T]):
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

    ``convert`` makes of each item of the list what is handed out, or None for one that is not selected. With
    ``as_sent``, items are handed out as Basiq sent them, even those that cannot be read. ``now`` returns the time by
    the API's clock, as soon as a response was read. ``note_page`` is called with the items of each page, as Basiq sent
    them, that this run has not read before, and their times. ``passed`` are the keys of another list, whose items are
    not handed out. ``is_enough`` is called with the times of each page and the order of the list: the list ends for
    this reading after a page for which it returns True.

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
        as_sent: bool = False,
        now: Callable[[], datetime] | None = None,
        note_page: Callable[[Sequence[Any], Sequence[datetime | None]], object] | None = None,
        passed: Ids | None = None,
        is_enough: Callable[[Sequence[datetime | None], Order], bool] | None = None,
    ) -> None:
        listing = self._listing = paginator._listing
        self._on_unreadable = paginator._on_unreadable
        self._hook, self._model = listing.reader.hook, listing.reader.model
        self._ask, self._key_of, self._convert, self._note_page = known, key_of, convert, note_page
        self._as_sent = as_sent
        self._selection = None if selection is None else f"{listing.name} {selection}"
        self._pages = ListPages(listing, now or _now)
        found = None if self._selection is None else read_hint(hint, self._selection)
        if found is not None and (found.base.is_due(self._pages.now()) or not found.is_of(listing)):
            found = None
        self._former = found  # the hint of an earlier run, if it counts
        self._order = ListOrder(None if found is None else found.steps)
        self._longest = 1 if found is None else found.page
        self._passed = Ids() if passed is None else passed  # the keys that the record knew or that were handed out
        self._left_out = Ids()  # the ids of items that were not selected. Another item with the same key can be
        self._is_enough = is_enough
        self._refused = 0
        self._steps: deque[_Step] = deque()
        self._noted: Hint | None = None
        self._base: Part | None = None  # the part that reaches, or is to reach, the end of the list
        self.finished = False
        """Whether every item that was listed throughout this run is in the record, or was handed out."""
        self.known_count = self.read_count = 0  # the number of items that the record knew, and of those that were read
        self._batches = self._read_all()

    async def advance(self) -> Batch[T] | None:
        """Return the next page that has anything to hand out; None at the end.

        Raises the errors of requests, of ``known``, and of items that cannot be read.
        """
        return await anext(self._batches, None)

    async def aclose(self) -> None:
        """End the reading, and cancel the request for the next page."""
        self._pages.forget_ahead()
        await self._batches.aclose()

    @property
    def order(self) -> Order:
        """The order of the list, as far as the times of its items show it."""
        return self._order.order

    @property
    def began(self) -> datetime | None:
        """When the first page was requested, by the API's clock; None before it was read."""
        return self._pages.began

    # --- the hint ---

    def hint(self) -> str | None:
        """Return the hint to note now: for the last page until which all is done. None if there is nothing to note."""
        steps = self._steps
        while steps and steps[0].batch.is_done:
            self._noted = steps.popleft().hint or self._noted
        if self._noted is None or self._selection is None:
            return None
        return write_hint(self._noted, self._selection)

    def _make_hint(self, base: Part, above: Part | None = None) -> Hint:
        return Hint(base, above, self._longest, [*self._order.steps])

    # --- passes ---

    async def _read_all(self) -> AsyncGenerator[Batch[T]]:
        """Yield what each page of each pass has to hand out."""
        async with aclosing(self._passes()) as passes:
            async for now in passes:
                while (page := await self._next_page(now)) is not None:
                    batch = await self._enter(now, page)
                    page.items = []  # the next page is decoded faster where memory is used again
                    if batch.items:
                        yield batch
                    del batch
                    if page.error is not None:
                        raise page.error

    async def _passes(self) -> AsyncGenerator[Pass]:
        """Yield each pass to read. Go on when it has ended."""
        start, former = self._listing.start, self._former
        tails: list[Pass] = []
        if former is not None:
            self._base = former.base
            for until in (former.base, None):
                part = self._base if until is None else former.above
                if part is None or any(tail.at_end for tail in tails):
                    continue
                for tail in self._each_tail(part, until):
                    yield tail
                    if tail.connected:
                        tails.append(tail)
                        self._settle(tail)
                        break
                else:
                    self._base = None if until is None else self._base
        top = next((tail for tail in tails if tail.from_start and tail.at_end), None)
        stays = False
        if top is None:
            top = Pass(start, until=self._base)
            yield top
            base = self._base
            if base is not None:
                # What was the first item of the list before is on its first page: nothing slipped away in the tails.
                stays = not set(base.first[:1]).isdisjoint(top.first_ids)
                if base.witness in top.first_ids:
                    self._base = attrs.evolve(base, witness=None)
            self._settle(top)
            earlier = [] if former is None else [part.witness for part in (former.base, former.above) if part]
            if not top.at_end and any(each is not None and each not in top.first_ids for each in earlier):
                top = Pass(start)
                yield top
                self._settle(top)
        unproven = [top] if top.at_end or stays else [*tails, top]
        for each in unproven:
            left = each.borders
            if not left or (await self._begins_as(each)):
                continue
            url = each.url
            for _ in range(_MOST_PASSES):
                until = None if each.at_end else each.until
                again = Pass(url, each.part if url != start else None, until, notes=False, borders=left)
                yield again
                left = again.former.left
                # A page that moved upwards may begin below what was missed.
                if again.from_start or (left and left[0][0] in again.first_ids):
                    if left and again.borders and await self._begins_as(again):
                        left = []
                    left = min(left, again.borders, key=len)
                else:
                    url = start
                if not left:
                    break
            if left:
                return
        self.finished = True
        if self._base is not None:
            self._base = attrs.evolve(self._base, witness=None)
            self._steps.append(_Step(self._make_hint(self._base), Batch()))

    def _each_tail(self, part: Part, until: Part | None) -> Iterator[Pass]:
        """Yield the passes that may lengthen a part, until one of them is connected with it."""
        for place, (link, _) in enumerate(part.links):
            url = self._listing.url(link)
            yield Pass(url, None if url == self._listing.start else part, until, above=part.links[place + 1 :])

    def _settle(self, now: Pass) -> None:
        """Make one part of what a pass has read and of the base that it has reached."""
        if now.at_end and now.part is not None:
            self._base = attrs.evolve(now.part, complete=True)
        elif now.part is not None and self._base is not None:
            self._base = self._base.below(now.part)
        if self._base is not None:
            self._steps.append(_Step(self._make_hint(self._base), Batch()))

    async def _begins_as(self, now: Pass) -> bool:
        """Return whether the first page of a pass still begins with the same item, or with newer ones above it."""
        if not now.first_ids:
            return False
        try:
            page = await self._pages.read(now.url)
        except APIError as exc:
            if not is_lost(exc) or now.url == self._listing.start:
                raise
            return False
        return now.first_ids[0] in page.ids

    # --- pages ---

    async def _next_page(self, now: Pass) -> ListedPage | None:
        """Return the next page of a pass; None if it has ended."""
        while now.next_url is not None:
            try:
                return await self._pages.read(now.next_url, now.seen)
            except APIError as exc:
                if is_lost(exc) and not now.from_start and not now.pages:
                    break
                self._refused += 1
                if not is_lost(exc) or now.next_url == self._listing.start or self._refused > _MOST_REFUSED:
                    raise
            now.begin(self._listing.start, from_start=True)
        return None

    async def _enter(self, now: Pass, page: ListedPage) -> Batch[T]:
        """Return what a page has to hand out."""
        self._longest = max(self._longest, len(page.ids))
        late = min(_LATE, self._longest)
        if self._is_enough is not None and self._is_enough(
            page.times, self._order.order if self._order.sure else "unknown"
        ):
            page.next_url = None
        now.enter(page, late)
        goes_on = now.until is None and now.connected
        if goes_on:
            self._pages.request_ahead(page.next_url)
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
        self.known_count += sum(keys[index] in known for index in unread)
        now.meet(page, late, self._order, frozenset(batch.indexes))
        is_astray = not now.connected and bool(batch.items)
        now.next_url = None if now.joined or is_astray else page.next_url
        if not goes_on:
            self._pages.request_ahead(now.next_url)
        part = None if page.failed else now.lengthen(page, late, self._pages.began or _now(), self._listing.base)
        if part is None:
            hint = None
        elif now.until is None or self._base is None:
            hint = self._make_hint(part)
        else:
            hint = self._make_hint(self._base, part)
        self._steps.append(_Step(hint, batch))
        return batch

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
        """Read the items of a page that the record does not know. A failure is raised after the items before it."""
        items: list[Any] = []
        handed: dict[str, int] = {}
        left_out: list[int] = []
        for index in fresh:
            if keys[index] in handed:
                continue
            item = page.items[index] if self._as_sent else self._read(page, index)
            if page.failed:
                break
            if item is None and not self._as_sent:
                left_out.append(index)
            else:
                items.append(item)
                handed[keys[index]] = index
        places = list(handed.values())
        self._passed.extend([digests[index] for index in places])
        self._left_out.extend({digest_of(page.ids[index]) for index in left_out})
        return Batch(items, list(handed), places)

    def _read(self, page: ListedPage, index: int) -> Any:
        """Return an item to hand out; None for one that was not selected, or if the page has failed at it."""
        # No local variable holds an item: error reports show them.
        convert = self._convert or _unchanged
        try:
            return convert(self._hook(page.items[index], self._model))
        except Unreadable as exc:
            failure = self._listing.explain(exc, index)
        if self._on_unreadable is None:
            page.error, page.failed = failure, True
            return None
        found = self._on_unreadable(unreadable_item(page.items[index], failure))
        return None if found is None else convert(found)


def _unchanged(item: Any) -> Any:
    return item


def _now() -> datetime:
    return datetime.now(UTC)
