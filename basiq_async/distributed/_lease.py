"""The lease of a worker on a segment."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import attrs

from ._record_types import new_token

_CLOCK: int | None = getattr(time, "CLOCK_BOOTTIME", None)

clock: Callable[[], float] = time.monotonic if _CLOCK is None else partial(time.clock_gettime, _CLOCK)
"""Monotonic seconds; on Linux they also count the time that the machine is suspended."""


@attrs.define(eq=False)
class Lease:
    """A worker's lease on a segment, with a unique token.

    It is counted from the moment before each request to the store, so it never ends later here than in the store.
    """

    seconds: float
    token: str = attrs.field(factory=new_token)
    until: float = float("-inf")
    """Until this moment of ``clock``, no other worker can own the segment."""

    def prolong(self, asked_at: float) -> None:
        """Prolong the lease, as the store did for a request that was made at ``asked_at``."""
        self.until = max(self.until, asked_at + self.seconds)

    def end(self) -> None:
        """End the lease at once: the segment has another owner."""
        self.until = float("-inf")
