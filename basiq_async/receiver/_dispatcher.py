"""The work on one delivery: claim it in the inbox, hand it to its handler, and record that it was handled."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import attrs

from .._redaction.tracebacks import hide_parameters
from .._signing.seal import Seal
from .._work.calls import HOST
from .._work.limits import inbox_is_slow
from .._work.once import Ended, Ending, Unit, Units, handle_once
from .._work.protocol import Inbox, QuarantinedDelivery, TransactionalInbox
from ..errors import InboxError
from ._delivery import Delivery
from ._outcome import RETRY_SOON, Outages, Outcome, describe, find_retry_after, is_of_the_event, log_fields, shorten
from ._results import Result
from ._routes import Route, Routes

logger = logging.getLogger("basiq_async.receiver")

PATIENCE = 0.3
"""Seconds for which a delivery waits for another worker that handles the same event."""

_MOST_UNHANDLED = 256
_LONGEST_ERROR = 2_000
_STAYS = "stays claimed until its lease runs out"
T = TypeVar("T")

_MOMENT = 1.0
"""Seconds to wait for a cancelled handler to end, before Basiq gets its response."""


@attrs.define(eq=False)
class _Attempt:
    """A delivery and its handler. ``failures`` is the number of its failures, or None if they are not counted."""

    delivery: Delivery
    route: Route
    failures: int | None
    quarantined: bool
    unit: Unit[object] = attrs.field(init=False)
    result: Result = Result.FAILED
    retry_after: float | None = None
    prepared: object = None

    def name(self) -> str:
        return f"delivery {shorten(self.delivery.id)!r}"

    def fields(self, error: BaseException | None = None) -> dict[str, object]:
        return log_fields(self.delivery, handler=self.route.name, attempt=self.failures, error=error)

    def end(self, result: Result, error: Exception | None = None, retry_after: float | None = None) -> Outcome:
        return Outcome(result, self.delivery, None, error, retry_after, self.route.name, self.failures)


class Dispatcher:
    """Claim a delivery, run its handler, and record the result.

    Even if it is cancelled, a delivery is then either handled and recorded, or free to be handled again.

    seal: signs the deliveries that go into the quarantine.
    handler_timeout, inbox_timeout, lease: in seconds. ``inbox_timeout`` limits each call of the inbox.
    quarantine_after: failures of a delivery after which it is set aside; None for never.
    clock: seconds since 1970.
    """

    def __init__(
        self,
        routes: Routes,
        inbox: Inbox,
        seal: Seal,
        *,
        handler_timeout: float,
        inbox_timeout: float,
        lease: float,
        quarantine_after: int | None,
        clock: Callable[[], float],
    ) -> None:
        self._routes = routes
        self._inbox = inbox
        self._transactions = inbox if isinstance(inbox, TransactionalInbox) else None
        self._seal = seal
        self._lease = lease
        self._quarantine_after = quarantine_after
        self._clock = clock
        self._handler_timeout = handler_timeout
        self._inbox_timeout = inbox_timeout
        self._unhandled: dict[str, int] = {}
        self._units = Units()
        self._outages = Outages()

    async def dispatch(self, delivery: Delivery, *, failures: int | None = None, patience: float = PATIENCE) -> Outcome:
        """Hand a genuine delivery to its handler, unless it was handled before or another worker is handling it.

        ``failures`` is given for a quarantined delivery: the number of its failures so far. If it fails again, it
        stays in the quarantine. ``patience`` is in seconds.
        """
        route = self._routes.find(delivery.event_type_id)
        if route is None:
            if failures is None:
                self._count_unhandled(delivery)
            return Outcome(Result.IGNORED, delivery)
        attempt = _Attempt(delivery, route, failures, failures is not None)
        attempt.unit = Unit(
            self._inbox,
            delivery.key,
            # Unique even among copies of a process, such as those restored from one snapshot of a virtual machine.
            f"{HOST}/{os.getpid()}/{os.urandom(16).hex()}",
            attempt.name,
            partial(self._work, attempt),
            self._lease,
            self._inbox_timeout,
            _MOMENT,
            patience,
            self._handler_timeout,
            prepare=partial(self._prepare, attempt) if route.session and route.prepare is not None else None,
            on_failure=partial(self._record_failure, attempt),
            session=self._transactions if route.session else None,
            quarantined=attempt.quarantined,
            fields=attempt.fields,
        )
        return self._interpret(attempt, await handle_once(attempt.unit, self._units))

    @property
    def in_flight(self) -> int:
        """The number of deliveries that are being handled."""
        return len(self._units)

    async def drain(self) -> None:
        """Wait until no delivery is being handled. A handler that never ends is waited for until its lease ends."""
        self._units.hasty = True
        left = await self._units.wait(max(self._lease, self._handler_timeout + 2 * self._inbox_timeout))
        if left:
            logger.error(
                "the handler of a delivery (of %d in all) was cancelled but still runs, and its lease has run out: "
                "another worker may handle the delivery too",
                left,
            )
        await asyncio.sleep(0)  # callers of a delivery that has just ended get its outcome first
        self._outages.flush()

    @property
    def unhandled(self) -> dict[str, int]:
        """The number of deliveries received of each event type that has no handler."""
        return dict(self._unhandled)

    async def _prepare(self, attempt: _Attempt) -> None:
        if attempt.route.prepare is not None:
            attempt.prepared = await attempt.route.prepare(attempt.delivery)

    async def _work(self, attempt: _Attempt) -> None:
        route, delivery, unit = attempt.route, attempt.delivery, attempt.unit
        if unit.session is not None:
            options = {} if route.prepare is None else {"prepared": attempt.prepared}
            async with unit.session.transaction(unit.key, unit.token, session=not route.connection) as session:
                await route.call(delivery, session, **options)
        elif route.prepare is not None:
            await route.call(delivery, prepared=await route.prepare(delivery))
        else:
            await route.call(delivery)

    def _interpret(self, attempt: _Attempt, ending: Ending[object]) -> Outcome:
        error, how = ending.error, ending.how
        if how is Ended.HANDLED:
            if error is not None:
                self._report(attempt, "was handled, but that could not be recorded", error)
            return attempt.end(Result.HANDLED)
        if how is Ended.DONE:
            return attempt.end(Result.DUPLICATE)
        if how is Ended.BUSY and ending.claim is not None:
            logger.info(
                "delivery %r is held by worker %r for at most %.0f s more: the response asks Basiq to send it again",
                shorten(attempt.delivery.id),
                ending.claim.holder,
                ending.claim.retry_after,
                extra=attempt.fields(),
            )
            return attempt.end(Result.BUSY, retry_after=ending.claim.retry_after)
        if how is Ended.FAILED:
            return attempt.end(attempt.result, error, attempt.retry_after)
        if how is Ended.LATE:
            text = f"the handler was cancelled after {self._handler_timeout:g} s"
            return attempt.end(Result.TIMED_OUT, TimeoutError(text))
        what = "was not committed" if attempt.unit.claimed else "could not be claimed"
        failure = error or InboxError("the event loop shuts down")
        failure = self._report(attempt, f"{what}, and the response asks Basiq to send it again", failure)
        return attempt.end(Result.UNAVAILABLE, failure, RETRY_SOON)

    async def _record_failure(self, attempt: _Attempt, failure: Exception) -> None:
        """Release the claim, or quarantine the delivery if it has failed too often. Log one record of it."""
        hide_parameters(failure)
        timed_out = attempt.unit.timed_out
        attempt.result = Result.TIMED_OUT if timed_out else Result.FAILED
        if not is_of_the_event(failure):
            await self._release(attempt)
            attempt.retry_after = find_retry_after(failure)
            if attempt.retry_after is not None:
                attempt.result = Result.UNAVAILABLE
        elif await self._has_failed_too_often(attempt) and await self._set_aside(attempt, failure):
            attempt.result = Result.QUARANTINED
        logger.error(
            "the handler of delivery %r %s%s",
            shorten(attempt.delivery.id),
            f"was cancelled after {self._handler_timeout:g} s" if timed_out else "failed",
            f", {attempt.failures} times so far; the delivery is in the quarantine: see receiver.quarantined()"
            if attempt.result is Result.QUARANTINED
            else "",
            exc_info=None if timed_out else failure,
            extra=attempt.fields(failure),
        )

    async def _has_failed_too_often(self, attempt: _Attempt) -> bool:
        """Release the claim, and count the failure. A delivery in the quarantine stays there, and claimed."""
        unit = attempt.unit
        if attempt.failures is not None:
            attempt.failures += 1
            return True
        if self._quarantine_after is None:
            await self._release(attempt)
            return False
        attempt.failures = await self._last_call(attempt, lambda: self._inbox.fail(unit.key, unit.token), _STAYS)
        return attempt.failures is not None and attempt.failures >= self._quarantine_after

    async def _set_aside(self, attempt: _Attempt, failure: Exception) -> bool:
        delivery, unit = attempt.delivery, attempt.unit
        quarantined = QuarantinedDelivery(
            key=unit.key,
            delivery_id=delivery.id,
            event_type_id=delivery.event_type_id,
            event_id=delivery.event_id,
            body=delivery.body,
            signed_at=delivery.timestamp,
            error=_describe(failure),
            failures=attempt.failures or 0,
            quarantined_at=datetime.fromtimestamp(self._clock(), UTC),
        )
        quarantined = attrs.evolve(quarantined, seal=self._seal.seal(*quarantined.sealed_parts()))
        stored = await self._last_call(
            attempt,
            lambda: self._inbox.quarantine(unit.key, unit.token, quarantined),
            "failed too often, and could not be put into the quarantine",
        )
        if attempt.quarantined and not stored:  # its earlier entry is still in the quarantine
            await self._release(attempt)
        return bool(stored)

    async def _release(self, attempt: _Attempt) -> None:
        await self._last_call(attempt, lambda: self._inbox.release(attempt.unit.key, attempt.unit.token), _STAYS)

    async def _last_call(self, attempt: _Attempt, call: Callable[[], Awaitable[T]], otherwise: str) -> T | None:
        """Make a call of the inbox. If it fails, log ``otherwise``, and return None."""
        try:
            return await attempt.unit.call(call)
        except Exception as exc:
            self._report(attempt, otherwise, exc)
            return None

    def _report(self, attempt: _Attempt, what: str, failure: Exception) -> Exception:
        """Log that the inbox failed. Return the failure; one that has no text gets one."""
        if isinstance(failure, TimeoutError) and not str(failure):
            slow = inbox_is_slow(self._inbox_timeout)
            slow.__cause__ = failure
            failure = slow
        self._outages.report(shorten(attempt.delivery.id), what, failure, attempt.fields(failure))
        return failure

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


def _describe(error: Exception) -> str:
    text = describe(error)
    return text if len(text) <= _LONGEST_ERROR else text[:_LONGEST_ERROR] + "…"
