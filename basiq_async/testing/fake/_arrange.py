"""The methods that set up a fake: its webhooks and messages, and its faults."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import get_args

from ...errors import ConfigurationError
from ._deliveries import Emission
from ._endpoints import Receiver, adapt
from ._faults import DeliveryFault, Drop, Fault
from ._inspect import Inspection
from ._responses import secret_text


class Arrangement(Inspection):
    """The methods of ``FakeBasiq`` that set up a test."""

    def add_webhook(
        self,
        url: str = "https://example.com/basiq",
        subscribed_events: Iterable[str] | None = None,
        *,
        active: bool = True,
        api_key: str | None = None,
    ) -> str:
        """Add a webhook, and return its id. It is active at once; with ``active=False`` its cool-off begins now.

        subscribed_events: by default every event type.
        """
        app = self._store.application(api_key)
        types = tuple(self._store.event_types if subscribed_events is None else subscribed_events)
        self._store.check_types(types)
        if app.by_url(url) is not None:
            raise ConfigurationError(f"there is a webhook with the url {url} already")
        webhook = self._store.add_webhook(app, url, types, active=active)
        self._changes.note()
        return webhook.id

    def secret(self, webhook_id: str) -> str:
        """Return the signing secret of a webhook."""
        return secret_text(self._store.webhook(webhook_id).key, self._store.quirks.signing_key)

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
        """Give a webhook a history of ``n`` messages. They are made on demand, so even a million need no memory.

        webhook_id: by default the first webhook, which is added if there is none.
        event_types: by default the types that the webhook is subscribed to.
        every: the time between two messages, and between the newest message and now; a timedelta or seconds.
        failed: the share of messages, from 0 to 1, whose only attempt failed.

        Returns the webhook's id.
        """
        if n < 0 or not 0 <= failed <= 1:
            raise ConfigurationError("n must be 0 or more, and failed from 0 to 1")
        app = self._store.application(api_key)
        if webhook_id is None:
            webhook_id = next(iter(app.webhooks), None) or self.add_webhook(api_key=api_key)
        webhook = app.webhooks.get(webhook_id)
        if webhook is None:
            raise ConfigurationError(f"there is no webhook {webhook_id}")
        types = tuple(event_types) if event_types is not None else webhook.events
        self._store.check_types(types)
        if not types:
            raise ConfigurationError("event_types must name at least one event type")
        step = every if isinstance(every, timedelta) else timedelta(seconds=every)
        self._store.seed_messages(app, webhook, n, every=step, failed=failed, types=types)
        self._changes.note()
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
        """Make the next requests fail.

        times: how many requests fail.
        status: respond with this status and an error in the documented form; ``retry_after`` (seconds, or any text)
            sets its header.
        body: respond with this body unchanged, such as ``b'{"data": [{'``. The status is ``status``, or 200.
        delay: respond after this many seconds. Without another fault, the response is the normal one.
        drop: break the connection: ``"request"`` (or True) before the request is carried out, ``"response"`` after
            it.
        loop: let a list's ``next`` link lead to the same page.
        method, path: fail only matching requests; ``*`` in a path matches any text. Without a path, every request
            except the token call matches.
        """
        if times < 1:
            raise ConfigurationError(f"times must be 1 or more, not {times!r}")
        if status is None and body is None and not delay and not drop and not loop:
            raise ConfigurationError("say what goes wrong: status, body, delay, drop or loop")
        if status is not None and not 100 <= status <= 999:
            raise ConfigurationError(f"status must be from 100 to 999, not {status!r}")
        extra = {name.lower(): text for name, text in (headers or {}).items()}
        if retry_after is not None:
            extra["retry-after"] = retry_after if isinstance(retry_after, str) else f"{retry_after:g}"
        raw = body.encode() if isinstance(body, str) else body
        self._faults.add(Fault(times, method, path, status, extra, raw, delay, _drop(drop), loop))
        self._changes.note()

    def fail_deliveries(
        self, times: int = 1, *, status: int | None = None, drop: Drop | bool = False, url: str | None = None
    ) -> None:
        """Make the next deliveries fail.

        times: how many deliveries fail.
        status: do not call the endpoint, and record this status for the attempt.
        drop: break the connection: ``"request"`` (or True) before the endpoint receives the delivery,
            ``"response"`` after the endpoint has handled it, so that Basiq delivers it again.
        url: fail only deliveries to endpoints whose url matches; ``*`` matches any text.
        """
        if times < 1:
            raise ConfigurationError(f"times must be 1 or more, not {times!r}")
        if (status is None) is not bool(drop):
            raise ConfigurationError("say what goes wrong with the deliveries: either status or drop")
        if status is not None and not 100 <= status <= 999:
            raise ConfigurationError(f"status must be from 100 to 999, not {status!r}")
        self._deliveries.outages.faults.add(DeliveryFault(times, url, status, _drop(drop)))
        self._changes.note()

    def endpoint_down(self, url: str | None = None, *, status: int | None = None) -> None:
        """Let all deliveries to an endpoint fail, without calling it, until ``endpoint_up``.

        url: the url of the endpoint's webhook; None for every endpoint.
        status: the status of the response; None if the connection fails.
        """
        self._deliveries.outages.down[url] = status
        self._changes.note()

    def endpoint_up(self, url: str | None = None) -> None:
        """End the outage of an endpoint; without a url, every outage."""
        if url is None:
            self._deliveries.outages.down.clear()
        self._deliveries.outages.down.pop(url, None)
        self._changes.note()

    def redeliver(self, message_id: str) -> Emission:
        """Deliver a message once more, now, whether or not it was delivered before.

        Await the result to make the attempt. If it fails, no further attempt follows.
        """
        found = self._store.find_message(message_id)
        if found is None:
            raise ConfigurationError(f"there is no message {message_id!r}")
        emission = self._deliveries.redeliver(*found)
        self._changes.note()
        return emission

    def route(self, url: str, receiver: Receiver) -> None:
        """Send the deliveries for ``url`` to a receiver in this process.

        receiver: an async callable ``(headers, body)``, an object with ``async handle(headers, body)`` such as a
            ``WebhookReceiver``, or an ASGI application. The callable and ``handle`` return a status, or an object with
            a ``.status``.
        """
        self._deliveries.routes[url] = adapt(receiver)

    def expire_tokens(self) -> None:
        """Let all tokens that were issued expire now."""
        self._tokens.expire_all()
        self._changes.note()

    def disable_account(self, api_key: str | None = None) -> None:
        """Respond with 403 to every request of an application."""
        self._store.application(api_key).disabled = True
        self._changes.note()

    def reset_log(self) -> None:
        """Forget all recorded requests, deliveries and violations, and all faults. Keep everything else."""
        self._requests.clear()
        self._deliveries.attempts.clear()
        self._violations.clear()
        self._faults.clear()
        self._deliveries.outages.clear()
        self._changes.note()

    def reset(self) -> None:
        """Forget everything except the API keys, the routes and the time."""
        self.reset_log()
        self._deliveries.agenda.forget()
        self._tokens.forget()
        self._store.clear()
        self._changes.note()


def _drop(drop: Drop | bool) -> Drop | None:
    if drop is True:
        return "request"
    if drop and drop not in get_args(Drop):
        raise ConfigurationError(f"drop must be 'request' or 'response', not {drop!r}")
    return drop or None
