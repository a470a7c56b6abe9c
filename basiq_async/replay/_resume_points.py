"""Where a record keeps the resume points of readings: a few, and the one used last stays longest."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial

from .._work.places import Places
from .._work.protocol import Record

MOST_RESUME_POINTS = 32
"""The number of resume points of a record. A job whose filter has a date needs a new one at each run."""


class ResumePoints:
    """The resume points of one list in a record, each for a filter.

    ask: makes a call of the record, within a time limit. ``now``: by Basiq's clock.
    """

    def __init__(
        self,
        record: Record,
        name: str,
        filter: str | None,
        ask: Callable[..., Awaitable[str | None]],
        now: Callable[[], datetime],
    ) -> None:
        self._places = Places(partial(ask, record.note), record.set_note, "reading", MOST_RESUME_POINTS, now)
        self._owner = f"{name} {filter or ''}"

    async def read(self) -> str | None:
        """Return the resume point of the filter; None if there is none."""
        return (await self._places.read(self._owner)).text

    async def keep(self, resume_point: str) -> None:
        """Keep the resume point of the filter, in the place of the one that was not used for longest."""
        await self._places.write(resume_point, self._owner)
