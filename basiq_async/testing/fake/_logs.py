"""Logs of a limited size: requests and misuses; and a counter of changes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Generic, TypeVar

import attrs

from ...transports.base import Request
from ._clock import FakeClock

T = TypeVar("T")
MOST_KEPT = 10_000
MOST_BYTES = 64 * 2**20


class Recent(Generic[T]):
    """The latest items, oldest first. The oldest are dropped above a number of items or of bytes."""

    def __init__(self, size_of: Callable[[T], int], *, most: int = MOST_KEPT, most_bytes: int = MOST_BYTES) -> None:
        self._items: deque[tuple[T, int]] = deque()
        self._size_of = size_of
        self._most = most
        self._most_bytes = most_bytes
        self.bytes = 0
        self.dropped = 0

    def append(self, item: T) -> None:
        size = self._size_of(item)
        self._items.append((item, size))
        self.bytes += size
        while len(self._items) > self._most or (self.bytes > self._most_bytes and len(self._items) > 1):
            self.bytes -= self._items.popleft()[1]
            self.dropped += 1

    def clear(self) -> None:
        self.dropped += len(self._items)
        self._items.clear()
        self.bytes = 0

    @property
    def added(self) -> int:
        """The number of items that were ever added."""
        return self.dropped + len(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[T]:
        return (item for item, _ in self._items)


@attrs.define(eq=False)
class LoggedRequest:
    """One request that the fake received, and its outcome.

    ``number`` counts from 1. ``at`` is on the fake's clock. ``status`` is None if the connection was dropped.
    ``duration`` is in seconds. ``misuses`` are the codes of the misuses that the request caused.
    """

    number: int
    at: datetime
    request: Request
    path: str
    status: int | None = None
    duration: float = 0.0
    misuses: tuple[str, ...] = ()


def size_of(headers: Mapping[str, str], body: bytes | None, *texts: str) -> int:
    """Return the approximate size of a log entry, in bytes."""
    return (
        500 + sum(len(name) + len(value) for name, value in headers.items()) + len(body or b"") + sum(map(len, texts))
    )


KEPT = 1000


@attrs.frozen
class Misuse:
    """One misuse of Basiq.

    ``code`` is one of ``token-per-request``, ``token-rate``, ``key-encoded-twice``, ``key-on-operation``,
    ``basiq-version``, ``limit`` and ``slow-acknowledgement``. ``detail`` describes it in words. ``at`` is the time on
    the fake's clock.
    """

    code: str
    detail: str
    at: datetime


class Misuses:
    """The first 1,000 misuses."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._seen: list[Misuse] = []
        self._codes: list[str] = []

    def add(self, code: str, detail: str) -> None:
        self._codes.append(code)
        if len(self._seen) < KEPT:
            self._seen.append(Misuse(code, detail, self._clock()))

    def take_codes(self) -> tuple[str, ...]:
        """Return the codes of the misuses that were added since the last call."""
        codes, self._codes = self._codes, []
        return tuple(codes)

    def seen(self) -> Sequence[Misuse]:
        return tuple(self._seen)

    def clear(self) -> None:
        self._seen.clear()


class Changes:
    """Counts changes, and calls the watchers after each."""

    def __init__(self) -> None:
        self.revision = 0
        self._watchers: list[Callable[[], None]] = []

    def count(self) -> None:
        """Count a change, and call the watchers."""
        self.revision += 1
        for watcher in tuple(self._watchers):
            watcher()

    def watch(self, watcher: Callable[[], None]) -> Callable[[], None]:
        """Call ``watcher`` after each change. Return a function that ends the calls."""
        self._watchers.append(watcher)

        def stop() -> None:
            if watcher in self._watchers:
                self._watchers.remove(watcher)

        return stop
