"""One unit of work: claim a delivery, hand it to its handler, record that it was handled."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable

import attrs

from .._deadlines import Deadline, Deadlines
from .._tasks import cancelling, see_through
from ._delivery import Delivery
from ._outcome import Outcome, Result, log_fields, outcome
from ._routes import Route, Routes
from .inboxes._claim import Claim, ClaimStatus
from .inboxes._protocol import Inbox

__all__ = ["RETRY_SOON", "Dispatcher"]

logger = logging.getLogger("basiq_async.receiver")

RETRY_SOON = 5.0
"""Seconds after which Basiq may try again, where nothing better is known; its second attempt comes after 5 s anyway."""

_GIVE_BACK_SOON = 1.0
"""Seconds for giving back a claim that an inbox may have made although it failed: it is likely to fail again."""


@attrs.define
class _Work:
    """A delivery that is being handled, and the claim on it."""

    delivery: Delivery
    route: Route
    key: str
    token: str

    def fields(self, error: BaseException | None = None) -> dict[str, object]:
        return log_fields(self.delivery, handler=self.route.name, error=error)

    def end(self, result: Result, error: Exception | None = None, retry_after: float | None = None) -> Outcome:
        return outcome(result, self.delivery, error=error, retry_after=retry_after, handler=self.route.name)


class Dispatcher:
    """Claims, handles, records. Whatever cancels it, a delivery ends handled and recorded, or free to be handled.

    handler_timeout, inbox_timeout, lease: in seconds; each call of the inbox has ``inbox_timeout``.
    """

    def __init__(
        self,
        routes: Routes,
        inbox: Inbox,
        *,
        key_of: Callable[[Delivery], str],
        handler_timeout: float,
        inbox_timeout: float,
        lease: float,
    ) -> None:
        self._routes = routes
        self._inbox = inbox
        self._key_of = key_of
        self._lease = lease
        self._handlers = Deadlines(handler_timeout)
        self._inbox_calls = Deadlines(inbox_timeout)

    async def dispatch(self, delivery: Delivery) -> Outcome:
        """Hand a genuine delivery to its handler, unless that was done or another worker is at it."""
        route = self._routes.find(delivery.event_type_id)
        if route is None:
            logger.debug("no handler takes delivery %r of type %r", delivery.id, delivery.event_type_id)
            return outcome(Result.IGNORED, delivery)
        work = _Work(delivery, route, self._key_of(delivery), os.urandom(16).hex())
        claim = await self._claim(work)
        if not isinstance(claim, Claim):
            return claim
        if claim.status is ClaimStatus.DONE:
            return work.end(Result.DUPLICATE)
        if claim.status is ClaimStatus.BUSY:
            return work.end(Result.BUSY, retry_after=claim.retry_after)
        if (failed := await self._handle(work)) is not None:
            return failed
        await self._complete(work)
        return work.end(Result.HANDLED)

    async def _claim(self, work: _Work) -> Claim | Outcome:
        failure: Exception
        try:
            with Deadline(self._inbox_calls):
                return await self._inbox.claim(work.key, work.token, lease=self._lease)
        except asyncio.CancelledError as exc:
            if cancelling():
                await self._release(work)  # the claim may have got through
                raise
            failure = _as_error(exc, "the inbox")
        except Exception as exc:
            failure = exc
        logger.error(
            "delivery %r could not be claimed, Basiq is asked to send it again",
            work.delivery.id,
            exc_info=failure,
            extra=work.fields(failure),
        )
        await self._end(work, self._inbox.release, None, timeout=_GIVE_BACK_SOON)
        return work.end(Result.UNAVAILABLE, failure, RETRY_SOON)

    async def _handle(self, work: _Work) -> Outcome | None:
        """Run the handler; None if it succeeded, else the outcome."""
        limit = Deadline(self._handlers)
        try:
            with limit:
                await work.route.handler(work.delivery)
        except asyncio.CancelledError as exc:
            if cancelling():
                await self._release(work)
                raise
            failure: Exception = _as_error(exc, "the handler")
        except Exception as exc:
            failure = exc
        except BaseException:
            await self._release(work)
            raise
        else:
            return None
        timed_out = limit.expired and isinstance(failure, TimeoutError)
        if timed_out:
            logger.error(
                "the handler of delivery %r was cancelled after %g s",
                work.delivery.id,
                self._handlers.seconds,
                extra=work.fields(failure),
            )
        else:
            logger.error(
                "the handler of delivery %r failed", work.delivery.id, exc_info=failure, extra=work.fields(failure)
            )
        await self._release(work)
        return work.end(Result.TIMED_OUT if timed_out else Result.FAILED, failure)

    async def _complete(self, work: _Work) -> None:
        failure: Exception
        try:
            with Deadline(self._inbox_calls):
                recorded = await self._inbox.complete(work.key, work.token)
        except asyncio.CancelledError as exc:
            if cancelling():
                await self._end(work, self._inbox.complete, "was handled, but not recorded")
                raise
            failure = _as_error(exc, "the inbox")
        except Exception as exc:
            failure = exc
        else:
            if not recorded:
                logger.warning(
                    "delivery %r was handled after its lease had run out: another worker may have handled it too",
                    work.delivery.id,
                    extra=work.fields(),
                )
            return
        # It was handled; to ask for it again would have it handled twice for certain.
        logger.error(
            "delivery %r was handled, but that could not be recorded",
            work.delivery.id,
            exc_info=failure,
            extra=work.fields(failure),
        )

    async def _release(self, work: _Work) -> None:
        await self._end(work, self._inbox.release, "stays claimed until its lease runs out")

    async def _end(
        self,
        work: _Work,
        call: Callable[[str, str], Awaitable[object]],
        otherwise: str | None,
        *,
        timeout: float | None = None,
    ) -> None:
        """See the inbox's last word through, whatever cancels this task; log ``otherwise`` where that fails."""

        async def bounded() -> None:
            try:
                async with asyncio.timeout(self._inbox_calls.seconds if timeout is None else timeout):
                    await call(work.key, work.token)
            except (Exception, asyncio.CancelledError):
                if cancelling():
                    raise
                if otherwise is not None:
                    logger.exception("delivery %r %s", work.delivery.id, otherwise, extra=work.fields())

        await see_through(bounded)


def _as_error(exc: asyncio.CancelledError, who: str) -> Exception:
    """An error in place of a cancellation that was meant for something else."""
    error = RuntimeError(f"{who} awaited something that was cancelled")
    error.__cause__ = exc
    return error
