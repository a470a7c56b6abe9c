"""How long Basiq goes on with a message, and this package with a deferred delivery."""

from __future__ import annotations

from datetime import datetime, timedelta

ATTEMPTED = timedelta(days=3)
"""Basiq attempts a message for less: its page on the delivery schedule says 27 h 35 min.

The engine that it probably runs varies each wait (22 to 33 h in all), and grants up to twice of it to an endpoint's
``Retry-After`` (66 h).
"""

LONGEST_WAIT = 3600.0
"""Seconds for which a deferred delivery is put off, at the most.

One that is due later was put off by a clock that was ahead, and is due now.
"""


def believed_due(due: datetime | None, now: datetime) -> datetime | None:
    """Return when a delivery is due that waits: ``now`` if its time is later than any wait lasts."""
    return now if due is not None and due > now + timedelta(seconds=LONGEST_WAIT) else due
