"""Clocks, as they are passed in: in seconds since 1970, or in aware datetimes."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

Clock = Callable[[], float] | Callable[[], datetime]
"""Returns the time, as seconds since 1970 (``time.time``) or as an aware datetime (a fake Basiq's clock)."""


def in_seconds(clock: Clock) -> Callable[[], float]:
    """The same clock, in seconds since 1970."""
    if clock is time.time:
        return time.time

    def read() -> float:
        moment = clock()
        return moment.timestamp() if isinstance(moment, datetime) else moment

    return read
