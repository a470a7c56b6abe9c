"""What waits in an inbox: whether entering a receiver begins to work it off, and how much it is."""

from __future__ import annotations

from contextvars import ContextVar

from .limits import inbox_limit
from .protocol import Inbox, Waiting, WaitingInbox

may_work: ContextVar[bool] = ContextVar("basiq_async_may_work", default=True)
"""Whether entering a receiver begins to work off what waits. The command line sets it to False."""


async def count_waiting(inbox: Inbox | None, webhook_id: str | None, *, timeout: float) -> Waiting:
    """Return what waits to be handled of an identity. An inbox that keeps no such deliveries has none."""
    if not isinstance(inbox, WaitingInbox):
        return Waiting()
    async with inbox_limit(timeout):
        return await inbox.waiting(webhook_id)
