"""The records of the fake: webhooks, events, messages with their attempts, and the logs that hold them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Generic, Literal, Protocol, TypeVar

import attrs

from .catalog import entity_path


@attrs.define
class Webhook:
    id: str
    serial: int
    url: str
    events: tuple[str, ...]
    key: bytes = attrs.field(repr=False)
    active_at: datetime
    name: str | None = None
    description: str | None = None
    disabled: bool = False

    def status(self, now: datetime) -> Literal["active", "pending-approval", "disabled"]:
        if self.disabled:
            return "disabled"
        return "active" if now >= self.active_at else "pending-approval"


@attrs.frozen
class Attempt:
    id: str
    url: str
    response: str
    status_code: int | None
    at: datetime
    ok: bool
    duration: float = 0.0


@attrs.frozen
class Event:
    id: str
    type_id: str
    user_id: str
    entity_id: str
    created: datetime
    data: dict[str, object] | None = None

    @property
    def entity(self) -> str:
        return self.type_id.partition(".")[0]

    @property
    def kind(self) -> str:
        return self.type_id.partition(".")[2]

    @property
    def path(self) -> str:
        """The path of the entity that the event is about."""
        return entity_path(self.type_id, self.user_id, self.entity_id)


@attrs.define
class Message:
    id: str
    webhook_id: str
    event: Event
    created: datetime
    text: str | None = None
    attempts: tuple[Attempt, ...] = ()

    @property
    def status(self) -> Literal["Success", "Failed", "Pending"]:
        """The result of the latest attempt; ``Pending`` before the first."""
        if not self.attempts:
            return "Pending"
        return "Success" if self.attempts[-1].ok else "Failed"


class Logged(Protocol):
    """An item for a log."""

    @property
    def id(self) -> str: ...

    @property
    def created(self) -> datetime: ...


T = TypeVar("T", bound=Logged)
T_co = TypeVar("T_co", bound=Logged, covariant=True)


class Lazy(Protocol[T_co]):
    """A collection whose items are made anew at each access."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> T_co: ...

    def find(self, id: str, /) -> T_co | None: ...


class _Stored(list[T], Generic[T]):
    def find(self, id: str) -> T | None:
        return None  # the log has an index of stored items


class Log(Generic[T]):
    """Items, oldest first, each at a position that never changes."""

    def __init__(self) -> None:
        self._segments: list[_Stored[T] | Lazy[T]] = []
        self._starts: list[int] = []
        self._by_id: dict[str, T] = {}
        self._kept: dict[str, T] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def newest(self) -> T | None:
        return self._segments[-1][len(self._segments[-1]) - 1] if self._size else None

    def append(self, item: T) -> None:
        last = self._segments[-1] if self._segments else None
        if not isinstance(last, _Stored):
            last = _Stored[T]()
            self._add(last)
        last.append(item)
        self._by_id[item.id] = item
        self._size += 1

    def extend(self, lazy: Lazy[T]) -> None:
        """Add a collection of items that are made on demand."""
        if len(lazy):
            self._add(lazy)
            self._size += len(lazy)

    def keep(self, item: T) -> None:
        """Store an item that may have been made on demand, so that later changes to it are kept."""
        if item.id not in self._by_id:
            self._kept[item.id] = item

    def segments(self) -> Iterator[Sequence[T] | Lazy[T]]:
        """Return the parts of the log, oldest first."""
        return iter(self._segments)

    def kept(self) -> Iterator[T]:
        """Return the stored items of collections that are made on demand."""
        return iter(self._kept.values())

    def _current(self, item: T) -> T:
        return self._kept.get(item.id, item) if self._kept else item

    def _add(self, segment: _Stored[T] | Lazy[T]) -> None:
        self._segments.append(segment)
        self._starts.append(self._size)

    def find(self, id: str) -> T | None:
        found = self._by_id.get(id) or self._kept.get(id.lower())
        if found is not None:
            return found
        return next((item for segment in self._segments if (item := segment.find(id)) is not None), None)

    def scan(self, start: int | None = None, *, since: datetime | None = None) -> Iterator[tuple[int, T]]:
        """Yield each item and its position, from ``start`` or else from the oldest. Skip items older than ``since``."""
        start = start or 0
        first = max(bisect_right(self._starts, start) - 1, 0)
        for begin, segment in zip(self._starts[first:], self._segments[first:], strict=True):
            index = max(start - begin, 0)
            if since is not None:
                index = bisect_left(segment, since, lo=index, key=_created)
            for index in range(index, len(segment)):  # noqa: B020  # continues from where it stands
                yield begin + index, self._current(segment[index])

    def scan_back(self, start: int | None = None, *, since: datetime | None = None) -> Iterator[tuple[int, T]]:
        """Yield each item and its position, from ``start`` or else from the newest, back to ``since``."""
        start = self._size - 1 if start is None else start
        for begin, segment in zip(reversed(self._starts), reversed(self._segments), strict=True):
            for index in range(min(start - begin, len(segment) - 1), -1, -1):
                item = segment[index]
                if since is not None and item.created < since:
                    return
                yield begin + index, self._current(item)


def _created(item: Logged) -> datetime:
    return item.created
