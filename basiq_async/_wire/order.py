"""Find the order of a list, and read its newest items in any order. No I/O, except ``read_newest``.

No source says in which order Basiq lists messages and events. So the order is found from the times of the items: the
time of a message's first attempt, and the time of an event's creation.

- ``Order``: "oldest-first", "newest-first" or "unknown".
- ``OrderDetector``: call ``see(time)`` for each item, in the order of the list; then read ``order`` and ``sure``.
- ``item_time(item)``: the time of a message or an event, None if it has none.
- ``read_newest(items, most)``: the newest items of a list, and how much of it was read (``NewestItems``).
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, Literal, TypeVar

import attrs

from ..models import read_datetime

T = TypeVar("T")

Order = Literal["oldest-first", "newest-first", "unknown"]
"""The order of a list by time, as far as its items show it."""

SLACK = timedelta(minutes=15)
"""The maximum time by which an item may be out of order: the first attempts of two messages can change places."""
_SLACK_SHARE = 10
"""Tolerance: an item may be out of order by a tenth of the time that the list covers."""
_SURE = 8
"""The number of steps from one time to the next after which an order counts as sure."""
_FEW = 20
"""Tolerance: one item in twenty may be far out of order, because its first attempt came late."""
_BEYOND = 50
"""The number of items to read after the wanted ones, because an item may be slightly out of order."""
_UNKNOWN = datetime.min.replace(tzinfo=UTC)


class OrderDetector:
    """Finds the order of a list from the times of its items, in the order in which they are listed.

    Equal times and items without a time do not count. Any item may be slightly out of order, and one in twenty far out
    of order; with more contradictions the order is unknown.
    """

    __slots__ = (
        "_fall",
        "_falls",
        "_far_falls",
        "_far_rises",
        "_rise",
        "_rises",
        "_steps",
        "earliest",
        "last",
        "latest",
    )

    def __init__(self) -> None:
        self.earliest: datetime | None = None
        self.latest: datetime | None = None
        self.last: datetime | None = None
        """The time of the last item."""
        self._fall = self._rise = timedelta()
        """The maximum time by which an item was older, and newer, than any earlier item of the list."""
        self._falls = self._rises = self._steps = 0
        """The number of items that were older than the item before, that were newer, and the sum of both."""
        self._far_falls = self._far_rises = 0
        """The number of items that were older, or newer, than the item before by more than ``SLACK``."""

    def see(self, time: datetime | None) -> None:
        """Count the time of the next item."""
        if time is None:
            return
        if self.earliest is None or self.latest is None:
            self.earliest = self.latest = self.last = time
            return
        last = self.last
        if last is not None and time != last:
            self.last = time
            self._steps += 1
            if time < last:
                self._falls += 1
                self._far_falls += last - time > SLACK
            else:
                self._rises += 1
                self._far_rises += time - last > SLACK
            self._fall = max(self._fall, self.latest - time)
            self._rise = max(self._rise, time - self.earliest)
            self.earliest, self.latest = min(self.earliest, time), max(self.latest, time)

    @property
    def order(self) -> Order:
        """The order that the items so far show."""
        if self.earliest is None or self.latest is None or self.earliest == self.latest:
            return "unknown"
        slack = min(SLACK, (self.latest - self.earliest) / _SLACK_SHARE)
        few = self._steps // _FEW if self._steps >= _FEW else -1
        if self._fall <= slack or (self._rises >= 4 * self._falls and self._far_falls <= few):
            return "oldest-first"
        if self._rise <= slack or (self._falls >= 4 * self._rises and self._far_rises <= few):
            return "newest-first"
        return "unknown"

    @property
    def sure(self) -> bool:
        """Whether enough items were seen to be sure of the order."""
        return self._steps >= _SURE and self.order != "unknown"

    @property
    def mixed(self) -> bool:
        """Whether the list is certainly not ordered by time."""
        return min(self._far_falls, self._far_rises) > max(1, self._steps // _FEW) and self.order == "unknown"


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
    newest: whether these are certainly the newest: the list was read to its end, or begins with the newest.
    order: the order of the list, as far as it was found.
    earliest, latest: the times of the oldest and the newest item that were read; None if no item has a time.
    """

    items: list[T]
    read: int
    complete: bool
    newest: bool
    order: Order
    earliest: datetime | None
    latest: datetime | None


async def read_newest(
    items: AsyncIterable[T],
    most: int,
    *,
    wanted: Callable[[T], bool] | None = None,
    moment: Callable[[T], datetime | None] = item_time,
    at_most: int | None = None,
    on_read: Callable[[T], object] | None = None,
) -> NewestItems[T]:
    """Return the ``most`` newest items of a list, 0 for all, and keep no more of them in memory.

    If the list begins with the newest items, reading stops soon after they are found. If it begins with the oldest, or
    its order is unknown, it is read to its end or until ``at_most`` items were read; in the latter case ``newest`` is
    False. ``wanted`` chooses the items. ``on_read`` is called with each item that is read, chosen or not.
    """
    detector = OrderDetector()
    heap: list[tuple[datetime, int, int, T]] = []
    read = beyond = 0
    complete = True
    iterator = aiter(items)
    async for item in iterator:
        if at_most is not None and read >= at_most:
            complete = False
            break
        read += 1
        time = moment(item)
        detector.see(time)
        if on_read is not None:
            on_read(item)
        newest_first = detector.order == "newest-first"
        if wanted is None or wanted(item):
            # Of two items with equal times, the newer is the first one in a newest-first list, else the last one.
            entry = (time or _UNKNOWN, -read if newest_first else read, read, item)
            if most and len(heap) >= most:
                heapq.heappushpop(heap, entry)
            else:
                heapq.heappush(heap, entry)
        beyond = beyond + 1 if most and len(heap) >= most and newest_first and detector.sure else 0
        if beyond > _BEYOND:
            complete = False
            break
    aclose = getattr(iterator, "aclose", None)
    if not complete and aclose is not None:
        await aclose()
    order = detector.order
    heap.sort(key=lambda entry: (entry[0], -entry[2] if order == "newest-first" else entry[2]), reverse=True)
    return NewestItems(
        items=[entry[3] for entry in heap],
        read=read,
        complete=complete,
        newest=complete or (order == "newest-first" and detector.sure and len(heap) >= most > 0),
        order=order,
        earliest=detector.earliest,
        latest=detector.latest,
    )


def raw_time(raw: object) -> datetime | None:
    """Return ``item_time`` of the JSON of a message or an event; None if it cannot be read."""
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


def raw_times(items: list[Any]) -> list[datetime]:
    """Return ``raw_time`` of each item of a page that has one."""
    found: list[datetime] = []
    for item in items:
        try:
            (attempt,) = item["attempts"]
            time = datetime.fromisoformat(attempt["timestamp"])
            if time.tzinfo is None:
                raise ValueError
        except (KeyError, TypeError, ValueError):  # the item does not have exactly one attempt, or has an unusual form
            odd = raw_time(item)
            if odd is None:
                continue
            time = odd
        found.append(time)
    return found
