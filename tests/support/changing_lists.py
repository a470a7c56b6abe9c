"""A list on a server that does everything that a list can do, and a record of what was yielded of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs

from basiq_async._wire.codec import ListPage, Reader
from basiq_async._wire.cursors import CursorSeal
from basiq_async._wire.paging import Listing
from basiq_async._wire.urls import BaseURL
from basiq_async._work.tasks import TaskOwner
from basiq_async.errors import NotFoundError
from basiq_async.pagination import Paginator

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
BASE = BaseURL.parse("https://au-api.basiq.io")
START = BASE.url("/events")


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
    attempts = [] if item.time is None else [{"timestamp": item.time}]
    return {"id": item.id, "payload": {"eventId": item.id}, "attempts": attempts}


class KnownKeys:
    """A record, and the resume point that is noted in it. ``keys`` are those that it knows."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self.resume_points: dict[str, str | None] = {}
        self.asked = 0

    async def known(self, keys: Sequence[str]) -> Collection[str]:
        assert 0 < len(keys) <= 500
        assert len(set(keys)) == len(keys)
        self.asked += 1
        await asyncio.sleep(0)
        return self.keys.intersection(keys)


def key_of(item: Any, *, doubles: bool = False) -> str:
    """Return the key of an item; with ``doubles``, two items have the same one."""
    return f"k{int(item['id'][1:]) // 2}" if doubles else "k" + item["id"][1:]
