"""The types of deferred deliveries that fail."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime

import attrs

from .protocol import InboxEntry

_MOST_READ = 2_000
_LONGEST_ERROR = 200


@attrs.frozen
class FailingType:
    """The deferred deliveries of an event type that fail: how many, ``since`` when, and the last ``error`` of one."""

    event_type_id: str
    count: int
    since: datetime
    error: str


async def count_failing(entries: AsyncIterator[InboxEntry]) -> Sequence[FailingType]:
    """Return the types that fail, by the number of those among the first 2,000 entries that wait."""
    found: dict[str, FailingType] = {}
    read = 0
    async for entry in entries:
        if (read := read + 1) > _MOST_READ:
            break
        if entry.failures and entry.failing_since is not None:
            kind, error = entry.event_type_id, entry.error[:_LONGEST_ERROR]
            known = found.get(kind, FailingType(kind, 0, entry.failing_since, error))
            found[kind] = FailingType(kind, known.count + 1, min(known.since, entry.failing_since), error)
    return sorted(found.values(), key=lambda each: -each.count)
