"""``FakeBasiq``: a Basiq in memory, with its own clock and repeatable results."""

from __future__ import annotations

import base64
import math
import secrets
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from random import Random
from types import MappingProxyType
from typing import ClassVar, Self

import attrs

from ...errors import ConfigurationError, ConnectionFailedError
from ...transports.base import Request, Response
from ._checks import read_seconds, read_texts, require, require_mapping, require_number, require_text
from ._clock import LATEST, ManualClock, OwnClock, SystemClock, as_clock
from ._deliveries import Emission
from ._faults import take_fault
from ._histories import IdFactory
from ._logs import LoggedRequest
from ._operations import ApiCall, find_operation, get_resource
from ._quirks import Quirks
from ._responses import Refusal, Renderer, error_response
from ._state import State
from ._store import Store
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
    record: LoggedRequest


class FakeBasiq(State):
    """A fake Basiq for tests: it responds to requests, emits events, and delivers webhooks on its own clock.

    clock: a callable that returns the time as an aware datetime. By default a ``ManualClock``, which stands still until
        ``advance`` moves it. ``advance`` moves the fake past any clock, which then goes on from there.
    api_keys: the accepted keys, by default only ``DEFAULT_API_KEY``. Each further key belongs to a state of its own, in
        ``states``.
    page_size: maximum number of items in a response, even if ``limit`` asks for more.
    cool_off: how long a new webhook is ``pending-approval``, 15 minutes by default.
    quirks: the forms and rules that Basiq's own sources leave open; by default those of ``default_quirks``.
    seed: determines identifiers and seeded histories: the same seed gives the same values. By default it is random, so
        a store that outlives the fake never sees an id twice. The attribute ``seed`` returns it. Secrets and tokens are
        always new, and do not follow from the seed.
    event_types: more event types, each with its description, in addition to today's fifteen. Use them to test how your
        service handles an unknown type.
    latency: the duration of each response.
    delivery_timeout: the time in which an endpoint must respond.

    Durations are in seconds; a timedelta is accepted.
    """

    DEFAULT_API_KEY = "ZmFrZS1hcHBsaWNhdGlvbjpub3QtYS1yZWFsLWtleQ=="
    """Base64 of ``fake-application:not-a-real-key``."""

    default_quirks: ClassVar[Quirks] = Quirks()
    """The quirks of a fake that is made without. ``pytest --basiq-world=engine`` sets them to ``Quirks.engine()``."""

    def __init__(
        self,
        *,
        clock: Callable[[], datetime] | None = None,
        api_keys: Iterable[str] | None = None,
        page_size: int = 500,
        cool_off: float | timedelta = 900.0,
        quirks: Quirks | None = None,
        seed: int | str | None = None,
        event_types: Mapping[str, str] | None = None,
        latency: float | timedelta = 0.0,
        delivery_timeout: float | timedelta = 30.0,
    ) -> None:
        cool_off, latency = read_seconds("cool_off", cool_off), read_seconds("latency", latency)
        delivery_timeout = read_seconds("delivery_timeout", delivery_timeout)
        require_number("page_size", page_size, whole=True)
        require(1 <= page_size <= 500, f"page_size must be from 1 to 500, not {page_size!r}")
        require(
            0 < delivery_timeout < math.inf,
            f"delivery_timeout must be a number of seconds above 0, not {delivery_timeout!r}",
        )
        require(0 <= latency < math.inf, f"latency must be a number of seconds from 0, not {latency!r}")
        require(0 <= cool_off <= _LONGEST_COOL_OFF, f"cool_off must be from 0 seconds to 10 years, not {cool_off!r}")
        require_mapping("event_types", event_types)
        keys = (self.DEFAULT_API_KEY,) if api_keys is None else read_texts("api_keys", api_keys, "API key")
        require(bool(keys), "api_keys is empty: pass at least one key for the fake to accept")
        _require_quirks(quirks)
        if seed is None:
            seed = secrets.token_hex(8)
        require(isinstance(seed, (int, str)), f"seed must be a whole number or a text, not {seed!r}")
        own = as_clock(clock)
        store = Store(
            own,
            IdFactory(seed),
            seed,
            self.default_quirks if quirks is None else quirks,
            page_size,
            timedelta(seconds=cool_off),
            {**EVENT_TYPES, **(event_types or {})},
            keys[0],
            Random(f"{seed} rules"),
        )
        super().__init__(store, own, delivery_timeout)
        self.name = "first"
        """The name from ``add_state``; ``first`` for the original state."""
        self._received = 0
        self._latency = latency
        self._delivery_timeout = delivery_timeout
        self._states: dict[str, Self] = {}
        self._added = 0
        for number, key in enumerate(keys[1:], 2):
            self.add_state(api_key=key, seed=f"{seed} {number}")

    def __repr__(self) -> str:
        return f"<FakeBasiq at {self.now().isoformat()}, {len(self._store.app.webhooks)} webhooks>"

    @property
    def api_key(self) -> str:
        """The first of the accepted API keys."""
        return self._store.api_key

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
        _require_quirks(quirks)
        self._store.quirks = quirks

    # --- states ---

    @staticmethod
    def make_api_key() -> str:
        """Return a random API key in the form of Basiq's keys."""
        return base64.b64encode(f"fake-application:{secrets.token_hex(16)}".encode()).decode()

    @property
    def states(self) -> Mapping[str, Self]:
        """The states that were added, by their API keys."""
        return MappingProxyType(self._states)

    def _find_state(self, authorization: str) -> Self:
        """Return the state to which the key or token in an ``Authorization`` header belongs, by default this one."""
        scheme, _, text = authorization.partition(" ")
        if scheme.lower() == "basic":
            return self._states.get(text, self)
        return next((state for state in self._states.values() if text in state._store.app.tokens), self)

    def add_state(
        self,
        name: str | None = None,
        *,
        api_key: str | None = None,
        seed: int | str | None = None,
        clock: Callable[[], datetime] | None = None,
    ) -> Self:
        """Add an empty state: a separate fake with the same settings, for the same server.

        A request to the server belongs to the state whose API key or token it carries. States share no data.

        name: the name to show; by default a number.
        api_key: the state's key; by default a random one.
        seed: the seed of the state's ids; by default a random one.
        clock: by default a new clock of the same kind as this fake's; your own clock is shared.
        """
        key = self.make_api_key() if api_key is None else api_key
        require_text("api_key", key)
        require(
            bool(key) and key != self.api_key and key not in self._states,
            "another state has this API key, or it is empty: pass another api_key",
        )
        if clock is None:
            clock = SystemClock(self.clock.speed) if isinstance(self.clock, SystemClock) else None
            clock = self.clock if isinstance(self.clock, OwnClock) else clock
        state = type(self)(
            clock=clock,
            api_keys=[key],
            page_size=self._store.page_size,
            cool_off=self._store.cool_off,
            quirks=self.quirks,
            seed=seed,
            event_types=self._store.event_types,
            latency=self._latency,
            delivery_timeout=self._delivery_timeout,
        )
        state._deliveries.outlets = self._deliveries.outlets
        self._added += 1
        state.name = name or f"state {self._added}"
        self._states[key] = state
        self._changes.count()
        return state

    def remove_state(self, api_key: str) -> None:
        """Remove an added state with all its data."""
        require_text("api_key", api_key)
        state = self._states.pop(api_key, None)
        if state is None:
            raise ConfigurationError("no state that was added has this API key")
        state._deliveries.timeline.forget()
        self._changes.count()

    # --- responding ---

    def handle(self, request: Request, *, prefix: str = "") -> Response:
        """Return the response to one request, without the delay that a fault asks for.

        prefix: the path under which the API is mounted, such as ``/basiq``.

        Raises ``ConnectionFailedError`` if a fault drops the connection.
        """
        exchange = self._exchange(request, prefix=prefix)
        if exchange.response is None:
            path = _split(request.url)[1]
            raise ConnectionFailedError("the connection was dropped", method=request.method, path=path)
        return exchange.response

    def _exchange(self, request: Request, *, prefix: str = "") -> Exchange:
        """Carry out one request, with the faults that it meets, and return its outcome."""
        if not all(map(str.islower, request.headers)):
            request = attrs.evolve(request, headers={name.lower(): text for name, text in request.headers.items()})
        state = self._find_state(request.headers.get("authorization", ""))
        if state is not self:
            return state._exchange(request, prefix=prefix)
        origin, path, query = _split(request.url)
        if prefix:
            path = path.removeprefix(prefix) if path.startswith(prefix + "/") else "/"
        self._received += 1
        record = LoggedRequest(self._received, self.now(), request, path)
        self._requests.append(record)
        self._misuses.take_codes()
        fault = take_fault(self._faults, request.method, path)
        if fault is None:
            exchange = Exchange(self._respond(request, origin + prefix, path, query), self._latency, record)
        else:
            response = fault.response(self._store.ids.uuid())
            if response is None and fault.drop != "request":
                response = self._respond(request, origin + prefix, path, query, loop=fault.loop)
            exchange = Exchange(None if fault.drop else response, self._latency + fault.delay, record)
        record.status = None if exchange.response is None else exchange.response.status
        record.duration = exchange.delay
        record.misuses = self._misuses.take_codes()
        self._changes.count()
        return exchange

    def _respond(self, request: Request, base: str, path: str, query: str, *, loop: bool = False) -> Response:
        try:
            if path == "/token":
                if request.method != "POST":
                    raise Refusal("method-not-allowed", "This path accepts POST.", None, {"allow": "POST"})
                return self._tokens.issue(request, self.now())
            is_set = request.method == "GET" and self._store.app.has_set(path)
            operation, params = (get_resource, {}) if is_set else find_operation(request.method, path)
            now = self.now()
            self._tokens.admit(request, now)
            render = Renderer(base, self._store.quirks, request.url if loop else None)
            return operation(
                ApiCall(self._store, self._deliveries, self._misuses, render, request, path, query, now, params)
            )
        except Refusal as refusal:
            return error_response(refusal, self._store.ids.uuid())

    # --- time and deliveries ---

    @property
    def _waits(self) -> Timeline | None:
        """The clock with which a client in this process waits; None if the fake's clock moves by itself."""
        return self._timeline if isinstance(self.clock, ManualClock) else None

    async def advance(
        self,
        delta: float | timedelta = 0.0,
        *,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
    ) -> None:
        """Move the clock forward, by seconds or a timedelta, and make each delivery that is due on the way at its time.

        Raises ``ConfigurationError`` for a time after the year 9000, and for a step back.
        """
        for name, value in (("days", days), ("hours", hours), ("minutes", minutes), ("seconds", seconds)):
            require_number(name, value)
        try:
            seconds += read_seconds("delta", delta)
            step = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
            until = self.now() + step
        except (OverflowError, ValueError):
            step, until = timedelta(), None
        require(step >= timedelta(), "the clock cannot be moved back")
        if until is None or until > LATEST:
            raise ConfigurationError(f"the clock can be moved up to the year {LATEST.year}, no further")
        await self._advance_to(until)

    async def advance_to_next(self) -> bool:
        """Move the clock to the next planned attempt, and make it. Return False if no attempt is planned."""
        due = self.next_due
        if due is None:
            return False
        await self._advance_to(max(due, self.now()))
        return True

    async def _advance_to(self, until: datetime) -> None:
        try:
            await self._timeline.move_to(until)
        finally:
            self._changes.count()

    def emit(
        self,
        event_type_id: str,
        *,
        user_id: str | None = None,
        entity_id: str | None = None,
        data: Mapping[str, object] | None = None,
    ) -> Emission:
        """Record an event, and a message for each active webhook that is subscribed to it.

        Await the result to deliver the messages now. Otherwise the running server, or the next ``advance``, delivers
        them.
        """
        require_text("event_type_id", event_type_id)
        require_text("user_id", user_id, or_none=True)
        require_text("entity_id", entity_id, or_none=True)
        require_mapping("data", data)
        self._store.check_types([event_type_id])
        own = None if data is None else dict(data)
        return self._deliveries.emit(event_type_id, user_id=user_id, entity_id=entity_id, data=own)

    async def deliver(self) -> None:
        """Make every delivery that is due now, and wait for those that are under way.

        In the handler of a delivery, this waits only for attempts that began later. In a handler that is called over a
        real socket, it would wait for itself: await the result of ``emit`` there.
        """
        await self._timeline.settle()


def _require_quirks(quirks: Quirks | None) -> None:
    require(quirks is None or isinstance(quirks, Quirks), f"quirks must be Quirks(...), not {quirks!r}")


def _split(url: str) -> tuple[str, str, str]:
    """Return origin, path and query of an absolute URL, without decoding."""
    start = url.find("/", url.find("://") + 3)
    if start < 0:
        return url, "/", ""
    path, _, query = url[start:].partition("#")[0].partition("?")
    return url[:start], path, query
