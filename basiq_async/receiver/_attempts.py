"""One attempt at a delivery: claim it in the inbox, call its handler, and record that it was handled, or why not."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar, cast

import attrs

from .._redaction.tracebacks import hide_parameters
from .._work.attempts import AttemptEnd, AttemptResult, KilledError, UnderWay
from .._work.blocking import watch
from .._work.calls import HOST
from .._work.failures import failure_text, find_retry_after
from .._work.once import Unit
from .._work.protocol import ClaimedEntry, InboxEntry, WaitingInbox
from ..errors import InboxError
from ._delivery import Delivery
from ._outcome import RETRY_SOON, Outcome, is_of_the_event, log_fields, shorten
from ._results import Result
from ._routes import Route
from ._trying import after_failure

if TYPE_CHECKING:
    from ._dispatcher import Dispatcher

logger = logging.getLogger("basiq_async.receiver")

PATIENCE = 0.3
"""Seconds for which a delivery waits for another worker that handles the same event."""
ALONE = AttemptResult.ALONE.value
"""The reason of an outcome: an attempt before had no end, and a job is to pass the event to the handler alone."""

_LONGEST_ERROR = 2_000
_TRY_BUSY = 5.0
"""Seconds until a deferred delivery is tried again that a job handles."""
T = TypeVar("T")


class Attempt(Unit[None]):
    """A delivery, from Basiq or from a job, and its handler."""

    live = True
    """Whether Basiq sent it, and not a job."""
    otherwise = "the response asks Basiq to send it again"
    """What happens if the handler did not run."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        delivery: Delivery,
        route: Route,
        *,
        patience: float = PATIENCE,
        units: UnderWay | None = None,
        token: str | None = None,
        quarantined: bool = False,
        failures: int | None = None,
    ) -> None:
        """``failures``: the number of those before, or None if they are not counted."""
        if units is None:  # a replay, and a retry from the quarantine, give a deferred handler its time too
            units = dispatcher.deferred_units if route.deferred else dispatcher.units
        if token is None:  # unique even among copies of a process, such as those restored from one snapshot
            token = f"{HOST}/{os.getpid()}/{os.urandom(16).hex()}"
        session = dispatcher.transactions if route.session else None
        super().__init__(units, delivery.key, token, patience, session=session, quarantined=quarantined)
        self.has_prepare = session is not None and route.prepare is not None
        self.delivery = delivery
        self.dispatcher = dispatcher
        self.failures = failures
        self._route = route
        self._options: dict[str, object] = {}
        self.result = Result.FAILED
        self._retry_after: float | None = None

    def describe(self) -> str:
        return f"delivery {shorten(self.delivery.id)!r}"

    def log_fields(self, error: BaseException | None = None) -> dict[str, object]:
        return log_fields(self.delivery, handler=self._route.name, attempt=self.failures, error=error)

    async def prepare(self) -> None:
        if self._route.prepare is not None:
            self._options["prepared"] = await watch(self._route.prepare(self.delivery), self._log_block)

    async def work(self) -> None:
        route = self._route
        if self.session is not None:
            async with self.session.transaction(self.key, self.token) as session:
                await watch(route.call(self.delivery, session, **self._options), self._log_block)
            return
        if route.prepare is not None:
            await self.prepare()
        await watch(route.call(self.delivery, **self._options), self._log_block)

    def _log_block(self, seconds: float) -> None:
        self.dispatcher.log_block(self._route.name, seconds, self.log_fields())

    async def record_failure(self, failure: Exception) -> None:
        """Record what the failure means for the event, and log that."""
        if isinstance(failure, KilledError):
            await self._stop_trying(failure)
            return
        self.result = Result.TIMED_OUT if self.timed_out else Result.FAILED
        again = await self.settle(failure)
        logger.error(
            "the handler of delivery %r %s%s",
            shorten(self.delivery.id),
            f"was cancelled after {self.units.work_timeout:g} s" if self.timed_out else "failed",
            f", {self.failures} times so far; the delivery is in the quarantine: see receiver.quarantined()"
            if self.result is Result.QUARANTINED
            else again,
            exc_info=None if self.timed_out else hide_parameters(failure),
            extra=self.log_fields(failure),
        )

    async def settle(self, failure: Exception) -> str:
        """Release the claim, or quarantine the delivery if it has failed too often. Return what the log adds."""
        if not is_of_the_event(failure):
            await self.release()
            self._retry_after = find_retry_after(failure)
            if self._retry_after is not None:
                self.result = Result.UNAVAILABLE
        elif await self.has_failed_too_often() and await self.quarantine(self.make_entry(failure)):
            self.result = Result.QUARANTINED
        return ""

    async def _stop_trying(self, failure: KilledError) -> None:
        """Quarantine what kills its process, and do not handle it. A job quarantines itself what it passes."""
        self.failures = failure.count
        if not self.live:
            await self.release()
            return
        acknowledged = self.dispatcher.quarantine_after is not None
        entry = attrs.evolve(self.make_entry(failure), acknowledged=acknowledged, unended=failure.count)
        if await self.quarantine(entry) and acknowledged:
            self.result = Result.QUARANTINED
        logger.error(
            "delivery %r is not handed to its handler any more, because %s; it is in the quarantine: see "
            "receiver.quarantined()",
            shorten(self.delivery.id),
            failure,
            extra=self.log_fields(failure),
        )

    def outcome_of(self, ending: AttemptEnd[None]) -> Outcome:
        """Return the outcome of the delivery, from the end of ``handle_once``."""
        result, error, retry_after = Result.HANDLED, ending.error, None
        if ending.how is AttemptResult.HANDLED:
            pass
        elif ending.how is AttemptResult.DONE:
            result = Result.DUPLICATE
        elif ending.how is AttemptResult.BUSY and ending.claim is not None:
            result, retry_after = Result.BUSY, ending.claim.retry_after
            logger.info(
                "delivery %r is held by worker %r for at most %.0f s more: %s",
                shorten(self.delivery.id),
                ending.claim.holder,
                retry_after,
                self.otherwise,
                extra=self.log_fields(),
            )
        elif ending.how is AttemptResult.ALONE:
            return Outcome(Result.BUSY, self.delivery, ALONE)
        elif ending.how is AttemptResult.FAILED:
            result, retry_after = self.result, self._retry_after
        elif ending.how is AttemptResult.LATE:
            result = Result.TIMED_OUT
            error = TimeoutError(f"the handler was cancelled after {self.units.work_timeout:g} s")
        else:
            result, retry_after = Result.UNAVAILABLE, RETRY_SOON
            error = error or InboxError("the event loop shuts down")
            what = "was not committed" if self.claimed else "could not be claimed"
            self.report(f"{what}, and {self.otherwise}", error)
        return Outcome(result, self.delivery, None, error, retry_after, self._route.name, self.failures)

    async def has_failed_too_often(self) -> bool:
        """Release the claim, and count the failure. Return whether to quarantine the delivery."""
        quarantine_after = self.dispatcher.quarantine_after
        if quarantine_after is None:
            await self.release()
            return False
        fail = partial(self.units.inbox.release, self.key, self.token, failed=True)
        self.failures = await self.last_call(fail, "stays claimed until its lease runs out")
        return self.failures is not None and self.failures >= quarantine_after

    def make_entry(self, failure: Exception) -> InboxEntry:
        """Return the delivery as it goes into the quarantine."""
        delivery = self.delivery
        return InboxEntry(
            key=self.key,
            delivery_id=delivery.id,
            event_type_id=delivery.event_type_id,
            event_id=delivery.event_id,
            body=delivery.body,
            signed_at=delivery.timestamp,
            error=failure_text(failure, longest=_LONGEST_ERROR),
            failures=self.failures or 0,
            quarantined_at=self.dispatcher.now(),
            acknowledged=self.live,
        )

    async def quarantine(self, entry: InboxEntry) -> bool:
        call = partial(self.units.inbox.quarantine, self.key, self.token, entry)
        stored = await self.last_call(call, "failed too often, and could not be put into the quarantine")
        if stored is None and self.already_claimed:
            self.units.owed.add(self.key, self.token, call)
        elif not stored:  # its earlier entry is still in the quarantine, or it waits
            await super().release()
        return bool(stored)

    async def last_call(self, call: Callable[[], Awaitable[T]], otherwise: str) -> T | None:
        """Make a call of the inbox. If it fails, log ``otherwise``, and return None."""
        try:
            return await self.call(call)
        except Exception as exc:
            self.report(otherwise, exc)
            return None

    def report(self, what: str, failure: Exception) -> None:
        self.dispatcher.outages.report(shorten(self.delivery.id), what, failure, self.log_fields(failure))


class RetriedAttempt(Attempt):
    """A delivery of the quarantine, which stays there if its handler fails again."""

    def __init__(self, dispatcher: Dispatcher, delivery: Delivery, route: Route, entry: InboxEntry) -> None:
        super().__init__(dispatcher, delivery, route, quarantined=True, failures=entry.failures)
        self._entry = entry

    async def has_failed_too_often(self) -> bool:
        """Count the failure. The claim stays until the entry is stored again."""
        self.failures = self._entry.failures + 1
        return True

    def make_entry(self, failure: Exception) -> InboxEntry:
        """Return the entry with this failure."""
        return attrs.evolve(
            self._entry,
            error=failure_text(failure, longest=_LONGEST_ERROR),
            failures=self._entry.failures + 1,
            quarantined_at=self.dispatcher.now(),
        )


class DeferredAttempt(Attempt):
    """A delivery that waits in the inbox, and that this process has claimed."""

    already_claimed = True
    otherwise = "it is tried again"

    def __init__(self, dispatcher: Dispatcher, delivery: Delivery, route: Route, claimed: ClaimedEntry) -> None:
        super().__init__(
            dispatcher,
            delivery,
            route,
            units=dispatcher.deferred_units,
            token=claimed.token,
            failures=claimed.entry.failures,
        )
        self._claimed = claimed

    async def settle(self, failure: Exception) -> str:
        """Put the delivery off, or quarantine it if it has failed too often. Return what the log says of that."""
        then = after_failure(
            self._claimed,
            failure_text(failure, longest=_LONGEST_ERROR),
            keep_trying=self.dispatcher.keep_trying,
            retry_after=find_retry_after(failure),
        )
        self.failures = then.entry.failures
        if then.seconds is not None:
            await self._put_off(then.entry, then.seconds)
            return f", {self.failures} times so far; it is tried again in {then.seconds:.0f} s"
        if await self.quarantine(attrs.evolve(then.entry, quarantined_at=self.dispatcher.now())):
            self.result = Result.QUARANTINED
        return ""

    async def release(self, seconds: float | None = None) -> None:
        """Release the claim. The attempt does not count then, and is due at once if this process shuts down."""
        ends = self._steps.cancelled or self._steps.is_cancelled_by_others()
        await self._put_off(self._claimed.entry, 0.0 if ends else _TRY_BUSY)

    async def give_back(self, failure: Exception) -> None:
        """Release the claim, because the inbox failed. The attempt has failed then."""
        await self.settle(failure)

    async def _put_off(self, entry: InboxEntry, seconds: float) -> None:
        """End the claim of what was deferred: if the inbox is away, when it answers again."""
        inbox = cast(WaitingInbox, self.units.inbox)
        put_off = partial(inbox.put_off, entry, self.token, seconds=seconds, now=self.dispatcher.moment())
        if await self.last_call(put_off, "stays claimed until its lease runs out") is None:
            self.units.owed.add(self.key, self.token, put_off)
