"""The work on one delivery: claim it in the inbox, hand it to its handler, and record that it was handled."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from types import CoroutineType
from typing import TypeVar, cast

import attrs

from .._redaction.tracebacks import hide_parameters
from .._work.blocking import watch
from .._work.calls import HOST
from .._work.failures import failure_text, find_retry_after
from .._work.once import AttemptEnd, AttemptResult, KilledError, UnderWay, Unit
from .._work.protocol import ClaimedDelivery, Inbox, StoredDelivery, TransactionalInbox, WaitingInbox
from ..errors import InboxError
from ._delivery import Delivery
from ._outcome import RETRY_SOON, Outages, Outcome, is_of_the_event, log_fields, shorten
from ._results import Result
from ._routes import Route, Routes
from ._settings import Settings
from ._trying import after_failure

logger = logging.getLogger("basiq_async.receiver")

PATIENCE = 0.3
"""Seconds for which a delivery waits for another worker that handles the same event."""

_MOST_UNHANDLED = 256
_LONGEST_ERROR = 2_000
T = TypeVar("T")
V = TypeVar("V")

_GIVE_BACK_SOON = 1.0
"""Seconds to give back a claim at an inbox that has just failed."""
_MOMENT = 1.0
"""Seconds to wait for a cancelled handler to end, before Basiq gets its response."""
ALONE = "alone"
"""The reason of an outcome: an attempt before had no end, and a job is to hand the event out alone."""
_TRY_BUSY = 5.0
"""Seconds until a deferred delivery is tried again that a job handles."""


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
        settings: Settings,
        *,
        clock: Callable[[], float],
        moment: Callable[[], datetime | None],
    ) -> None:
        self._routes = routes
        self._transactions = inbox if isinstance(inbox, TransactionalInbox) else None
        self.quarantine_after = settings.quarantine_after
        self.clock = clock
        self.moment = moment
        self.keep_trying = settings.keep_trying
        self.handler_timeout = settings.handler_timeout
        self.inbox_timeout = settings.inbox_timeout
        self._unhandled: dict[str, int] = {}
        self._blocking: set[str] = set()
        make = partial(UnderWay, inbox, call_timeout=self.inbox_timeout, grace=_MOMENT)
        self._units = make(lease=settings.lease, work_timeout=self.handler_timeout)
        self._deferred = make(lease=settings.deferred_lease, work_timeout=settings.deferred_timeout)
        self.outages = Outages()

    async def dispatch(
        self,
        delivery: Delivery,
        *,
        retried: StoredDelivery | None = None,
        claimed: ClaimedDelivery | None = None,
        patience: float = PATIENCE,
        live: bool = True,
        can_be_alone: bool = True,
    ) -> Outcome:
        """Hand a genuine delivery to its handler, unless it was handled before or another worker is handling it.

        ``retried`` is its entry of the quarantine, where it stays if it fails again. ``claimed``: it was deferred, and
        this process has claimed it. ``patience`` is in seconds. ``live``: Basiq sent it. For ``can_be_alone``, see
        ``Unit``.
        """
        route = self._routes.find(delivery.event_type_id)
        if route is None:
            if retried is None and claimed is None:
                self._count_unhandled(delivery)
            return Outcome(Result.IGNORED, delivery)
        session = self._transactions if route.session else None
        # A replay, and a retry from the quarantine, give a deferred handler its time too.
        units = self._deferred if route.deferred or claimed is not None else self._units
        attempt = _Attempt(units, delivery, route, retried, patience, session, self, claimed, live=live)
        attempt.can_be_alone = can_be_alone
        return attempt.outcome_of(await attempt.handle_once())

    @property
    def longest_timeout(self) -> float:
        """The seconds within which ``handle`` returns, but for the time that it waits for other workers."""
        return max(self.handler_timeout, self._deferred.work_timeout or 0.0) + 6 * self.inbox_timeout

    @property
    def in_flight(self) -> int:
        """The number of deliveries that are being handled."""
        return len(self._units) + len(self._deferred)

    async def drain(self) -> None:
        """Wait until no delivery is being handled. A handler that never ends is waited for until its lease ends."""
        left = 0
        for units, limit in ((self._units, self.handler_timeout), (self._deferred, 0.0)):
            units.is_ending = True
            left += await units.wait(max(units.lease, limit + 2 * self.inbox_timeout))
        if left:
            logger.error(
                "the handler of a delivery (of %d in all) was cancelled but still runs, and its lease has run out: "
                "another worker may handle the delivery too",
                left,
            )
        await asyncio.sleep(0)  # callers of a delivery that has just ended get its outcome first
        self.outages.flush()

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


class _Attempt(Unit[None]):
    """A delivery and its handler. ``retried`` is its entry, if it is in the quarantine and is tried again."""

    def __init__(
        self,
        units: UnderWay,
        delivery: Delivery,
        route: Route,
        retried: StoredDelivery | None,
        patience: float,
        session: TransactionalInbox | None,
        dispatcher: Dispatcher,
        claimed: ClaimedDelivery | None = None,
        *,
        live: bool,
    ) -> None:
        # Unique even among copies of a process, such as those restored from one snapshot of a virtual machine.
        token = f"{HOST}/{os.getpid()}/{os.urandom(16).hex()}" if claimed is None else claimed.token
        super().__init__(units, delivery.key, token, patience, session=session, quarantined=retried is not None)
        self.has_prepare = session is not None and route.prepare is not None
        self._delivery = delivery
        self._route = route
        self._retried = retried
        self._deferred = claimed
        self._live = live
        self.already_claimed = claimed is not None
        entry = retried if claimed is None else claimed.delivery
        self._failures = None if entry is None else entry.failures
        """The number of its failures, or None if they are not counted."""
        self._dispatcher = dispatcher
        self._options: dict[str, object] = {}
        self._result = Result.FAILED
        self._retry_after: float | None = None

    def describe(self) -> str:
        return f"delivery {shorten(self._delivery.id)!r}"

    def log_fields(self, error: BaseException | None = None) -> dict[str, object]:
        return log_fields(self._delivery, handler=self._route.name, attempt=self._failures, error=error)

    async def prepare(self) -> None:
        if self._route.prepare is not None:
            self._options["prepared"] = await self._watched(self._route.prepare(self._delivery))

    async def work(self) -> None:
        route = self._route
        if self.session is not None:
            async with self.session.transaction(self.key, self.token) as session:
                await self._watched(route.call(self._delivery, session, **self._options))
            return
        if route.prepare is not None:
            await self.prepare()
        await self._watched(route.call(self._delivery, **self._options))

    def _watched(self, call: Awaitable[V]) -> Awaitable[V]:
        return watch(call, self._log_block) if isinstance(call, CoroutineType) else call

    def _log_block(self, seconds: float) -> None:
        self._dispatcher.log_block(self._route.name, seconds, self.log_fields())

    async def record_failure(self, failure: Exception) -> None:
        """Release the claim, or quarantine the delivery if it has failed too often. Log one record of it."""
        if isinstance(failure, KilledError):
            await self._stop_trying(failure)
            return
        self._result = Result.TIMED_OUT if self.timed_out else Result.FAILED
        again = ""
        if self._deferred is not None:
            again = await self._try_later(self._deferred, failure)
        elif not is_of_the_event(failure):
            await self.release()
            self._retry_after = find_retry_after(failure)
            if self._retry_after is not None:
                self._result = Result.UNAVAILABLE
        elif await self._has_failed_too_often() and await self._set_aside(self._make_entry(failure)):
            self._result = Result.QUARANTINED
        logger.error(
            "the handler of delivery %r %s%s",
            shorten(self._delivery.id),
            f"was cancelled after {self.units.work_timeout:g} s" if self.timed_out else "failed",
            f", {self._failures} times so far; the delivery is in the quarantine: see receiver.quarantined()"
            if self._result is Result.QUARANTINED
            else again,
            exc_info=None if self.timed_out else hide_parameters(failure),
            extra=self.log_fields(failure),
        )

    async def _stop_trying(self, failure: KilledError) -> None:
        """Set aside what kills its process, and do not hand it out. Of what a job hands out, the job does that."""
        self._failures = failure.count
        if not self._live:
            await self.release()
            return
        acknowledged = self._dispatcher.quarantine_after is not None
        if await self._set_aside(attrs.evolve(self._make_entry(failure), acknowledged=acknowledged)) and acknowledged:
            self._result = Result.QUARANTINED
        logger.error(
            "delivery %r is not handed to its handler any more, because %s; it is in the quarantine: see "
            "receiver.quarantined()",
            shorten(self._delivery.id),
            failure,
            extra=self.log_fields(failure),
        )

    def outcome_of(self, ending: AttemptEnd[None]) -> Outcome:
        result, error, retry_after = Result.HANDLED, ending.error, None
        then = "the response asks Basiq to send it again" if self._deferred is None else "it is tried again"
        if ending.how is AttemptResult.HANDLED:
            pass
        elif ending.how is AttemptResult.DONE:
            result = Result.DUPLICATE
        elif ending.how is AttemptResult.BUSY and ending.claim is not None:
            result, retry_after = Result.BUSY, ending.claim.retry_after
            logger.info(
                "delivery %r is held by worker %r for at most %.0f s more: %s",
                shorten(self._delivery.id),
                ending.claim.holder,
                retry_after,
                then,
                extra=self.log_fields(),
            )
        elif ending.how is AttemptResult.ALONE:
            return Outcome(Result.BUSY, self._delivery, ALONE)
        elif ending.how is AttemptResult.FAILED:
            result, retry_after = self._result, self._retry_after
        elif ending.how is AttemptResult.LATE:
            result = Result.TIMED_OUT
            error = TimeoutError(f"the handler was cancelled after {self.units.work_timeout:g} s")
        else:
            result, retry_after = Result.UNAVAILABLE, RETRY_SOON
            error = error or InboxError("the event loop shuts down")
            what = "was not committed" if self.claimed else "could not be claimed"
            self.report(f"{what}, and {then}", error)
        return Outcome(result, self._delivery, None, error, retry_after, self._route.name, self._failures)

    async def release(self, seconds: float | None = None) -> None:
        """Release the claim. A deferred attempt does not count then, and is due at once if this process shuts down."""
        if self._deferred is None:
            await super().release(seconds)
            return
        ends = self._steps.cancelled or self._steps.is_cancelled_by_others()
        await self._put_off(self._deferred.delivery, 0.0 if ends else _TRY_BUSY)

    async def give_back(self, failure: Exception) -> None:
        """Release the claim, because the inbox failed. A deferred attempt has failed then."""
        if self._deferred is None:
            await super().give_back(failure)
        else:
            await self._try_later(self._deferred, failure)

    async def _try_later(self, claimed: ClaimedDelivery, failure: Exception) -> str:
        """Record that a deferred attempt failed: put it off, or set it aside. Return what the log says of that."""
        then = after_failure(
            claimed,
            failure_text(failure, longest=_LONGEST_ERROR),
            keep_trying=self._dispatcher.keep_trying,
            retry_after=find_retry_after(failure),
        )
        self._failures = then.entry.failures
        if then.seconds is not None:
            await self._put_off(then.entry, then.seconds)
            return f", {self._failures} times so far; it is tried again in {then.seconds:.0f} s"
        now = datetime.fromtimestamp(self._dispatcher.clock(), UTC)
        if await self._set_aside(attrs.evolve(then.entry, quarantined_at=now)):
            self._result = Result.QUARANTINED
        return ""

    async def _put_off(self, entry: StoredDelivery, seconds: float) -> None:
        """End the claim of what was deferred. If the inbox is away, a transaction ends, and the lease runs out."""
        inbox = cast(WaitingInbox, self.units.inbox)
        put_off = partial(inbox.put_off, entry, self.token, seconds=seconds, now=self._dispatcher.moment())
        if await self._last_call(put_off, "stays claimed until its lease runs out") is None:
            await super().release(_GIVE_BACK_SOON)

    async def _has_failed_too_often(self) -> bool:
        """Release the claim, and count the failure. A delivery in the quarantine stays there, and claimed."""
        if self._failures is not None:
            self._failures += 1
            return True
        quarantine_after = self._dispatcher.quarantine_after
        if quarantine_after is None:
            await self.release()
            return False
        fail = partial(self.units.inbox.release, self.key, self.token, failed=True)
        self._failures = await self._last_call(fail, "stays claimed until its lease runs out")
        return self._failures is not None and self._failures >= quarantine_after

    def _make_entry(self, failure: Exception) -> StoredDelivery:
        """Return the delivery as it goes into the quarantine."""
        delivery, error, failures = self._delivery, failure_text(failure, longest=_LONGEST_ERROR), self._failures or 0
        now = datetime.fromtimestamp(self._dispatcher.clock(), UTC)
        if self._retried is not None:
            return attrs.evolve(self._retried, error=error, failures=failures, quarantined_at=now)
        return StoredDelivery(
            key=self.key,
            delivery_id=delivery.id,
            event_type_id=delivery.event_type_id,
            event_id=delivery.event_id,
            body=delivery.body,
            signed_at=delivery.timestamp,
            error=error,
            failures=failures,
            quarantined_at=now,
            acknowledged=self._live,
        )

    async def _set_aside(self, entry: StoredDelivery) -> bool:
        stored = await self._last_call(
            partial(self.units.inbox.quarantine, self.key, self.token, entry),
            "failed too often, and could not be put into the quarantine",
        )
        if not stored:  # its earlier entry is still in the quarantine, or it waits
            await super().release()
        return bool(stored)

    async def _last_call(self, call: Callable[[], Awaitable[T]], otherwise: str) -> T | None:
        """Make a call of the inbox. If it fails, log ``otherwise``, and return None."""
        try:
            return await self.call(call)
        except Exception as exc:
            self.report(otherwise, exc)
            return None

    def report(self, what: str, failure: Exception) -> None:
        self._dispatcher.outages.report(shorten(self._delivery.id), what, failure, self.log_fields(failure))
