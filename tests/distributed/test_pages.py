"""The page of a segment: whatever the list does between two requests, no message is lost at the edge of a page."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator, Callable, Collection
from functools import partial

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from basiq_async import Message, NotFoundError
from basiq_async.distributed._pages import read_page  # private: one page at a time
from basiq_async.distributed._record_types import (  # private: what a segment knows of its place
    SegmentClaim,
    SegmentPage,
)
from basiq_async.errors import PaginationError, ReplayError
from tests.support.changing_lists import START, Lists

EXAMPLES = int(os.environ.get("BASIQ_FUZZ_EXAMPLES", "150"))
FIRST = SegmentClaim(cursor=None, before=None, after=(), edge=(), upto=None, done=(), rate=None, paused=0.0)


def numbered(count: int, size: int, order: str = "oldest-first") -> Lists:
    """Return a list whose pages are numbered: a link has the number of items to skip."""
    listed = Lists(order, "offset", size, "missing")
    for _ in range(count):
        listed.grow()
    return listed


def in_order(listed: Lists) -> list[str]:
    return [item.id for item in listed.listed]


async def pages_of(listed: Lists, cursor: str | None) -> AsyncGenerator[SegmentPage]:
    while True:
        try:
            page = await listed.fetch(START + (cursor or ""))
        except NotFoundError:
            raise PaginationError("the place is lost") from None
        messages = [Message(each["id"], each) for each in page.items]
        yield SegmentPage(messages=messages, cursor=cursor, next_cursor=page.next_link)
        if page.next_link is None:
            return
        cursor = page.next_link


def following(claim: SegmentClaim, page: SegmentPage) -> SegmentClaim | None:
    """Return the claim of the next segment, as the record makes it; None at the end of the list."""
    if page.next_cursor is None:
        return None
    if not page.edge:
        return attrs.evolve(claim, cursor=page.next_cursor)
    return attrs.evolve(FIRST, cursor=page.next_cursor, before=page.cursor, after=page.edge)


async def read_all(
    listed: Lists, between: Callable[[int], None] = lambda number: None, taken_over: Collection[int] = ()
) -> list[str]:
    """Read a list, segment by segment; ``between`` is called before each but the first.

    The owners of the segments ``taken_over`` die when they have read their pages, and others read them once more.
    """
    read: list[str] = []
    claim: SegmentClaim | None = FIRST
    number = 0
    while claim is not None:
        page = await read_page(partial(pages_of, listed), claim)
        after = following(claim, page)
        if number in taken_over:
            page = await read_page(partial(pages_of, listed), attrs.evolve(claim, edge=page.edge))
        read += ids_of(page)
        claim, number = after, number + 1
        between(number)
    return read


def ids_of(page: SegmentPage) -> list[str]:
    return [message.id for message in page.messages]


@pytest.mark.parametrize("gone", [1, 3, 4, 5, 11], ids=lambda gone: f"{gone} of 4 a page")
async def test_a_message_that_slips_to_the_page_before_is_read_all_the_same(gone: int) -> None:
    listed = numbered(40, 4)
    before = in_order(listed)
    assert await read_all(listed, lambda number: listed.expire(gone) if number == 3 else None) == before
    assert listed.requests < 30


async def test_a_list_that_stays_costs_one_request_more_for_each_page_but_the_first() -> None:
    listed = numbered(40, 4)
    assert await read_all(listed) == in_order(listed)
    assert listed.requests == 10 + 9


async def test_a_page_whose_link_is_lost_is_found_by_the_ids_before_it() -> None:
    listed = numbered(40, 4)
    before = in_order(listed)

    def between(number: int) -> None:
        if number == 4:
            listed.generation = 1
            del listed.listed[10:16]  # the last messages that were read vanish too

    assert await read_all(listed, between) == before


async def test_a_place_of_which_nothing_is_listed_any_more_stops_the_job_and_says_so() -> None:
    listed = numbered(60, 10)
    with pytest.raises(ReplayError, match="the place after message 'm30' cannot be found again: begin another job"):
        await read_all(listed, lambda number: listed.listed.clear() if number == 3 else None)


async def test_a_page_that_is_taken_over_ends_where_the_next_one_begins_whatever_became_of_it() -> None:
    listed = numbered(40, 4)
    read = partial(read_page, partial(pages_of, listed))
    claim = following(FIRST, await read(FIRST))
    assert claim is not None
    again = attrs.evolve(claim, edge=(await read(claim)).edge)
    listed.expire(2)
    assert ids_of(await read(again)) == ["m5", "m6", "m7", "m8"]
    listed.vanish(in_order(listed).index("m7"))
    assert ids_of(await read(again)) == ["m5", "m6", "m8"]
    listed.grow(back=len(listed.listed) - 4)
    assert ids_of(await read(again)) == ["m5", "m6", "m41", "m8"]
    del listed.listed[2:6]
    assert ids_of(await read(again)) == [], "the next segment has what follows"


async def test_a_page_at_the_top_that_is_taken_over_is_found_under_what_arrived() -> None:
    listed = numbered(8, 4, "newest-first")
    first = await read_page(partial(pages_of, listed), FIRST)
    for _ in range(10):
        listed.grow()
    again = ids_of(await read_page(partial(pages_of, listed), attrs.evolve(FIRST, edge=first.edge)))
    assert again == [*in_order(listed)[:10], *ids_of(first)]


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
    listed = numbered(count, size, "newest-first" if kind == "newest-first" else "oldest-first")
    throughout = listed.ids

    def change() -> None:
        if (found := changes.get(listed.requests)) is not None:
            what = kinds[kind][found[0] % len(kinds[kind])]
            for number in [0] * (found[1] + 1) if what == "grow" else [found[1]]:
                getattr(listed, what)(number)

    listed.before_request = change
    try:
        read = await read_all(listed, taken_over=taken_over)
    except ReplayError as exc:  # no message is skipped: the job ends in front of the place, and says so
        (place,) = re.findall(r"the place after message '(\w+)' cannot be found again", str(exc))
        assert place not in listed.ids, "a message that is listed was not found"
        return
    lost = throughout.intersection(listed.ids).difference(read)
    assert not lost, f"listed throughout the job and never read: {sorted(lost)}"
