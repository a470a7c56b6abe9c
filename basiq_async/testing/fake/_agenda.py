"""The planned attempts to deliver messages: due later, due now, or under way."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from datetime import datetime
from typing import Literal

import attrs

from ...errors import ConfigurationError
from ._clock import Clock
from ._records import Message, Webhook
from ._store import Application

MOST_CAUSED = 10_000


@attrs.define
class Cause:
    """The event that a test emitted, and the number of messages that handlers emitted because of it."""

    messages: int = 0

    def count(self, messages: int) -> None:
        """Count more messages. Raises ``ConfigurationError`` if handlers emit events without end."""
        self.messages += messages
        if self.messages > MOST_CAUSED:
            raise ConfigurationError(
                f"one event made its handlers emit more than {MOST_CAUSED:,} messages: a handler that emits an event "
                "on each delivery of that event never comes to an end"
            )


@attrs.define(eq=False)
class PlannedAttempt:
    """An attempt to deliver a message.

    once: whether no further attempt follows if this one fails.
    begun: the attempt's number in the order of beginning; 0 before it begins.
    state: ``over`` once it is recorded, or dropped by a reset.
    """

    due: datetime
    app: Application
    webhook: Webhook
    message: Message
    number: int
    once: bool
    cause: Cause
    begun: int = 0
    state: Literal["due", "under way", "over"] = "due"

    def __str__(self) -> str:
        return f"attempt {self.number} of message {self.message.id}"


_current: ContextVar[PlannedAttempt | None] = ContextVar("the attempt whose handler the current code is part of")


class Agenda:
    """The planned attempts. ``changed`` is called when an attempt is planned, given back or over."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due: list[tuple[datetime, int, PlannedAttempt]] = []
        self._serial = 0
        self._begun = 0
        self.under_way: dict[int, PlannedAttempt] = {}
        self.changed: Callable[[], None] = lambda: None

    def plan(self, attempt: PlannedAttempt) -> None:
        self._serial += 1
        heapq.heappush(self._due, (attempt.due, self._serial, attempt))
        self.changed()

    def take_due(self) -> PlannedAttempt | None:
        """Take the next attempt that is due; None if none is. Pass its number to ``end``, whatever becomes of it."""
        if not self.is_due():
            return None
        attempt = heapq.heappop(self._due)[2]
        self._begun += 1
        attempt.begun, attempt.state = self._begun, "under way"
        self.under_way[attempt.begun] = attempt
        return attempt

    def end(self, begun: int) -> None:
        """End the attempt that began with this number. It is given back unless it is over. May be called twice."""
        attempt = self.under_way.pop(begun, None)
        if attempt is None:
            return
        if attempt.state == "under way":
            attempt.state = "due"
            self.plan(attempt)
        self.changed()

    def forget(self) -> None:
        """Drop all planned attempts, and ignore the results of attempts that are under way."""
        for attempt in self.planned():
            attempt.state = "over"
        self._due.clear()
        self.changed()

    def is_due(self) -> bool:
        return bool(self._due) and self._due[0][0] <= self._clock()

    def next_due(self) -> datetime | None:
        """Return the time of the next attempt; None if none is planned."""
        return self._due[0][0] if self._due else None

    def planned(self) -> Sequence[PlannedAttempt]:
        """Return the attempts that are due or under way, in the order of their due times."""
        waiting = (attempt for _, _, attempt in sorted(self._due))
        return sorted([*self.under_way.values(), *waiting], key=lambda attempt: attempt.due)

    def __len__(self) -> int:
        return len(self._due) + len(self.under_way)

    # --- the attempt that the current code is part of ---

    def enter(self, attempt: PlannedAttempt) -> None:
        """Make the current task part of an attempt."""
        _current.set(attempt)

    def current(self) -> PlannedAttempt | None:
        """Return the attempt whose handler the current code is part of, if it is under way."""
        attempt = _current.get(None)
        return attempt if attempt is not None and self.under_way.get(attempt.begun) is attempt else None
