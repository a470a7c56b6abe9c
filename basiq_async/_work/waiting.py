"""What waits in an inbox: whether entering a receiver begins to work it off, how much it is, and what of it fails."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from contextvars import ContextVar
from datetime import datetime

import attrs

from .limits import inbox_limit
from .protocol import Inbox, Waiting, WaitingInbox
from .quarantine import read_waiting

_MOST_READ = 2_000
_LONGEST_ERROR = 200

may_work: ContextVar[bool] = ContextVar("basiq_async_may_work", default=True)
"""Whether entering a receiver begins to work off what waits. The command line sets it to False."""


async def count_waiting(inbox: Inbox | None, webhook_id: str | None, *, timeout: float) -> Waiting:
    """Return what waits to be handled of an identity. An inbox that keeps no such deliveries has none."""
    if not isinstance(inbox, WaitingInbox):
        return Waiting()
    async with inbox_limit(timeout):
        return await inbox.waiting(webhook_id)


@attrs.frozen
class FailingType:
    """The deferred deliveries of an event type that fail: how many, ``since`` when, and the last ``error`` of one."""

    event_type_id: str
    count: int
    since: datetime
    error: str


async def find_failing(inbox: Inbox | None, webhook_id: str | None, *, timeout: float) -> Sequence[FailingType]:
    """Return the types whose deferred deliveries fail, by the number of those among the oldest 2,000 that wait."""
    found: dict[str, FailingType] = {}
    read = 0
    if inbox is not None:
        async with aclosing(read_waiting(inbox, webhook_id, timeout=timeout)) as entries:
            async for entry in entries:
                if (read := read + 1) > _MOST_READ:
                    break
                if entry.failures and entry.failing_since is not None:
                    kind, error = entry.event_type_id, entry.error[:_LONGEST_ERROR]
                    known = found.get(kind, FailingType(kind, 0, entry.failing_since, error))
                    found[kind] = FailingType(kind, known.count + 1, min(known.since, entry.failing_since), error)
    return sorted(found.values(), key=lambda each: -each.count)
