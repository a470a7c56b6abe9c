"""How long a segment is ours, by a clock that keeps running while the process or the machine is stopped."""

from __future__ import annotations

import time

from .record import new_token

_CLOCK = getattr(time, "CLOCK_BOOTTIME", None)


def clock() -> float:
    """Seconds, counted through a suspended machine as well where the system can."""
    return time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)


class Lease:
    """One claim of a segment, with a token of its own.

    It counts from before the request that took or prolonged it, so it never ends later than the store believes.
    """

    __slots__ = ("_until", "seconds", "token")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.token = new_token()
        self._until = float("-inf")

    @property
    def held(self) -> bool:
        """Whether nobody else can have taken the segment."""
        return clock() < self._until

    def prolong(self, asked_at: float) -> None:
        """The store has granted it anew, in response to a request made at ``asked_at``."""
        self._until = max(self._until, asked_at + self.seconds)

    def end(self) -> None:
        """The store says that it is ours no more."""
        self._until = float("-inf")
