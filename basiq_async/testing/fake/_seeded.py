"""A history of any length that costs no memory: each message and event is made from its index when asked for."""

from __future__ import annotations

from datetime import datetime, timedelta

import attrs

from ._ids import SeededIds, digest, uuid_text
from ._records import Attempt, Event, Message

USERS = 64


@attrs.frozen
class SeededEvents:
    """The events of a seeded history."""

    ids: SeededIds
    types: tuple[str, ...]
    users: tuple[str, ...]
    first: datetime
    every: timedelta
    count: int
    name: tuple[object, ...] = ()

    @classmethod
    def make(
        cls, name: tuple[object, ...], types: tuple[str, ...], first: datetime, every: timedelta, count: int
    ) -> SeededEvents:
        """The events of that name: the same name, the same events."""
        users = tuple(uuid_text(digest(name, "user", number)) for number in range(USERS))
        return cls(SeededIds("event", name), types, users, first, every, count, name)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Event:
        if not 0 <= index < self.count:
            raise IndexError(index)
        chance = self.ids.scatter(index)
        return Event(
            self.ids.hex(index),
            self.types[(chance >> 32) % len(self.types)],
            self.users[(chance >> 16) % USERS],
            self.ids.uuid(index),
            self.first + index * self.every,
        )

    def find(self, id: str) -> Event | None:
        index = self.ids.index_of_hex(id)
        return None if index is None or index >= self.count else self[index]

    def find_entity(self, path: str) -> Event | None:
        """The event that is about the entity at ``path``."""
        parts = path.split("/")
        if len(parts) > 4:
            index = self.ids.index_of_uuid(parts[4])
            event = None if index is None or index >= self.count else self[index]
            return event if event is not None and event.path == path else None
        if len(parts) < 3 or parts[2] not in self.users:
            return None
        entity = parts[3] if len(parts) == 4 else "user"
        type_id = next((name for name in self.types if name.startswith(entity + ".")), None)
        return None if type_id is None else Event("", type_id, parts[2], "", self.first)


@attrs.frozen
class SeededMessages:
    """The messages of a seeded history, each delivered (or not) at the moment of its event."""

    ids: SeededIds
    webhook_id: str
    url: str
    events: SeededEvents
    failed: float

    def __len__(self) -> int:
        return self.events.count

    def __getitem__(self, index: int) -> Message:
        event = self.events[index]
        chance = self.ids.scatter(index)
        ok = (chance >> 24) % 10_000 >= self.failed * 10_000
        attempt = Attempt(
            f"{chance:016x}",
            self.url,
            "OK" if ok else "Internal Server Error",
            200 if ok else 500,
            event.created,
            ok,
        )
        return Message(self.ids.uuid(index), self.webhook_id, event, event.created, None, (attempt,))

    def find(self, id: str) -> Message | None:
        index = self.ids.index_of_uuid(id)
        return None if index is None or index >= len(self) else self[index]
