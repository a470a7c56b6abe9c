"""The notes of a checkpoint: when the webhook was inactive, and which times of the event list were read."""

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
    """A period in which a webhook was not active. Events of this period made no messages.

    since: the eighth failed attempt of a message, after which Basiq disables the endpoint.
    until: the next first attempt of a message, which shows that the webhook was active again; None if the history
        has no such attempt.
    """

    since: datetime
    until: datetime | None = None

    def __str__(self) -> str:
        until = "until now, as far as its history shows" if self.until is None else f"to {_show(self.until)}"
        return (
            f"the webhook was not active from {_show(self.since)} {until}: events of that time made no messages; "
            "recover() finds those of the last 7 days in the event list"
        )

    def describe_loss(self) -> str:
        """Return a text that says that the events of this period are lost, and what to do."""
        until = "" if self.until is None else f" to {_show(self.until)}"
        return (
            f"the webhook was not active from {_show(self.since)}{until}, and the event list no longer has the events "
            "of that time: fetch the present state from the API, then pass the end of that time as acknowledged"
        )


class InactivityTracker:
    """Finds the periods of inactivity from the messages, in the order of the history, or in any with ``any_order``.

    ``known`` are the periods that earlier runs found.
    """

    def __init__(self, *, any_order: bool = False, known: Iterable[Inactivity] = ()) -> None:
        self._periods = list(known)
        self.alert = any_order or bool(self._periods)
        """Whether ``see`` needs every message, and not only those with ``MOST_ATTEMPTS`` attempts."""
        self._active: dict[int, tuple[datetime, datetime]] | None = {} if any_order else None
        """The earliest and the latest first attempt in each hour; None if the messages come oldest first."""
        self._noted = False
        """Whether ``note`` is called with the times of all messages."""
        self.changed = False
        """Whether ``periods`` may differ from what was known."""

    def note(self, times: Sequence[datetime]) -> None:
        """Record the times of the first attempts of a page's messages, before ``see``, newest first."""
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
        """Record the attempts of one message."""
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
        # After a run was killed, the next one reads some of its messages again.
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
        """Return the periods, earliest first. Periods with the same end are merged into one."""
        merged: dict[datetime | None, Inactivity] = {}
        for period in sorted(self._periods, key=lambda each: each.since):
            merged.setdefault(period.until, period)
        periods = list(merged.values())
        too_many = len(periods) > _MOST_PERIODS
        while len(periods) > _MOST_PERIODS:
            gaps = [(after.since - (one.until or after.since), n) for n, (one, after) in enumerate(pairwise(periods))]
            _, first = min(gaps)  # a period that is too long is safer than a missing one
            periods[first : first + 2] = [Inactivity(periods[first].since, periods[first + 1].until)]
        if too_many:
            self._periods = list(periods)
        return tuple(periods)


Stretch = tuple[datetime, datetime]
"""A period: its begin and its end."""


@attrs.frozen
class Notes:
    """What earlier runs found out about the history.

    inactive: the periods in which the webhook was not active.
    covered: the periods whose events were all read.
    given_up: the number of messages that failed and were not kept.
    read_until: all messages that were listed at this moment were read; None if the list was never read to its end.
    """

    inactive: tuple[Inactivity, ...] = ()
    covered: tuple[Stretch, ...] = ()
    given_up: int = 0
    read_until: datetime | None = None

    @classmethod
    def read(cls, text: str) -> Notes:
        """Parse the text of ``write``. An empty text gives empty notes. Raises ``CheckpointError``."""
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
                "the checkpoint is damaged: its notes cannot be read. Pass another checkpoint to begin anew, with an "
                "inbox, so that nothing is handled twice"
            ) from exc

    def write(self) -> str:
        """Return the notes as text; empty notes give an empty text."""
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
        """Return the notes with one more period whose events were all read."""
        return attrs.evolve(self, covered=_join([*self.covered, stretch]))


def find_out_of_reach(
    inactive: Iterable[Inactivity], covered: Sequence[Stretch], reach: datetime, acknowledged: datetime | None
) -> tuple[Inactivity, ...]:
    """Return the parts of the inactive periods whose events were never read, and are no longer in the event list.

    reach: the event list begins at this moment. acknowledged: parts before this moment are left out.
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
    """Sort periods by their begin, and merge those that overlap or touch."""
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
