"""Which handler a delivery goes to, and how the attempt at it is made; what has no handler is counted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from .._work.attempts import UnderWay
from .._work.protocol import ClaimedEntry, Inbox, InboxEntry, TransactionalInbox
from ._attempts import PATIENCE, Attempt, DeferredAttempt, RetriedAttempt
from ._delivery import Delivery
from ._outcome import Outages, Outcome, log_fields, shorten
from ._results import Result
from ._routes import Routes
from ._settings import ReceiverSettings

logger = logging.getLogger("basiq_async.receiver")

_MOST_UNHANDLED = 256
_MOMENT = 1.0
"""Seconds to wait for a cancelled handler to end, before Basiq gets its response."""


class Dispatcher:
    """Claim a delivery, run its handler, and record the result.

    Even if it is cancelled, a delivery is then either handled and recorded, or free to be handled again.

    clock: seconds since 1970.
    moment: see ``Backlog``.
    """

    def __init__(
        self,
        routes: Routes,
        inbox: Inbox,
        settings: ReceiverSettings,
        *,
        clock: Callable[[], float],
        moment: Callable[[], datetime | None],
    ) -> None:
        self._routes = routes
        self.transactions = inbox if isinstance(inbox, TransactionalInbox) else None
        self.quarantine_after = settings.quarantine_after
        self._clock = clock
        self.moment = moment
        self.keep_trying = settings.keep_trying
        self.handler_timeout = settings.handler_timeout
        self.inbox_timeout = settings.inbox_timeout
        self._unhandled: dict[str, int] = {}
        self._blocking: set[str] = set()
        make = partial(UnderWay, inbox, call_timeout=self.inbox_timeout, grace=_MOMENT)
        self.units = make(lease=settings.lease, work_timeout=self.handler_timeout)
        self.deferred_units = make(lease=settings.deferred_lease, work_timeout=settings.deferred_timeout)
        self.outages = Outages()

    async def dispatch(
        self, delivery: Delivery, *, patience: float = PATIENCE, live: bool = True, can_be_alone: bool = True
    ) -> Outcome:
        """Hand a genuine delivery to its handler, unless it was handled before or another worker is handling it.

        ``patience`` is in seconds. ``live``: Basiq sent it. For ``can_be_alone``, see ``Unit``.
        """
        route = self._routes.find(delivery.event_type_id)
        if route is None:
            self._count_unhandled(delivery)
            return Outcome(Result.IGNORED, delivery)
        attempt = Attempt(self, delivery, route, patience=patience)
        attempt.live, attempt.can_be_alone = live, can_be_alone
        return attempt.outcome_of(await attempt.handle_once())

    async def retry(self, delivery: Delivery, entry: InboxEntry) -> Outcome:
        """Hand a delivery of the quarantine to its handler again. If that fails, its ``entry`` stays there."""
        route = self._routes.find(delivery.event_type_id)
        if route is None:
            return Outcome(Result.IGNORED, delivery)
        attempt = RetriedAttempt(self, delivery, route, entry)
        return attempt.outcome_of(await attempt.handle_once())

    async def handle_deferred(self, delivery: Delivery, claimed: ClaimedEntry) -> Outcome:
        """Hand a deferred delivery, which this process has claimed, to its handler."""
        route = self._routes.find(delivery.event_type_id)
        if route is None:
            return Outcome(Result.IGNORED, delivery)
        attempt = DeferredAttempt(self, delivery, route, claimed)
        return attempt.outcome_of(await attempt.handle_once())

    def leave_traces(self) -> None:
        """Let handlers with a session be claimed by a lease too, because a process was killed."""
        self.units.leaves_trace = self.deferred_units.leaves_trace = True

    @property
    def longest_timeout(self) -> float:
        """The seconds within which ``handle`` returns, but for the time that it waits for other workers."""
        return max(self.handler_timeout, self.deferred_units.work_timeout or 0.0) + 6 * self.inbox_timeout

    @property
    def in_flight(self) -> int:
        """The number of deliveries that are being handled."""
        return len(self.units) + len(self.deferred_units)

    async def drain(self) -> None:
        """Wait until no delivery is being handled. A handler that never ends is waited for until its lease ends."""
        left = 0
        for units, limit in ((self.units, self.handler_timeout), (self.deferred_units, 0.0)):
            units.is_ending = True
            left += await units.wait(max(units.lease, limit + 2 * self.inbox_timeout))
            await units.owed.aclose()
        if left:
            logger.error(
                "the handler of a delivery (of %d in all) was cancelled but still runs, and its lease has run out: "
                "another worker may handle the delivery too",
                left,
            )
        await asyncio.sleep(0)  # callers of a delivery that has just ended get its outcome first
        self.outages.flush()

    def now(self) -> datetime:
        """Return the present time."""
        return datetime.fromtimestamp(self._clock(), UTC)

    @property
    def unhandled(self) -> dict[str, int]:
        """The number of deliveries received of each event type that has no handler."""
        return dict(self._unhandled)

    def log_block(self, handler: str, seconds: float, fields: dict[str, object]) -> None:
        """Log, once for each handler, that it kept the event loop busy."""
        if handler in self._blocking:
            return
        self._blocking.add(handler)
        logger.warning(
            "the handler %s blocked the event loop for %.1f s: no other delivery, time limit or probe of this process "
            "could proceed; await what it waits for, or call it with asyncio.to_thread",
            handler,
            seconds,
            extra=fields,
        )

    def _count_unhandled(self, delivery: Delivery) -> None:
        event_type_id = shorten(delivery.event_type_id)
        seen = self._unhandled.get(event_type_id, 0)
        counted = seen or len(self._unhandled) < _MOST_UNHANDLED
        if counted:
            self._unhandled[event_type_id] = seen + 1
        log = logger.warning if counted and not seen else logger.debug
        log(
            "no handler is registered for event type %r; delivery %r was acknowledged and not handled",
            event_type_id,
            shorten(delivery.id),
            extra=log_fields(delivery),
        )
