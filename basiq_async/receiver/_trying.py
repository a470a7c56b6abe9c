"""When a deferred delivery that failed is tried again, and when it is quarantined. No I/O.

The time for which it is tried is that in which processes with its handler looked for what is due. While none does, it
stands still: after a stop of days, a delivery that failed once is tried as before.
"""

from __future__ import annotations

import random
from datetime import timedelta

import attrs

from .._work.protocol import MOST_UNENDED, ClaimedEntry, InboxEntry

_WAITS = (5.0, 30.0, 300.0, 1_800.0)
"""Seconds after the first failure, the second, and so on; the last one for all others."""
_JITTER, _LARGE_JITTER = 0.1, 0.5
_LEAST_FAILURES = 8
_LATE, _NO_TIME = timedelta(minutes=15), timedelta()
"""A delivery that was due for so long was not looked for."""


@attrs.frozen
class Rescheduled:
    """The entry of a delivery that failed, and the seconds until it is tried again; None if it is to be quarantined."""

    entry: InboxEntry
    seconds: float | None


def after_failure(
    claimed: ClaimedEntry, error: str, *, keep_trying: float, retry_after: float | None = None
) -> Rescheduled:
    """Record that this attempt failed. ``retry_after``: the seconds that the error asks to wait."""
    entry = _failed(claimed, error, 1)
    if _is_over(claimed, entry, keep_trying):
        return Rescheduled(entry, None)
    seconds = jittered(_wait(entry.failures))
    return Rescheduled(entry, max(seconds, min(retry_after or 0.0, _WAITS[-1])))


def after_no_end(claimed: ClaimedEntry, *, keep_trying: float) -> Rescheduled:
    """Record that the attempts before this one had no end.

    What was claimed beside a delivery that kills its process would be lost with it again, so its wait varies by half.
    """
    lost = claimed.unended
    error = "the attempt did not end: its process was killed, or hung for longer than the claim lasts"
    entry = attrs.evolve(_failed(claimed, error, lost), unended=claimed.entry.unended + lost)
    if entry.unended >= MOST_UNENDED or _is_over(claimed, entry, keep_trying):
        return Rescheduled(entry, None)
    return Rescheduled(entry, jittered(_wait(entry.failures), _LARGE_JITTER))


def after_another(claimed: ClaimedEntry) -> Rescheduled:
    """Leave a delivery, of which an attempt had no end, until another one of these has ended. That is no failure."""
    return Rescheduled(claimed.entry, jittered(_WAITS[0], _LARGE_JITTER))


def without_handler(claimed: ClaimedEntry, why: str, *, keep_trying: float) -> Rescheduled:
    """Leave a delivery to another process. That is no failure, but it does not last for ever.

    The time in which processes without its handler looked begins again when one with a handler tries it.
    """
    entry, late = claimed.entry, _lateness(claimed)
    since = entry.unhandled_since
    # What was due while no process looked does not count, whoever looks first.
    since = (
        claimed.claimed_at if since is None else min(since + (late if late > _LATE else _NO_TIME), claimed.claimed_at)
    )
    idle = entry.idle + (late.total_seconds() + _WAITS[0] if entry.failures else 0.0)
    entry = attrs.evolve(entry, unhandled_since=since, idle=idle, error=entry.error if entry.failures else why)
    if (claimed.claimed_at - since).total_seconds() >= max(keep_trying, _WAITS[0]):
        return Rescheduled(attrs.evolve(entry, error=why), None)
    return Rescheduled(entry, _WAITS[0])


def jittered(seconds: float, part: float = _JITTER) -> float:
    """Return a time that differs by a random part, so that not all are tried at once."""
    return seconds * random.uniform(1 - part, 1 + part)


def _wait(failures: int) -> float:
    return _WAITS[min(failures, len(_WAITS)) - 1]


def _failed(claimed: ClaimedEntry, error: str, count: int) -> InboxEntry:
    entry, now, late = claimed.entry, claimed.claimed_at, _lateness(claimed)
    first = min(entry.failing_since or now, now)  # a clock that was ahead must not make it later than it was
    idle = entry.idle + (late.total_seconds() if entry.failures and late > _LATE else 0.0)
    return attrs.evolve(
        entry,
        error=error,
        failures=entry.failures + count,
        failing_since=first,
        idle=min(idle, (now - first).total_seconds()),
        unhandled_since=None,
    )


def _is_over(claimed: ClaimedEntry, entry: InboxEntry, keep_trying: float) -> bool:
    lasts = (claimed.claimed_at - (entry.failing_since or claimed.claimed_at)).total_seconds()
    return entry.failures >= _LEAST_FAILURES and lasts - entry.idle >= keep_trying


def _lateness(claimed: ClaimedEntry) -> timedelta:
    """Return for how long a delivery was due before it was claimed."""
    return max(_NO_TIME, claimed.claimed_at - (claimed.entry.due or claimed.claimed_at))
