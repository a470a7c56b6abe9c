"""When a deferred delivery that failed is tried again, and when it is set aside. No I/O."""

from __future__ import annotations

import random

import attrs

from .._work.protocol import ClaimedDelivery, StoredDelivery

_WAITS = (5.0, 30.0, 300.0, 1_800.0)
"""Seconds after the first failure, the second, and so on; the last one for all others."""
_JITTER, _LARGE_JITTER = 0.1, 0.5
_LEAST_FAILURES = 8
_MOST_UNENDED = 8


@attrs.frozen
class NextAttempt:
    """The entry of a delivery that failed, and the seconds until it is tried again; None if it is to be set aside."""

    entry: StoredDelivery
    seconds: float | None


def after_failure(
    claimed: ClaimedDelivery, error: str, *, keep_trying: float, retry_after: float | None = None
) -> NextAttempt:
    """Record that this attempt failed. ``retry_after``: the seconds that the error asks to wait."""
    entry = _failed(claimed, error, 1)
    if _is_over(claimed, entry, keep_trying):
        return NextAttempt(entry, None)
    seconds = jittered(_wait(entry.failures))
    return NextAttempt(entry, max(seconds, min(retry_after or 0.0, _WAITS[-1])))


def after_no_end(claimed: ClaimedDelivery, *, keep_trying: float) -> NextAttempt:
    """Record that the attempts before this one had no end.

    What was claimed beside a delivery that kills its process would be lost with it again, so its wait varies by half.
    """
    lost = claimed.unended
    error = "the attempt did not end: its process was killed, or hung for longer than the claim lasts"
    entry = attrs.evolve(_failed(claimed, error, lost), unended=claimed.delivery.unended + lost)
    if entry.unended >= _MOST_UNENDED or _is_over(claimed, entry, keep_trying):
        return NextAttempt(entry, None)
    return NextAttempt(entry, jittered(_wait(entry.failures), _LARGE_JITTER))


def without_handler(claimed: ClaimedDelivery, why: str, *, keep_trying: float) -> NextAttempt:
    """Leave a delivery to another process. That is no failure, but it does not last for ever."""
    entry = claimed.delivery
    if entry.failing_since is None:
        entry = attrs.evolve(entry, error=why, failing_since=claimed.claimed_at)
    if _lasts(claimed, entry) >= max(keep_trying, _WAITS[0]):
        return NextAttempt(attrs.evolve(entry, error=why), None)
    return NextAttempt(entry, _WAITS[0])


def jittered(seconds: float, part: float = _JITTER) -> float:
    """Return a time that differs by a random part, so that not all are tried at once."""
    return seconds * random.uniform(1 - part, 1 + part)


def _wait(failures: int) -> float:
    return _WAITS[min(failures, len(_WAITS)) - 1]


def _failed(claimed: ClaimedDelivery, error: str, count: int) -> StoredDelivery:
    entry = claimed.delivery
    # Of a delivery that never failed, the time is that since which no process has had a handler for it.
    since = entry.failing_since if entry.failures else claimed.claimed_at
    return attrs.evolve(entry, error=error, failures=entry.failures + count, failing_since=since)


def _is_over(claimed: ClaimedDelivery, entry: StoredDelivery, keep_trying: float) -> bool:
    return entry.failures >= _LEAST_FAILURES and _lasts(claimed, entry) >= keep_trying


def _lasts(claimed: ClaimedDelivery, entry: StoredDelivery) -> float:
    return (claimed.claimed_at - (entry.failing_since or claimed.claimed_at)).total_seconds()
