"""How fast messages are finished, and how long the rest will take."""

from __future__ import annotations

from collections.abc import Iterable

RECENT_SECONDS = 10.0
"""A rate is that of so many seconds until now. It is zero while nothing finishes, whatever was before."""


def messages_per_second(
    samples: Iterable[tuple[float, int]], *, now_seconds: float, began_seconds: float, finished: int
) -> float:
    """Return the messages that were finished in a second, on the average of the last ten seconds.

    samples: earlier moments, each with the number of messages that were finished then.
    now_seconds, began_seconds: now, and when the work began, by the clock of the samples.
    finished: the number of messages that are finished now.
    """
    earlier = [count for at_seconds, count in samples if at_seconds >= now_seconds - RECENT_SECONDS]
    lasted_seconds = min(RECENT_SECONDS, now_seconds - began_seconds)
    return (finished - min(earlier)) / lasted_seconds if earlier and lasted_seconds > 0 else 0.0


def seconds_left(remaining: int | None, per_second: float) -> float | None:
    """Return how long ``remaining`` messages will take. None if their number is unknown, or nothing finishes now."""
    if remaining is None or (remaining and per_second <= 0):
        return None
    return remaining / per_second if remaining else 0.0
