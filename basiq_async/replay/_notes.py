"""What a checkpoint keeps beside its cursor: when the webhook was inactive, and what the event list has covered."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import attrs

from ..errors import CheckpointError
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
        self.changed = False
        """Whether ``periods`` may differ from what was known."""

    def note(self, times: Sequence[datetime]) -> None:
        """Note when the messages of a page were first tried. Called before they are seen, newest first."""
        self.alert, self._noted = False, True
        if self._active is None:
            self._active = {}
        for time in times:
            self._add(time)
        for index, period in enumerate(self._periods):
            later = min((time for time in times if time > period.since), default=None)
            if later is not None and (period.until is None or later < period.until):
                self._periods[index] = Inactivity(period.since, later)
                self.changed = True

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
            self.changed = True
            if len(self._periods) > 2 * _MOST_PERIODS:
                self._periods = list(self.periods())

    def _end_periods(self, active: datetime) -> None:
        for index, period in enumerate(self._periods):
            if active > period.since and (period.until is None or active < period.until):
                self._periods[index] = Inactivity(period.since, active)
                self.changed = True

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


Stretch = tuple[datetime, datetime]
"""From a moment to a later one."""


@attrs.frozen
class Notes:
    """What earlier runs have learned.

    inactive: when the webhook was not active.
    covered: the times whose events were all read.
    given_up: how many messages failed and were not kept.
    read_until: what was listed at this moment was all read; None where the list was never read to its end.
    """

    inactive: tuple[Inactivity, ...] = ()
    covered: tuple[Stretch, ...] = ()
    given_up: int = 0
    read_until: datetime | None = None

    @classmethod
    def read(cls, text: str) -> Notes:
        """Read what ``write`` wrote; empty text is nothing. Raises ``CheckpointError``."""
        if not text:
            return cls()
        try:
            found: dict[str, Any] = json.loads(text)
            return cls(
                tuple(Inactivity(_moment(since), until and _moment(until)) for since, until in found["inactive"]),
                tuple((_moment(begin), _moment(end)) for begin, end in found["covered"]),
                int(found["given_up"]),
                found["read_until"] and _moment(found["read_until"]),
            )
        except (ValueError, TypeError, KeyError) as exc:
            raise CheckpointError(
                "the checkpoint's notes cannot be read: it is damaged; pass another checkpoint to begin anew, with an "
                "inbox, so that nothing is handled twice"
            ) from exc

    def write(self) -> str:
        """Return them as text, empty if there is nothing to keep."""
        if self == Notes():
            return ""
        return json.dumps(
            {
                "inactive": [[each.since.isoformat(), each.until and each.until.isoformat()] for each in self.inactive],
                "covered": [[begin.isoformat(), end.isoformat()] for begin, end in self.covered],
                "given_up": self.given_up,
                "read_until": self.read_until and self.read_until.isoformat(),
            }
        )

    def cover(self, stretch: Stretch) -> Notes:
        """Add a time whose events were all read."""
        return attrs.evolve(self, covered=_join([*self.covered, stretch]))


def find_out_of_reach(
    inactive: Iterable[Inactivity], covered: Sequence[Stretch], reach: datetime, acknowledged: datetime | None
) -> tuple[Inactivity, ...]:
    """Return the parts of the periods that are over, were never read as events, and cannot be any more.

    reach: before this moment the event list has nothing. acknowledged: what is before this moment does not count.
    """
    found = []
    for period in inactive:
        begin = period.since if acknowledged is None else max(period.since, acknowledged)
        end = reach if period.until is None else min(period.until, reach)
        for read_from, read_to in _join(covered):
            if read_from > begin and begin < min(read_from, end):
                found.append(Inactivity(begin, min(read_from, end)))
            begin = max(begin, read_to)
        if begin < end:
            found.append(Inactivity(begin, end))
    return tuple(found)


def _join(stretches: Iterable[Stretch]) -> tuple[Stretch, ...]:
    """Put stretches in order; those that meet are one."""
    joined: list[Stretch] = []
    for begin, end in sorted(stretches):
        if joined and begin <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((begin, end))
    return tuple(joined)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError
    return moment


def _show(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
