"""Clocks for a fake Basiq."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from ...errors import ConfigurationError

_FASTEST = 1e6
LATEST = datetime(9000, 1, 1, tzinfo=UTC)
"""The latest time that a fake's clock can be moved to. Attempts planned from then still have a valid date."""


def as_seconds(value: float | timedelta) -> float:
    """Return a length of time in seconds."""
    return value.total_seconds() if isinstance(value, timedelta) else value


class ManualClock:
    """A clock that stands still until it is moved, so that a test sees the same times in every run.

    Starts at ``start``, by default 2026-01-05 00:00 UTC.
    """

    def __init__(self, start: datetime | None = None) -> None:
        start = start or datetime(2026, 1, 5, tzinfo=UTC)
        if start.tzinfo is None:
            raise ConfigurationError("start needs a time zone, such as datetime.UTC")
        self._now = start.astimezone(UTC)

    def __call__(self) -> datetime:
        return self._now

    def __repr__(self) -> str:
        return f"ManualClock({self._now.isoformat()})"

    def move_to(self, moment: datetime) -> None:
        """Set the clock forward to ``moment``. A moment in the past changes nothing."""
        self._now = max(self._now, moment.astimezone(UTC))

    def advance(self, delta: float | timedelta = 0.0, *, seconds: float = 0.0) -> None:
        """Set the clock forward, by seconds or a timedelta. Unlike ``FakeBasiq.advance``, this makes no deliveries."""
        self.move_to(self._now + timedelta(seconds=as_seconds(delta) + seconds))

    def set(self, moment: datetime) -> None:
        """Set the clock to any moment, as a machine's clock that was wrong. No fake Basiq may use it."""
        self._now = moment.astimezone(UTC)


class SystemClock:
    """A clock that runs ``speed`` times as fast as the machine's, and can be moved forward.

    Starts at ``start``, by default now.
    """

    def __init__(self, speed: float = 1.0, *, start: datetime | None = None) -> None:
        if not 0 < speed <= _FASTEST:
            raise ConfigurationError(f"speed must be above 0 and at most {_FASTEST:g}, not {speed!r}")
        if start is not None and start.tzinfo is None:
            raise ConfigurationError("start needs a time zone, such as datetime.UTC")
        self.speed = float(speed)
        self._start = datetime.now(UTC) if start is None else start.astimezone(UTC)
        self._started = time.monotonic()

    def __call__(self) -> datetime:
        return self._start + timedelta(seconds=(time.monotonic() - self._started) * self.speed)

    def __repr__(self) -> str:
        return f"SystemClock(speed={self.speed:g})"

    def move_to(self, moment: datetime) -> None:
        """Set the clock forward to ``moment``, and run on from there. A moment in the past changes nothing."""
        ahead = moment - self()
        if ahead > timedelta():
            self._start += ahead


class OwnClock:
    """The time of a user's callable, in UTC, and how far the fake was moved past it.

    In another zone, sums of times are of its wall clock, and so an hour off at a change to or from summer time.
    """

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._ahead = timedelta()

    def __call__(self) -> datetime:
        now = self._clock()
        if now.tzinfo is None:
            raise ConfigurationError(f"a clock must return an aware datetime, such as datetime.now(UTC): {self!r}")
        return now.astimezone(UTC) + self._ahead

    def __repr__(self) -> str:
        return repr(self._clock)

    def move_to(self, moment: datetime) -> None:
        """Set the fake's time forward to ``moment``, and go on from there. A moment in the past changes nothing."""
        self._ahead += max(moment - self(), timedelta())


FakeClock = ManualClock | SystemClock | OwnClock
"""The clock of a fake."""


def as_clock(clock: Callable[[], datetime] | None) -> FakeClock:
    """Return the clock of a fake: by default a ``ManualClock``. Raises ``ConfigurationError`` for no callable."""
    if clock is None:
        return ManualClock()
    if not callable(clock):
        raise ConfigurationError(f"clock must be a callable that returns an aware datetime, not {clock!r}")
    return clock if isinstance(clock, FakeClock) else OwnClock(clock)
