"""Helpers for the checks of an inbox: a new key and two workers."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from ..._work.protocol import Claim, ClaimStatus, Inbox, QuarantinedDelivery
from ..fake._clock import ManualClock
from ._runner import Promises, hold

MakeInbox = Callable[[], Inbox | Awaitable[Inbox] | AbstractAsyncContextManager[Inbox]]
"""A function that makes an inbox: it returns the inbox, an awaitable of it, or an async context manager."""

CLAIMED, DONE, BUSY = ClaimStatus.CLAIMED, ClaimStatus.DONE, ClaimStatus.BUSY

SHORT = 0.03
LONG = 60.0


@asynccontextmanager
async def made(make_inbox: MakeInbox) -> AsyncGenerator[Inbox]:
    made = make_inbox()
    # An inbox may itself be an async context manager, which opens and closes it.
    if isinstance(made, AbstractAsyncContextManager):
        async with made as entered:
            yield entered
        return
    inbox = await made if isinstance(made, Awaitable) else made
    try:
        yield inbox
    finally:
        close = getattr(inbox, "aclose", None)
        if close is not None:
            await close()


class InboxProbe:
    """A new key, and two workers, A and B, that claim it."""

    def __init__(self, inbox: Inbox, other: Inbox, clock: ManualClock | None) -> None:
        self.inbox = inbox
        self.other = other
        self.key = f"check:{uuid.uuid4()}"
        self.a, self.b = uuid.uuid4().hex, uuid.uuid4().hex
        self.clock = clock

    async def claim_a(self, expected: ClaimStatus, what: str, *, lease: float = LONG) -> None:
        _expect(await self.inbox.claim(self.key, self.a, lease=lease), expected, what)

    async def claim_b(self, expected: ClaimStatus, what: str, *, lease: float = LONG) -> None:
        _expect(await self.other.claim(self.key, self.b, lease=lease), expected, what)

    async def retry_a(self, expected: ClaimStatus, what: str) -> None:
        _expect(await self.inbox.claim_quarantined(self.key, self.a, lease=LONG), expected, what)

    async def retry_b(self, expected: ClaimStatus, what: str) -> None:
        _expect(await self.other.claim_quarantined(self.key, self.b, lease=LONG), expected, what)

    async def fail_a(self, expected: int, what: str) -> None:
        failures = await self.inbox.fail(self.key, self.a)
        hold(failures == expected, f"{what} was counted as {failures}, not {expected}")

    async def fail_b(self, expected: int, what: str) -> None:
        failures = await self.other.fail(self.key, self.b)
        hold(failures == expected, f"{what} was counted as {failures}, not {expected}")

    async def known(self, expected: bool, what: str) -> None:
        for inbox in (self.inbox, self.other):
            found = await inbox.known([self.key])
            hold(set(found) == ({self.key} if expected else set()), f"known() was {found} {what}")

    async def quarantine_a(self, *, failures: int = 3, acknowledged: bool = True) -> QuarantinedDelivery:
        delivery = make_delivery(self.key, failures=failures, acknowledged=acknowledged)
        recorded = await self.inbox.quarantine(self.key, self.a, delivery)
        hold(recorded is True, f"quarantine() by the holder was {recorded}, not True")
        return delivery

    async def deliveries(self) -> list[QuarantinedDelivery]:
        """Return the quarantined deliveries of this probe's keys. Other users of the storage may have more."""
        found: list[QuarantinedDelivery] = []
        page = await self.other.quarantined()
        while page:
            found += [delivery for delivery in page if delivery.key.startswith(self.key)]
            page = await self.other.quarantined(after=page[-1])
        return found

    async def wait(self, seconds: float) -> None:
        if self.clock is None:
            await asyncio.sleep(seconds)
        else:
            self.clock.advance(seconds=seconds)

    def now(self) -> datetime:
        return datetime.now(UTC) if self.clock is None else self.clock()


def _expect(claim: Claim, expected: ClaimStatus, what: str) -> None:
    hold(claim.status is expected, f"{what} was {claim.status.name}, not {expected.name}")
    if expected is BUSY:
        hold(0 < claim.retry_after <= LONG, f"{what} had retry_after {claim.retry_after}, with a lease of {LONG:g} s")


always: Promises[InboxProbe] = Promises()
with_leases: Promises[InboxProbe] = Promises()
without_leases: Promises[InboxProbe] = Promises()
"""The promises of every inbox, of those whose claims end after a time, and of those whose claims end with a worker."""

ODD = 'text with "quotes", a line\nbreak, \x00, ü, \U0001f600 and a lone \ud800'


waits = (0, 1, 2, 3, 5, 8, 0.0005, 0.001, 0.002, 0.004)
"""The wait before a cancellation: a number of event loop cycles, or a fraction of a second."""


async def cancel_after(wait: float, call: Coroutine[Any, Any, object]) -> None:
    """Make a call, and cancel it after so many cycles of the event loop, or a fraction of a second."""
    task = asyncio.create_task(call)
    if wait >= 1:
        for _ in range(int(wait)):
            await asyncio.sleep(0)
    else:
        await asyncio.sleep(wait)
    task.cancel()
    await asyncio.wait({task})


def make_delivery(
    key: str, *, failures: int = 3, at: datetime | None = None, acknowledged: bool = True
) -> QuarantinedDelivery:
    return QuarantinedDelivery(
        key=key,
        delivery_id="msg_1",
        event_type_id="user.created",
        event_id="event-1",
        body=b'{"eventTypeId": "user.created"}',
        signed_at=datetime(2026, 1, 5, 12, 0, tzinfo=UTC),
        error="ValueError: no",
        failures=failures,
        quarantined_at=at or datetime.now(UTC),
        kind="delivery" if acknowledged else "message",
        acknowledged=acknowledged,
    )
