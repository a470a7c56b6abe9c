"""Deferred deliveries: store them, so that Basiq gets its response, and count what waits."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime

from .._work.inbox_calls import InboxCalls
from .._work.limits import inbox_limit
from .._work.protocol import Inbox, InboxEntry, Waiting, WaitingInbox
from .._work.schedule import believed_due
from ..errors import ConfigurationError
from ._delivery import Delivery
from ._outcome import RETRY_SOON, Outages, Outcome, log_fields, shorten
from ._results import Result
from ._settings import ReceiverSettings

_COUNT_EVERY = 1.0
"""Seconds between two counts of what waits, while deliveries come."""
_RETRY_FULL = 60.0
_MOST_BYTES = 2**30
"""Bytes of all that waits, beyond which no more is stored."""


class Backlog:
    """What waits in the inbox of one receiver.

    clock: returns the seconds since 1970.
    moment: returns the time for the calls of the inbox that take one; None is for its own clock.
    """

    def __init__(
        self,
        calls: InboxCalls,
        settings: ReceiverSettings,
        *,
        clock: Callable[[], float],
        moment: Callable[[], datetime | None],
        outages: Outages,
    ) -> None:
        self.calls = calls
        self.settings = settings
        self.clock = clock
        self.moment = moment
        self.outages = outages
        self.used = False
        """Whether a handler is deferred, or was when something was stored that waits."""
        self.on_count: Callable[[Waiting], None] | None = None
        """Called each time that is counted what waits: as deliveries come, and each minute."""
        self._counted = Waiting()
        self._counted_at = -math.inf

    async def store(self, delivery: Delivery) -> Outcome:
        """Store a delivery to be handled later. Return the response: 202, or 503 if that is not certain."""
        inbox = self.calls.waiting_inbox
        try:
            async with inbox_limit(self.calls.seconds):
                if await self._is_full():
                    if await inbox.known((delivery.key,)):
                        return Outcome(Result.DUPLICATE, delivery)
                    return Outcome(Result.FULL, delivery, retry_after=_RETRY_FULL)
                entry = self._entry_of(delivery)
                stored = await inbox.store(entry, now=self.moment())
        except Exception as exc:
            self.outages.report(
                shorten(delivery.id),
                "could not be stored, and the response asks Basiq to send it again",
                exc,
                log_fields(delivery, error=exc),
            )
            return Outcome(Result.UNAVAILABLE, delivery, error=exc, retry_after=RETRY_SOON)
        return Outcome(Result.DEFERRED if stored else Result.DUPLICATE, delivery)

    async def waiting(self) -> Waiting:
        """Return what waits now."""
        async with inbox_limit(self.calls.seconds):
            return await self.calls.waiting_inbox.waiting(now=self.moment())

    async def seconds_until_due(self, now: float) -> float:
        """Return the seconds from ``now``, in seconds since 1970, until the first delivery is due that waits."""
        moment = datetime.fromtimestamp(now, UTC)
        async with aclosing(self.calls.read_waiting()) as found:
            due = [believed_due(entry.due, moment) async for entry in found]
        return min((each.timestamp() - now for each in due if each is not None), default=0.0)

    async def _is_full(self) -> bool:
        await self.count(_COUNT_EVERY)
        return self._counted.fresh >= self.settings.max_waiting or self._counted.size >= _MOST_BYTES

    async def count(self, every: float) -> None:
        """Count what waits, unless that was done in the last so many seconds."""
        now = asyncio.get_running_loop().time()
        if now >= self._counted_at + every:
            self._counted_at = now  # before the call: others that come meanwhile use the count before
            self._counted = await self.waiting()
            if self.on_count is not None:
                self.on_count(self._counted)

    def _entry_of(self, delivery: Delivery) -> InboxEntry:
        return InboxEntry(
            key=delivery.key,
            delivery_id=delivery.id,
            event_type_id=delivery.event_type_id,
            event_id=delivery.event_id,
            body=delivery.body,
            signed_at=delivery.timestamp,
            error="",
            failures=0,
            quarantined_at=self.now(),
        )

    def now(self) -> datetime:
        """Return the present time."""
        return datetime.fromtimestamp(self.clock(), UTC)


def check_deferrable(inbox: Inbox, *, given: bool) -> None:
    """Raise ``ConfigurationError`` for an inbox that keeps nothing that was acknowledged, or that was not ``given``."""
    if not isinstance(inbox, WaitingInbox):
        raise ConfigurationError(
            "deferred handlers need an inbox that keeps deliveries: pass inbox=SQLiteInbox(...) or SQLInbox(...); "
            f"{type(inbox).__name__} has not the methods of WaitingInbox"
        )
    if not given:
        raise ConfigurationError(
            "deferred handlers would lose deliveries that Basiq believes to be handled, because a receiver without an "
            "inbox keeps them in memory: pass inbox=SQLiteInbox(...) or SQLInbox(...), or MemoryInbox() in a test"
        )
