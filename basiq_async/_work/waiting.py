"""What waits in an inbox: whether entering a receiver begins to work it off, and how much it is."""

from __future__ import annotations

from contextvars import ContextVar

from .limits import inbox_limit
from .protocol import Inbox, Waiting, WaitingInbox

may_work: ContextVar[bool] = ContextVar("basiq_async_may_work", default=True)
"""Whether entering a receiver begins to work off what waits. The command line sets it to False."""


async def count_waiting(inbox: Inbox | None, *webhook_ids: str | None, timeout: float) -> Waiting:
    """Return what waits of these webhooks to be handled. An inbox that keeps no such deliveries has none."""
    found: list[Waiting] = []
    if isinstance(inbox, WaitingInbox):
        for each in webhook_ids:
            async with inbox_limit(timeout):
                found.append(await inbox.waiting(each))
    return Waiting(
        count=sum(each.count for each in found),
        fresh=sum(each.fresh for each in found),
        size=sum(each.size for each in found),
        age=max((each.age for each in found if each.age is not None), default=None),
    )
