"""What a checkpoint keeps beside its cursor: when the webhook was not active, and what the event list has covered."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import attrs

from ..errors import CheckpointError
from ._inactivity import Inactivity

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
        """Write them as text; nothing is empty text."""
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
