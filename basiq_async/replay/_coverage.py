"""What a checkpoint knows of the history: which times were read, when the webhook was inactive, what was given up."""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import attrs

from .._wire.order import item_time
from ..client import BasiqClient
from ..errors import NotFoundError, ResponseDecodeError
from ..models import Message
from ..services.diagnosis import LONG_AGO, Stretch
from ._place import read_text, write_text

MOST_ATTEMPTS = 8
"""After the eighth failed attempt Basiq disables the endpoint (the vendor's page on the delivery schedule)."""
_SCHEDULE = timedelta(hours=27, minutes=35, seconds=5)
"""The time from the first attempt to the eighth (the same page)."""
_LATE = timedelta(hours=1)
_MOST_PERIODS = 200
_MOST_UNDER_WAY = 100


@attrs.frozen
class Inactivity:
    """A period in which a webhook was not active. Events of this period made no messages.

    since: the eighth failed attempt of a message, after which Basiq disables the endpoint.
    until: the next first attempt of a message, or the next recovery that found the webhook active, which shows that
        it was active again; None if there is neither.
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
    """Finds the periods of inactivity from the messages of the history, in any order.

    ``known`` is what earlier runs found. ``now`` tells which messages may get further attempts. ``acknowledged`` counts
    if it is later than the one that is known.
    """

    def __init__(
        self, known: Coverage | None = None, *, now: datetime | None = None, acknowledged: datetime | None = None
    ) -> None:
        self._known = known = known or Coverage()
        self._acknowledged = max(filter(None, (known.acknowledged, acknowledged)), default=None)
        self._over = LONG_AGO if now is None else now - _SCHEDULE - _LATE
        self._periods = list(known.inactive)
        self._under_way: list[tuple[float, str, datetime]] = []
        self.unnamed: Stretch | None = None
        """The first and the last first attempt of the messages under way that ``under_way`` does not name."""
        self._active: dict[int, tuple[datetime, datetime]] = {}
        """The earliest and the latest first attempt in each hour."""
        self.changed = bool(known.under_way) or self._acknowledged != known.acknowledged
        """Whether what is found may differ from what was known."""
        self.given_up = 0
        """The number of messages of this run that failed and are not kept."""

    async def look_again(self, client: BasiqClient, webhook_id: str) -> None:
        """Look at the messages whose attempts had not ended when an earlier run saw them."""
        for each in self._known.under_way:
            try:
                self.see(await client.messages.get(webhook_id, each.id))
            except (NotFoundError, ResponseDecodeError):
                self._miss(each.first)
        if self._known.unnamed is None:
            return
        since, until = self._known.unnamed
        oldest: datetime | None = None
        async for message in client.messages.list(webhook_id, on_unreadable=lambda item: None):
            time = item_time(message)
            if time is not None:
                oldest = time if oldest is None else min(oldest, time)
                if since <= time <= until:
                    self.see(message)
        if oldest is None or oldest > since:
            self._miss(since)  # the oldest of them are no longer listed

    def coverage(self) -> Coverage:
        """Return what earlier runs and this one found out."""
        known = self._known
        return Coverage(
            self.periods(), self.under_way, self.unnamed, known.given_up + self.given_up, self._acknowledged
        )

    @property
    def notes(self) -> str | None:
        """The coverage as text; None if it is the same as before the run."""
        return self.coverage().write() if self.changed or self.given_up else None

    def note(self, times: Sequence[datetime]) -> None:
        """Record the times of the first attempts of a page's messages: the webhook was active then."""
        times = sorted(times)
        for time in times:
            hour = int(time.timestamp()) // 3600
            earliest, latest = self._active.get(hour, (time, time))
            self._active[hour] = min(earliest, time), max(latest, time)
        for index, period in enumerate(self._periods):
            later = times[bisect_right(times, period.since) :][:1]
            if later and (period.until is None or later[0] < period.until):
                self._periods[index] = Inactivity(period.since, later[0])
                self.changed = True

    def see(self, message: Message) -> None:
        """Record the attempts of one message whose time was noted."""
        attempts = message.raw.get("attempts")
        if not attempts or (type(attempts[0]) is dict and attempts[0].get("status") == "Success"):
            return
        times = [attempt.timestamp for attempt in message.attempts if attempt.timestamp is not None]
        if message.delivered or not times:
            return
        first = min(times)
        if len(attempts) >= MOST_ATTEMPTS:
            self._begin_period(max(times))
        elif first > self._over:
            # The oldest are the first to fail for good.
            heapq.heappush(self._under_way, (-first.timestamp(), message.id, first))
            self.changed = True
            if len(self._under_way) > _MOST_UNDER_WAY:
                _, _, first = heapq.heappop(self._under_way)
                since, until = self.unnamed or (first, first)
                self.unnamed = min(since, first), max(until, first)

    def _miss(self, first: datetime) -> None:
        """Count a message that was under way, and that Basiq no longer has, as failed for good."""
        self._begin_period(first + _SCHEDULE)

    @property
    def under_way(self) -> tuple[UnderWay, ...]:
        """The messages whose attempts had not ended when they were seen: the 100 oldest, by their first attempts."""
        found = {name: UnderWay(name, first) for _, name, first in sorted(self._under_way, reverse=True)}
        return tuple(found.values())

    def _begin_period(self, since: datetime) -> None:
        # After a run was killed, the next one reads some of its messages again.
        if any(since == each.since for each in self._periods):
            return
        later = [each for pair in self._active.values() for each in pair if each > since]
        self._periods.append(Inactivity(since, min(later, default=None)))
        self.changed = True
        if len(self._periods) > 2 * _MOST_PERIODS:
            self._periods = list(self.periods())

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


@attrs.frozen
class UnderWay:
    """A message whose attempts had not ended: its id, and the time of its first attempt."""

    id: str
    first: datetime


@attrs.frozen
class Coverage:
    """What the runs with a checkpoint found out about the history.

    inactive: the periods in which the webhook was not active.
    under_way: messages whose attempts had not ended when they were read.
    unnamed: the first and the last first attempt of further such messages, if there were more than are kept.
    given_up: the number of messages that failed and were not kept.
    acknowledged: what is out of reach before this moment is known to the user.
    """

    inactive: tuple[Inactivity, ...] = ()
    under_way: tuple[UnderWay, ...] = ()
    unnamed: Stretch | None = None
    given_up: int = 0
    acknowledged: datetime | None = None

    @classmethod
    def read(cls, text: str) -> Coverage:
        """Parse the text of ``write``. Raises ``CheckpointError``."""
        return read_text(text, cls, "notes") if text else cls()

    def write(self) -> str:
        """Return the coverage as text; if nothing was found out, the text is empty."""
        return "" if self == Coverage() else write_text(self)


def _show(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
