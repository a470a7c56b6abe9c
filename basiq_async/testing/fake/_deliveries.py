"""Deliveries of events to webhooks, attempted on Basiq's schedule. Each attempt is recorded."""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from operator import attrgetter

import attrs

from ...errors import ConfigurationError
from ._endpoints import Endpoint, EndpointResponse, NoResponse, over_http_once, phrase
from ._faults import DeliveryFault, Outages
from ._recent import Changes, Recent, Violations, size_of
from ._records import Attempt, Event, Message, Webhook
from ._responses import Quirks, Renderer, as_json, signed_headers
from ._store import Application, Store
from .catalog import SCHEDULE

logger = logging.getLogger("basiq_async.testing")
ORIGIN = "https://au-api.basiq.io"
ACKNOWLEDGE_WITHIN = 30.0

# The number of the attempt that the current code runs in. That code may only wait for attempts that began later:
# two attempts that wait for each other would never end.
_innermost: ContextVar[int] = ContextVar("innermost attempt", default=0)


@attrs.frozen
class DeliveredAttempt:
    """One attempt to deliver a message to an endpoint: the request and the response.

    ``number`` counts from 1. ``status`` is None if no response was received. ``response`` is the beginning of the
    response's text, or a description of the error. ``at`` is on the fake's clock; ``duration`` is in seconds.
    """

    webhook_id: str
    message_id: str
    event_type_id: str
    event_id: str
    url: str
    headers: dict[str, str] = attrs.field(repr=False)
    body: bytes
    number: int
    at: datetime
    status: int | None
    response: str
    ok: bool
    duration: float


@attrs.define(order=True)
class PlannedAttempt:
    """An attempt that is due later, or is under way.

    begun: the attempt's number in the order of beginning; 0 before it begins.
    once: whether no further attempt follows if this one fails.
    """

    due: datetime
    serial: int
    app: Application = attrs.field(order=False)
    webhook: Webhook = attrs.field(order=False)
    message: Message = attrs.field(order=False)
    number: int = attrs.field(order=False)
    once: bool = attrs.field(order=False, default=False)
    begun: int = attrs.field(order=False, default=0)
    finished: bool = attrs.field(order=False, default=False)


@attrs.define(eq=False)
class Outlet:
    """The way out for deliveries: a function that calls an endpoint, and the base of the links in a delivery.

    closed: whether the outlet was closed. An attempt that fails then says nothing about the endpoint.
    """

    endpoint: Endpoint
    base: str
    wake: Callable[[], None]
    closed: bool = False


@attrs.frozen
class Emission:
    """A recorded event, and the ids of its messages, one for each webhook.

    Await it to make the first attempt of each message. Otherwise the next ``advance`` or the running server makes them.

    not_sent: a line for each subscribed webhook that got no message because it is not active, with the reason.
    """

    event_id: str
    message_ids: tuple[str, ...]
    _complete: Callable[[], Generator[object, None, None]] = attrs.field(repr=False, eq=False)
    not_sent: tuple[str, ...] = ()

    def __await__(self) -> Generator[object, None, Emission]:
        yield from self._complete()
        return self


def _describe_inactive(webhook: Webhook, now: datetime) -> str:
    if webhook.disabled:
        return f"webhook {webhook.id} is disabled: an update with its url makes it active again"
    left = (webhook.active_at - now).total_seconds()
    return f"webhook {webhook.id} is in its cool-off: fake.advance(seconds={left:g}) ends it"


class Deliveries:
    """Emits events, and delivers their messages when they are due.

    An attempt that was taken is always finished or given back, even after an error or a cancellation.
    """

    def __init__(
        self,
        store: Store,
        violations: Violations,
        changes: Changes,
        *,
        timeout: float,
        sign_at: Callable[[], float],
    ) -> None:
        self._store = store
        self._violations = violations
        self._changes = changes
        self._timeout = timeout
        self._sign_at = sign_at
        self._due: list[PlannedAttempt] = []
        self._serial = 0
        self._begun = 0
        self._forgotten = 0
        self._under_way: dict[int, PlannedAttempt] = {}
        self._waiting: set[asyncio.Future[None]] = set()
        self._advancing = 0
        self._default = Outlet(over_http_once, ORIGIN, lambda: None)
        self._outlets: list[Outlet] = []
        self.routes: dict[str, Endpoint] = {}
        self.outages = Outages()
        self.attempts: Recent[DeliveredAttempt] = Recent(lambda item: size_of(item.headers, item.body, item.response))

    # --- planned attempts ---

    def emit(
        self,
        app: Application,
        type_id: str,
        *,
        user_id: str | None = None,
        entity_id: str | None = None,
        data: dict[str, object] | None = None,
        webhooks: Iterable[Webhook] | None = None,
        text: str | None = None,
        even_unsubscribed: bool = False,
    ) -> Emission:
        """Record an event, and a message for each active webhook that is subscribed to it."""
        now = self._store.clock()
        event: Event = self._store.record_event(app, type_id, user_id, entity_id, data)
        attempts: list[PlannedAttempt] = []
        not_sent: list[str] = []
        for webhook in app.webhooks.values() if webhooks is None else webhooks:
            wanted = even_unsubscribed or type_id in webhook.events
            if not wanted:
                continue
            if webhook.status(now) == "active":
                message = self._store.record_message(app, webhook, event, text)
                attempts.append(self.schedule(app, webhook, message, 1, now))
            else:
                not_sent.append(_describe_inactive(webhook, now))
        self._changes.note()
        if attempts:
            self.wake()
        message_ids = tuple(planned.message.id for planned in attempts)
        return Emission(event.id, message_ids, lambda: self._complete(attempts).__await__(), tuple(not_sent))

    def redeliver(self, app: Application, webhook: Webhook, message: Message) -> Emission:
        """Plan one more attempt to deliver a message, due now, whatever the results of the earlier attempts."""
        app.messages[webhook.id].keep(message)
        number = len(message.attempts) + 1
        planned = self.schedule(app, webhook, message, number, self._store.clock(), once=True)
        self.wake()
        return Emission(message.event.id, (message.id,), lambda: self._complete([planned]).__await__())

    def schedule(
        self, app: Application, webhook: Webhook, message: Message, number: int, due: datetime, *, once: bool = False
    ) -> PlannedAttempt:
        self._serial += 1
        planned = PlannedAttempt(due, self._serial, app, webhook, message, number, once)
        heapq.heappush(self._due, planned)
        return planned

    def planned(self) -> Iterator[PlannedAttempt]:
        """Return the attempts that are due later or under way, in the order of their due times."""
        return iter(sorted([*self._due, *self._under_way.values()], key=_order))

    def next_due(self) -> datetime | None:
        """Return the time of the next attempt; None if none is planned."""
        return self._due[0].due if self._due else None

    def pending(self) -> int:
        """Return the number of attempts that are due later or under way."""
        return len(self._due) + len(self._under_way)

    def forget(self) -> None:
        """Drop all planned attempts, and ignore the results of attempts that are under way."""
        self._due.clear()
        self._forgotten = self._begun

    # --- outlets ---

    @property
    def outlet(self) -> Outlet:
        """The outlet of the server that started last, or the default one."""
        return self._outlets[-1] if self._outlets else self._default

    def open(self, outlet: Outlet) -> None:
        self._outlets.append(outlet)
        outlet.wake()

    def close(self, outlet: Outlet) -> None:
        outlet.closed = True
        self._outlets.remove(outlet)
        self.wake()

    def wake(self) -> None:
        """Tell the servers that an attempt may be due."""
        for outlet in self._outlets:
            outlet.wake()

    @contextmanager
    def advancing(self) -> Iterator[None]:
        """Hold the servers back while ``advance`` moves the clock: it makes the deliveries itself, in order."""
        self._advancing += 1
        try:
            yield
        finally:
            self._advancing -= 1
            if not self._advancing:
                self.wake()

    @property
    def is_advancing(self) -> bool:
        return self._advancing > 0

    def is_due(self) -> bool:
        """Return whether an attempt is due that a server has to make now."""
        return not self._advancing and bool(self._due) and self._due[0].due <= self._store.clock()

    def take_due(self) -> PlannedAttempt | None:
        """Take the next attempt that is due; None if none is. Pass it to ``attempt``, or at least to ``end``."""
        if not self._due or self._due[0].due > self._store.clock():
            return None
        planned = heapq.heappop(self._due)
        self._begun += 1
        planned.begun = self._begun
        self._under_way[planned.begun] = planned
        return planned

    def end(self, planned: PlannedAttempt) -> None:
        """Give an attempt back unless it is finished. May be called twice."""
        if self._under_way.pop(planned.begun, None) is None:
            return
        if not planned.finished and planned.begun > self._forgotten:
            heapq.heappush(self._due, planned)
            self.wake()
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    async def settle(self) -> None:
        """Make every attempt that is due now, and wait for attempts that other tasks are making.

        Within an attempt, it waits only for attempts that began later than that one.
        """
        mine = _innermost.get()
        while True:
            if (planned := self.take_due()) is not None:
                await self.attempt(planned)
            elif any(begun > mine for begun in self._under_way):
                await self._wait()
            else:
                return

    async def _complete(self, attempts: Sequence[PlannedAttempt]) -> None:
        """Make due attempts until all of these are finished. Wait for those that other tasks are making."""
        while not all(planned.finished for planned in attempts):
            if (planned := self.take_due()) is not None:
                await self.attempt(planned)
            elif any(planned.begun in self._under_way for planned in attempts):
                await self._wait()
            else:
                return  # dropped by a reset, or due again on a clock that went back

    async def _wait(self) -> None:
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        try:
            await waiting
        finally:
            self._waiting.discard(waiting)

    # --- one attempt ---

    async def attempt(self, planned: PlannedAttempt, outlet: Outlet | None = None) -> None:
        """Make one attempt. If it fails, plan the next one."""
        outer = _innermost.set(planned.begun)
        try:
            if planned.app.webhooks.get(planned.webhook.id) is planned.webhook and (
                planned.once or not planned.webhook.disabled
            ):
                await self._deliver(planned, outlet or self.outlet)
            else:
                planned.finished = True
        finally:
            _innermost.reset(outer)
            self.end(planned)
            self._changes.note()

    async def _deliver(self, planned: PlannedAttempt, outlet: Outlet) -> None:
        webhook, message = planned.webhook, planned.message
        started = self._store.clock()
        body = as_json(Renderer(outlet.base, Quirks()).payload(message))
        headers = {
            "content-type": "application/json",
            "user-agent": "Basiq-Webhooks (fake)",
            **signed_headers(webhook.key, message.id, int(self._sign_at()), body),
        }
        wrong: ConfigurationError | None = None
        try:
            status, text = await self._call(webhook.url, headers, body, outlet)
        except ConfigurationError as error:  # the route leads to no valid receiver
            status, text, wrong = 500, str(error), error
        if planned.begun <= self._forgotten:
            return
        if outlet.closed and status is None:
            return  # the outlet closed its connections: the attempt is made again through the next one
        duration = (self._store.clock() - started).total_seconds()
        ok = status is not None and 200 <= status <= 299
        attempt = Attempt(self._store.ids.opaque(5), webhook.url, text, status, started, ok, duration)
        message.attempts = (*message.attempts, attempt)
        event = message.event
        self.attempts.append(
            DeliveredAttempt(
                webhook.id,
                message.id,
                event.type_id,
                event.id,
                webhook.url,
                headers,
                body,
                planned.number,
                started,
                status,
                text,
                ok,
                duration,
            )
        )
        planned.finished = True
        if duration > ACKNOWLEDGE_WITHIN:
            self._violations.add(
                "slow-acknowledgement",
                f"{webhook.url} took {duration:.0f} s to acknowledge {message.id}: respond first, work after",
            )
        if not ok and not planned.once:
            self._plan_next(planned, started)
        if wrong is not None:
            raise wrong

    def _plan_next(self, planned: PlannedAttempt, started: datetime) -> None:
        if planned.number < len(SCHEDULE):
            self.schedule(
                planned.app, planned.webhook, planned.message, planned.number + 1, started + SCHEDULE[planned.number]
            )
            self.wake()
        else:
            planned.webhook.disabled = True

    async def _call(self, url: str, headers: dict[str, str], body: bytes, outlet: Outlet) -> tuple[int | None, str]:
        fault = self.outages.take(url)
        if fault is not None and fault.drop != "response":
            return _failure(fault)
        endpoint = self.routes.get(url, outlet.endpoint)
        cancellations = _cancellations()
        try:
            async with asyncio.timeout(self._timeout):
                response: EndpointResponse = await endpoint(url, headers, body)
        except TimeoutError:
            self._violations.add(
                "slow-acknowledgement", f"{url} did not acknowledge a delivery within {self._timeout:g} s"
            )
            return None, f"no response within {self._timeout:g} s"
        except NoResponse as error:
            return None, str(error)
        except ConfigurationError:
            raise
        except asyncio.CancelledError:
            if _cancellations() > cancellations:
                raise  # this attempt was cancelled, not a task that the endpoint waited for
            return None, "the endpoint was cancelled before it responded"
        except Exception as error:
            # An endpoint in this process that raises is like a server that responds with 500. Its error is only logged.
            logger.exception("the endpoint %s raised", url)
            return 500, f"Internal Server Error: {type(error).__name__}"
        return (response.status, response.text) if fault is None else (None, "the response was lost")

    def recent(self) -> Sequence[DeliveredAttempt]:
        """Return the latest attempts, oldest first."""
        return tuple(self.attempts)


def _cancellations() -> int:
    """Return the number of pending cancellations of the current task."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


_order = attrgetter("due", "serial")


def _failure(fault: DeliveryFault) -> tuple[int | None, str]:
    if fault.status is None:
        return None, "the connection failed: the endpoint is down"
    return fault.status, phrase(fault.status)
