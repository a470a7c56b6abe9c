"""The page of a segment: whatever the list does between two requests, no message is lost at the edge of a page."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator, Callable, Collection, Iterator
from datetime import timedelta

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from basiq_async import Message
from basiq_async.distributed._pages import read_page  # private: one page at a time
from basiq_async.distributed._record_types import (  # private: what a segment knows of its place
    SegmentClaim,
    SegmentPage,
)
from basiq_async.errors import PaginationError, ReplayError
from basiq_async.testing import Quirks
from tests.support.fleets import crew
from tests.support.histories import Recorder

EXAMPLES = int(os.environ.get("BASIQ_FUZZ_EXAMPLES", "300"))
FIRST = SegmentClaim(
    cursor=None, before=None, after=(), edge=(), upto=None, done=(), rate=None, paused=0.0
)  # fmt: skip


class NumberedList:
    """A list whose pages are numbered: a cursor is a number of items to skip."""

    def __init__(self, count: int, size: int, *, newest_first: bool = False) -> None:
        self.ids = [f"m{number}" for number in range(count)]
        self.size = size
        self.made = count
        self.newest_first = newest_first
        self.requests = 0
        self.before_request: Callable[[], None] = lambda: None
        self.refused: set[str] = set()

    async def pages(self, cursor: str | None) -> AsyncGenerator[SegmentPage]:
        while True:
            self.before_request()
            self.requests += 1
            if cursor in self.refused:
                raise PaginationError("the place is lost")
            begin = int(cursor or 0)
            end = begin + self.size
            following = str(end) if end < len(self.ids) else None
            messages = [Message(each, {"id": each}) for each in self.ids[begin:end]]
            yield SegmentPage(messages=messages, cursor=cursor, next_cursor=following)
            if following is None:
                return
            cursor = following

    def change(self, what: str, number: int) -> None:
        if what == "grow":
            for _ in range(number + 1):
                self.ids.insert(0 if self.newest_first else len(self.ids), f"m{self.made}")
                self.made += 1
        elif what == "expire":
            del self.ids[len(self.ids) - number if self.newest_first else 0 :][: None if self.newest_first else number]
        elif what == "vanish" and self.ids:
            del self.ids[number % len(self.ids)]


def following(claim: SegmentClaim, page: SegmentPage) -> SegmentClaim | None:
    """Return the claim of the next segment, as the record makes it; None at the end of the list."""
    if page.next_cursor is None:
        return None
    if not page.edge:
        return attrs.evolve(claim, cursor=page.next_cursor)
    return attrs.evolve(FIRST, cursor=page.next_cursor, before=page.cursor, after=page.edge)


async def read_all(
    listed: NumberedList,
    between: Callable[[int], None] = lambda number: None,
    taken_over: Collection[int] = (),
) -> list[str]:
    """Read a list, segment by segment; ``between`` is called before each but the first.

    The owners of the segments ``taken_over`` die when they have read their pages, and others read them once more.
    """
    read: list[str] = []
    claim: SegmentClaim | None = FIRST
    number = 0
    while claim is not None:
        page = await read_page(listed.pages, claim)
        after = following(claim, page)
        if number in taken_over:
            page = await read_page(listed.pages, attrs.evolve(claim, edge=page.edge))
        read += [message.id for message in page.messages]
        claim, number = after, number + 1
        between(number)
    return read


@pytest.mark.parametrize("gone", [1, 3, 4, 5, 11], ids=lambda gone: f"{gone} of 4 a page")
async def test_a_message_that_slips_to_the_page_before_is_read_all_the_same(gone: int) -> None:
    listed = NumberedList(40, 4)
    before = list(listed.ids)

    def between(number: int) -> None:
        if number == 3:
            del listed.ids[:gone]

    assert await read_all(listed, between) == before, "messages at the edge of a page were lost"
    assert listed.requests < 30


async def test_a_list_that_stays_costs_one_request_more_for_each_page_but_the_first() -> None:
    listed = NumberedList(40, 4)
    assert await read_all(listed) == listed.ids
    assert listed.requests == 10 + 9


async def test_a_page_whose_link_is_lost_is_found_by_the_ids_before_it() -> None:
    listed = NumberedList(40, 4)
    before = list(listed.ids)

    def between(number: int) -> None:
        listed.refused = {"16"} if number == 4 else set()
        if number == 4:
            del listed.ids[10:16]  # the last messages that were read vanish too

    assert await read_all(listed, between) == before


async def test_a_place_of_which_nothing_is_listed_any_more_stops_the_job_and_says_so() -> None:
    listed = NumberedList(60, 10)
    with pytest.raises(ReplayError, match="the place after message 'm29' cannot be found again: begin another job"):
        await read_all(listed, lambda number: listed.ids.clear() if number == 3 else None)


async def test_a_page_that_is_taken_over_ends_where_the_next_one_begins_whatever_became_of_it() -> None:
    listed = NumberedList(40, 4)
    claim = following(FIRST, await read_page(listed.pages, FIRST))
    assert claim is not None
    again = attrs.evolve(claim, edge=(await read_page(listed.pages, claim)).edge)
    del listed.ids[:2]
    assert ids_of(await read_page(listed.pages, again)) == ["m4", "m5", "m6", "m7"]
    listed.ids.remove("m6")
    assert ids_of(await read_page(listed.pages, again)) == ["m4", "m5", "m7"]
    listed.ids.insert(4, "late")
    assert ids_of(await read_page(listed.pages, again)) == ["m4", "m5", "late", "m7"]
    del listed.ids[2:6]
    assert ids_of(await read_page(listed.pages, again)) == [], "the next segment has what follows"


async def test_a_page_at_the_top_that_is_taken_over_is_found_under_what_arrived() -> None:
    listed = NumberedList(8, 4, newest_first=True)
    first = await read_page(listed.pages, FIRST)
    listed.change("grow", 9)
    again = ids_of(await read_page(listed.pages, attrs.evolve(FIRST, edge=first.edge)))
    assert again == [*listed.ids[:10], *ids_of(first)]


def ids_of(page: SegmentPage) -> list[str]:
    return [message.id for message in page.messages]


kinds = {"oldest-first": ["grow", "expire", "vanish"], "newest-first": ["grow", "expire"], "shrinking": ["vanish"]}


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(sorted(kinds)),
    size=st.integers(2, 5),
    count=st.integers(0, 40),
    changes=st.dictionaries(st.integers(0, 40), st.tuples(st.integers(0, 2), st.integers(0, 12)), max_size=12),
    taken_over=st.sets(st.integers(0, 10), max_size=4),
)
async def test_whatever_a_list_does_between_two_requests_what_stays_is_read(
    kind: str, size: int, count: int, changes: dict[int, tuple[int, int]], taken_over: set[int]
) -> None:
    listed = NumberedList(count, size, newest_first=kind == "newest-first")
    throughout = set(listed.ids)

    def change() -> None:
        if (found := changes.get(listed.requests)) is not None:
            listed.change(kinds[kind][found[0] % len(kinds[kind])], found[1])

    listed.before_request = change
    try:
        read = await read_all(listed, taken_over=taken_over)
    except ReplayError as exc:  # no message is skipped: the job ends in front of the place, and says so
        (place,) = re.findall(r"the place after message '(\w+)' cannot be found again", str(exc))
        assert place not in listed.ids, "a message that is listed was not found"
        return
    lost = throughout.intersection(listed.ids).difference(read)
    assert not lost, f"listed throughout the job and never read: {sorted(lost)}"


async def test_events_that_expire_at_the_old_end_of_numbered_pages_lose_none(redis_url: str) -> None:
    numbers: Iterator[int] = iter(range(1000))

    async def behave(message: Message) -> None:
        if next(numbers) % 10 == 9:  # at the end of each page an event expires: those after it move up by one place
            await fleet.fake.advance(minutes=1)

    recorder = Recorder(behave)
    async with crew(
        redis_url, recorder, messages=0, workers=1, segments=1, concurrency=1, quirks=Quirks(paging="offset")
    ) as fleet:
        for number in range(60):
            fleet.fake.emit("consent.revoked", user_id=f"u{number}")
            await fleet.fake.advance(minutes=1)
        await fleet.fake.advance(timedelta(days=7) - timedelta(minutes=60, seconds=30))
        before = [event.id async for event in fleet.client.events.list()]
        assert len(before) == 60
        await (await fleet.submit(source="events")).wait(timeout=20.0)
        lost = set(before).difference(each.removeprefix("event-") for each in recorder.ids)
        assert not lost, f"events were lost at the edges of pages: {[before.index(each) for each in sorted(lost)]}"
