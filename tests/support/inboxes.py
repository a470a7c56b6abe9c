"""Inboxes whose storage is away, and what is checked of one whose statements are checked elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Never

import pytest

from basiq_async.receiver import MemoryInbox
from basiq_async.testing.conformance import _inbox, _inbox_model  # private: all promises of each inbox take minutes


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


def check_briefly(patch: pytest.MonkeyPatch) -> None:
    """Let ``check_inbox`` walk once, and check with two workers alone what it checks with one and with two."""
    keep = _inbox.keep

    async def keep_shared(
        subject: str, promises: Mapping[str, Callable[[], Awaitable[None]]], *, seconds: float
    ) -> None:
        alone = {promise for promise in promises if f"{promise} (across two workers)" in promises}
        await keep(subject, {each: promises[each] for each in promises if each not in alone}, seconds=seconds)

    patch.setattr(_inbox, "keep", keep_shared)
    patch.setattr(_inbox_model, "_WALKS", 1)
