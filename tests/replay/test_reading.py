"""Whatever a list does between and during runs, a reading loses nothing, and repeats nothing that the record knows."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from basiq_async._wire.codec import ListPage, Reader
from basiq_async._wire.cursors import CursorSeal
from basiq_async._wire.paging import Listing
from basiq_async._wire.urls import BaseURL
from basiq_async._work.tasks import TaskOwner
from basiq_async.errors import NotFoundError
from basiq_async.pagination import Paginator
from basiq_async.replay._reading import Batch, Reading  # private: its users are in this package

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


class Records:
    """A record, and the hint that is noted in it. ``keys`` are those that it knows."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self.hints: dict[str, str | None] = {}
        self.asked = 0

    async def known(self, keys: Sequence[str]) -> Collection[str]:
        assert 0 < len(keys) <= 500
        assert len(set(keys)) == len(keys)
        self.asked += 1
        await asyncio.sleep(0)
        return self.keys.intersection(keys)


RUN: dict[str, Any] = {
    "before": [],
    "during": {},
    "sizes": [],
    "stop": None,
    "kill": None,
    "dies": True,
    "finish": 1,
    "hold": None,
    "hint": "kept",
    "record": "kept",
    "selects": 0,
}
"""A run in which nothing happens."""
LENGTH = 280
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
            *{"grow": (1, 12), "late": (1, 2), "expire": (1, 9), "vanish": (0, 40)}.get(kind, (0, 0))
        )

    def changes(self, least: int, most: int) -> list[tuple[str, int]]:
        return [self.change() for _ in range(self.number(least, most))]

    def run(self) -> dict[str, Any]:
        return {
            "before": self.changes(0, 3),
            "during": {self.number(0, 24): self.changes(1, 2) for _ in range(self.number(0, 4))},
            "sizes": [self.number(0, 3) for _ in range(self.number(0, 4))],
            "stop": self.perhaps(1, 30) if self.number(0, 1) else None,
            "kill": self.perhaps(0, 20),
            "dies": bool(self.number(0, 1)),
            "finish": self.number(1, 9),
            "hold": self.perhaps(1, 9) if self.number(0, 2) == 2 else None,
            "hint": self.one_of(*["kept"] * 16, "lost", "old", "foreign", "damaged"),
            "record": self.one_of(*["kept"] * 30, "restored", "lost"),
            "selects": self.number(0, 7) // 7,
        }

    def example(self) -> dict[str, Any]:
        return {
            "order": self.one_of("oldest-first", "newest-first", "none"),
            "paging": self.one_of("cursor", "seek", "offset"),
            "times": self.one_of(*["right"] * 4, "equal", "wrong", "backwards", "missing", "some"),
            "size": self.number(3, 5),
            "count": self.number(0, 99),
            "doubles": self.number(0, 7) == 7,
            "plan": [self.run() for _ in range(self.number(1, 6))],
        }


def test_a_reading_loses_nothing_and_repeats_nothing_that_the_record_knows() -> None:
    with asyncio.Runner() as runner:

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


def key_of(item: Any, *, doubles: bool = False) -> str:
    """Return the key of an item; with ``doubles``, two items have the same one."""
    return f"k{int(item['id'][1:]) // 2}" if doubles else "k" + item["id"][1:]


async def check(
    order: str, paging: str, times: str, size: int, count: int, plan: list[dict[str, Any]], *, doubles: bool = False
) -> None:
    lists = Lists(order, paging, size, times)
    for _ in range(count):
        lists.grow()
    record = Records()
    former: set[str] = set()
    clock = [NOON + timedelta(days=30)]
    lost_keys: set[str] = set()

    def key(name: str) -> str:
        return key_of({"id": name}, doubles=doubles)

    for run in [*plan, RUN, {**RUN, "selects": 1}]:
        for each in run["before"]:
            change(lists, each, running=False)
        lists.sizes = iter(run["sizes"])
        if run["record"] != "kept":
            lost_keys = {"selection 0", "selection 1"}
        if run["record"] == "restored":
            record.keys = set(former)
        elif run["record"] == "lost":
            record.keys = {each for each in record.keys if int(each[1:]) % 3}
        former = set(record.keys)
        at_start, first_request = lists.ids, lists.requests

        def selects(item: Any, run: dict[str, Any] = run) -> Any:
            return None if run["selects"] and int(item["id"][1:]) % 3 == 0 else item

        def before_request(run: dict[str, Any] = run, first: int = first_request) -> None:
            clock[0] += timedelta(seconds=1)
            number = lists.requests - first
            for each in run["during"].get(number, ()):
                change(lists, each, running=True)
            if run["kill"] == number:
                raise KilledError

        lists.before_request = before_request
        selection = f"selection {run['selects']}"
        text = record.hints.get(selection)
        if run["hint"] == "old":
            clock[0] += timedelta(hours=25)
        elif run["hint"] == "foreign":
            text = record.hints.get(f"selection {1 - run['selects']}")
        elif run["hint"] == "damaged" and text is not None:
            text = text[:-9] + ("0" if text[-9] != "0" else "1") + text[-8:]
        whole = text is None or run["hint"] in ("lost", "old", "foreign", "damaged")
        reading = Reading(
            lists.paginator(),
            known=record.known,
            key_of=lambda item: key_of(item, doubles=doubles),
            hint=None if run["hint"] == "lost" else text,
            selection=selection,
            convert=selects,
            now=lambda: clock[0],
        )
        handed: set[str] = set()
        pending: list[tuple[Batch[Any], str]] = []

        def finish(reading: Reading[Any] = reading, pending: list[Any] = pending, selection: str = selection) -> None:
            random.Random(len(record.keys)).shuffle(pending)
            for batch, name in pending:
                record.keys.add(name)
                batch.finish()
                record.hints[selection] = reading.hint() or record.hints.get(selection)
            pending.clear()

        try:
            stopped = False
            while not stopped and (batch := await reading.advance()) is not None:
                assert batch.items
                for item in batch.items:
                    name = key(item["id"])
                    assert name not in record.keys, f"{name} is recorded, and was handed out again"
                    assert name not in handed, f"{name} was handed out twice in one run"
                    handed.add(name)
                    if len(handed) == run["hold"]:
                        batch.hold()
                    else:
                        pending.append((batch, name))
                    if len(pending) >= run["finish"]:
                        finish()
                    if len(handed) == run["stop"]:
                        stopped = True
                        break
        except KilledError:
            if run["dies"]:
                continue  # otherwise only the request failed
        finally:
            lists.before_request = lambda: None
            await reading.aclose()
            await asyncio.sleep(0)
        finish()
        record.hints[selection] = reading.hint() or record.hints.get(selection)
        if reading.finished:
            if whole:
                lost_keys.discard(selection)
            listed = {key(each) for each in at_start & lists.ids if selects({"id": each}) is not None}
            lost = listed - record.keys - handed
            assert selection in lost_keys or not lost, f"the run says finished, and lost {lost}"
    assert reading.finished


def change(lists: Lists, what: tuple[str, int], *, running: bool) -> None:
    kind, number = what
    if kind == "grow":
        for _ in range(number):
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
