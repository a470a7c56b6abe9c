"""The responses and deliveries of the fake, written from Basiq's documentation only.

Where its pages contradict each other, or say nothing, ``Quirks`` chooses the form.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Literal, get_args, get_type_hints

import attrs

from ...transports.base import Response
from ._records import Attempt, Event, Message, Webhook

Json = dict[str, object]


@attrs.frozen(kw_only=True)
class Quirks:
    """A switch for each point that Basiq's own sources state in two ways or not at all. The first value is the default.

    Requests are accepted in every form: both bodies of a test message, the messages path with and without a
    trailing slash, and ``subscribedEvents`` as an array or as one string.
    """

    messages_path: Literal["plain", "slash"] = "plain"
    """Links to a webhook's messages: without (reference) or with (guide) a trailing slash."""
    subscribed_events: Literal["array", "string"] = "array"
    """``string``: a single event type is a string, as in the reference's examples, not an array."""
    list_data: Literal["array", "object"] = "array"
    """``object``: ``data`` of a list with one item is that item, as in the reference's example of listing webhooks."""
    type_case: Literal["lower", "title"] = "lower"
    """The spelling of ``type``: ``webhook`` or ``Webhook``."""
    attempts: Literal["objects", "strings"] = "objects"
    """``strings``: only the ids of attempts, as in the reference's schema."""
    attempt_order: Literal["newest-first", "oldest-first"] = "newest-first"
    """The order of a message's attempts. The reference's example has the newest first."""
    message_order: Literal["oldest-first", "newest-first"] = "oldest-first"
    """The order of the list of messages. No source states it."""
    event_order: Literal["oldest-first", "newest-first"] = "oldest-first"
    """The order of the list of events. No source states it."""
    paging: Literal["item", "offset"] = "item"
    """A ``next`` link names the item that follows, or a number of items to skip. With ``offset`` and the newest items
    first, two pages overlap if an item arrives between their requests."""
    status_code: Literal["integer", "string"] = "integer"
    """The type of an attempt's ``responseStatusCode``: ``200`` or ``"200"``."""
    message_ids: Literal["payload", "top", "both"] = "payload"
    """The place of ``eventTypeId`` and ``eventId`` in a message. A delivery's body always has them."""
    links: Literal["object", "list"] = "object"
    """``links`` is one object, or a list with one object."""
    event_data: Literal["object", "list"] = "object"
    """``data`` of an event is one object, or a list with one object."""
    event_type: Literal["split", "dotted"] = "split"
    """An event has ``entity`` and ``eventType``, or ``eventTypeId`` such as ``consent.revoked``."""
    signing_key: Literal["prefixed", "bare", "unpadded"] = "prefixed"
    """The form of a webhook's ``secret``: ``whsec_`` and base64; base64 only; ``whsec_`` and base64 without padding."""
    signing_key_in: Literal["writes", "everywhere", "nowhere"] = "writes"
    """The responses about a webhook that contain its ``secret``: create and update, all, or none."""

    signing_key_on_update: Literal["kept", "new"] = "kept"
    """Whether an update keeps a webhook's secret or makes a new one. No source states it. Use ``new`` to rehearse a
    rotation of secrets."""

    @classmethod
    def each_form(cls) -> Iterator[Quirks]:
        """Yield the defaults; then, for each quirk, each of its other forms; then all quirks with their last forms."""
        yield cls()
        last: dict[str, str] = {}
        for name, hint in get_type_hints(cls).items():
            for form in get_args(hint)[1:]:
                yield cls(**{name: form})
                last[name] = form
        yield cls(**{**last, "signing_key_in": "writes"})  # type: ignore[arg-type]  # of the fields' own Literals


JSON_HEADERS = {"content-type": "application/json; charset=utf-8"}
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

_TITLES = {
    "invalid-content": "Invalid request content",
    "path-parameter-not-valid": "Parameter value is not valid",
    "parameter-not-valid": "Parameter value is not valid",
    "no-webhooks-found": "No webhooks found for an app",
    "unauthorized-access": "Unauthorized access",
    "forbidden-access": "Forbidden access",
    "resource-not-found": "Requested resource is not found",
    "method-not-allowed": "Method not allowed",
    "resource-already-exists": "Resource already exists",
    "too-many-requests": "Too many requests",
    "internal-server-error": "Internal server error",
    "service-unavailable": "Service unavailable",
}
CODES = {
    400: "invalid-content",
    401: "unauthorized-access",
    403: "forbidden-access",
    404: "resource-not-found",
    405: "method-not-allowed",
    409: "resource-already-exists",
    429: "too-many-requests",
    500: "internal-server-error",
    503: "service-unavailable",
}


class Refusal(Exception):
    """The request is refused with an error from Basiq's reference."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        parameter: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.parameter = parameter
        self.headers = headers or {}


def as_json(body: object) -> bytes:
    try:
        return _encode(body).encode()
    except UnicodeEncodeError:
        # UTF-8 cannot encode a lone surrogate, but JSON can escape it.
        return json.dumps(body).encode()


def json_response(body: object, status: int = 200) -> Response:
    return Response(status, JSON_HEADERS, as_json(body))


def empty(status: int) -> Response:
    return Response(status, {}, b"")


def error_response(refusal: Refusal, correlation_id: str) -> Response:
    """Return the response for a refusal."""
    error: dict[str, object] = {
        "type": "error",
        "code": refusal.code,
        "title": _TITLES.get(refusal.code, refusal.code),
        "detail": refusal.detail,
    }
    if refusal.parameter is not None:
        error["source"] = {"parameter": refusal.parameter}
    body = {"type": "list", "correlationId": correlation_id, "data": [error]}
    return Response(refusal.status, {**JSON_HEADERS, **refusal.headers}, as_json(body))


def bad_content(detail: str, parameter: str, code: str = "invalid-content") -> Refusal:
    return Refusal(400, code, detail, parameter)


def bad_parameter(detail: str, parameter: str) -> Refusal:
    return Refusal(400, "parameter-not-valid", detail, parameter)


def not_found(detail: str) -> Refusal:
    return Refusal(404, "resource-not-found", detail)


def secret_text(key: bytes, form: str = "prefixed") -> str:
    """Return a signing key in the form that the API shows."""
    text = base64.b64encode(key).decode()
    if form == "bare":
        return text
    return "whsec_" + (text.rstrip("=") if form == "unpadded" else text)


def date_text(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


class Renderer:
    """Renders records as the JSON objects of responses. ``base`` is the beginning of their links."""

    def __init__(self, base: str, quirks: Quirks, *, loop: str | None = None) -> None:
        self.base = base
        self.quirks = quirks
        self._loop = loop

    def type(self, name: str) -> str:
        return name if self.quirks.type_case == "lower" else name[0].upper() + name[1:]

    def links(self, links: Mapping[str, str]) -> object:
        return [links] if self.quirks.links == "list" else links

    def webhook_path(self, webhook_id: str) -> str:
        return f"{self.base}/notifications/webhooks/{webhook_id}"

    def list_path(self, path: str) -> str:
        """Return the link to a list."""
        slash = "/" if path.endswith("/messages") and self.quirks.messages_path == "slash" else ""
        return f"{self.base}{path}{slash}"

    def listing(self, data: list[Json], links: Mapping[str, str]) -> Json:
        """Return a list object. ``size`` and ``count`` are the number of items in this response."""
        if self._loop is not None:
            links = {**links, "next": self._loop}
        size = len(data)
        one = size == 1 and self.quirks.list_data == "object"
        return {
            "type": "list",
            "size": size,
            "count": size,
            "data": data[0] if one else data,
            "links": self.links(links),
        }

    def webhook(self, webhook: Webhook, now: datetime, *, written: bool = False) -> Json:
        quirks = self.quirks
        events: object = list(webhook.events)
        if quirks.subscribed_events == "string" and len(webhook.events) == 1:
            events = webhook.events[0]
        body: Json = {
            "type": self.type("webhook"),
            "id": webhook.id,
            "url": webhook.url,
            "status": webhook.status(now),
            "subscribedEvents": events,
            "links": self.links({"self": self.webhook_path(webhook.id)}),
        }
        if webhook.name is not None:
            body["name"] = webhook.name
        if webhook.description is not None:
            body["description"] = webhook.description
        if quirks.signing_key_in == "everywhere" or (written and quirks.signing_key_in == "writes"):
            body["secret"] = secret_text(webhook.key, quirks.signing_key)
        return body

    def payload(self, message: Message) -> Json:
        """Return the body of a delivery. It is always in the guide's form."""
        event = message.event
        body: Json = {
            "eventTypeId": event.type_id,
            "eventId": event.id,
            "links": {"event": f"{self.base}/events/{event.id}", "eventEntity": self.base + event.path},
        }
        if message.text is not None:
            body["Text"] = message.text
        return body

    def message(self, message: Message) -> Json:
        quirks = self.quirks
        payload = self.payload(message)
        body: Json = {"type": self.type("message"), "id": message.id}
        if quirks.message_ids != "payload":
            body["webhookId"] = message.webhook_id
            body["eventTypeId"] = message.event.type_id
            body["eventId"] = message.event.id
        if quirks.message_ids == "top":
            del payload["eventTypeId"], payload["eventId"]
        payload["links"] = self.links(payload["links"])  # type: ignore[arg-type]  # payload() makes it a dictionary
        body["payload"] = payload
        body["attempts"] = [self.attempt(attempt) for attempt in self._in_order(message.attempts)]
        webhook = self.webhook_path(message.webhook_id)
        body["links"] = self.links({"self": f"{webhook}/messages/{message.id}", "webhook": webhook})
        return body

    def _in_order(self, attempts: tuple[Attempt, ...]) -> tuple[Attempt, ...]:
        return attempts if self.quirks.attempt_order == "oldest-first" else attempts[::-1]

    def attempt(self, attempt: Attempt) -> object:
        if self.quirks.attempts == "strings":
            return attempt.id
        code = attempt.status
        return {
            "id": attempt.id,
            "url": attempt.url,
            "response": attempt.response,
            "responseStatusCode": str(code) if code and self.quirks.status_code == "string" else code,
            "timestamp": date_text(attempt.at),
            "status": "Success" if attempt.ok else "Failed",
        }

    def event_type(self, id: str, description: str) -> Json:
        return {
            "type": self.type("eventType"),
            "id": id,
            "description": description,
            "links": self.links({"self": f"{self.base}/events/types/{id}"}),
        }

    def event(self, event: Event) -> Json:
        body: Json = {
            "type": self.type("event"),
            "id": event.id,
            "createdDate": date_text(event.created),
        }
        if self.quirks.event_type == "dotted":
            body["eventTypeId"] = event.type_id
        else:
            body["entity"] = event.entity
            body["eventType"] = event.kind
        body["userId"] = event.user_id
        body["dataRef"] = self.base + event.path
        data = self.entity(event)
        body["data"] = [data] if self.quirks.event_data == "list" else data
        body["links"] = self.links({"self": f"{self.base}/events/{event.id}"})
        return body

    def entity(self, event: Event) -> Json:
        """Return the entity that an event is about."""
        if event.data is not None:
            return event.data
        user = event.entity in ("user", "transactions")
        return {
            "type": event.entity,
            "id": event.user_id if user else event.entity_id,
            "links": {"self": self.base + event.path},
        }


def signed_headers(key: bytes, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the three signature headers of a delivery."""
    content = b".".join((message_id.encode(), str(timestamp).encode(), body))
    mac = hmac.new(key, content, hashlib.sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": "v1," + base64.b64encode(mac).decode(),
    }
