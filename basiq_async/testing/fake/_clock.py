"""Clocks for a fake Basiq."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from ...errors import ConfigurationError
from ._checks import read_moment, read_seconds, require, require_number

_FASTEST = 1e6
LATEST = datetime(9000, 1, 1, tzinfo=UTC)
"""The latest time that a fake's clock can be moved to. Attempts planned from then still have a valid date."""


class ManualClock:
    """A clock that stands still until it is moved, so that a test sees the same times in every run.

    Starts at ``start``, by default 2026-01-05 00:00 UTC.
    """

    def __init__(self, start: datetime | None = None) -> None:
        self._now = datetime(2026, 1, 5, tzinfo=UTC) if start is None else read_moment("start", start)

    def __call__(self) -> datetime:
        return self._now

    def __repr__(self) -> str:
        return f"ManualClock({self._now.isoformat()})"

    def move_to(self, moment: datetime) -> None:
        """Set the clock forward to ``moment``. A moment in the past changes nothing."""
        self._now = max(self._now, read_moment("moment", moment))

    def advance(self, delta: float | timedelta = 0.0, *, seconds: float = 0.0) -> None:
        """Set the clock forward, by seconds or a timedelta. Unlike ``FakeBasiq.advance``, this makes no deliveries."""
        step = read_seconds("delta", delta) + read_seconds("seconds", seconds)
        try:
            self.move_to(self._now + timedelta(seconds=step))
        except (OverflowError, ValueError):  # infinite, or not a number
            raise ConfigurationError("the clock cannot be moved so far") from None

    def set(self, moment: datetime) -> None:
        """Set the clock to any moment, as a machine's clock that was wrong. No fake Basiq may use it."""
        self._now = read_moment("moment", moment)


class SystemClock:
    """A clock that runs ``speed`` times as fast as the machine's, and can be moved forward.

    Starts at ``start``, by default now.
    """

    def __init__(self, speed: float = 1.0, *, start: datetime | None = None) -> None:
        require_number("speed", speed)
        require(0 < speed <= _FASTEST, f"speed must be above 0 and at most {_FASTEST:g}, not {speed!r}")
        self.speed = float(speed)
        self._start = datetime.now(UTC) if start is None else read_moment("start", start)
        self._started = time.monotonic()

    def __call__(self) -> datetime:
        return self._start + timedelta(seconds=(time.monotonic() - self._started) * self.speed)

    def __repr__(self) -> str:
        return f"SystemClock(speed={self.speed:g})"

    def move_to(self, moment: datetime) -> None:
        """Set the clock forward to ``moment``, and run on from there. A moment in the past changes nothing."""
        ahead = read_moment("moment", moment) - self()
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
        if not isinstance(now, datetime) or now.tzinfo is None:
            raise ConfigurationError(f"a clock must return an aware datetime, such as datetime.now(UTC): {self!r}")
        return now.astimezone(UTC) + self._ahead

    def __repr__(self) -> str:
        return repr(self._clock)

    def move_to(self, moment: datetime) -> None:
        """Set the fake's time forward to ``moment``, and go on from there. A moment in the past changes nothing."""
        self._ahead += max(read_moment("moment", moment) - self(), timedelta())


FakeClock = ManualClock | SystemClock | OwnClock
"""The clock of a fake."""


def as_clock(clock: Callable[[], datetime] | None) -> FakeClock:
    """Return the clock of a fake: by default a ``ManualClock``. Raises ``ConfigurationError`` for no callable."""
    if clock is None:
        return ManualClock()
    if not callable(clock):
        raise ConfigurationError(f"clock must be a callable that returns an aware datetime, not {clock!r}")
    return clock if isinstance(clock, FakeClock) else OwnClock(clock)
