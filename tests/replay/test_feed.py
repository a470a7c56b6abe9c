"""Whatever a list does between and during runs, its feed loses nothing, repeats nothing that it knows, and says so."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
from basiq_async.replay._feed import Feed  # private: its users are in this package
from basiq_async.replay._place import Pass, Place  # private: which gaps it leaves is asked here
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from basiq_async._wire.codec import ListPage, Reader
from basiq_async._wire.cursors import CursorSeal
from basiq_async._wire.paging import Listing
from basiq_async._wire.urls import BaseURL
from basiq_async._work.tasks import TaskOwner
from basiq_async.errors import NotFoundError
from basiq_async.pagination import Paginator
from basiq_async.replay import _feed, _place  # private: what is retained is made small
from basiq_async.replay._list_pages import ListedPage  # private: a page is made here

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
BASE = BaseURL.parse("https://au-api.basiq.io")
START = BASE.url("/events")
EXAMPLES = int(os.environ.get("BASIQ_FUZZ_EXAMPLES", "300"))


class KilledError(Exception):
    """The process dies."""


@attrs.define
class Item:
    """An item of the list; ``key`` is its place in it."""

    id: str
    key: float
    time: str | None


class Lists:
    """A list on a server, which can do everything that a list can do.

    order: "oldest-first", "newest-first" or "none".
    paging: the form of the next link: "cursor" names an item, "seek" a place between items, "offset" a number.
    """

    def __init__(self, order: str, paging: str, size: int, times: str) -> None:
        self.order = order
        self.paging = paging
        self.size = size
        self.times = times
        self.listed: list[Item] = []
        self.made = 0
        self.requests = 0
        self.sizes: Iterator[int] = iter(())
        self.most = 10_000
        self.generation = 0
        """Links of earlier generations have expired."""
        self.before_request: Any = lambda: None

    @property
    def ids(self) -> set[str]:
        return {item.id for item in self.listed}

    def grow(self, back: int = 0) -> None:
        """Add an item at the new end, or ``back`` places before it; anywhere in a list without an order."""
        number = self.made = self.made + 1
        if self.order == "none":
            index = random.Random(number).randint(0, len(self.listed))
        elif self.order == "oldest-first":
            index = max(0, len(self.listed) - back)
        else:
            index = min(back, len(self.listed))
        before = self.listed[index - 1].key if index else None
        after = self.listed[index].key if index < len(self.listed) else None
        if before is None or after is None:
            key = 0.0 if before is None and after is None else after - 1 if before is None else before + 1  # type: ignore[operator]
        else:
            key = (before + after) / 2
        self.listed.insert(index, Item(f"m{number}", key, self._time(number)))

    def _time(self, number: int) -> str | None:
        minutes = number
        if self.order == "none":
            minutes = random.Random(-number).randint(0, 10_000)
        elif self.times == "equal":
            minutes = 0
        elif self.times == "wrong" and number % 4 == 0:
            minutes = (number * 31) % 50
        elif self.times == "backwards":
            minutes = -number
        elif self.times == "missing" or (self.times == "some" and number % 3):
            return None
        return (NOON + timedelta(minutes=minutes)).isoformat()

    def expire(self, count: int) -> None:
        """Drop the oldest items."""
        if self.order == "oldest-first":
            del self.listed[:count]
        elif self.order == "newest-first" and count:
            del self.listed[-count:]

    def vanish(self, place: int) -> None:
        """Drop one item from anywhere."""
        if self.listed:
            del self.listed[place % len(self.listed)]

    async def fetch(self, url: str) -> ListPage:
        self.before_request()
        self.requests += 1
        place, _, generation = url.partition("?next=")[2].partition("&")
        if generation and int(generation.partition("-")[0]) < self.generation:
            raise NotFoundError(status=404, method="GET", path="/events")
        start = self._start(place) if place else 0
        size = next(self.sizes, self.size)
        items = self.listed[start : start + size]
        if start + size >= len(self.listed):
            return ListPage([_json(item) for item in items], None)
        if self.paging == "offset":
            place = str(start + size)
        elif items:
            place = str(items[-1].key) if self.paging == "seek" else items[-1].id
        return ListPage([_json(item) for item in items], f"?next={place}&{self.generation}-{self.requests}")

    def _start(self, place: str) -> int:
        if self.paging == "offset":
            return int(place)
        if self.paging == "seek":
            return sum(item.key <= float(place) for item in self.listed)
        found = [index for index, item in enumerate(self.listed) if item.id == place]
        if not found:
            raise NotFoundError(status=410, method="GET", path="/events")
        return found[0] + 1

    def paginator(self) -> Paginator[Any]:
        return Paginator(
            Listing(
                name="list",
                start=START,
                base=BASE,
                fetch=self.fetch,
                reader=Reader(dict, lambda value, _: value),
                owner=TaskOwner(),
                seal=CursorSeal("key"),
            )
        )


def _json(item: Item) -> dict[str, Any]:
    return {"id": item.id, "attempts": [] if item.time is None else [{"timestamp": item.time}]}


def retained(text: str | None) -> set[str]:
    """Return the ids that a recorded text holds."""
    if text is None:
        return set()
    fields = json.loads(text)
    stretches = [each for each in (fields["base"], fields["above"]) if each is not None]
    return {each for one in stretches for ids in (one["top"], one["last"]) for each in ids}


@contextmanager
def small() -> Iterator[None]:
    """Make what a feed retains small, so that short lists show what happens to long ones."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (_feed, _place):
            patch.setattr(module, "WINDOW", WINDOW)
            patch.setattr(module, "TOP", 8)
        yield


WINDOW = 16

RUN: dict[str, Any] = {
    "before": [],
    "during": {},
    "sizes": [],
    "stop": None,
    "kill": None,
    "dies": True,
    "record": 1,
}
"""A run in which nothing happens."""
LENGTH = 240
"""The number of choices of an example. Zeros are the simplest one: hypothesis makes a failing example of many zeros."""


class Choices:
    """Makes an example of bytes. One draw of many bytes is much faster than many draws of a strategy."""

    def __init__(self, data: bytes) -> None:
        self._data = iter(data)

    def number(self, least: int, most: int) -> int:
        return least + next(self._data, 0) % (most - least + 1)

    def one_of(self, *each: str) -> str:
        return each[self.number(0, len(each) - 1)]

    def perhaps(self, least: int, most: int) -> int | None:
        return self.number(least, most) if self.number(0, 1) else None

    def change(self) -> tuple[str, int]:
        kind = self.one_of("grow", "late", "expire", "vanish", "refuse")
        return kind, self.number(
            *{"grow": (1, 6), "late": (1, 2), "expire": (1, 9), "vanish": (0, 40)}.get(kind, (0, 0))
        )

    def changes(self, least: int, most: int) -> list[tuple[str, int]]:
        return [self.change() for _ in range(self.number(least, most))]

    def run(self) -> dict[str, Any]:
        return {
            "before": self.changes(0, 3),
            "during": {self.number(0, 12): self.changes(1, 2) for _ in range(self.number(0, 4))},
            "sizes": [self.number(0, 3) for _ in range(self.number(0, 4))],
            "stop": self.perhaps(1, 15),
            "kill": self.perhaps(0, 12),
            "dies": bool(self.number(0, 1)),
            "record": self.number(1, 4),
        }

    def example(self) -> dict[str, Any]:
        return {
            "order": self.one_of("oldest-first", "newest-first", "none"),
            "paging": self.one_of("cursor", "seek", "offset"),
            "times": self.one_of("right", "equal", "wrong", "backwards", "missing", "some"),
            "size": self.number(3, 5),
            "count": self.number(0, 30),
            "plan": [self.run() for _ in range(self.number(1, 5))],
        }


def test_a_feed_loses_nothing_and_repeats_nothing_that_it_knows() -> None:
    with small(), asyncio.Runner() as runner:

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[each for each in Phase if each is not Phase.explain],
            database=None,
        )
        @given(st.binary(min_size=LENGTH, max_size=LENGTH))
        def check_each(data: bytes) -> None:
            example = Choices(data).example()
            note(f"await check(**{example})")
            runner.run(check(**example))

        check_each()


def test_items_that_slip_away_twice_at_different_pages_are_read_before_it_says_finished() -> None:
    # The end of a numbered list slips to a page that was read, and then to an earlier one.
    run = {**RUN, "before": [("grow", 6)], "during": {3: [("expire", 1)], 8: [("expire", 3)]}}
    with small():
        asyncio.run(check("oldest-first", "offset", "right", 3, 4, [run]))


def test_items_that_come_again_because_the_place_was_lost_do_not_show_where_the_list_grows() -> None:
    plan = [RUN, {**RUN, "before": [("expire", 4)]}, {**RUN, "before": [("grow", 1), ("expire", 3), ("expire", 9)]}]
    with small():
        asyncio.run(check("newest-first", "cursor", "backwards", 3, 29, plan))


def test_known_items_that_are_met_again_because_a_link_expired_do_not_end_a_pass() -> None:
    # One item came late, among those; the link to its page expires when the items before it were met.
    late = {**RUN, "before": [("late", 2), ("grow", 3), ("grow", 1)], "sizes": [0]}
    plan = [{**RUN, "before": [("grow", 3)], "stop": 12}, {**late, "during": {8: [("refuse", 0), ("grow", 1)]}}]
    with small():
        asyncio.run(check("newest-first", "cursor", "right", 3, 19, plan))


def test_known_items_that_are_met_twice_because_pages_shift_do_not_end_a_pass() -> None:
    grow = {**RUN, "before": [("grow", 3)], "during": {0: [("grow", 4)], 1: [("grow", 2)]}}
    killed = {**RUN, "before": [("grow", 3)], "during": {0: [("grow", 2)]}, "sizes": [0], "kill": 4, "dies": False}
    late = {**RUN, "before": [("expire", 1), ("late", 2)], "during": {0: [("grow", 1)], 1: [("grow", 1)]}}
    plan = [
        {**RUN, "before": [("grow", 7)], "kill": 0, "dies": False},
        grow,
        {**RUN, "during": {0: [("grow", 1)]}, "kill": 0, "dies": False},
        killed,
        late,
    ]
    with small():
        asyncio.run(check("newest-first", "offset", "right", 3, 0, plan))


def test_items_that_come_again_after_known_ones_do_not_show_that_a_list_grows_at_its_end() -> None:
    # All that is retained of the end of the list expires.
    plan = [
        {**RUN, "before": [("grow", 5)], "during": {0: [("grow", 2)]}},
        {
            **RUN,
            "before": [("grow", 1)],
            "during": {0: [("grow", 2), ("refuse", 0)], 1: [("grow", 6)]},
            "sizes": [0] * 4,
        },
        {**RUN, "before": [("expire", 1)], "during": {0: [("grow", 1)]}, "stop": 1, "kill": 0, "dies": False},
        {**RUN, "before": [("expire", 1), ("grow", 1)], "during": {0: [("expire", 9), ("grow", 1)], 1: [("grow", 1)]}},
        {**RUN, "during": {0: [("grow", 1)], 1: [("grow", 1), ("expire", 5)]}},
    ]
    plan[3].update(sizes=[0] * 4, stop=1)
    with small():
        asyncio.run(check("newest-first", "cursor", "backwards", 3, 11, plan))


def test_items_that_slipped_away_from_a_first_pass_do_not_show_where_the_list_grows() -> None:
    first = {**RUN, "before": [("grow", 8)], "during": {0: [("grow", 3)]}, "kill": 9, "dies": False}
    during = {0: [("expire", 6)], 1: [("grow", 2)], 3: [("grow", 1), ("expire", 2)]}
    second = {**RUN, "before": [("grow", 2)], "during": during, "sizes": [0, 0, 1]}
    with small():
        asyncio.run(check("oldest-first", "offset", "backwards", 4, 19, [first, second]))


def test_a_page_that_ends_between_known_items_of_a_gap_is_read_again() -> None:
    # What slipped away follows items that an earlier run read: it slips away again after the last one of these.
    plan = [
        {**RUN, "before": [("grow", 1)], "during": {0: [("late", 1)], 1: [("expire", 6)]}, "sizes": [0], "stop": 11},
        {**RUN, "before": [("grow", 1), ("expire", 1)], "during": {3: [("late", 1), ("expire", 6)]}, "sizes": [1]},
    ]
    plan[1]["during"] |= {0: [("grow", 1), ("late", 1)], 9: [("expire", 2)]}
    with small():
        asyncio.run(check("oldest-first", "offset", "right", 3, 15, plan))


@pytest.mark.parametrize("paging", ["cursor", "seek", "offset"])
def test_what_comes_before_the_place_in_a_list_without_an_order_is_read(paging: str) -> None:
    plan = [{**RUN, "stop": 12}, {**RUN, "before": [("grow", 6)]}, {**RUN, "before": [("grow", 6)], "stop": 3}]
    with small():
        asyncio.run(check("none", paging, "right", 3, 20, plan))


@pytest.mark.parametrize(
    ("fresh", "open_gaps"),
    [
        ([[], []], []),
        ([[], [0, 1]], [("b", "c")]),
        ([[], [1]], []),
        ([[1], []], [("b", "c")]),
        ([[0], []], []),
        ([[0, 1], [0, 1]], [("b", "c")]),
    ],
)
def test_between_two_pages_a_gap_is_open_where_an_item_beside_it_was_handed_out(
    fresh: list[list[int]], open_gaps: list[tuple[str, str]]
) -> None:
    place = Place()
    now = Pass(place, place.base, BASE, from_start=True)
    for number, (ids, indexes) in enumerate(zip(("ab", "cd"), fresh, strict=True)):
        page = ListedPage(f"{START}?next={number}", [{"id": each} for each in ids], None if number else "more", None)
        page.fresh = indexes
        now.enter(page)
        now.leave(page, reads_times=False)
    assert now.gaps == [("b", "c")], "each gap between two pages of a pass is known"
    assert now.open_gaps() == open_gaps, "an item that slipped away is beside one that was handed out"


async def check(order: str, paging: str, times: str, size: int, count: int, plan: list[dict[str, Any]]) -> None:
    lists = Lists(order, paging, size, times)
    # A list that has no order must show it, or be so short that all its ids are retained.
    lists.most = WINDOW - 1 if order == "none" and count < 20 else 10_000
    short = order == "none" and count < 20
    for _ in range(min(count, WINDOW // 2) if short else count + 30 if order == "none" else count):
        lists.grow()
    handed: set[str] = set()
    text: str | None = None
    for run in [*plan, RUN]:
        for each in run["before"]:
            change(lists, each, running=False)
        lists.sizes = iter(run["sizes"])
        at_start, first_request = lists.ids, lists.requests

        def before_request(run: dict[str, Any] = run, first: int = first_request) -> None:
            number = lists.requests - first
            for each in run["during"].get(number, ()):
                change(lists, each, running=True)
            if run["kill"] == number:
                raise KilledError

        lists.before_request = before_request
        feed = Feed(lists.paginator(), text)
        known = retained(text)
        assert text is None or retained(feed.text()) == known, "a run that read nothing forgot ids"
        seen: set[str] = set()
        try:
            async for item in feed:
                name = item["id"]
                assert name not in known, f"{name} is recorded, and was handed out again"
                assert name not in seen, f"{name} was handed out twice in one run"
                seen.add(name)
                handed.add(name)
                if len(seen) % run["record"] == 0:
                    text = feed.text()
                if len(seen) == run["stop"]:
                    break
        except KilledError:
            if run["dies"]:
                continue  # otherwise only the request failed
        finally:
            lists.before_request = lambda: None
            await feed.aclose()
            await asyncio.sleep(0)
        text = feed.text()
        if feed.finished:
            lost = (at_start & lists.ids) - handed
            assert not lost, f"the run says finished, and lost {lost}"
    assert feed.finished


def change(lists: Lists, what: tuple[str, int], *, running: bool) -> None:
    kind, number = what
    if kind == "grow":
        for _ in range(number):
            if lists.made < lists.most:
                lists.grow()
    elif kind == "late":
        # Late is what comes within a page of where a run ended.
        if lists.order != "none" and not running:
            lists.grow(number)
    elif kind == "expire":
        lists.expire(number)
    elif kind == "vanish":
        # Of numbered pages, nobody can see what slips away because of an item in the middle.
        if not (running and lists.paging == "offset"):
            lists.vanish(number)
    else:
        lists.generation += 1
