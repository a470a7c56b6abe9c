"""Identifiers that are computed from a seed, and histories, of which a part may be made on demand."""

from __future__ import annotations

import heapq
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from datetime import datetime, timedelta
from hashlib import blake2b
from operator import itemgetter
from typing import Generic, TypeVar

import attrs

from ._items import FakeAttempt, FakeEvent, FakeMessage

_MASK = (1 << 62) - 1
_STEP = 0x1D8E4E27C47D124F  # odd, so that multiplication modulo 2**62 can be reversed
_BACK = pow(_STEP, -1, 1 << 62)
_VARIANT = 1 << 63
USERS = 64
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)


def digest(*parts: object, size: int = 16) -> bytes:
    """Return a hash of the parts, ``size`` bytes long."""
    return blake2b("\0".join(map(str, parts)).encode(errors="surrogatepass"), digest_size=size).digest()


def uuid_text(raw: bytes) -> str:
    """Return 16 bytes as the text of a version 4 UUID."""
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{'89ab'[raw[8] >> 4 & 3]}{text[17:20]}-{text[20:]}"


class IdFactory:
    """Makes new identifiers. The same seed gives the same sequence."""

    def __init__(self, seed: int | str) -> None:
        self._seed = seed
        self.made = 0

    def _next(self, kind: str, size: int) -> bytes:
        self.made += 1
        return digest(self._seed, kind, self.made, size=size)

    def uuid(self) -> str:
        return uuid_text(self._next("uuid", 16))

    def opaque(self, size: int = 32) -> str:
        """Return an identifier of ``size`` bytes in lower-case hexadecimal digits."""
        return self._next("opaque", size).hex()


class SeededIds:
    """Computes the identifiers of items 0, 1, 2, ... of a lazy collection, and the index from an identifier."""

    def __init__(self, *name: object) -> None:
        self._tag = digest("ids", *name, size=24).hex()
        self._offset = int.from_bytes(digest("offset", *name, size=7), "big")

    def scatter(self, index: int) -> int:
        """Return 62 bits that look random and are unique to the index."""
        return ((index + self._offset) * _STEP) & _MASK

    def uuid(self, index: int) -> str:
        return uuid_text(bytes.fromhex(f"{self._tag[:16]}{_VARIANT | self.scatter(index):016x}"))

    def hex(self, index: int) -> str:
        return f"{self._tag}{self.scatter(index):016x}"

    def index_of(self, id: str) -> int | None:
        """Return the index of an identifier in one of the two forms; None for a foreign one."""
        try:
            scattered = int(id.replace("-", "")[-16:], 16) & _MASK
        except ValueError:
            return None
        index = ((scattered * _BACK) - self._offset) & _MASK
        return index if id == self.hex(index) or id.lower() == self.uuid(index) else None


T = TypeVar("T", bound=FakeEvent | FakeMessage)


class Seeded(Generic[T]):
    """Items that are made again at each access, so that a long history needs no memory."""

    ids: SeededIds

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int, /) -> T:
        raise NotImplementedError

    def find(self, id: str) -> T | None:
        """Return the item with an id; None for a foreign id."""
        index = self.ids.index_of(id)
        return None if index is None or index >= len(self) or (item := self[index]).id != id.lower() else item


def connection_of(user_id: str) -> str:
    """Return the id of the connection that a user has if no event was about one."""
    return digest(user_id, "connection", size=6).hex()


def _users(name: object) -> tuple[str, ...]:
    return tuple(uuid_text(digest(name, "user", number)) for number in range(USERS))


@attrs.frozen
class SeededEvents(Seeded[FakeEvent]):
    """The events of a seeded history. The same name gives the same events."""

    name: tuple[object, ...]
    types: tuple[str, ...]
    first: datetime
    every: timedelta
    count: int
    ids: SeededIds = attrs.field(
        init=False, default=attrs.Factory(lambda self: SeededIds("event", self.name), takes_self=True)
    )
    users: tuple[str, ...] = attrs.field(
        init=False, default=attrs.Factory(lambda self: _users(self.name), takes_self=True)
    )

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> FakeEvent:
        if not 0 <= index < self.count:
            raise IndexError(index)
        chance = self.ids.scatter(index)
        type_id, user_id = self.types[(chance >> 32) % len(self.types)], self.users[(chance >> 16) % USERS]
        entity_id = connection_of(user_id) if type_id.startswith("transactions.") else self.ids.uuid(index)
        return FakeEvent(self.ids.hex(index), type_id, user_id, entity_id, self.first + index * self.every)

    def find_entity(self, path: str) -> FakeEvent | None:
        """Return the event that is about the entity at ``path``; None if no event is."""
        parts = path.split("/")
        index = self.ids.index_of(parts[4]) if len(parts) > 4 else None
        event = None if index is None or index >= self.count else self[index]
        return event if event is not None and event.path == path else None


@attrs.frozen
class SeededMessages(Seeded[FakeMessage]):
    """The messages of a seeded history, each with one attempt, successful or failed, at the time of its event."""

    webhook_id: str
    url: str
    events: SeededEvents
    failed: float
    ids: SeededIds = attrs.field(
        init=False, default=attrs.Factory(lambda self: SeededIds("message", *self.events.name), takes_self=True)
    )

    def __len__(self) -> int:
        return self.events.count

    def __getitem__(self, index: int) -> FakeMessage:
        event = self.events[index]
        chance = self.ids.scatter(index)
        ok = (chance >> 24) % 10_000 >= self.failed * 10_000
        response, status = ("OK", 200) if ok else ("Internal Server Error", 500)
        attempt = FakeAttempt(f"{chance:016x}", self.url, response, status, event.created, ok)
        return FakeMessage(self.ids.uuid(index), self.webhook_id, event, event.created, None, (attempt,))


class Log(Generic[T]):
    """Items, oldest first, each at a position that never changes.

    ``segments`` are its parts, oldest first. ``kept`` has the stored items of seeded parts, by their ids.
    """

    def __init__(self) -> None:
        self.segments: list[list[T] | Seeded[T]] = []
        self.kept: dict[str, T] = {}
        self._starts: list[int] = []
        self._by_id: dict[str, T] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def newest(self) -> T | None:
        return self.segments[-1][len(self.segments[-1]) - 1] if self._size else None

    def append(self, item: T) -> None:
        if not self.segments or isinstance(self.segments[-1], Seeded):
            self._add([])
        self.segments[-1].append(item)  # type: ignore[union-attr]  # the last segment is a list now
        self._by_id[item.id] = item
        self._size += 1

    def extend(self, seeded: Seeded[T]) -> None:
        """Add items that are made on demand."""
        if len(seeded):
            self._add(seeded)
            self._size += len(seeded)

    def keep(self, item: T) -> None:
        """Store an item that may have been made on demand, so that later changes to it are kept."""
        if item.id not in self._by_id:
            self.kept[item.id] = item

    def seeded(self) -> Iterator[Seeded[T]]:
        """Return the parts that are made on demand, oldest first."""
        return (segment for segment in self.segments if isinstance(segment, Seeded))

    def _add(self, segment: list[T] | Seeded[T]) -> None:
        self.segments.append(segment)
        self._starts.append(self._size)

    def find(self, id: str) -> T | None:
        found = self._by_id.get(id) or self.kept.get(id.lower())
        return found or next((item for seeded in self.seeded() if (item := seeded.find(id)) is not None), None)

    def scan(
        self, start: int | None = None, *, since: datetime | None = None, to: datetime | None = None, back: bool = False
    ) -> Iterator[tuple[int, T]]:
        """Yield each item and its position in order of time, the oldest first or, ``back``, the newest.

        start: the position of the first item. ``since``, ``to``: only items of this time, and of times between.

        Parts may overlap, such as the history of a second webhook. Items of one time are in the order of positions.
        """
        if start is not None and start >= self._size:
            if not back:
                return
            start = None
        first = None if start is None else (self._at(start).created, start)
        earliest, latest = since, to
        if first is not None and back:
            latest = first[0]
        elif first is not None:
            earliest = first[0] if since is None else max(first[0], since)

        def part(begin: int, segment: list[T] | Seeded[T]) -> Iterator[tuple[datetime, int, T]]:
            low = 0 if earliest is None else bisect_left(segment, earliest, key=_created)
            high = len(segment) if latest is None else bisect_right(segment, latest, key=_created)
            for index in range(high - 1, low - 1, -1) if back else range(low, high):
                item = segment[index]
                place = item.created, begin + index
                if first is None or (place <= first if back else place >= first):
                    yield *place, item

        parts = [part(*each) for each in zip(self._starts, self.segments, strict=True)]
        for _, position, item in heapq.merge(*parts, key=itemgetter(0, 1), reverse=back):
            yield position, self.kept.get(item.id, item) if self.kept else item

    def _at(self, position: int) -> T:
        index = bisect_right(self._starts, position) - 1
        return self.segments[index][position - self._starts[index]]


def _created(item: FakeEvent | FakeMessage) -> datetime:
    return item.created
