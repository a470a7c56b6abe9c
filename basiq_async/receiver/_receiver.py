"""The receiver: it verifies a delivery, reads it, passes it to its handler, and responds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from .._arguments import Duration, EventTypePattern, check_seconds, check_whole, read_webhook_ids, warn_of_unknown_types
from .._redaction.tracebacks import hide_arguments
from .._signing.signature import TOLERANCE, Headers, check_body
from .._work.clock import TimeSource, in_seconds
from .._work.gate import Gate
from .._work.inbox_calls import InboxCalls
from .._work.protocol import ClaimedEntry, Inbox, InboxEntry, TransactionalInbox, Waiting
from .._work.store_use import may_work
from ..errors import ConfigurationError
from ..hooks import call_hook, chain_hooks
from ._asgi import ASGIApp, check_path, make_fastapi_router
from ._attempts import PATIENCE
from ._backlog import Backlog, check_deferrable
from ._delivery import Delivery
from ._dispatcher import Dispatcher
from ._lifecycle import Lifecycle, check_inbox
from ._outcome import RETRY_SOON, OnDelivery, Outcome, event_of, log_fields, shorten
from ._quarantine import Quarantine
from ._readiness import Readiness
from ._requests import RequestReader
from ._results import Result
from ._routes import AnyHandler, Prepare, Register, Routes, check_patterns
from ._secrets import AnySecrets, Secrets
from ._settings import Deferred, ReceiverSettings
from ._worker import DeferredWorker
from .inboxes._memory import MemoryInbox

if TYPE_CHECKING:
    from aiohttp import web
    from fastapi import APIRouter


logger = logging.getLogger("basiq_async.receiver")

H = TypeVar("H", bound=AnyHandler)
P = TypeVar("P")
Around = Callable[[Delivery, Coroutine[Any, Any, Outcome]], Coroutine[Any, Any, Outcome]]
"""A wrapper by which an observer, such as OpenTelemetry, awaits the work on a delivery."""


class WebhookReceiver:
    """Receives Basiq's webhooks: passes each genuine delivery to one handler, and responds in time.

    What its inbox knows is not handled again: ``docs/guarantees.md`` lists each case in which a handler runs twice.

    .. code-block:: python

        receiver = WebhookReceiver(secret, webhook_id=webhook_id, inbox=SQLiteInbox("inbox.db"))

        @receiver.on("consent.*")
        async def consent_changed(delivery: Delivery) -> None: ...

        receiver.setup(app, "/basiq", own_inbox=True)      # or receiver.fastapi_router, .asgi, or .handle()

    Only the handler with the most specific pattern runs: the exact type, else the longest beginning, else ``*``. One
    delivery has one handler and one result, so a second handler's failure cannot make the first one run twice.

    It responds with a 2xx to what was handled, now or before, and to a type without a handler; with a 4xx to what is
    not genuine, not fresh, too large or unreadable; with 500 if the handler raised or took longer than
    ``handler_timeout``; and with 503 and Retry-After if another worker holds the delivery, the inbox failed, or the
    receiver is closing. ``Result`` lists all. Basiq sends a delivery again if its response was not a 2xx (the vendor's
    page on the delivery schedule).

    secret: one secret, or several while a new one replaces an old one. A ``SecretFile``, another ``SecretStore``, or an
        async function that returns the secrets, is read at the start, and again when a signature does not fit, at most
        once a second. If that fails, the secrets that were there stay.
    webhook_id: the id of the webhook whose events it handles; or those of several webhooks of this service, in any
        order. A text may hold several ids with commas. Only a ``MemoryInbox`` that no other receiver or replay shares
        needs none. The inbox notes them. It refuses a receiver whose webhooks it has not noted; a list that holds one
        that it has noted adds the others.
    inbox: remembers the handled events of one service, by the ids of the events, whichever webhook delivered them; a
        ``MemoryInbox`` by default. The caller closes it, or says ``own_inbox``.
    quarantine_after: after this many failures a delivery is quarantined with its body and error, and acknowledged.
        Without it, Basiq may disable a webhook whose handler always fails for one event. With None, the default, only
        an event that kills its processes is quarantined. The inbox counts the failures of all processes.
    lease: seconds for which a delivery is reserved for its handler. If the worker dies, no other worker can handle
        the delivery until the lease ends. By default ``handler_timeout``, twice ``inbox_timeout``, and 10 s more.
    deferred: whether handlers work after the response, unless ``on`` says otherwise. A delivery is then stored, and
        acknowledged with 202. It needs a ``SQLInbox`` or ``SQLiteInbox``; for a test, pass ``inbox=MemoryInbox()``.
        ``Deferred(...)`` sets its limits. See the page "Work after the acknowledgement".
    on_delivery: called with a ``DeliveryEvent`` for each response, and for each attempt at a deferred delivery.
    clock: returns the time as an aware datetime; None is for the system's clock.

    ``async with receiver`` starts the receiver, and logs an error if its inbox cannot be used. It may be entered
    several times, for example by a lifespan of yours and by that of ``fastapi_router``: the last exit closes it. A
    closed receiver cannot be started again.

    A receiver serves one event loop at a time. Handlers' exceptions and refused deliveries are logged to
    ``basiq_async.receiver``. Raises ``ConfigurationError`` for arguments that cannot be right.
    """

    @hide_arguments
    def __init__(
        self,
        secret: AnySecrets,
        *,
        webhook_id: str | Sequence[str] | None = None,
        inbox: Inbox | None = None,
        tolerance: Duration = TOLERANCE,
        max_body_size: int = 1_048_576,
        handler_timeout: Duration = 10.0,
        body_timeout: Duration = 10.0,
        inbox_timeout: Duration = 5.0,
        lease: Duration | None = None,
        quarantine_after: int | None = None,
        deferred: bool | Deferred = False,
        on_delivery: OnDelivery | None = None,
        clock: TimeSource | None = None,
    ) -> None:
        self._clock, self._time_source = in_seconds(clock), clock
        secrets = self._secrets = Secrets(secret, clock=self._clock)
        settings = ReceiverSettings.check(
            handler_timeout=handler_timeout,
            inbox_timeout=inbox_timeout,
            lease=lease,
            quarantine_after=quarantine_after,
            deferred=deferred,
        )
        self._webhook_ids = () if webhook_id is None else read_webhook_ids(webhook_id)
        self._inbox: Inbox = MemoryInbox(clock=clock) if inbox is None else inbox
        check_inbox(self._inbox, secrets, self._webhook_ids)
        calls = self._calls = InboxCalls(self._inbox, settings.inbox_timeout)
        gate = self._gate = Gate(calls, self._webhook_ids, live=self._live, patterns=lambda: self._routes.patterns)
        self._on_delivery = on_delivery
        self._around: Around | None = None
        self._requests = RequestReader(
            secrets,
            tolerance=tolerance,
            max_body_size=max_body_size,
            body_timeout=body_timeout,
            clock=self._clock,
        )
        self._routes = Routes(sessions=isinstance(self._inbox, TransactionalInbox))
        # The inbox goes by its own clock, unless the receiver was given one.
        moment = (lambda: None) if clock is None else (lambda: datetime.fromtimestamp(self._clock(), UTC))
        self._dispatcher = Dispatcher(self._routes, self._inbox, settings, clock=self._clock, moment=moment)
        self._has_inbox = inbox is not None
        self._most_sessions: int | None = getattr(self._inbox, "most_sessions", None)
        self._deferred = settings.is_deferred
        self._backlog = Backlog(
            calls,
            settings,
            clock=self._clock,
            moment=moment,
            outages=self._dispatcher.outages,
        )
        self._lifecycle = Lifecycle(calls, gate, self._dispatcher.leave_traces)
        self._worker = DeferredWorker(
            self._backlog,
            gate,
            self._lifecycle,
            self._handle_deferred,
            self.accepts_type,
            self._count_at_once,
            self._dispatcher.deferred_units.owed,
        )
        if settings.is_deferred:
            check_deferrable(self._inbox, given=self._has_inbox)
        self._quarantine = Quarantine(calls)
        self._readiness = Readiness(calls, gate, secrets)
        self._asgi = ASGIApp(self, self._lifecycle.own_inbox)

    def __repr__(self) -> str:
        state = "closed" if self._lifecycle.closed else f"{self._dispatcher.in_flight} in flight"
        return f"<WebhookReceiver: {len(self._routes)} patterns, {state}>"

    @property
    def inbox(self) -> Inbox:
        """The inbox, which remembers the events that were handled."""
        return self._inbox

    @property
    def webhook_ids(self) -> tuple[str, ...]:
        """The webhooks of this service, as they were passed; none for a receiver in memory without an id."""
        return self._webhook_ids

    @property
    def unhandled(self) -> dict[str, int]:
        """The number of deliveries received of each event type that has no handler, for at most 256 types."""
        return self._dispatcher.unhandled

    @property
    def patterns(self) -> tuple[str, ...]:
        """The patterns that handlers are registered for, as they were passed to ``on``."""
        return self._routes.patterns

    def accepts_type(self, event_type_id: str) -> bool:
        """Return whether a handler is registered for an event type."""
        return self._routes.find(event_type_id) is not None

    async def sign(self, message_id: str, timestamp: datetime, body: bytes) -> dict[str, str]:
        """Return the headers of a delivery, signed with this receiver's secrets, for a test of your endpoint.

        Raises ``ConfigurationError`` for an invalid argument, and if the secrets cannot be read.
        """
        await self._secrets.begin()
        return self._secrets.keys_to_sign().headers(message_id, timestamp, body)

    @overload
    def on(self, *event_types: EventTypePattern, deferred: bool | None = None) -> Callable[[H], H]: ...

    @overload
    def on(
        self,
        *event_types: EventTypePattern,
        prepare: Callable[[Delivery], Awaitable[P]],
        deferred: bool | None = None,
    ) -> Register[P]: ...

    def on(
        self, *event_types: EventTypePattern, prepare: Prepare | None = None, deferred: bool | None = None
    ) -> Callable[[Any], Any]:
        """Register an async handler for event types: a type, a beginning such as ``consent.*``, or ``*`` for all.

        The handler is called with the delivery. If the inbox has transactions, as ``SQLInbox`` has, the handler may
        have a second parameter, the session: its writes with the session commit together with the inbox's entry, or
        not at all.

        ``prepare`` is an async function of the delivery, awaited before the handler. The handler gets what it returns,
        as its argument ``prepared``. For a handler with a session it runs before the transaction begins, so that a
        read of Basiq's API holds no connection; each of the two has ``handler_timeout`` seconds.

        ``deferred``: whether the handler works after the response; None is for what the receiver was made with. A
        deferred handler runs while the receiver is open, in this process or another: see ``work``.

        Warns (``UnknownEventTypeWarning``) of a type that Basiq does not document: it is misspelled or new.

        Raises ``ConfigurationError`` for a handler that is not async or has other parameters, for a text that is not
        a pattern, for a second handler of the same pattern, and for a deferred one with an inbox that may lose it.
        """
        deferred = self._deferred if deferred is None else deferred
        if deferred:
            check_deferrable(self._inbox, given=self._has_inbox)
            self._backlog.used = True

        def register(handler: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
            self._routes.add(event_types, handler, prepare, deferred=deferred)
            return handler

        check_patterns(event_types)
        warn_of_unknown_types(event_types, stacklevel=3)
        return register

    async def handle(self, headers: Headers, body: bytes) -> Outcome:
        """Verify and read one request, hand it to its handler, and return the outcome. No request makes it raise.

        ``headers`` is a mapping with names in any case, a multidict, or pairs of str or bytes; ``body`` is
        the raw bytes. Respond with the outcome's ``status`` and ``headers``, and no body.

        Cancelling this call cancels the handler, and the claim is given back before the call ends. Raises
        ``ConfigurationError`` for a body that is not bytes, and if another thread's event loop uses the receiver.
        """
        started = time.perf_counter()
        if asyncio.get_running_loop() is not self._lifecycle.loop or type(body) is not bytes:
            try:
                self._lifecycle.join_loop()
                body = check_body(body)
            except ConfigurationError:
                del headers, body  # error reporters show local variables
                raise
        if self._lifecycle.closed:
            return self._report(self._closed(), started)
        delivery = await self._requests.read(headers, body)
        done = delivery if isinstance(delivery, Outcome) else await self._receive(delivery)
        return done if self._on_delivery is None else self._report(done, started)

    async def handle_stream(
        self,
        headers: Headers,
        chunks: AsyncGenerator[bytes],
        *,
        content_length: int | None = None,
        content_encoding: str | None = None,
    ) -> Outcome:
        """Handle one request as ``handle`` does, but read its body from ``chunks``.

        The body is read only after the headers have passed every check that needs no body. ``chunks`` is always
        closed; it may raise ``ConnectionError`` for a body that breaks off. If the body was not read to its end, close
        the connection after the response.
        """
        started = time.perf_counter()
        self._lifecycle.join_loop()
        delivery: Delivery | Outcome | None = None
        async with contextlib.aclosing(chunks):
            if not self._lifecycle.closed:
                delivery = await self._requests.read_stream(headers, chunks, content_length, content_encoding)
        if delivery is None or (self._lifecycle.closed and not isinstance(delivery, Outcome)):
            delivery = self._closed()
        done = delivery if isinstance(delivery, Outcome) else await self._receive(delivery)
        return self._report(done, started)

    async def dispatch(
        self, delivery: Delivery, *, patience: Duration = PATIENCE, can_be_alone: bool = True
    ) -> Outcome:
        """Hand a delivery to its handler without checking a signature, unless the event was handled before.

        The inbox, the handlers and the outcomes are the same as for a delivery by HTTP, but no handler is deferred. A
        replay uses this method.
        ``patience`` is the number of seconds to wait for another worker that is handling the event.
        ``can_be_alone``: whether to handle an event though an attempt before had no end, because its process was
        killed; else the outcome is ``Result.BUSY`` with the reason "alone".
        """
        started = time.perf_counter()
        self._lifecycle.join_loop()
        await self._secrets.begin()
        patience = check_seconds("patience", patience, from_zero=True)
        done = (
            self._closed(delivery)
            if self._lifecycle.closed
            else await self._find_refusal(delivery, live=False)
            or await self._observed(
                delivery,
                self._dispatcher.dispatch(delivery, patience=patience, live=False, can_be_alone=can_be_alone),
            )
        )
        if done.result is Result.BUSY and self._lifecycle.closed:  # it was closed while this delivery waited
            done = self._closed(delivery)
        return self._report(done, started)

    @property
    def clock(self) -> TimeSource | None:
        """The clock that the receiver was given; None for the system's."""
        return self._time_source

    @property
    def aiohttp_handler(self) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """A handler for ``aiohttp.web``: ``app.router.add_post("/basiq", receiver.aiohttp_handler)``."""
        from ._aiohttp import make_handler  # an aiohttp server has it loaded by now

        return make_handler(self)

    @property
    def asgi(self) -> ASGIApp:
        """An ASGI app: serve it alone, mount it, or make it the endpoint of a route of Starlette or FastAPI.

        Served alone, it closes the receiver when the server shuts down; ``asgi.with_own_inbox()`` closes the inbox too.
        """
        return self._asgi

    async def is_ready(self) -> bool:
        """Return whether deliveries can be handled: the receiver is open, and its inbox works. For a readiness probe.

        The inbox is asked once a second at most, so a flood of probes takes nothing from deliveries. The reason of a
        False is logged. Do not use it for liveness: a restart mends no database.
        """
        return not self._lifecycle.closed and await self._readiness.ask()

    async def quarantined(self, *, after: InboxEntry | None = None, limit: int = 100) -> Sequence[InboxEntry]:
        """Return the oldest ``limit`` quarantined deliveries, or the next ones after ``after``.

        Raises ``InboxError``, or the error of an inbox from elsewhere.
        """
        self._lifecycle.join_loop()
        check_whole("limit", limit, least=1)
        return await self._calls.first_quarantined(limit, after=after)

    async def retry_quarantined(self, ids: Iterable[str] | None = None) -> Sequence[Outcome]:
        """Hand quarantined deliveries to their handlers again, one after the other, oldest first.

        ``ids`` are those of deliveries or events; None is for all. A delivery leaves the quarantine when it is handled,
        and for no other reason. It stays if its handler fails (``quarantined``), if its type has no handler
        (``ignored``), if another worker holds it (``busy``), if it still cannot be read (``unreadable``), and if it is
        in Redis and no receiver with these secrets stored it (``rejected``). ``duplicate`` is one that was handled
        meanwhile. What a job quarantined is handed to the handlers in the same way.

        Returns the outcome of each. Raises ``InboxError``, or the error of an inbox from elsewhere.
        """
        self._lifecycle.join_loop()
        await self._gate.ask()

        async def handle(entry: InboxEntry) -> Outcome | None:
            return None if self._lifecycle.closed else await self._retry(entry)

        return await self._quarantine.retry(ids, handle)

    async def waiting(self) -> Waiting:
        """Return how many deferred deliveries wait in the inbox, and the age of the oldest.

        Raises ``ConfigurationError`` for an inbox that keeps none, and ``InboxError``.
        """
        self._lifecycle.join_loop()
        return await self._backlog.waiting()

    async def retry_waiting(self, ids: Iterable[str] | None = None) -> Sequence[Outcome]:
        """Pass deferred deliveries that wait to their handlers now, though they are not due, one after the other.

        ``ids`` are those of deliveries or events; None is for all. What is handled waits no more. What fails waits as
        before, and what another worker handles is ``busy``.

        Returns the outcome of each, oldest first. Raises ``InboxError``, or the error of an inbox from elsewhere.
        """
        self._lifecycle.join_loop()
        await self._gate.ask()

        async def handle(entry: InboxEntry) -> Outcome | None:
            if self._lifecycle.closed:
                return None
            started, delivery = time.perf_counter(), self._quarantine.read(entry)
            if isinstance(delivery, Delivery):
                delivery = await self._observed(delivery, self._dispatcher.dispatch(delivery, live=False))
            return self._report(delivery, started, deferred=True)

        return await self._quarantine.retry(ids, handle, waiting=True)

    async def work(self, *, until_empty: bool = False) -> None:
        """Handle deferred deliveries until ``aclose``, or until it is cancelled: for a process that does only this.

        ``until_empty``: only until nothing is due, as a job that runs now and then. What failed and is tried again
        later is not due. A receiver that is entered works anyway. Raises ``ConfigurationError`` for an inbox that keeps
        no deliveries, and with ``until_empty`` the error of an inbox that is away.
        """
        if not self._calls.can_wait:
            await self._backlog.waiting()
        token = may_work.set(may_work.get() and not until_empty)
        try:
            async with self:
                await self._worker.work(until_empty=until_empty)
        finally:
            may_work.reset(token)

    async def _retry(self, entry: InboxEntry) -> Outcome:
        started = time.perf_counter()
        return self._report(await self._quarantine.retry_one(entry, self._dispatch, self._retry_entry), started)

    async def drop_quarantined(self, ids: Iterable[str]) -> int:
        """Remove deliveries from the quarantine, by the ids of deliveries or events; they stay recorded as handled.

        Returns the number removed. Raises ``InboxError``, or the error of an inbox from elsewhere; also for a delivery
        that another worker is handling.
        """
        self._lifecycle.join_loop()
        await self._gate.ask()
        return await self._quarantine.drop(ids)

    async def forget(self, user_id: str) -> int:
        """Remove what the quarantine keeps of one user, and return how many entries. A service has one inbox.

        An entry goes if its body or the text of its error names the user, in any escaping. The events stay recorded as
        handled. What waits for a deferred handler stays: if it names the user, ``InboxError`` says how many wait.

        Raises ``ConfigurationError`` for an empty id, ``InboxError``, or the error of an inbox from elsewhere.
        """
        self._lifecycle.join_loop()
        await self._gate.ask()
        return await self._quarantine.forget(user_id)

    def setup(self, app: web.Application, path: str = "/basiq", *, own_inbox: bool = False) -> None:
        """Serve ``path`` of an ``aiohttp.web`` application, and close the receiver when the application shuts down.

        Shutdown comes before the application's cleanup, so the last handler ends before ``cleanup_ctx`` closes the
        inbox and other resources. With ``own_inbox``, the receiver closes its inbox too, after the last handler.
        """

        from ._aiohttp import serve

        serve(self, app, check_path(path))
        self._lifecycle.own_inbox(own_inbox)

    def fastapi_router(
        self, path: str = "/basiq", *, tags: list[str] | None = None, own_inbox: bool = False
    ) -> APIRouter:
        """Return a router for ``app.include_router``: the route, its OpenAPI description, and a lifespan.

        The signature is checked over the raw bytes, before anything is parsed. The router's lifespan closes the
        receiver when the application shuts down, before the application's own lifespan ends. With ``own_inbox``, the
        receiver closes its inbox too, after the last handler. Raises ``ConfigurationError`` if FastAPI is not
        installed.
        """
        router = make_fastapi_router(self, check_path(path), tags)
        self._lifecycle.own_inbox(own_inbox)
        return router

    async def aclose(self) -> None:
        """Refuse new deliveries (503 with Retry-After), and wait until the deliveries under way have ended.

        Deferred handlers that run have ``handler_timeout`` seconds to end; what they do not end waits in the inbox.
        This lasts at most twice ``handler_timeout`` plus the time limits of the inbox. If a handler does not end when
        it is cancelled, or left a task running, it lasts at most ``lease`` seconds more.
        """
        self._lifecycle.closed = True
        try:
            await self._worker.stop(self._dispatcher.handler_timeout)
            await self._dispatcher.drain()
        finally:
            await self._secrets.aclose()
            await self._lifecycle.close_own_inbox()

    async def __aenter__(self) -> Self:
        await self._secrets.begin()
        await self._lifecycle.enter()
        if self._lifecycle.works:
            self._worker.begin()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._lifecycle.leave():
            await self.aclose()

    def _receive(self, delivery: Delivery, *, admitted: bool = False) -> Coroutine[Any, Any, Outcome]:
        """Pass a delivery that Basiq sent to its handler, or store it for later."""
        if not (admitted or (self._gate.is_open() and self._lifecycle.has_begun)):
            return self._ask_and_receive(delivery)
        route = self._routes.find(delivery.event_type_id) if self._backlog.used else None
        is_deferred = route is not None and route.deferred
        work = self._store(delivery) if is_deferred else self._dispatcher.dispatch(delivery)
        return work if self._around is None else self._around(delivery, work)

    async def _ask_and_receive(self, delivery: Delivery) -> Outcome:
        """Do the same, if the inbox admits the webhooks of this receiver."""
        return await self._find_refusal(delivery, live=True) or await self._receive(delivery, admitted=True)

    async def _find_refusal(self, delivery: Delivery, *, live: bool) -> Outcome | None:
        """Return the outcome of a delivery whose webhook the inbox does not admit; None if it does."""
        try:
            await self._gate.ask(live=live)
            if live:  # a job notes its own use, and its end
                await self._lifecycle.begin_use()
        except Exception as exc:
            text = "was refused, because the inbox does not admit the webhooks of this receiver"
            self._dispatcher.outages.report(shorten(delivery.id), text, exc, log_fields(delivery, error=exc))
            return Outcome(Result.UNAVAILABLE, delivery, error=exc, retry_after=RETRY_SOON)
        return None

    def _live(self) -> datetime | None:
        """Return the present time: since then the inbox has live deliveries. None in a command that only looks."""
        return datetime.fromtimestamp(self._clock(), UTC) if may_work.get() else None

    async def _store(self, delivery: Delivery) -> Outcome:
        done = await self._backlog.store(delivery)
        if done.result is Result.DEFERRED:
            self._lifecycle.log_unhandled()
            self._worker.tell_stored()
        return done

    def _count_at_once(self) -> int:
        """Return how many deferred deliveries may be worked on at once: live handlers keep half of the sessions."""
        concurrency = self._backlog.settings.concurrency
        if self._most_sessions is None or not self._routes.defer_sessions:
            return concurrency
        return min(concurrency, max(1, self._most_sessions // 2))

    async def _handle_deferred(self, delivery: Delivery, claimed: ClaimedEntry) -> Outcome:
        started = time.perf_counter()
        work = self._dispatcher.handle_deferred(delivery, claimed)
        return self._report(await self._observed(delivery, work), started, deferred=True)

    def _dispatch(self, delivery: Delivery) -> Coroutine[Any, Any, Outcome]:
        return self._observed(delivery, self._dispatcher.dispatch(delivery))

    def _retry_entry(self, delivery: Delivery, entry: InboxEntry) -> Coroutine[Any, Any, Outcome]:
        return self._observed(delivery, self._dispatcher.retry(delivery, entry))

    def _observed(self, delivery: Delivery, work: Coroutine[Any, Any, Outcome]) -> Coroutine[Any, Any, Outcome]:
        return work if self._around is None else self._around(delivery, work)

    def _observe(
        self,
        around: Around,
        on_delivery: OnDelivery,
        on_count: Callable[[Waiting], None],
        quarantine_changed: Callable[[], Awaitable[None]],
    ) -> None:
        """Let an observer await the work on each delivery, and hear of the others."""
        self._around = around
        self._add_hook(on_delivery)
        self._backlog.on_count = on_count
        self._quarantine.changed = quarantine_changed

    def _add_hook(self, on_delivery: OnDelivery) -> None:
        """Add a hook, called after the one that was passed to the constructor."""
        self._on_delivery = chain_hooks(self._on_delivery, on_delivery)

    def _closed(self, delivery: Delivery | None = None) -> Outcome:
        self._lifecycle.log_closed()
        return Outcome(Result.CLOSED, delivery, retry_after=RETRY_SOON)

    def _report(self, done: Outcome, started: float, *, deferred: bool = False) -> Outcome:
        if self._on_delivery is not None:
            event = event_of(done, time.perf_counter() - started, self._clock(), deferred=deferred)
            call_hook(self._on_delivery, event)
        return done
