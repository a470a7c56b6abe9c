"""Identifiers and histories that are computed from a seed, so that long histories need no memory."""

from __future__ import annotations

from datetime import datetime, timedelta
from hashlib import blake2b

import attrs

from ._records import Attempt, Event, Message

_MASK = (1 << 62) - 1
_STEP = 0x1D8E4E27C47D124F  # odd, so that multiplication modulo 2**62 can be reversed
_BACK = pow(_STEP, -1, 1 << 62)
_VARIANT = 1 << 63
UUID_PARTS = (8, 4, 4, 4, 12)
USERS = 64


def digest(*parts: object, size: int = 16) -> bytes:
    """Return a hash of the parts, ``size`` bytes long."""
    return blake2b("\0".join(map(str, parts)).encode(errors="surrogatepass"), digest_size=size).digest()


def uuid_text(raw: bytes) -> str:
    """Return 16 bytes as the text of a version 4 UUID."""
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{'89ab'[raw[8] & 3]}{text[17:20]}-{text[20:]}"


def is_uuid(text: str) -> bool:
    """Return whether ``text`` is a UUID of 8-4-4-4-12 hexadecimal digits."""
    parts = text.split("-")
    return (
        tuple(map(len, parts)) == UUID_PARTS
        and text.isascii()
        and all(part.isalnum() and not part.strip("0123456789abcdefABCDEF") for part in parts)
    )


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
        uuid_tag = uuid_text(digest("uuid", *name))
        self._uuid_tag = uuid_tag[:19]
        self._hex_tag = digest("hex", *name, size=24).hex()
        self._offset = int.from_bytes(digest("offset", *name, size=7), "big")

    def scatter(self, index: int) -> int:
        """Return 62 bits that look random and are unique to the index."""
        return ((index + self._offset) * _STEP) & _MASK

    def uuid(self, index: int) -> str:
        tail = f"{_VARIANT | self.scatter(index):016x}"
        return f"{self._uuid_tag}{tail[:4]}-{tail[4:]}"

    def hex(self, index: int) -> str:
        return f"{self._hex_tag}{self.scatter(index):016x}"

    def index_of_uuid(self, text: str) -> int | None:
        text = text.lower()
        if not text.startswith(self._uuid_tag) or len(text) != 36:
            return None
        return self._index(text[19:].replace("-", ""), _VARIANT)

    def index_of_hex(self, text: str) -> int | None:
        if not text.startswith(self._hex_tag) or len(text) != 64:
            return None
        return self._index(text[48:], 0)

    def _index(self, tail: str, variant: int) -> int | None:
        try:
            scattered = int(tail, 16) ^ variant
        except ValueError:
            return None
        return ((scattered * _BACK) - self._offset) & _MASK if scattered <= _MASK else None


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
        """Make the events of a history. The same name gives the same events."""
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
        """Return the event that is about the entity at ``path``; None if no event is."""
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
    """The messages of a seeded history, each with one attempt, successful or failed, at the time of its event."""

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
