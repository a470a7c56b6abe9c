"""When a delivery that failed is tried again: the vendor's delivery-schedule page."""

from __future__ import annotations

from datetime import timedelta

SCHEDULE: tuple[timedelta, ...] = (
    timedelta(),
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=10),
)
"""The wait before each attempt, counted from the one before; after the last the endpoint is disabled."""
