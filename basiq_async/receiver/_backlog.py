"""Deferred deliveries: store them, so that Basiq gets its response, and count what waits."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from datetime import UTC, datetime

import attrs

from .._signing.seal import Seal
from .._work.limits import inbox_limit
from .._work.protocol import Inbox, QuarantinedDelivery, Waiting, WaitingInbox
from ..errors import ConfigurationError
from ._delivery import Delivery
from ._outcome import RETRY_SOON, Outages, Outcome, log_fields, shorten
from ._results import Result
from ._settings import Settings

_COUNT_EVERY = 1.0
"""Seconds between two counts of what waits, while deliveries come."""
_RETRY_FULL = 60.0


class Backlog:
    """What waits in the inbox of one receiver. ``clock`` returns the seconds since 1970."""

    def __init__(
        self,
        inbox: Inbox,
        seal: Seal,
        settings: Settings,
        *,
        webhook_id: str | None,
        clock: Callable[[], float],
        outages: Outages,
    ) -> None:
        self._inbox = inbox
        self.seal = seal
        self.settings = settings
        self.webhook_id = webhook_id
        self.timeout = settings.inbox_timeout
        self.clock = clock
        self.outages = outages
        self.used = False
        """Whether a handler is deferred, or was when something was stored that waits."""
        self.on_count: Callable[[Waiting], None] | None = None
        """Called each time that is counted what waits: as deliveries come, and each minute."""
        self._counted = Waiting()
        self._counted_at = -math.inf

    @property
    def inbox(self) -> WaitingInbox:
        """The inbox. Raises ``ConfigurationError`` for one that keeps no deliveries that wait."""
        if not isinstance(self._inbox, WaitingInbox):
            raise ConfigurationError("this inbox keeps no deliveries that wait: see WaitingInbox")
        return self._inbox

    def can_wait(self) -> bool:
        """Return whether the inbox has the methods for deliveries that wait."""
        return isinstance(self._inbox, WaitingInbox)

    async def store(self, delivery: Delivery) -> Outcome:
        """Store a delivery to be handled later. Return the response: 202, or 503 if that is not certain."""
        inbox = self.inbox
        try:
            async with inbox_limit(self.timeout):
                if await self._is_full():
                    return Outcome(Result.FULL, delivery, retry_after=_RETRY_FULL)
                stored = await inbox.store(self._entry_of(delivery), webhook_id=self.webhook_id)
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
        async with inbox_limit(self.timeout):
            return await self.inbox.waiting(self.webhook_id)

    async def _is_full(self) -> bool:
        await self.count(_COUNT_EVERY)
        settings = self.settings
        return self._counted.fresh >= settings.max_waiting or self._counted.size >= settings.max_waiting_bytes

    async def count(self, every: float) -> None:
        """Count what waits, unless that was done in the last so many seconds."""
        now = asyncio.get_running_loop().time()
        if now >= self._counted_at + every:
            self._counted_at = now  # before the call: others that come meanwhile use the count before
            self._counted = await self.waiting()
            if self.on_count is not None:
                self.on_count(self._counted)

    def _entry_of(self, delivery: Delivery) -> QuarantinedDelivery:
        entry = QuarantinedDelivery(
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
        return self.seal_again(entry)

    def seal_again(self, entry: QuarantinedDelivery) -> QuarantinedDelivery:
        """Return an entry with the seal of this receiver."""
        return attrs.evolve(entry, seal=self.seal.seal(*entry.sealed_parts()))

    def now(self) -> datetime:
        """Return the present time."""
        return datetime.fromtimestamp(self.clock(), UTC)


def check_deferrable(inbox: Inbox, *, accept_loss: bool) -> None:
    """Raise ``ConfigurationError`` for an inbox that cannot keep what was acknowledged."""
    may_lose: str | None = getattr(inbox, "may_lose", None)
    name = type(inbox).__name__
    if not isinstance(inbox, WaitingInbox):
        raise ConfigurationError(
            "deferred handlers need an inbox with the methods of WaitingInbox, such as SQLiteInbox or SQLInbox; "
            f"{name} has not"
        )
    if may_lose is not None and not accept_loss:
        raise ConfigurationError(
            f"deferred handlers with a {name} would lose deliveries that Basiq believes to be handled: {may_lose}. Use "
            "SQLInbox or SQLiteInbox, or pass accept_loss=True, as in a test"
        )
