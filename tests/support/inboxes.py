"""Inboxes whose storage is away."""

from __future__ import annotations

import asyncio
from typing import Never

from basiq_async.receiver import MemoryInbox


def fail_in(*calls: str, error: BaseException | None = None, inbox: MemoryInbox | None = None) -> MemoryInbox:
    """Let some calls of an inbox raise an error, or hang where none is given. ``del inbox.call`` mends one."""

    async def fail(*_: object, **__: object) -> Never:
        if error is None:
            await asyncio.Event().wait()
        raise error or AssertionError

    inbox = MemoryInbox() if inbox is None else inbox
    for call in calls:
        setattr(inbox, call, fail)
    return inbox
