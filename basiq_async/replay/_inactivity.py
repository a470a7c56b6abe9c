"""When a webhook was not active, as far as its history shows."""

from __future__ import annotations

from datetime import UTC, datetime

import attrs

from ..models import Message

__all__ = ["MOST_ATTEMPTS", "Inactivity", "InactivityTracker"]

MOST_ATTEMPTS = 8
"""After the eighth failed attempt Basiq disables the endpoint (the vendor's page on the delivery schedule)."""
_MOST_PERIODS = 200


@attrs.frozen
class Inactivity:
    """A time in which a webhook was not active: what happened then made no message.

    since: the eighth failed attempt of a message, after which Basiq disables the endpoint.
    until: the next first attempt of a message, which shows that it was active again; None where the history shows
        none.
    """

    since: datetime
    until: datetime | None = None

    def __str__(self) -> str:
        until = "on, as far as its history shows" if self.until is None else f"to {_show(self.until)}"
        return (
            f"the webhook was not active from {_show(self.since)} {until}: what happened then made no message; "
            "recover() finds what the event list still has, which is the last 7 days"
        )


class InactivityTracker:
    """Looks at each message once, in the order of the history; with ``any_order``, in any."""

    def __init__(self, *, any_order: bool = False) -> None:
        self._periods: list[Inactivity] = []
        self.alert = any_order
        """Whether every message matters; otherwise only those with ``MOST_ATTEMPTS``."""
        self._active: dict[int, tuple[datetime, datetime]] | None = {} if any_order else None
        """The first and the last first attempt in each hour, where later periods may be found yet."""

    def see(self, message: Message) -> None:
        """Take a message into account."""
        attempts = message.raw.get("attempts")
        if not attempts:
            return
        failed_for_good = len(attempts) >= MOST_ATTEMPTS and not message.delivered
        if not failed_for_good and not self._periods and self._active is None:
            return
        times = [attempt.timestamp for attempt in message.attempts if attempt.timestamp is not None]
        if not times:
            return
        self._end_periods(first := min(times))
        if self._active is not None:
            hour = int(first.timestamp()) // 3600
            earliest, latest = self._active.get(hour, (first, first))
            self._active[hour] = min(earliest, first), max(latest, first)
        if failed_for_good and len(self._periods) < _MOST_PERIODS:
            since = max(times)
            later = [each for pair in (self._active or {}).values() for each in pair if each > since]
            self.alert = True
            self._periods.append(Inactivity(since, min(later, default=None)))

    def _end_periods(self, active: datetime) -> None:
        for index, period in enumerate(self._periods):
            if active > period.since and (period.until is None or active < period.until):
                self._periods[index] = Inactivity(period.since, active)

    def periods(self) -> tuple[Inactivity, ...]:
        """Return the periods, earliest first; those that end together are one."""
        merged: dict[datetime | None, Inactivity] = {}
        for period in sorted(self._periods, key=lambda each: each.since):
            merged.setdefault(period.until, period)
        return tuple(merged.values())


def _show(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
