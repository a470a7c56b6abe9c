"""``FakeBasiq``: a Basiq in memory, with its own clock and repeatable results."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Self

import attrs

from ...errors import ConfigurationError, ConnectionFailedError
from ...transports.base import Request, Response
from ._clock import LATEST, Clock, ManualClock, MovableClock
from ._deliveries import Emission
from ._inspect import DEFAULT_API_KEY
from ._logs import RequestRecord
from ._operations import Call, find_operation
from ._responses import Quirks, Refusal, Renderer, error_response
from ._seeded import IdFactory
from ._states import States
from ._store import Store, make_applications
from ._timeline import Timeline
from .catalog import EVENT_TYPES

_LONGEST_COOL_OFF = 10 * 365 * 86_400


@attrs.frozen
class Exchange:
    """The outcome of one request, which a transport or a server carries out.

    After ``delay`` seconds, ``response`` is sent; if it is None, the connection is dropped. ``record`` is the request's
    entry in the log.
    """

    response: Response | None
    delay: float
    record: RequestRecord = attrs.field(repr=False, eq=False)


class FakeBasiq(States):
    """A fake Basiq for tests: it responds to requests, emits events, and delivers webhooks on its own clock.

    clock: a callable that returns the time as an aware datetime. By default a ``ManualClock``, which stands still
        until ``advance`` moves it.
    api_keys: the accepted keys, or a mapping from keys to names of applications. Each key belongs to a separate
        application, which sees nothing of the others. By default only ``DEFAULT_API_KEY``.
    page_size: maximum number of items in a response, even if ``limit`` asks for more.
    cool_off: how long a new webhook is ``pending-approval``, a timedelta or seconds; 15 minutes by default.
    quirks: the form of responses where Basiq's own sources contradict each other.
    seed: determines identifiers and seeded histories: the same seed gives the same values. By default it is random, so
        a store that outlives the fake never sees an id twice. The attribute ``seed`` returns it. Secrets and tokens are
        always new, so nobody who knows the seed knows them.
    event_types: more event types, each with its description, in addition to today's fifteen. Use them to test how your
        service handles an unknown type.
    latency: the duration of each response, in seconds.
    delivery_timeout: the seconds in which an endpoint must respond.
    """

    DEFAULT_API_KEY = DEFAULT_API_KEY
    """Base64 of ``fake-application:not-a-real-key``."""

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        api_keys: Mapping[str, str] | Iterable[str] | None = None,
        page_size: int = 500,
        cool_off: timedelta | float = timedelta(minutes=15),
        quirks: Quirks | None = None,
        seed: int | str | None = None,
        event_types: Mapping[str, str] | None = None,
        latency: float = 0.0,
        delivery_timeout: float = 30.0,
    ) -> None:
        if not 1 <= page_size <= 500:
            raise ConfigurationError(f"page_size must be from 1 to 500, not {page_size!r}")
        if not 0 < delivery_timeout < math.inf:
            raise ConfigurationError(f"delivery_timeout must be a number of seconds above 0, not {delivery_timeout!r}")
        if not 0 <= latency < math.inf:
            raise ConfigurationError(f"latency must be a number of seconds from 0, not {latency!r}")
        seconds = cool_off.total_seconds() if isinstance(cool_off, timedelta) else cool_off
        if not 0 <= seconds <= _LONGEST_COOL_OFF:
            raise ConfigurationError(f"cool_off must be from 0 seconds to 10 years, not {cool_off!r}")
        keys = [(self.DEFAULT_API_KEY, None)] if api_keys is None else _keys(api_keys)
        if not keys:
            raise ConfigurationError("api_keys is empty: pass at least one key for the fake to accept")
        if seed is None:
            seed = secrets.token_hex(8)
        self._settings: dict[str, Any] = {
            "page_size": page_size,
            "cool_off": cool_off,
            "quirks": quirks,
            "event_types": event_types,
            "latency": latency,
            "delivery_timeout": delivery_timeout,
        }
        store = Store(
            ManualClock() if clock is None else clock,
            IdFactory(seed),
            seed,
            quirks or Quirks(),
            page_size,
            timedelta(seconds=seconds),
            {**EVENT_TYPES, **(event_types or {})},
            make_applications(keys),
        )
        super().__init__(store, delivery_timeout)
        self._received = 0
        self._latency = latency

    def __repr__(self) -> str:
        return f"<FakeBasiq at {self.clock().isoformat()}, {sum(1 for _ in self._store.each())} webhooks>"

    @property
    def api_key(self) -> str:
        """The first of the accepted API keys."""
        return next(iter(self._store.applications))

    @property
    def seed(self) -> int | str:
        """The seed of the identifiers. ``FakeBasiq(seed=...)`` repeats them."""
        return self._store.seed

    @property
    def quirks(self) -> Quirks:
        """The form of responses. Set it to change the form of later responses."""
        return self._store.quirks

    @quirks.setter
    def quirks(self, quirks: Quirks) -> None:
        self._store.quirks = self._settings["quirks"] = quirks

    def find_state(self, authorization: str) -> Self | None:
        """Return the state to which the API key or token in an ``Authorization`` header belongs; None if unknown."""
        scheme, _, text = authorization.partition(" ")
        by_key = scheme.lower() == "basic"
        for state in (self, *self._states.values()):
            if text in state._store.applications if by_key else state._tokens.is_known(text):
                return state
        return None

    def _make_state(self, api_key: str, seed: int | str | None, clock: Clock) -> Self:
        return type(self)(api_keys=[api_key], seed=seed, clock=clock, **self._settings)

    # --- responding ---

    def handle(self, request: Request, *, prefix: str = "") -> Response:
        """Return the response to one request, without the delay that a fault asks for.

        prefix: the path under which the API is mounted, such as ``/basiq``.

        Raises ``ConnectionFailedError`` if a fault drops the connection.
        """
        exchange = self.exchange(request, prefix=prefix)
        if exchange.response is None:
            path = _split(request.url)[1]
            raise ConnectionFailedError("the connection was dropped", method=request.method, path=path)
        return exchange.response

    def exchange(self, request: Request, *, prefix: str = "") -> Exchange:
        """Carry out one request, with the faults that it meets, and return its outcome."""
        if not all(map(str.islower, request.headers)):
            request = attrs.evolve(request, headers={name.lower(): text for name, text in request.headers.items()})
        origin, path, query = _split(request.url)
        if prefix:
            path = path.removeprefix(prefix) if path.startswith(prefix + "/") else "/"
        self._received += 1
        record = RequestRecord(self._received, self.clock(), request, path)
        self._requests.append(record)
        self._violations.take_codes()
        fault = self._faults.take(request.method, path)
        if fault is None:
            exchange = Exchange(self._respond(request, origin + prefix, path, query), self._latency, record)
        else:
            response = fault.response(self._store.ids.uuid())
            if response is None and fault.drop != "request":
                response = self._respond(request, origin + prefix, path, query, loop=fault.loop)
            exchange = Exchange(None if fault.drop else response, self._latency + fault.delay, record)
        record.status = None if exchange.response is None else exchange.response.status
        record.duration = exchange.delay
        record.violations = self._violations.take_codes()
        self._changes.note()
        return exchange

    def _respond(self, request: Request, base: str, path: str, query: str, *, loop: bool = False) -> Response:
        try:
            if path == "/token":
                if request.method != "POST":
                    raise Refusal(405, "method-not-allowed", "This path accepts POST.", None, {"allow": "POST"})
                return self._tokens.issue(request, self.clock())
            operation = find_operation(request.method, path)
            now = self.clock()
            app = self._tokens.admit(request, now)
            render = Renderer(base, self._store.quirks, loop=request.url if loop else None)
            return operation(
                Call(self._store, app, self._deliveries, self._violations, render, request, path, query, now)
            )
        except Refusal as refusal:
            return error_response(refusal, self._store.ids.uuid())

    # --- time and deliveries ---

    @property
    def waits(self) -> Timeline | None:
        """The clock with which a client in this process waits; None if the fake's clock moves by itself."""
        return self._timeline if isinstance(self.clock, ManualClock) else None

    async def advance(
        self,
        delta: timedelta | None = None,
        *,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
    ) -> None:
        """Move the clock forward, and make each delivery that is due on the way at its time.

        A ``ManualClock`` and a ``SystemClock`` can be moved, up to the year 9000. Raises ``ConfigurationError`` for
        another clock or a later time.
        """
        try:
            step = (delta or timedelta()) + timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
            until = self.clock() + step
        except (OverflowError, ValueError):
            until = None
        if until is None or until > LATEST:
            raise ConfigurationError(f"the clock can be moved up to the year {LATEST.year}, no further")
        await self._advance_to(until)

    async def advance_to_next(self) -> bool:
        """Move the clock to the next planned attempt, and make it. Return False if no attempt is planned."""
        due = self.next_due
        if due is None:
            return False
        await self._advance_to(max(due, self.clock()))
        return True

    async def _advance_to(self, until: datetime) -> None:
        if not isinstance(self.clock, MovableClock):
            raise ConfigurationError(f"only a clock with move_to can be advanced, not {self.clock!r}")
        try:
            await self._timeline.move_to(until)
        finally:
            self._changes.note()

    def emit(
        self,
        event_type_id: str,
        *,
        user_id: str | None = None,
        entity_id: str | None = None,
        data: Mapping[str, object] | None = None,
        api_key: str | None = None,
    ) -> Emission:
        """Record an event, and a message for each active webhook that is subscribed to it.

        Await the result to deliver the messages now. Otherwise the running server, or the next ``advance``, delivers
        them.
        """
        self._store.check_types([event_type_id])
        return self._deliveries.emit(
            self._store.application(api_key),
            event_type_id,
            user_id=user_id,
            entity_id=entity_id,
            data=None if data is None else dict(data),
        )

    async def deliver(self) -> None:
        """Make every delivery that is due now, and wait for those that are under way.

        In the handler of a delivery, this waits only for attempts that began later. In a handler that is called over a
        real socket, it would wait for itself: await the result of ``emit`` there.
        """
        await self._timeline.settle()


def _keys(api_keys: Mapping[str, str] | Iterable[str]) -> list[tuple[str, str | None]]:
    if isinstance(api_keys, Mapping):
        return list(api_keys.items())
    if isinstance(api_keys, str):
        raise ConfigurationError("api_keys is a sequence of keys, not one key")
    return [(key, None) for key in api_keys]


def _split(url: str) -> tuple[str, str, str]:
    """Return origin, path and query of an absolute URL, without decoding."""
    start = url.find("/", url.find("://") + 3)
    if start < 0:
        return url, "/", ""
    path, _, query = url[start:].partition("#")[0].partition("?")
    return url[:start], path, query
