"""The work on one delivery: claim it in the inbox, hand it to its handler, and record that it was handled."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

import attrs

from .._signing.seal import Seal
from .._work.deadlines import Deadline, Deadlines
from .._work.handling import Handling
from .._work.protocol import Claim, ClaimStatus, Inbox, QuarantinedDelivery, TransactionalInbox
from .._work.tasks import cancelling, run_to_completion
from ..errors import InboxError
from ._delivery import Delivery
from ._outcome import Outages, Outcome, Result, describe, log_fields
from ._routes import Route, Routes
from .inboxes._memory import MemoryInbox

logger = logging.getLogger("basiq_async.receiver")

RETRY_SOON = 5.0
"""Seconds for ``Retry-After`` if no better value is known: Basiq's second attempt comes after 5 s anyway."""

_MOST_UNHANDLED = 256
_LONGEST_ERROR = 2_000
_holder: str

_MOMENT = 1.0
"""Seconds to wait for a cancelled handler to end, before Basiq gets its response."""
_GIVE_BACK_SOON = 1.0
"""Seconds for releasing a claim after the inbox failed: the claim may exist, and the inbox is likely to fail again."""


class _ClaimCall(Protocol):
    def __call__(self, key: str, token: str, /, *, lease: float) -> Awaitable[Claim]: ...


@attrs.define
class _Work:
    """A delivery that is being handled, and the claim on it. ``failures`` is None if they are not counted."""

    delivery: Delivery
    route: Route
    key: str
    token: str
    failures: int | None = None
    timed_out: bool = False
    quarantined: bool = False
    handling: Handling[object] | None = None

    @property
    def in_transaction(self) -> bool:
        """Whether the handler's writes commit together with the inbox's entry."""
        return self.route.session_handler is not None

    @property
    def ended_well(self) -> bool:
        return self.handling is not None and self.handling.ended_well

    def may_run_on(self, failure: Exception) -> bool:
        return self.handling is not None and self.handling.may_run_on(failure)

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
        self._seal = seal
        self._transactional = inbox if isinstance(inbox, TransactionalInbox) else None
        self._lease = lease
        self._quarantine_after = quarantine_after
        self._clock = clock
        self._unhandled: dict[str, int] = {}
        self._in_flight = 0
        self._idle: asyncio.Event | None = None
        self._outages = Outages()
        self._late: set[asyncio.Task[None]] = set()
        self._handlers = Deadlines(handler_timeout)
        self._inbox_calls = Deadlines(inbox_timeout)
        # A MemoryInbox never waits, and a time limit would cost as much as the call itself.
        self._instant = type(inbox) is MemoryInbox

    async def dispatch(self, delivery: Delivery, *, failures: int | None = None) -> Outcome:
        """Hand a genuine delivery to its handler, unless it was handled before or another worker is handling it.

        ``failures`` is given for a quarantined delivery: the number of its failures so far. If it fails again, it
        stays in the quarantine.
        """
        self._in_flight += 1
        try:
            route = self._routes.find(delivery.event_type_id)
            if route is None:
                if failures is None:
                    self._count_unhandled(delivery)
                return Outcome(Result.IGNORED, delivery)
            work = _Work(delivery, route, delivery.key, _new_token(), failures)
            refused = await self._claim(work, self._claim_call(work))
            if refused is not None:
                return refused
            failure = await self._handle(work)
            if failure is None:
                return await self._complete(work)
            if work.may_run_on(failure):
                if not await self._wait_for_end(work, failure):
                    return work.end(Result.TIMED_OUT if work.timed_out else Result.FAILED, failure)
                if work.ended_well:
                    failure = None
            return await self._conclude(work, failure)
        finally:
            self._leave()

    def _leave(self) -> None:
        self._in_flight -= 1
        if self._idle is not None and not self._in_flight:
            self._idle.set()
            self._idle = None

    async def _conclude(self, work: _Work, failure: Exception | None) -> Outcome:
        if failure is None:
            return await self._complete(work)
        if work.in_transaction and isinstance(failure, InboxError):
            return await self._unavailable(work, failure)  # the storage failed, not the handler
        return await self._fail(work, failure)

    async def _wait_for_end(self, work: _Work, failure: Exception) -> bool:
        """Wait up to ``_MOMENT`` seconds for the handler and its tasks to end.

        If they still run then, start a task that waits for them and ends the claim, and return False.
        """
        ended = False
        try:
            ended = work.handling is None or await work.handling.wait(_MOMENT)
        finally:
            if not ended:
                self._conclude_later(work, failure)
        return ended

    def _conclude_later(self, work: _Work, failure: Exception | None) -> None:
        """Start a task that waits for the handler to end, and then completes, fails or releases the delivery.

        ``failure`` is the handler's failure. None means that the delivery itself was cancelled: then a handler that did
        not succeed has its claim released, and no failure is counted.
        """
        logger.warning(
            "the handler of delivery %r was cancelled but still runs: the delivery stays claimed until it ends",
            work.delivery.id,
            extra=work.fields(),
        )
        self._in_flight += 1
        task = asyncio.get_running_loop().create_task(self._conclude_at_end(work, failure))
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def _conclude_at_end(self, work: _Work, failure: Exception | None) -> None:
        try:
            if work.handling is not None and not await work.handling.wait(self._lease):
                logger.error(
                    "the handler of delivery %r was cancelled but still runs, and its lease has run out: another "
                    "worker may handle the delivery too",
                    work.delivery.id,
                    extra=work.fields(),
                )
            if work.ended_well:
                await self._conclude(work, None)
            elif failure is None:
                await self._release(work)
            else:
                await self._conclude(work, failure)
        finally:
            self._leave()

    async def _give_back(self, work: _Work) -> None:
        """Release the claim of a cancelled handler, when the handler and its tasks have ended."""
        if work.handling is not None and work.handling.unfinished():
            self._conclude_later(work, None)
        else:
            await self._release(work)

    @property
    def in_flight(self) -> int:
        """The number of deliveries that are being handled."""
        return self._in_flight

    async def drain(self) -> None:
        """Wait until no delivery is being handled."""
        while self._in_flight:
            if self._idle is None:
                self._idle = asyncio.Event()
            await self._idle.wait()
        self._outages.flush()

    @property
    def unhandled(self) -> dict[str, int]:
        """The number of deliveries received of each event type that has no handler."""
        return dict(self._unhandled)

    def _claim_call(self, work: _Work) -> _ClaimCall:
        quarantined = work.failures is not None
        if work.in_transaction and self._transactional is not None:
            return partial(self._transactional.claim_transaction, quarantined=quarantined)
        return self._inbox.claim_quarantined if quarantined else self._inbox.claim

    async def _claim(self, work: _Work, claim: _ClaimCall) -> Outcome | None:
        """Claim a delivery. Return None if this worker has it now, else the outcome."""
        failure: Exception
        try:
            if self._instant:
                found = await claim(work.key, work.token, lease=self._lease)
            else:
                with Deadline(self._inbox_calls):
                    found = await claim(work.key, work.token, lease=self._lease)
        except asyncio.CancelledError as exc:
            if cancelling():
                await self._release(work)  # the inbox may have made the claim
                raise
            failure = _as_error(exc, "the inbox")
        except Exception as exc:
            failure = exc
        else:
            if found.status is ClaimStatus.CLAIMED:
                return None
            if found.status is ClaimStatus.DONE:
                return work.end(Result.DUPLICATE)
            logger.info(
                "delivery %r is held by worker %r for at most %.0f s more: the response asks Basiq to send it again",
                work.delivery.id,
                found.holder,
                found.retry_after,
                extra=work.fields(),
            )
            return work.end(Result.BUSY, retry_after=found.retry_after)
        failure = self._report(work, "could not be claimed, and the response asks Basiq to send it again", failure)
        await self._end(work, self._releasing(work), None, timeout=_GIVE_BACK_SOON)
        return work.end(Result.UNAVAILABLE, failure, RETRY_SOON)

    async def _handle(self, work: _Work) -> Exception | None:
        """Run the handler. Return None if it succeeded, else the exception that it raised."""
        limit = Deadline(self._handlers)
        try:
            handler = work.route.handler
            call = self._handle_in_transaction(work) if handler is None else handler(work.delivery)
            work.handling = Handling(call, limit)
            await work.handling.run()
        except asyncio.CancelledError as exc:
            if cancelling():
                await self._give_back(work)
                raise
            return _as_error(exc, "the handler")
        except TimeoutError as exc:
            if not limit.expired:
                return exc
            work.timed_out = True
            return TimeoutError(f"the handler was cancelled after {self._handlers.seconds:g} s")
        except Exception as exc:
            return exc
        except BaseException:
            await self._give_back(work)
            raise
        return None

    async def _handle_in_transaction(self, work: _Work) -> None:
        if work.route.session_handler is not None and self._transactional is not None:
            async with self._transactional.transaction(work.key, work.token) as session:
                await work.route.session_handler(work.delivery, session)

    async def _unavailable(self, work: _Work, failure: Exception) -> Outcome:
        """Release the claim after the transaction failed, and return a 503.

        Its commit may have succeeded all the same: when Basiq sends the delivery again, the inbox knows.
        """
        failure = self._report(work, "was not committed, and the response asks Basiq to send it again", failure)
        await self._end(work, self._releasing(work), None, timeout=_GIVE_BACK_SOON)
        return work.end(Result.UNAVAILABLE, failure, RETRY_SOON)

    async def _fail(self, work: _Work, failure: Exception) -> Outcome:
        """Release the claim, or quarantine the delivery if it has failed too often. Log one record of it."""
        result = Result.TIMED_OUT if work.timed_out else Result.FAILED
        try:
            if await self._count(work) and await self._set_aside(work, failure):
                result = Result.QUARANTINED
        finally:
            logger.error(
                "the handler of delivery %r %s%s",
                work.delivery.id,
                f"was cancelled after {self._handlers.seconds:g} s" if work.timed_out else "failed",
                f", {work.failures} times so far; the delivery is in the quarantine: see receiver.quarantined()"
                if result is Result.QUARANTINED
                else "",
                exc_info=None if work.timed_out else failure,
                extra=work.fields(failure),
            )
        return work.end(result, failure)

    async def _count(self, work: _Work) -> bool:
        """Release the claim, count the failure, and return whether the delivery has failed too often.

        A delivery that is in the quarantine already stays there, and its claim is kept.
        """
        if work.failures is not None:
            work.failures += 1
            work.quarantined = True
            return True
        if self._quarantine_after is None:
            await self._release(work)
            return False
        await self._end(work, lambda: self._count_failure(work), "stays claimed until its lease runs out")
        return work.failures is not None and work.failures >= self._quarantine_after

    async def _count_failure(self, work: _Work) -> None:
        work.failures = await self._inbox.fail(work.key, work.token)

    async def _set_aside(self, work: _Work, failure: Exception) -> bool:
        delivery, failures = work.delivery, work.failures or 0
        letter = QuarantinedDelivery(
            key=work.key,
            delivery_id=delivery.id,
            event_type_id=delivery.event_type_id,
            event_id=delivery.event_id,
            body=delivery.body,
            signed_at=delivery.timestamp,
            error=_describe(failure),
            failures=failures,
            quarantined_at=datetime.fromtimestamp(self._clock(), UTC),
        )
        letter = attrs.evolve(letter, seal=self._seal.seal(*letter.sealed_parts()))
        stored = False

        async def store() -> None:
            nonlocal stored
            stored = await self._inbox.quarantine(work.key, work.token, letter)

        await self._end(work, store, "failed too often, and could not be put into the quarantine")
        if work.quarantined and not stored:
            await self._release(work)  # its earlier entry is still in the quarantine
        return stored

    async def _complete(self, work: _Work) -> Outcome:
        failure: Exception
        try:
            if self._instant:
                recorded = await self._inbox.complete(work.key, work.token)
            else:
                with Deadline(self._inbox_calls):
                    recorded = await self._inbox.complete(work.key, work.token)
        except asyncio.CancelledError as exc:
            if cancelling():
                await self._end(
                    work, lambda: self._inbox.complete(work.key, work.token), "was handled, but not recorded"
                )
                raise
            failure = _as_error(exc, "the inbox")
        except Exception as exc:
            failure = exc
        else:
            if not recorded and not work.in_transaction:
                logger.warning(
                    "delivery %r was handled after its lease had run out: another worker may have handled it too",
                    work.delivery.id,
                    extra=work.fields(),
                )
            if recorded or not work.in_transaction:
                return work.end(Result.HANDLED)
            failure = InboxError("the claim ended before its transaction was committed")
        if work.in_transaction:
            # Any other error is about the handler's writes. A TimeoutError or RuntimeError comes from this method.
            if not isinstance(failure, (InboxError, TimeoutError, RuntimeError)):
                return await self._fail(work, failure)
            return await self._unavailable(work, failure)
        # It was handled. A response that asks for it again would certainly have it handled twice.
        self._report(work, "was handled, but that could not be recorded", failure)
        return work.end(Result.HANDLED)

    async def _release(self, work: _Work) -> None:
        await self._end(work, self._releasing(work), "stays claimed until its lease runs out")

    def _releasing(self, work: _Work) -> Callable[[], Awaitable[object]]:
        return lambda: self._inbox.release(work.key, work.token)

    async def _end(
        self,
        work: _Work,
        call: Callable[[], Awaitable[object]],
        otherwise: str | None,
        *,
        timeout: float | None = None,
    ) -> None:
        """Make the last call of the inbox, also while this task is cancelled. If it fails, log ``otherwise``."""

        async def bounded() -> None:
            try:
                async with asyncio.timeout(self._inbox_calls.seconds if timeout is None else timeout):
                    await call()
            except (Exception, asyncio.CancelledError) as exc:
                if cancelling():
                    raise
                if otherwise is not None:
                    failure = exc if isinstance(exc, Exception) else _as_error(exc, "the inbox")
                    self._report(work, otherwise, failure)

        await run_to_completion(bounded)

    def _report(self, work: _Work, what: str, failure: Exception) -> Exception:
        """Log that the inbox failed. Return the failure; one that has no text gets one."""
        if isinstance(failure, TimeoutError) and not str(failure):
            slow = InboxError(f"the inbox did not respond within {self._inbox_calls.seconds:g} s")
            slow.__cause__ = failure
            failure = slow
        self._outages.report(work.delivery.id, what, failure, work.fields(failure))
        return failure

    def _count_unhandled(self, delivery: Delivery) -> None:
        event_type_id = delivery.event_type_id
        seen = self._unhandled.get(event_type_id, 0)
        counted = seen or len(self._unhandled) < _MOST_UNHANDLED
        if counted:
            self._unhandled[event_type_id] = seen + 1
        log = logger.warning if counted and not seen else logger.debug
        log(
            "no handler is registered for event type %r; delivery %r was acknowledged and not handled",
            event_type_id,
            delivery.id,
            extra=log_fields(delivery),
        )


def _new_token() -> str:
    # Unique even among copies of a process, such as those restored from one snapshot of a virtual machine.
    return _holder + os.urandom(16).hex()


def _name_holder() -> None:
    """Put the host and process id into each token, so that a log which shows a token names the claim's holder."""
    global _holder
    _holder = f"{socket.gethostname().encode('ascii', 'replace').decode()[:60]}/{os.getpid()}/"


_name_holder()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_name_holder)


def _describe(error: Exception) -> str:
    text = describe(error)
    return text if len(text) <= _LONGEST_ERROR else text[:_LONGEST_ERROR] + "…"


def _as_error(exc: asyncio.CancelledError, who: str) -> Exception:
    """Make a ``RuntimeError`` from a ``CancelledError`` that did not come from cancelling this task."""
    error = RuntimeError(f"{who} awaited something that was cancelled")
    error.__cause__ = exc
    return error
