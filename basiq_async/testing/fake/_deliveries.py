"""Deliveries of events to webhooks, attempted on Basiq's schedule. Each attempt is recorded."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from datetime import datetime, timedelta

import attrs

from ..._redaction.tracebacks import hide_parameters
from ..._work.limits import limit
from ..._work.tasks import cancelling
from ...errors import ConfigurationError
from ._endpoints import Endpoint, EndpointRoute, NoResponse, over_http_once, phrase
from ._faults import DeliveryFault, take_fault
from ._items import FakeAttempt, FakeEvent, FakeMessage, FakeWebhook
from ._logs import Changes, Misuses, Recent, size_of
from ._quirks import Quirks
from ._responses import Renderer, as_json, signed_headers
from ._rules import EndpointResult, end_of, is_over_after, next_due
from ._store import Store
from ._timeline import Cause, PlannedAttempt, Timeline

logger = logging.getLogger("basiq_async.testing")
ORIGIN = "https://au-api.basiq.io"
ACKNOWLEDGE_WITHIN = 30.0
AT_ONCE = 32
TOLERANCE = 300.0
"""The most seconds between a signature and the receiver's clock, by Basiq's page on security."""
QUICK = timedelta(seconds=1)
"""How fast a connection fails that is tried again at once."""


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


def _describe_inactive(webhook: FakeWebhook, now: datetime, quirks: Quirks) -> str:
    if webhook.disabled:
        way = "no update makes it active again" if quirks.update == "patches" else "an update makes it active again"
        return f"webhook {webhook.id} is disabled: {way}"
    left = (webhook.active_at - now).total_seconds()
    return f"webhook {webhook.id} is in its cool-off: fake.advance(seconds={left:g}) ends it"


class Deliveries:
    """Emits events, and delivers their messages when they are due.

    An attempt that was taken is always finished or given back, even after an error or a cancellation.
    """

    def __init__(self, store: Store, misuses: Misuses, changes: Changes, *, timeout: float) -> None:
        self._store = store
        self._misuses = misuses
        self._changes = changes
        self._timeout = timeout
        self.timeline = Timeline(store, self.attempt, self.wake)
        self._default = Outlet(over_http_once, ORIGIN, lambda: None)
        self.outlets: list[Outlet] = []
        """Those of the servers that run; all states of a fake share them."""
        self.routes: dict[str, EndpointRoute] = {}
        self.down: dict[str | None, int | None] = {}
        """The urls of endpoints that are down (None: all), with the status of their responses (None: no response)."""
        self.faults: list[DeliveryFault] = []
        self.attempts: Recent[DeliveredAttempt] = Recent(lambda item: size_of(item.headers, item.body, item.response))

    def emit(
        self,
        type_id: str,
        *,
        user_id: str | None = None,
        entity_id: str | None = None,
        data: dict[str, object] | None = None,
        webhooks: Iterable[FakeWebhook] | None = None,
        text: str | None = None,
        even_unsubscribed: bool = False,
    ) -> Emission:
        """Record an event, and a message for each active webhook that is subscribed to it."""
        now, app, ids, quirks = self._store.clock(), self._store.app, self._store.ids, self._store.quirks
        chosen = [
            webhook
            for webhook in (app.webhooks.values() if webhooks is None else webhooks)
            if even_unsubscribed or webhook.wants(type_id)
        ]
        active = [webhook for webhook in chosen if webhook.status(now) == "active"]
        current = self.timeline.current()
        cause = Cause() if current is None else current.cause
        if current is not None:
            cause.count(len(active))
        user_id = user_id or ids.uuid()
        if entity_id is None and type_id.startswith("transactions."):
            entity_id = app.connection_ids(user_id)[0]
        event = FakeEvent(ids.opaque(), type_id, user_id, entity_id or ids.uuid(), now, data)
        app.events.append(event)
        app.index(event)
        attempts: list[PlannedAttempt] = []
        shared = ids.uuid() if quirks.webhook_ids == "shared" else None
        for webhook in active:
            message = FakeMessage(shared or ids.uuid(), webhook.id, event, now, text)
            app.messages[webhook.id].append(message)
            attempts.append(PlannedAttempt(now, webhook, message, 1, False, cause))
        inactive = (webhook for webhook in chosen if webhook not in active)
        return self._plan(event, attempts, tuple(_describe_inactive(each, now, quirks) for each in inactive))

    def redeliver(self, webhook: FakeWebhook, message: FakeMessage) -> Emission:
        """Plan one more attempt to deliver a message, due now, whatever the results of the earlier attempts."""
        now, quirks = self._store.clock(), self._store.quirks
        if quirks.payloads == "expire-90d" and message.is_expired(now):
            return self._plan(message.event, [], (f"message {message.id} is expired: its payload is gone",))
        if quirks.resend == "instead":
            if webhook.disabled:
                return self._plan(message.event, [], (_describe_inactive(webhook, now, quirks),))
            self.timeline.drop(message)
            message.resent = True
        self._store.app.messages[webhook.id].keep(message)
        number = len(message.attempts) + 1
        planned = PlannedAttempt(now, webhook, message, number, True, Cause())
        return self._plan(message.event, [planned])

    def _plan(self, event: FakeEvent, attempts: Sequence[PlannedAttempt], not_sent: tuple[str, ...] = ()) -> Emission:
        for planned in attempts:
            self.timeline.plan(planned)
        self._changes.count()
        self.wake()
        message_ids = tuple(planned.message.id for planned in attempts)
        return Emission(event.id, message_ids, lambda: self.timeline.complete(attempts).__await__(), not_sent)

    # --- outlets ---

    @property
    def at_once(self) -> int:
        """How many deliveries a server has under way at once."""
        return self._store.quirks.concurrency or AT_ONCE

    @property
    def outlet(self) -> Outlet:
        """The outlet of the server that started last, or the default one."""
        return self.outlets[-1] if self.outlets else self._default

    def open(self, outlet: Outlet) -> None:
        self.outlets.append(outlet)
        outlet.wake()

    def close(self, outlet: Outlet) -> None:
        self.outlets.remove(outlet)
        self.wake()

    def wake(self) -> None:
        """Tell the servers that an attempt may be due."""
        for outlet in self.outlets:
            outlet.wake()

    # --- one attempt ---

    async def attempt(self, planned: PlannedAttempt, outlet: Outlet | None = None) -> None:
        """Make one attempt, in a task of its own. If it fails, plan the next one."""
        self.timeline.enter(planned)
        begun = planned.begun
        try:
            if self._is_wanted(planned):
                await self._deliver(planned, outlet or self.outlet)
            else:
                planned.end()
        finally:
            self.timeline.end(begun)
            self.wake()
            self._changes.count()

    def _is_wanted(self, planned: PlannedAttempt) -> bool:
        webhook = planned.webhook
        if self._store.app.webhooks.get(webhook.id) is not webhook:
            return False
        if planned.once:
            return True
        dropped = self._store.quirks.unsubscribed == "dropped" and not webhook.wants(planned.message.event.type_id)
        return not (webhook.disabled or (dropped and planned.number > 1))

    async def _deliver(self, planned: PlannedAttempt, outlet: Outlet) -> None:
        webhook, message = planned.webhook, planned.message
        started = self._store.clock()
        body = as_json(Renderer(outlet.base, Quirks()).payload(message))
        headers = {
            "content-type": "application/json",
            "user-agent": "Basiq-Webhooks (fake)",
            **signed_headers(webhook.keys(started), message.id, int(self._time_for(webhook.url)), body),
        }
        wrong: ConfigurationError | None = None
        try:
            end = await self._call(webhook.url, headers, body, outlet)
        except ConfigurationError as error:  # the route leads to no valid receiver
            end, wrong = EndpointResult(500, str(error)), error
        if planned.state == "over":
            return  # dropped meanwhile
        if outlet.closed and end.status is None:
            return  # the outlet closed its connections: the attempt is made again through the next one
        planned.end()
        self._record(planned, headers, body, started, end)
        ahead = started.timestamp() - int(headers["webhook-timestamp"])
        if end.status == 401 and abs(ahead) > TOLERANCE:
            logger.warning(
                "%s refused a delivery that has the machine's time. The fake's clock is %.0f s %s: a receiver that "
                "goes by it gets deliveries by fake.route, with by_clock=True for an application; over HTTP, and in "
                "another process, a receiver goes by the machine's clock",
                webhook.url,
                abs(ahead),
                "ahead" if ahead > 0 else "behind",
            )
        if wrong is not None:
            raise wrong

    def _record(
        self,
        planned: PlannedAttempt,
        headers: dict[str, str],
        body: bytes,
        started: datetime,
        end: EndpointResult,
    ) -> None:
        """Record an attempt and its misuses. If it failed, plan the next one, or disable the webhook."""
        webhook, message, event = planned.webhook, planned.message, planned.message.event
        store, ended = self._store, self._store.clock()
        duration = (ended - started).total_seconds()
        attempt = FakeAttempt(store.ids.opaque(5), webhook.url, end.text, end.status, started, end.ok, duration)
        message.attempts = (*message.attempts, attempt)
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
                end.status,
                end.text,
                end.ok,
                duration,
            )
        )
        if duration > ACKNOWLEDGE_WITHIN:
            self._misuses.add(
                "slow-acknowledgement",
                f"{webhook.url} took {duration:.0f} s to acknowledge {message.id}: respond first, work after",
            )
        if end.ok:
            webhook.exhausted_at = None
        if end.ok or planned.once or message.resent:
            return
        due = next_due(store.quirks, planned.number, end, started, ended, store.random)
        if due is not None:
            self.timeline.plan(PlannedAttempt(due, webhook, message, planned.number + 1, False, planned.cause))
        elif is_over_after(webhook, store.quirks, ended):
            if store.quirks.disables == "removed":
                store.remove_webhook(webhook)
            webhook.disabled = True

    def _time_for(self, url: str) -> float:
        """Return the time to sign with: the machine's, unless the receiver in this process follows the fake's clock."""
        route = self.routes.get(url)
        return self._store.clock().timestamp() if route is not None and route.by_clock else time.time()

    async def _call(self, url: str, headers: dict[str, str], body: bytes, outlet: Outlet) -> EndpointResult:
        down = [self.down[place] for place in (url, None) if place in self.down]
        fault = DeliveryFault(1, url, down[0], "request") if down else take_fault(self.faults, url)
        began = self._store.clock()
        end = await self._try(url, headers, body, outlet, fault)
        is_quick = end.status is None and not end.timed_out and self._store.clock() - began < QUICK
        if is_quick and self._store.quirks.failed_connection == "twice" and not outlet.closed:
            end = await self._try(url, headers, body, outlet, fault)
        return end

    async def _try(
        self, url: str, headers: dict[str, str], body: bytes, outlet: Outlet, fault: DeliveryFault | None
    ) -> EndpointResult:
        if fault is not None and fault.status is not None:
            return EndpointResult(fault.status, phrase(fault.status))
        if fault is not None and fault.drop == "request":
            return EndpointResult(None, "the connection failed: the endpoint is down")
        route = self.routes.get(url)
        endpoint = outlet.endpoint if route is None else route.endpoint
        too_late = NoResponse(f"no response within {self._timeout:g} s")

        def late() -> NoResponse:
            said = f"{url} did not acknowledge a delivery within {self._timeout:g} s"
            self._misuses.add("slow-acknowledgement", said)
            return too_late

        try:
            async with limit(self._timeout, late):
                response = await endpoint(url, headers, body)
        except NoResponse as error:
            return EndpointResult(None, str(error), timed_out=error is too_late)
        except ConfigurationError:
            raise
        except asyncio.CancelledError:
            if cancelling():
                raise  # this attempt was cancelled, not a task that the endpoint waited for
            return EndpointResult(None, "the endpoint was cancelled before it responded")
        except Exception as error:
            # An endpoint in this process that raises is like a server that responds with 500. Its error is only logged.
            logger.error("the endpoint %s raised", url, exc_info=hide_parameters(error))
            return EndpointResult(500, f"Internal Server Error: {type(error).__name__}")
        if fault is not None:
            return EndpointResult(None, "the response was lost")
        return end_of(response, self._store.quirks)
