"""What waits in an inbox: whether entering a receiver begins to work it off, and how much it is."""

from __future__ import annotations

from contextvars import ContextVar

from .limits import inbox_limit
from .owners import read_former
from .protocol import Inbox, Waiting, WaitingInbox

may_work: ContextVar[bool] = ContextVar("basiq_async_may_work", default=True)
"""Whether entering a receiver begins to work off what waits. The command line sets it to False."""


async def count_waiting(inbox: Inbox | None, webhook_id: str | None, *, timeout: float) -> Waiting:
    """Return what waits to be handled of one webhook and of those that it replaces.

    An inbox that keeps no such deliveries has none.
    """
    found: list[Waiting] = []
    if isinstance(inbox, WaitingInbox):
        for each in (webhook_id, *await read_former(inbox, webhook_id, timeout=timeout)):
            async with inbox_limit(timeout):
                found.append(await inbox.waiting(each))
    return Waiting(
        count=sum(each.count for each in found),
        fresh=sum(each.fresh for each in found),
        size=sum(each.size for each in found),
        age=max((each.age for each in found if each.age is not None), default=None),
    )
