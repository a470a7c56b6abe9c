"""Find the order of a list from the times of its items, and its newest items in any order. No I/O of its own.

No source says in which order Basiq lists messages and events. So the order is found from the times of the items: the
time of a message's first attempt, and the time of an event's creation.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, Literal, TypeVar

import attrs

from ..models import read_datetime

T = TypeVar("T")

Order = Literal["oldest-first", "newest-first", "unknown"]
"""The order of a list by time, as far as its items show it."""

CLOCK_SLACK = timedelta(minutes=15)
"""The maximum time by which an item may be out of order: the first attempts of two messages can change places."""
_FEW = 5
_SURE = 32
"""The number of steps from one time to another that show an order; nine in ten must go the same way."""
MOST_ITEMS_PAST_END = 50
"""The number of items to read after the newest ones, because an item may be slightly out of order."""
_UNKNOWN = datetime.min.replace(tzinfo=UTC)


class ListOrder:
    """Finds the order of a list from the times of its items, in the order in which they are listed.

    ``steps`` records what was seen: how often an item was newer, and how often older, than the one before it. Equal
    times and items without a time do not count.
    """

    __slots__ = ("_last", "_seen", "steps")

    def __init__(self, steps: list[int] | None = None) -> None:
        self.steps = [0, 0] if steps is None else steps
        self._seen = [0, 0]
        """Like ``steps``, but only of this list."""
        self._last: datetime | None = None

    def see(self, time: datetime | None) -> None:
        """Compare the time of the next item with the one before it."""
        if time is None or time == self._last:
            return
        if self._last is not None:
            older = time < self._last
            self._seen[older] += 1
            self.steps[older] += 1
            self._notice_turn()
        self._last = time

    def _notice_turn(self) -> None:
        """Forget the order that was recorded if the list has another one now."""
        steps, seen = self.steps, _order_of(*self._seen)
        if seen not in ("unknown", self.order) and sum(self._seen) >= _FEW:
            steps[:] = self._seen
        if sum(steps) > 100 * _SURE:
            steps[:] = [each // 2 for each in steps]

    @property
    def order(self) -> Order:
        """The order that the times show: four in five steps go that way."""
        return _order_of(*self.steps)

    @property
    def sure(self) -> bool:
        """Whether many steps go one way, and nearly none the other way."""
        newer, older = self.steps
        return newer + older >= _SURE and max(newer, older) >= 9 * min(newer, older)


def _order_of(newer: int, older: int) -> Order:
    if newer > 0 and newer >= 4 * older:
        return "oldest-first"
    return "newest-first" if older > 0 and older >= 4 * newer else "unknown"


def item_time(item: object) -> datetime | None:
    """Return the time of a message's first attempt, or of an event's creation; None if it is unknown."""
    created: datetime | None = getattr(item, "created", None)
    if created is not None:
        return created
    first = getattr(item, "first_attempt", None)
    time: datetime | None = None if first is None else first.timestamp
    return time


@attrs.frozen
class NewestItems(Generic[T]):
    """The newest items of a list.

    items: newest first.
    read: the number of items of the list that were read.
    complete: whether the list was read to its end.
    undated: whether no item has a time: they are then the last ones of the list, in its order.
    """

    items: list[T]
    read: int
    complete: bool
    undated: bool = False


async def read_newest(
    items: AsyncIterable[T],
    most: int | None,
    *,
    wanted: Callable[[T], bool | None] | None = None,
    on_read: Callable[[T], object] = lambda item: None,
) -> NewestItems[T]:
    """Return the ``most`` newest items of a list, None for all, and keep no more of them in memory.

    Only a list that surely begins with the newest items is left before its end. ``wanted`` chooses the items.
    ``on_read`` is called with each item that is read, chosen or not.
    """
    order = ListOrder()
    heap: list[tuple[datetime, int, int, T]] = []
    read = beyond = 0
    dated = False
    async for item in items:
        read += 1
        time = item_time(item)
        dated = dated or time is not None
        order.see(time)
        on_read(item)
        newest_first = order.order == "newest-first"
        if wanted is None or wanted(item):
            # Of two items with equal times, the newer is the first one in a newest-first list, else the last one.
            heapq.heappush(heap, (time or _UNKNOWN, -read if newest_first else read, read, item))
            if most is not None and len(heap) > most:
                heapq.heappop(heap)
        beyond = beyond + 1 if most is not None and len(heap) >= most and newest_first and order.sure else 0
        if beyond > MOST_ITEMS_PAST_END:
            break
    newest_first = order.order == "newest-first"
    heap.sort(key=lambda entry: (entry[0], -entry[2] if newest_first else entry[2]), reverse=True)
    newest = [entry[3] for entry in heap]
    undated = not dated and read > 1
    return NewestItems(newest, read, complete=beyond <= MOST_ITEMS_PAST_END, undated=undated)


def raw_time(item: Any) -> datetime | None:
    """Return ``item_time`` of the JSON of a message or an event; None if it cannot be read."""
    try:
        (attempt,) = item["attempts"]
        time = datetime.fromisoformat(attempt["timestamp"])
    except (KeyError, TypeError, ValueError):  # the item does not have exactly one attempt, or has an unusual form
        return _odd_time(item)
    return time if time.tzinfo is not None else _odd_time(item)


def is_past(times: Iterable[datetime | None], order: Order, since: datetime | None) -> bool:
    """Return whether a list goes on with items from before ``since`` alone: it begins with the newest, and a page has
    only older ones. ``times`` are those of the page's items.
    """
    if since is None or order != "newest-first":
        return False
    latest = max((time for time in times if time is not None), default=None)
    return latest is not None and latest < since - CLOCK_SLACK


def _odd_time(raw: object) -> datetime | None:
    if not isinstance(raw, dict):
        return None
    attempts = raw.get("attempts")
    try:
        if not isinstance(attempts, list):
            return read_datetime(raw.get("createdDate"))
        times = [read_datetime(each.get("timestamp")) for each in attempts if isinstance(each, dict)]
    except ValueError:
        return None
    return min((time for time in times if time is not None), default=None)
