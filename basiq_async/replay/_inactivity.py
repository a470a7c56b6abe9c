"""When a webhook was not active, as far as its history shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import pairwise

import attrs

from ..models import Message

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

    def describe_loss(self) -> str:
        """Say that what happened then is lost."""
        until = "" if self.until is None else f" to {_show(self.until)}"
        return (
            f"the webhook was not active from {_show(self.since)}{until}, and the event list no longer has what "
            "happened then: fetch the state itself from the API, then pass the end of that time as acknowledged"
        )


class InactivityTracker:
    """Looks at each message, in the order of the history; with ``any_order``, in any.

    ``known`` are the periods that earlier runs have found.
    """

    def __init__(self, *, any_order: bool = False, known: Iterable[Inactivity] = ()) -> None:
        self._periods = list(known)
        self.alert = any_order or bool(self._periods)
        """Whether every message matters; otherwise only those with ``MOST_ATTEMPTS``."""
        self._active: dict[int, tuple[datetime, datetime]] | None = {} if any_order else None
        """The first and the last first attempt in each hour, where later periods may be found yet."""
        self._noted = False
        """Whether ``note`` is told of all messages."""

    def note(self, times: Sequence[datetime]) -> None:
        """Note when the messages of a page were first tried, before they come one by one, newest first."""
        self.alert, self._noted = False, True
        if self._active is None:
            self._active = {}
        for time in times:
            self._add(time)
        for index, period in enumerate(self._periods):
            later = min((time for time in times if time > period.since), default=None)
            if later is not None and (period.until is None or later < period.until):
                self._periods[index] = Inactivity(period.since, later)

    def _add(self, first: datetime) -> None:
        if self._active is not None:
            hour = int(first.timestamp()) // 3600
            earliest, latest = self._active.get(hour, (first, first))
            self._active[hour] = min(earliest, first), max(latest, first)

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
        self._add(first)
        since = max(times)
        # A message that an earlier run has seen too is read again where that run was killed.
        if failed_for_good and all(since != each.since for each in self._periods):
            later = [each for pair in (self._active or {}).values() for each in pair if each > since]
            self.alert = not self._noted
            self._periods.append(Inactivity(since, min(later, default=None)))
            if len(self._periods) > 2 * _MOST_PERIODS:
                self._periods = list(self.periods())

    def _end_periods(self, active: datetime) -> None:
        for index, period in enumerate(self._periods):
            if active > period.since and (period.until is None or active < period.until):
                self._periods[index] = Inactivity(period.since, active)

    def periods(self) -> tuple[Inactivity, ...]:
        """Return the periods, earliest first; those that end together are one."""
        merged: dict[datetime | None, Inactivity] = {}
        for period in sorted(self._periods, key=lambda each: each.since):
            merged.setdefault(period.until, period)
        periods = list(merged.values())
        too_many = len(periods) > _MOST_PERIODS
        while len(periods) > _MOST_PERIODS:
            gaps = [(after.since - (one.until or after.since), n) for n, (one, after) in enumerate(pairwise(periods))]
            _, first = min(gaps)  # too long a period is safer than one that is forgotten
            periods[first : first + 2] = [Inactivity(periods[first].since, periods[first + 1].until)]
        if too_many:
            self._periods = list(periods)
        return tuple(periods)


def _show(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
