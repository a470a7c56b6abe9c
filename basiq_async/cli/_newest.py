"""The newest of a list of any length, in constant memory, whichever way the list is ordered. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Generic, TypeVar

T = TypeVar("T")
_IN_A_TERMINAL = 50
_UNKNOWN = datetime.min.replace(tzinfo=UTC)


class Newest(Generic[T]):
    """Keeps the ``most`` newest items by ``moment``; of equal moments, those added last. 0 keeps all."""

    def __init__(self, most: int, moment: Callable[[T], datetime | None]) -> None:
        self._most = most
        self._moment = moment
        self._heap: list[tuple[datetime, int, T]] = []
        self.seen = 0

    def add(self, item: T) -> None:
        """Take one more item."""
        self.seen += 1
        entry = (self._moment(item) or _UNKNOWN, self.seen, item)
        if self._most and len(self._heap) >= self._most:
            heapq.heappushpop(self._heap, entry)
        else:
            heapq.heappush(self._heap, entry)

    def newest_first(self) -> list[T]:
        """Return the items that were kept."""
        return [item for _, _, item in sorted(self._heap, key=lambda entry: entry[:2], reverse=True)]


def most_of(limit: int | None, *, terminal: bool) -> int:
    """Return what ``--limit`` comes to: 0 for all."""
    if limit is None:
        return _IN_A_TERMINAL if terminal else 0
    return limit
