"""A Basiq in memory: pure, deterministic, with a clock of its own."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import attrs

from ...errors import ConfigurationError, ConnectionFailedError
from ...transports.base import Request, Response
from ._catalog import EVENT_TYPES
from ._clock import Clock, ManualClock
from ._deliveries import KEPT, Courier, DeliveredAttempt, Emission
from ._endpoints import Receiver, adapt
from ._faults import Drop, Fault, Faults
from ._ids import IdFactory
from ._operations import Call
from ._quirks import Quirks
from ._render import Renderer, secret_text
from ._responses import Refusal, refuse
from ._routes import find
from ._state import Application, World, make_applications
from ._tokens import Gate
from ._violations import Violation, Violations

__all__ = ["Exchange", "FakeBasiq"]

ORIGIN = "https://au-api.basiq.io"


@attrs.frozen
class Exchange:
    """What became of one request, for a transport or a server to act out.

    After ``delay`` seconds comes ``response``; where that is None the connection is dropped instead.
    """

    response: Response | None
    delay: float = 0.0


class FakeBasiq:
    """A whole Basiq for tests: give it requests, move its clock, let it deliver.

    clock: what tells it the time, a callable that gives an aware datetime; by default a ManualClock that
        stands still until ``advance`` moves it.
    api_keys: the keys that it accepts, or a mapping of them to names of applications. Each key is an
        application of its own that sees nothing of the others. By default ``DEFAULT_API_KEY`` alone.
    page_size: the most items that an answer holds, whatever ``limit`` asks for.
    cool_off: how long a new webhook is ``pending-approval``, a timedelta or seconds; 15 minutes by default.
    quirks: in which form to answer where Basiq's own sources contradict each other.
    seed: what identifiers, secrets and seeded histories are made from; same seed, same everything.
    event_types: further event types, each with its description, beside the fifteen of today: to see how a service
        takes one that it does not know.
    exclusive_events: answer ``event-already-subscribed`` to a second webhook for an event type. The reference
        lists that error and does not say when it comes, so by default it does not.
    delivery_timeout: how many seconds an endpoint may take to answer.
    sign_at: gives the time, in seconds since the epoch, that deliveries are signed with. By default the
        machine's, since that is what an endpoint compares it with, however far the fake's clock was moved.
    """

    DEFAULT_API_KEY = "ZmFrZS1hcHBsaWNhdGlvbjpub3QtYS1yZWFsLWtleQ=="
    """Base64 of ``fake-application:not-a-real-key``."""

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        api_keys: Mapping[str, str] | Iterable[str] | None = None,
        page_size: int = 500,
        cool_off: timedelta | float = timedelta(minutes=15),
        quirks: Quirks | None = None,
        seed: int | str = 0,
        event_types: Mapping[str, str] | None = None,
        exclusive_events: bool = False,
        delivery_timeout: float = 30.0,
        sign_at: Callable[[], float] = time.time,
    ) -> None:
        if not 1 <= page_size <= 500:
            raise ConfigurationError(f"page_size has to be from 1 to 500, not {page_size!r}")
        keys = [(self.DEFAULT_API_KEY, None)] if api_keys is None else _keys(api_keys)
        if not keys:
            raise ConfigurationError("api_keys is empty: the fake would accept nobody")
        self.clock: Clock = ManualClock() if clock is None else clock
        self._world = World(
            self.clock,
            IdFactory(seed),
            seed,
            quirks or Quirks(),
            page_size,
            cool_off if isinstance(cool_off, timedelta) else timedelta(seconds=cool_off),
            exclusive_events,
            {**EVENT_TYPES, **(event_types or {})},
            make_applications(keys),
        )
        self._violations = Violations(self.clock)
        self._gate = Gate(self._world, self._violations)
        self._courier = Courier(self._world, self._violations, timeout=delivery_timeout, sign_at=sign_at)
        self._courier.base = ORIGIN
        self._faults = Faults()
        self._requests: deque[Request] = deque(maxlen=KEPT)

    def __repr__(self) -> str:
        return f"<FakeBasiq at {self.clock().isoformat()}, {sum(1 for _ in self._world.each())} webhooks>"

    @property
    def api_key(self) -> str:
        """The first of the keys that it accepts."""
        return next(iter(self._world.applications))

    def now(self) -> datetime:
        """The time on its clock."""
        return self.clock()

    # --- answering ---

    def handle(self, request: Request, *, prefix: str = "") -> Response:
        """The answer to one request, at once, whatever delay a fault asks for.

        prefix: the path that the API is mounted under, such as ``/basiq``.

        Raises ConnectionFailedError where a fault drops the connection.
        """
        exchange = self.exchange(request, prefix=prefix)
        if exchange.response is None:
            raise dropped(request)
        return exchange.response

    def exchange(self, request: Request, *, prefix: str = "") -> Exchange:
        """What becomes of one request, faults and all."""
        self._requests.append(request)
        origin, path, query = _split(request.url)
        if prefix:
            path = path.removeprefix(prefix) if path.startswith(prefix + "/") else "/"
        fault = self._faults.take(request.method, path)
        if fault is None:
            return Exchange(self._respond(request, origin + prefix, path, query))
        response = fault.answer(self._world.ids.uuid())
        if response is None and fault.drop != "request":
            response = self._respond(request, origin + prefix, path, query, loop=fault.loop)
        return Exchange(None if fault.drop else response, fault.delay)

    def _respond(self, request: Request, base: str, path: str, query: str, *, loop: bool = False) -> Response:
        try:
            if path == "/token":
                if request.method != "POST":
                    raise Refusal(405, "method-not-allowed", "This path takes POST.", None, {"allow": "POST"})
                return self._gate.issue(request, self.clock())
            operation = find(request.method, path)
            now = self.clock()
            app = self._gate.admit(request, now)
            render = Renderer(base, self._world.quirks, loop=request.url if loop else None)
            return operation(Call(self._world, app, self._courier, self._violations, render, request, path, query, now))
        except Refusal as refusal:
            return refuse(refusal, self._world.ids.uuid())

    # --- time and deliveries ---

    async def advance(
        self,
        delta: timedelta | None = None,
        *,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
    ) -> None:
        """Move the clock, and on the way make every delivery that is due, in order, each at its time.

        Raises ConfigurationError where the clock is not a ManualClock.
        """
        clock = self.clock
        if not isinstance(clock, ManualClock):
            raise ConfigurationError(f"only a ManualClock can be advanced, not {clock!r}")
        wake, self._courier.wake = self._courier.wake, lambda: None
        try:
            await self._courier.settle()
            until = clock() + (delta or timedelta())
            until += timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
            while (due := self._courier.next_due()) is not None and due <= until:
                clock.move_to(due)
                await self._courier.settle()
            clock.move_to(until)
        finally:
            self._courier.wake = wake

    def emit(
        self,
        event_type_id: str,
        *,
        user_id: str | None = None,
        entity_id: str | None = None,
        data: Mapping[str, object] | None = None,
        api_key: str | None = None,
    ) -> Emission:
        """Let an event happen: recorded, and a message for each webhook that is active and subscribed.

        ``await`` what it gives back to have it delivered before going on. Without that the running server,
        or the next ``advance``, delivers it.
        """
        self._check_types([event_type_id])
        app = self._app(api_key)
        return self._courier.emit(
            app, event_type_id, user_id=user_id, entity_id=entity_id, data=None if data is None else dict(data)
        )

    async def deliver(self) -> None:
        """Make every delivery that is due now."""
        await self._courier.settle()

    def route(self, url: str, receiver: Receiver) -> None:
        """Deliver what goes to ``url`` to a receiver in this process.

        receiver: an async callable ``(headers, body)`` or an object with ``async handle(headers, body)``, such
            as a ``WebhookReceiver``, either giving a status or something with a ``.status``; or an ASGI
            application.
        """
        self._courier.routes[url] = adapt(receiver)

    # --- arranging ---

    def add_webhook(
        self,
        url: str = "https://example.com/basiq",
        subscribed_events: Iterable[str] | None = None,
        *,
        active: bool = True,
        api_key: str | None = None,
    ) -> str:
        """A webhook that is there already, past its cool-off unless ``active`` is false; gives its id.

        subscribed_events: by default every event type.
        """
        app = self._app(api_key)
        types = tuple(self._world.event_types if subscribed_events is None else subscribed_events)
        self._check_types(types)
        if app.by_url(url) is not None:
            raise ConfigurationError(f"there is a webhook with the url {url} already")
        return self._world.add_webhook(app, url, types, active=active).id

    def secret(self, webhook_id: str) -> str:
        """The signing secret of a webhook."""
        for _, webhook in self._world.each():
            if webhook.id == webhook_id:
                return secret_text(webhook.key, self._world.quirks.signing_key)
        raise ConfigurationError(f"there is no webhook {webhook_id}")

    def seed_messages(
        self,
        n: int,
        webhook_id: str | None = None,
        *,
        event_types: Iterable[str] | None = None,
        every: timedelta | float = 1.0,
        failed: float = 0.0,
        api_key: str | None = None,
    ) -> str:
        """Give a webhook a history of ``n`` messages, made on demand: a million take no memory.

        webhook_id: by default the first webhook, which is made where there is none.
        event_types: by default those that the webhook is subscribed to.
        every: the time between two messages, a timedelta or seconds. The newest is one such step before now.
        failed: the share of messages, from 0 to 1, whose only attempt failed.

        Gives the webhook's id.
        """
        if n < 0 or not 0 <= failed <= 1:
            raise ConfigurationError("n has to be 0 or more, and failed from 0 to 1")
        app = self._app(api_key)
        if webhook_id is None:
            webhook_id = next(iter(app.webhooks), None) or self.add_webhook(api_key=api_key)
        webhook = app.webhooks.get(webhook_id)
        if webhook is None:
            raise ConfigurationError(f"there is no webhook {webhook_id}")
        types = tuple(event_types) if event_types is not None else webhook.events
        self._check_types(types)
        step = every if isinstance(every, timedelta) else timedelta(seconds=every)
        self._world.seed_messages(app, webhook, n, every=step, failed=failed, types=types)
        return webhook_id

    def fail_next(
        self,
        times: int = 1,
        *,
        status: int | None = None,
        retry_after: float | str | None = None,
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        delay: float = 0.0,
        drop: Drop | bool = False,
        loop: bool = False,
        method: str | None = None,
        path: str | None = None,
    ) -> None:
        """Let the next requests go wrong.

        times: how many of them.
        status: an error of that status in the documented form, with ``retry_after`` (seconds, or any text).
        body: this body as it is, with ``status`` or 200, such as ``b'{"data": [{'``.
        delay: the answer comes after so many seconds; alone, it is the right one.
        drop: the connection breaks: ``"request"`` (or True) before the request was acted on, ``"answer"``
            after.
        loop: a list's ``next`` link leads to the page itself.
        method, path: only requests that match; ``*`` in a path stands for anything. Without a path, every
            request but the token call.
        """
        if times < 1:
            raise ConfigurationError(f"times has to be 1 or more, not {times!r}")
        if status is None and body is None and not delay and not drop and not loop:
            raise ConfigurationError("say what goes wrong: status, body, delay, drop or loop")
        extra = dict(headers or {})
        if retry_after is not None:
            extra["retry-after"] = retry_after if isinstance(retry_after, str) else f"{retry_after:g}"
        raw = body.encode() if isinstance(body, str) else body
        kind: Drop | None = "request" if drop is True else (drop or None)
        self._faults.add(Fault(times, method, path, status, extra, raw, delay, kind, loop))

    def expire_tokens(self) -> None:
        """Make every token that was given out an expired one."""
        self._gate.expire_all()

    def disable_account(self, api_key: str | None = None) -> None:
        """Answer 403 to everything that an application asks for."""
        self._app(api_key).disabled = True

    # --- inspecting ---

    @property
    def requests(self) -> Sequence[Request]:
        """The latest ten thousand requests, oldest first."""
        return tuple(self._requests)

    @property
    def deliveries(self) -> Sequence[DeliveredAttempt]:
        """The latest ten thousand attempts to deliver, oldest first."""
        return self._courier.recent()

    @property
    def violations(self) -> Sequence[Violation]:
        """What a caller or an endpoint did that the real Basiq would refuse, or that misuses it."""
        return self._violations.seen()

    def assert_no_violations(self) -> None:
        """Raise an AssertionError that tells every violation, where there is one."""
        seen = self.violations
        if seen:
            raise AssertionError("Basiq was misused:" + "".join(f"\n- {v.code}: {v.detail}" for v in seen))

    def reset_log(self) -> None:
        """Forget the requests, deliveries, violations and faults so far; keep everything else."""
        self._requests.clear()
        self._courier.attempts.clear()
        self._violations.clear()
        self._faults.clear()

    def _app(self, api_key: str | None) -> Application:
        try:
            return self._world.application(api_key)
        except KeyError:
            raise ConfigurationError("the fake does not accept this api_key") from None

    def _check_types(self, types: Iterable[str]) -> None:
        for name in types:
            if name not in self._world.event_types:
                raise ConfigurationError(f"there is no event type {name!r}; event_types= adds new ones")


def dropped(request: Request) -> ConnectionFailedError:
    """The error of a connection that a fault breaks."""
    path = _split(request.url)[1]
    return ConnectionFailedError("the connection was dropped", method=request.method, path=path)


def _keys(api_keys: Mapping[str, str] | Iterable[str]) -> list[tuple[str, str | None]]:
    if isinstance(api_keys, Mapping):
        return list(api_keys.items())
    if isinstance(api_keys, str):
        raise ConfigurationError("api_keys is a sequence of keys, not one key")
    return [(key, None) for key in api_keys]


def _split(url: str) -> tuple[str, str, str]:
    """Origin, path and query of an absolute URL, exactly as they were spelt."""
    start = url.find("/", url.find("://") + 3)
    if start < 0:
        return url, "/", ""
    path, _, query = url[start:].partition("#")[0].partition("?")
    return url[:start], path, query
