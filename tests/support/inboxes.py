"""Inboxes whose storage is away, and what is checked of one whose statements are checked elsewhere."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from inspect import isfunction
from typing import Any, Never

import pytest

from basiq_async._work.inbox_kinds import kind_of
from basiq_async.receiver import Inbox, MemoryInbox
from basiq_async.receiver.protocol import Claim
from basiq_async.testing import ManualClock
from basiq_async.testing.conformance import (  # private: all promises of each inbox take minutes
    _inbox,
    _inbox_model,
    _inbox_workers,
)


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


_KEPT = ("store", "claim_due", "put_off", "waiting")
Plain: type[Any] = type(
    "Plain", (), {name: each for name, each in vars(MemoryInbox).items() if isfunction(each) and name not in _KEPT}
)
"""An inbox that keeps nothing for later."""


class Transactional(MemoryInbox):
    """Has transactions, as far as a receiver or a run sees: their claims are leases too, and are noted in ``log``."""

    session = object()

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.log: list[str] = []

    async def claim(
        self, key: str, token: str, *, lease: float, quarantined: bool = False, transaction: bool = False
    ) -> Claim:
        if transaction:
            self.log.append("claim")
        return await super().claim(key, token, lease=lease, quarantined=quarantined, transaction=transaction)

    @asynccontextmanager
    async def transaction(self, key: str, token: str) -> AsyncGenerator[object]:
        yield self.session


@asynccontextmanager
async def opened(place: object, **options: Any) -> AsyncGenerator[Inbox]:
    """The inbox at a file or URL, of the kind that the place says."""
    async with AsyncExitStack() as stack:
        yield open_on(stack, place, **options)


def open_on(stack: AsyncExitStack, place: object, **options: Any) -> Any:
    """The inbox at a file or URL, which the stack closes."""
    return kind_of(str(place)).open(stack, str(place), make=True, **options)


def check_briefly(patch: pytest.MonkeyPatch) -> None:
    """Let ``check_inbox`` look at less of an inbox whose statements a test checks in full elsewhere.

    It walks once, checks with two workers alone what it checks with one and with two, and cancels each call at one in
    three of the moments, by chance: at others in the next run.
    """
    keep = _inbox.keep

    async def keep_shared(
        subject: str, promises: Mapping[str, Callable[[], Awaitable[None]]], *, seconds: float
    ) -> None:
        alone = {promise for promise in promises if f"{promise} (across two workers)" in promises}
        await keep(subject, {each: promises[each] for each in promises if each not in alone}, seconds=seconds)

    patch.setattr(_inbox, "keep", keep_shared)
    patch.setattr(_inbox_model, "_WALKS", 1)
    patch.setattr(_inbox_workers, "WAITS", _inbox_workers.WAITS[random.randrange(3) :: 3])


async def pass_hours(clock: ManualClock, inbox: Inbox, hours: float) -> None:
    """Let time pass as it does for a service at work, which looks at the clock now and then."""
    while hours > 0:
        clock.advance(timedelta(hours=min(hours, 12)))
        await inbox.known(["any"])
        await inbox.release("any", "a")
        hours -= 12
