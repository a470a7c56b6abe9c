"""The state of a fake: its parts, the methods that set it up, and the reports about what happened."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import dropwhile
from typing import get_args

import attrs

from ...errors import ConfigurationError
from ...transports.base import Request
from ._checks import read_seconds, read_texts, require, require_mapping, require_number, require_text, require_url
from ._clock import FakeClock
from ._deliveries import DeliveredAttempt, Deliveries, Emission
from ._endpoints import EndpointRoute, Receiver, adapt
from ._faults import DeliveryFault, Drop, Fault
from ._histories import Log, SeededEvents, SeededMessages
from ._items import FakeMessage, FakeWebhook
from ._logs import Changes, LoggedRequest, Misuse, Misuses, Recent, size_of
from ._resources import check_set
from ._responses import secret_text
from ._store import Application, Store
from ._tokens import Tokens


@attrs.frozen
class Upcoming:
    """An attempt that is planned or under way. ``once``: no further attempt follows if it fails."""

    message_id: str
    webhook_id: str
    number: int
    due: datetime
    once: bool = False


class State:
    """The parts of a fake, which know each other. The methods of ``FakeBasiq`` that set up a test, and its reports."""

    def __init__(self, store: Store, clock: FakeClock, delivery_timeout: float) -> None:
        self.clock = clock
        self._store = store
        self._changes = Changes()
        self._misuses = Misuses(store.clock)
        self._tokens = Tokens(store, self._misuses)
        self._deliveries = Deliveries(store, self._misuses, self._changes, timeout=delivery_timeout)
        self._timeline = self._deliveries.timeline
        self._faults: list[Fault] = []
        self._requests: Recent[LoggedRequest] = Recent(
            lambda record: size_of(record.request.headers, record.request.body, record.request.url)
        )

    # --- setting up ---

    def add_webhook(
        self,
        url: str = "https://example.com/basiq",
        subscribed_events: Iterable[str] | None = None,
        *,
        active: bool = True,
    ) -> str:
        """Add a webhook, and return its id. It is active at once; with ``active=False`` its cool-off begins now.

        subscribed_events: by default every event type.
        """
        require_url(url)
        given = self._store.event_types if subscribed_events is None else subscribed_events
        types = read_texts("subscribed_events", given, "event type")
        self._store.check_types(types)
        require(self._store.app.by_url(url) is None, f"there is a webhook with the url {url} already")
        webhook = self._store.add_webhook(url, types, active=active)
        self._changes.count()
        return webhook.id

    def secret(self, webhook_id: str) -> str:
        """Return the signing secret of a webhook."""
        return secret_text(self._store.webhook(webhook_id).key, self._store.quirks.signing_key)

    def set(self, path: str, json: Mapping[str, object] | Sequence[Mapping[str, object]] | None) -> None:
        """Set what a GET of a path below the API returns, such as ``set("/users/42/accounts", [{"id": "a1"}])``.

        json: an object, which is returned as it is; a list of objects; or None, for a 404. A list is returned in pages,
            and filtered by the properties of its objects (``account.status.eq('available')``,
            ``connection.id.eq('c1')``). Its objects can be fetched by their ``id``.

        Events, webhooks and messages cannot be set.
        """
        check_set(path, json)
        found = None if json is None else dict(json) if isinstance(json, Mapping) else [dict(item) for item in json]
        self._store.app.resources[path] = found
        self._changes.count()

    def seed_messages(
        self,
        n: int,
        webhook_id: str | None = None,
        *,
        event_types: Iterable[str] | None = None,
        every: timedelta | float = 1.0,
        failed: float = 0.0,
    ) -> str:
        """Give a webhook a history of ``n`` messages. They are made on demand, so even a million need no memory.

        webhook_id: by default the first webhook, which is added if there is none.
        event_types: by default the types that the webhook is subscribed to.
        every: the time between two messages, and between the newest message and now; a timedelta or seconds.
        failed: the share of messages, from 0 to 1, whose only attempt failed.

        Returns the webhook's id.
        """
        require_number("n", n, whole=True)
        require_number("failed", failed)
        require(n >= 0 and 0 <= failed <= 1, "n must be 0 or more, and failed from 0 to 1")
        app = self._store.app
        webhook = self._store.webhook(webhook_id or next(iter(app.webhooks), None) or self.add_webhook())
        types = webhook.events if event_types is None else read_texts("event_types", event_types, "event type")
        self._store.check_types(types)
        require(bool(types), "event_types must name at least one event type")
        log, now, pause = app.messages[webhook.id], self.now(), read_seconds("every", every)
        require(pause >= 0, f"every must be a number of seconds from 0, not {every!r}")
        try:
            step = timedelta(seconds=pause)
        except OverflowError:
            step = timedelta.max
        if log.newest is not None:
            step = min(step, (now - log.newest.created) / (n + 1))
        try:
            first = now - n * step
        except OverflowError:
            raise ConfigurationError("the history would begin before the year 1") from None
        events = SeededEvents((self._store.seed, webhook.id, len(log)), types, first, step, n)
        log.extend(SeededMessages(webhook.id, webhook.url, events, failed))
        app.events.extend(events)
        self._changes.count()
        return webhook.id

    def fail_next(
        self,
        times: int = 1,
        *,
        status: int | None = None,
        retry_after: float | str | None = None,
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        delay: float = 0.0,
        drop: Drop | None = None,
        loop: bool = False,
        method: str | None = None,
        path: str | None = None,
    ) -> None:
        """Make the next requests fail.

        times: how many requests fail.
        status: respond with this status and an error in the documented form; ``retry_after`` (seconds, or any text)
            sets its header.
        body: respond with this body unchanged, such as ``b'{"data": [{'``. The status is ``status``, or 200.
        delay: respond after this many seconds. Without another fault, the response is the normal one.
        drop: break the connection: ``"request"`` before the request is carried out, ``"response"`` after it.
        loop: let a list's ``next`` link lead to the same page.
        method, path: fail only matching requests; ``*`` in a path matches any text. It begins with ``/`` or ``*``.
            Without a path, every request except the token call matches.
        """
        require_number("delay", delay)
        require_mapping("headers", headers)
        require_text("method", method, or_none=True)
        require_text("path", path, or_none=True)
        require(body is None or isinstance(body, (bytes, str)), f"body must be bytes, text or None, not {body!r}")
        wrong = status is not None or body is not None or delay or drop or loop
        require(bool(wrong), "say what goes wrong: status, body, delay, drop or loop")
        _check(times, status, drop)
        require(path is None or path[:1] in ("/", "*"), f"path must begin with / or *, such as /events/*, not {path!r}")
        method = None if method is None else method.upper()
        extra = {name.lower(): text for name, text in (headers or {}).items()}
        if retry_after is not None:
            if not isinstance(retry_after, str):
                require_number("retry_after", retry_after)
            extra["retry-after"] = retry_after if isinstance(retry_after, str) else f"{retry_after:g}"
        raw = body.encode() if isinstance(body, str) else body
        self._faults.append(Fault(times, method, path, status, extra, raw, delay, drop, loop))
        self._changes.count()

    def fail_deliveries(
        self, times: int = 1, *, status: int | None = None, drop: Drop | None = None, url: str | None = None
    ) -> None:
        """Make the next deliveries fail.

        times: how many deliveries fail.
        status: do not call the endpoint, and record this status for the attempt.
        drop: break the connection: ``"request"`` before the endpoint receives the delivery, ``"response"`` after the
            endpoint has handled it, so that Basiq delivers it again.
        url: fail only deliveries to endpoints whose url matches; ``*`` matches any text.
        """
        require_text("url", url, or_none=True)
        require((status is None) is bool(drop), "say what goes wrong with the deliveries: either status or drop")
        _check(times, status, drop)
        self._deliveries.faults.append(DeliveryFault(times, url, status, drop))
        self._changes.count()

    def endpoint_down(self, url: str | None = None, *, status: int | None = None) -> None:
        """Let all deliveries to an endpoint fail, without calling it, until ``endpoint_up``.

        url: the url of the endpoint's webhook; None for every endpoint.
        status: the status of the response; None if the connection fails.
        """
        if url is not None:
            require_url(url)
        _check_status(status)
        self._deliveries.down[url] = status
        self._changes.count()

    def endpoint_up(self, url: str | None = None) -> None:
        """End the outage of an endpoint; without a url, every outage."""
        require_text("url", url, or_none=True)
        if url is None:
            self._deliveries.down.clear()
        self._deliveries.down.pop(url, None)
        self._changes.count()

    def redeliver(self, message_id: str, webhook_id: str | None = None) -> Emission:
        """Deliver a message once more, now, whether or not it was delivered before.

        Await the result to make the attempt. If it fails, no further attempt follows.

        webhook_id: the message's webhook, where webhooks share ids.
        """
        require_text("message_id", message_id)
        found = [each for each in self._store.find_messages(message_id) if webhook_id in (None, each[0].id)]
        require(bool(found), f"there is no message {message_id!r}")
        require(len(found) == 1, f"several webhooks have the message {message_id!r}: pass webhook_id")
        return self._deliveries.redeliver(*found[0])

    def route(self, url: str, receiver: Receiver, *, by_clock: bool | None = None) -> None:
        """Send the deliveries for ``url`` to a receiver in this process.

        receiver: an async callable ``(headers, body)``, an object with ``async handle(headers, body)`` such as a
            ``WebhookReceiver``, or an ASGI application. The callable and ``handle`` return a status, or an object with
            a ``.status``.
        by_clock: whether its deliveries are signed with the time of the fake's clock, and not of the machine. The
            default is True for a ``WebhookReceiver(..., clock=fake.clock)``. Pass it for an application that has one.
        """
        require_url(url)
        if by_clock is None:
            owner = getattr(receiver, "__self__", receiver)  # of its method ``handle``
            by_clock = getattr(owner, "clock", None) is self.clock
        self._deliveries.routes[url] = EndpointRoute(adapt(receiver), by_clock)

    def expire_tokens(self) -> None:
        """Let all tokens that were issued expire now."""
        self._tokens.expire_all()
        self._changes.count()

    def disable_account(self) -> None:
        """Respond with 403 to every request."""
        self._store.app.disabled = True
        self._changes.count()

    def reset_log(self) -> None:
        """Forget all recorded requests, deliveries and misuses, and all faults. Keep everything else."""
        self._requests.clear()
        self._deliveries.attempts.clear()
        self._misuses.clear()
        self._faults.clear()
        self._deliveries.down.clear()
        self._deliveries.faults.clear()
        self._changes.count()

    def reset(self) -> None:
        """Forget everything except the API keys, the routes and the time."""
        self._deliveries.timeline.forget()
        self._store.app = Application()
        self.reset_log()

    # --- reports ---

    def now(self) -> datetime:
        """Return the time on the fake's clock, in UTC."""
        return self._store.clock()

    @property
    def next_due(self) -> datetime | None:
        """The time of the next delivery attempt; None if none is planned."""
        return self._deliveries.timeline.next_due()

    @property
    def requests(self) -> Sequence[Request]:
        """The latest requests, oldest first: at most 10,000 and at most 64 MiB."""
        return tuple(record.request for record in self._requests)

    @property
    def request_log(self) -> Sequence[LoggedRequest]:
        """The latest requests, oldest first, each with its status, duration and misuses."""
        return tuple(self._requests)

    @property
    def deliveries(self) -> Sequence[DeliveredAttempt]:
        """The latest delivery attempts, oldest first: at most 10,000 and at most 64 MiB."""
        return tuple(self._deliveries.attempts)

    def upcoming(self) -> Sequence[Upcoming]:
        """Return the attempts that are planned or under way, in the order of their due times."""
        return [
            Upcoming(planned.message.id, planned.webhook.id, planned.number, planned.due, planned.once)
            for planned in self._deliveries.timeline.planned()
        ]

    @property
    def misuses(self) -> Sequence[Misuse]:
        """The misuses of Basiq by callers and endpoints, such as requests that Basiq would refuse; the first 1,000."""
        return self._misuses.seen()

    def assert_no_misuses(self) -> None:
        """Raise an ``AssertionError`` that lists the misuses. Do nothing if none was recorded."""
        seen = self.misuses
        if seen:
            raise AssertionError("Basiq was misused:" + "".join(f"\n- {v.code}: {v.detail}" for v in seen))

    @property
    def event_types(self) -> Mapping[str, str]:
        """The event types, each with its description."""
        return self._store.event_types

    def webhooks(self) -> Sequence[FakeWebhook]:
        """Return the webhooks, in the order of their creation."""
        return list(self._store.app.webhooks.values())

    def _find_message(self, message_id: str) -> FakeMessage | None:
        """Return the message with this id; None if it does not exist."""
        return next((message for _, message in self._store.find_messages(message_id)), None)

    def count_messages(self, webhook_id: str | None = None) -> int:
        """Return the number of messages of a webhook, or of all webhooks."""
        return sum(map(len, self._logs(webhook_id)))

    def _logs(self, webhook_id: str | None) -> Sequence[Log[FakeMessage]]:
        return [log for id, log in self._store.app.messages.items() if webhook_id in (None, id)]

    def messages(self, webhook_id: str | None = None) -> Iterator[FakeMessage]:
        """Return the messages of a webhook, or of all webhooks, newest first."""
        return self._scan_messages(webhook_id)

    def _scan_messages(self, webhook_id: str | None = None, *, start: str | None = None) -> Iterator[FakeMessage]:
        """Return the messages of a webhook, or of all webhooks, newest first.

        Of messages of one time, those of the webhook that was added first come first.

        start: the id of the first message. Raises ``ConfigurationError`` if there is none any more.
        """
        first = None if start is None else self._find_message(start)
        here = first is not None and webhook_id in (None, first.webhook_id)
        require(start is None or here, "there is no message at this place any more")
        to = None if first is None else first.created
        parts = [log.scan(to=to, back=True) for log in self._logs(webhook_id)]
        merged = heapq.merge(*parts, key=lambda placed: placed[1].created, reverse=True)
        return dropwhile(lambda each: start not in (None, each.id), (message for _, message in merged))


def _check_status(status: int | None) -> None:
    if status is not None:
        require_number("status", status, whole=True)
        require(100 <= status <= 999, f"status must be from 100 to 999, not {status!r}")


def _check(times: int, status: int | None, drop: str | None) -> None:
    require_number("times", times, whole=True)
    require(times >= 1, f"times must be 1 or more, not {times!r}")
    _check_status(status)
    require(drop is None or drop in get_args(Drop), f"drop must be 'request' or 'response', not {drop!r}")
