"""The receiver: verify, read, deduplicate, dispatch, answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from datetime import timedelta
from types import ModuleType
from typing import TYPE_CHECKING, Self, TypeVar

from .._deadlines import Deadline, Deadlines
from ..errors import ConfigurationError, SignatureVerificationError
from ..hooks import call_hook
from ._asgi import ASGIApp
from ._clock import Clock, in_seconds
from ._delivery import Delivery, UnreadableBodyError, read_delivery
from ._headers import Headers
from ._outcome import DeliveryEvent, OnDelivery, Outcome, Result, outcome
from ._routes import Handler, Routes, check_patterns
from ._signature import TOLERANCE, SecretLike, SigningKeys, tolerance_seconds
from .inboxes._claim import ClaimStatus
from .inboxes._memory import MemoryInbox
from .inboxes._protocol import Inbox

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["WebhookReceiver"]

logger = logging.getLogger("basiq_async.receiver")

H = TypeVar("H", bound=Handler)

# A lease outlasts the handler by this, so that it runs out only under a worker that is dead or stuck.
_LEASE_MARGIN = 20.0
_SETTLE_TIMEOUT = 5.0
_RETRY_SOON = 5


class WebhookReceiver:
    """Receives Basiq's webhooks: hands each genuine delivery to one handler, once, and answers in time.

        receiver = WebhookReceiver(secret)

        @receiver.on("consent.*")
        async def consent_changed(delivery: Delivery) -> None: ...

        app.router.add_post("/basiq", receiver.aiohttp_handler)      # or receiver.asgi, or receiver.handle()

    Of the handlers whose pattern matches only the most specific one runs: the exact type, else the longest
    beginning, else ``*``. One delivery has one handler and one result, so that a second handler's failure
    cannot have the first one run twice.

    The answers: 204 handled, or of a type that no handler is for; 200 handled before; 401 not genuine or not
    fresh; 400 genuine, but no JSON object; 413 larger than ``max_body_size`` bytes; 408 a body that did not
    arrive within ``body_timeout`` seconds; 500 the handler raised, or was cancelled after ``handler_timeout``
    seconds; 503 with Retry-After: another worker holds it right now, the inbox does not answer, or the
    receiver is closing. Whatever is not 2xx Basiq sends again (the vendor's page on the delivery schedule).

    ``secret`` may be several while one replaces another. ``inbox`` remembers what has been handled; without
    one, a ``MemoryInbox``. An inbox that is passed in is closed by whoever made it. ``on_delivery`` is told
    of every request that gets an answer. ``clock`` gives the time. Handlers' exceptions and refused
    deliveries are logged to ``basiq_async.receiver``. Raises ``ConfigurationError`` for arguments that cannot
    be right.
    """

    def __init__(
        self,
        secret: SecretLike,
        *,
        inbox: Inbox | None = None,
        tolerance: timedelta = TOLERANCE,
        max_body_size: int = 1_048_576,
        handler_timeout: float = 10.0,
        body_timeout: float = 10.0,
        on_delivery: OnDelivery | None = None,
        clock: Clock = time.time,
    ) -> None:
        if max_body_size < 1:
            raise ConfigurationError("max_body_size must be at least one byte")
        for name, seconds in (("handler_timeout", handler_timeout), ("body_timeout", body_timeout)):
            if not 0 < seconds < math.inf:
                raise ConfigurationError(f"{name} must be a number of seconds, more than 0 and not endless")
        self._keys = SigningKeys(secret, for_many=True)
        self._inbox: Inbox = MemoryInbox(clock=clock) if inbox is None else inbox
        self._tolerance = tolerance_seconds(tolerance)
        self._max_body_size = max_body_size
        self._handler_timeout = handler_timeout
        self._deadlines = Deadlines(handler_timeout)
        self._body_timeout = body_timeout
        self._on_delivery = on_delivery
        self._clock = in_seconds(clock)
        self._routes = Routes()
        self._asgi = ASGIApp(self)
        self._adapter: ModuleType | None = None
        self._closing = False
        self._in_flight = 0
        self._idle = asyncio.Event()

    def __repr__(self) -> str:
        state = "closed" if self._closing else f"{self._in_flight} in flight"
        return f"<WebhookReceiver: {len(self._routes)} patterns, {state}>"

    @property
    def inbox(self) -> Inbox:
        """What has been handled."""
        return self._inbox

    def on(self, *event_types: str) -> Callable[[H], H]:
        """Register an async handler for event types: exact, a beginning such as ``consent.*``, or ``*``.

        Raises ``ConfigurationError`` for a handler that is not async or does not take one argument, for a
        pattern that is none, and for a second handler of the same pattern.
        """

        def register(handler: H) -> H:
            self._routes.add(event_types, handler)
            return handler

        check_patterns(event_types)
        return register

    async def handle(self, headers: Headers, body: bytes) -> Outcome:
        """Verify, read and dispatch one request; never raises for what came in.

        ``headers`` are a mapping with names in any case, a multidict, or pairs of str or bytes; ``body`` is
        the raw bytes. The answer to give is the outcome's ``status`` and ``headers``, without a body.
        If it is cancelled, the handler is too, and the claim is given back first.
        """
        started = time.perf_counter()
        if self._closing:
            return self._report(_closed(), started)
        if len(body) > self._max_body_size:
            return self._report(outcome(Result.TOO_LARGE), started)
        try:
            message_id, sent = self._keys.verify(headers, body, tolerance=self._tolerance, now=self._clock())
        except SignatureVerificationError as exc:
            logger.warning("refused a delivery (%s): %s", exc.reason, exc)
            return self._report(outcome(Result.REJECTED, reason=exc.reason), started)
        try:
            delivery = read_delivery(message_id, sent, body)
        except UnreadableBodyError as exc:
            logger.warning("delivery %s is genuine but unreadable: %s", message_id, exc)
            return self._report(outcome(Result.UNREADABLE), started)
        return self._report(await self._dispatch(delivery), started)

    async def handle_stream(
        self, headers: Headers, chunks: AsyncGenerator[bytes], *, content_length: int | None = None
    ) -> Outcome:
        """As ``handle``, for a body that is still to be read: no more of it than ``max_body_size`` is held.

        ``chunks`` is closed in any case; it may raise ``ConnectionError`` for a body that breaks off.
        """
        started = time.perf_counter()
        try:
            body = await self._read(chunks, content_length)
        except _RefusedError as refused:
            return self._report(_closed() if refused.result is Result.CLOSED else outcome(refused.result), started)
        return await self.handle(headers, body)

    async def dispatch(self, delivery: Delivery) -> Outcome:
        """Hand a delivery that is known to be genuine to its handler, unless that has been done.

        The same inbox, handlers and outcomes as for one that came by HTTP; a replay goes this way.
        """
        started = time.perf_counter()
        done = _closed(delivery) if self._closing else await self._dispatch(delivery)
        return self._report(done, started)

    async def aiohttp_handler(self, request: web.Request) -> web.StreamResponse:
        """A handler for ``aiohttp.web``: ``app.router.add_post("/basiq", receiver.aiohttp_handler)``."""
        if self._adapter is None:
            from . import _aiohttp as adapter  # a server of aiohttp has it loaded by now

            self._adapter = adapter
        content = request.content
        if content.is_eof() and content.exception() is None:
            # All of it is here, as with nearly every delivery: no need for a time limit and a loop.
            done = await self.handle(request.headers, content.read_nowait())
            whole = True
        else:
            chunks = self._adapter.chunks(request)
            done = await self.handle_stream(request.headers, chunks, content_length=request.content_length)
            whole = content.at_eof()
        answer: web.StreamResponse = self._adapter.response(done, whole=whole)
        return answer

    @property
    def asgi(self) -> ASGIApp:
        """An ASGI app, to serve as it is, to mount, or as the endpoint of a route of Starlette or FastAPI."""
        return self._asgi

    async def aclose(self) -> None:
        """Take no more (503 with Retry-After), and return when all that was begun is finished.

        That takes at most ``handler_timeout`` and a little, unless a handler resists its cancellation.
        """
        self._closing = True
        if self._in_flight:
            await self._idle.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def _dispatch(self, delivery: Delivery) -> Outcome:
        self._in_flight += 1
        try:
            handler = self._routes.find(delivery.event_type_id)
            if handler is None:
                logger.debug("no handler for delivery %s of type %r", delivery.id, delivery.event_type_id)
                return outcome(Result.IGNORED, delivery)
            key, token = delivery.key, os.urandom(16).hex()
            try:
                claim = await self._inbox.claim(key, token, lease=self._handler_timeout + _LEASE_MARGIN)
            except asyncio.CancelledError:
                await self._release(delivery, key, token)  # it may have got through
                raise
            except Exception as exc:
                logger.exception("delivery %s could not be claimed, Basiq is asked to send it again", delivery.id)
                return outcome(Result.UNAVAILABLE, delivery, error=exc, retry_after=_RETRY_SOON)
            if claim.status is ClaimStatus.DONE:
                return outcome(Result.DUPLICATE, delivery)
            if claim.status is ClaimStatus.BUSY:
                return outcome(Result.BUSY, delivery, retry_after=max(1, math.ceil(claim.retry_after)))
            limit = Deadline(self._deadlines)
            try:
                with limit:
                    await handler(delivery)
            except Exception as exc:
                return await self._failed(exc, limit.expired, delivery, key, token)
            except BaseException:
                await self._release(delivery, key, token)
                raise
            try:
                recorded = await self._inbox.complete(key, token)
            except asyncio.CancelledError:
                await self._settle(self._inbox.complete(key, token), delivery)
                raise
            except Exception:
                # It was handled; to ask for it again would have it handled twice for certain.
                logger.exception("delivery %s was handled, but that could not be recorded", delivery.id)
                return outcome(Result.HANDLED, delivery)
            if not recorded:
                logger.warning(
                    "delivery %s was handled after its lease had run out: another worker may have handled it too",
                    delivery.id,
                )
            return outcome(Result.HANDLED, delivery)
        finally:
            self._in_flight -= 1
            if self._closing and not self._in_flight:
                self._idle.set()

    async def _failed(self, exc: Exception, expired: bool, delivery: Delivery, key: str, token: str) -> Outcome:
        if expired and isinstance(exc, TimeoutError):
            result = Result.TIMED_OUT
            logger.error("the handler of delivery %s was cancelled after %g s", delivery.id, self._handler_timeout)
        else:
            result = Result.FAILED
            logger.error("the handler of delivery %s failed", delivery.id, exc_info=exc)
        await self._release(delivery, key, token)
        return outcome(result, delivery, error=exc)

    async def _release(self, delivery: Delivery, key: str, token: str) -> None:
        await self._settle(self._inbox.release(key, token), delivery)

    async def _settle(self, work: Coroutine[object, object, object], delivery: Delivery) -> None:
        """See the inbox's last word through, also when this task is cancelled meanwhile."""

        async def bounded() -> None:
            try:
                async with asyncio.timeout(_SETTLE_TIMEOUT):
                    await work
            except Exception:
                logger.exception("the claim of delivery %s stays until its lease runs out", delivery.id)

        task = asyncio.create_task(bounded())
        cancelled: asyncio.CancelledError | None = None
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as exc:
                cancelled = exc
        if cancelled is not None:
            raise cancelled

    async def _read(self, chunks: AsyncGenerator[bytes], content_length: int | None) -> bytes:
        async with contextlib.aclosing(chunks):
            if self._closing:
                raise _RefusedError(Result.CLOSED)
            if content_length is not None and content_length > self._max_body_size:
                raise _RefusedError(Result.TOO_LARGE)
            body = bytearray()
            limit = asyncio.timeout(self._body_timeout)
            try:
                async with limit:
                    async for chunk in chunks:
                        body += chunk
                        if len(body) > self._max_body_size:
                            raise _RefusedError(Result.TOO_LARGE)
            except (TimeoutError, ConnectionError):
                raise _RefusedError(Result.ABORTED) from None
        return bytes(body)

    def _report(self, done: Outcome, started: float) -> Outcome:
        if self._on_delivery is not None:
            delivery = done.delivery
            event = DeliveryEvent(
                result=done.result,
                status=done.status,
                duration=time.perf_counter() - started,
                delivery_id=None if delivery is None else delivery.id,
                event_type_id=None if delivery is None else delivery.event_type_id,
                reason=done.reason,
            )
            call_hook(self._on_delivery, event)
        return done


class _RefusedError(Exception):
    """A request that is answered before its body was there."""

    def __init__(self, result: Result) -> None:
        super().__init__(result)
        self.result = result


def _closed(delivery: Delivery | None = None) -> Outcome:
    return outcome(Result.CLOSED, delivery, retry_after=_RETRY_SOON)
