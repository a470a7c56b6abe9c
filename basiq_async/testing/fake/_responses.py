"""The responses and deliveries of the fake, written from Basiq's documentation only."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import attrs

from ...transports.base import Response
from ._items import FakeAttempt, FakeEvent, FakeMessage, FakeWebhook
from ._quirks import Quirks

Json = dict[str, object]

CHANGED = 6
"""How many transactions an event says were updated: as many as a connection has, unless a test sets others."""
JSON_HEADERS = {"content-type": "application/json; charset=utf-8"}
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

_ERRORS: dict[str, tuple[int, str]] = {
    "invalid-content": (400, "Invalid request content"),
    "path-parameter-not-valid": (400, "Parameter value is not valid"),
    "parameter-not-valid": (400, "Parameter value is not valid"),
    "no-webhooks-found": (400, "No webhooks found for an app"),
    "unauthorized-access": (401, "Unauthorized access"),
    "forbidden-access": (403, "Forbidden access"),
    "resource-not-found": (404, "Requested resource is not found"),
    "method-not-allowed": (405, "Method not allowed"),
    "resource-already-exists": (409, "Resource already exists"),
    "too-many-requests": (429, "Too many requests"),
    "internal-server-error": (500, "Internal server error"),
    "service-unavailable": (503, "Service unavailable"),
}


@attrs.define(eq=False)
class Refusal(Exception):
    """The request is refused with an error from Basiq's reference."""

    code: str
    detail: str
    parameter: str | None = None
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str])


def error_of(status: int, detail: str, headers: Mapping[str, str], correlation_id: str) -> Response:
    """Return a response with the documented error of a status."""
    code = next((code for code, (its, _) in _ERRORS.items() if its == status), "error")
    return attrs.evolve(error_response(Refusal(code, detail, headers=headers), correlation_id), status=status)


def as_json(body: object) -> bytes:
    try:
        return _encode(body).encode()
    except UnicodeEncodeError:
        # UTF-8 cannot encode a lone surrogate, but JSON can escape it.
        return json.dumps(body).encode()


def json_response(body: object, status: int = 200) -> Response:
    return Response(status, JSON_HEADERS, as_json(body))


def error_response(refusal: Refusal, correlation_id: str) -> Response:
    """Return the response for a refusal."""
    status, title = _ERRORS.get(refusal.code, (400, refusal.code))
    error: dict[str, object] = {"type": "error", "code": refusal.code, "title": title, "detail": refusal.detail}
    if refusal.parameter is not None:
        error["source"] = {"parameter": refusal.parameter}
    body = {"type": "list", "correlationId": correlation_id, "data": [error]}
    return Response(status, {**JSON_HEADERS, **refusal.headers}, as_json(body))


def secret_text(key: bytes, form: str = "prefixed") -> str:
    """Return a signing key in the form that the API shows."""
    text = base64.b64encode(key).decode()
    if form == "bare":
        return text
    return "whsec_" + (text.rstrip("=") if form == "unpadded" else text)


def date_text(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


@attrs.frozen
class Renderer:
    """Renders records as the JSON objects of responses.

    base: the beginning of their links.
    loop: the ``next`` link of each list, for a fault; None for the right one.
    """

    base: str
    quirks: Quirks
    loop: str | None = None

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
        if self.loop is not None:
            links = {**links, "next": self.loop}
        size = len(data)
        shown = data[0] if size == 1 and self.quirks.list_data == "object" else data
        return {"type": "list", "size": size, "count": size, "data": shown, "links": self.links(links)}

    def webhook(self, webhook: FakeWebhook, now: datetime, *, written: bool = False) -> Json:
        quirks = self.quirks
        events: object = list(webhook.events)
        if quirks.subscribed_events == "string" and len(webhook.events) == 1:
            events = webhook.events[0]
        body: Json = {
            "type": self.type("webhook"),
            "id": webhook.id,
            "url": webhook.url,
            "status": webhook.status(now),
            "links": self.links({"self": self.webhook_path(webhook.id)}),
        }
        if not webhook.every_type:
            body["subscribedEvents"] = events
        if webhook.name is not None:
            body["name"] = webhook.name
        if webhook.description is not None:
            body["description"] = webhook.description
        if quirks.signing_key_in == "everywhere" or (written and quirks.signing_key_in == "writes"):
            body["secret"] = secret_text(webhook.key, quirks.signing_key)
        return body

    def payload(self, message: FakeMessage) -> Json:
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

    def message(self, message: FakeMessage, now: datetime, *, listed: bool = False) -> Json:
        quirks = self.quirks
        form = quirks.attempts if listed else quirks.attempts_by_id
        payload = self.payload(message)
        body: Json = {"type": self.type("message"), "id": message.id}
        if quirks.message_ids != "payload":
            body.update(webhookId=message.webhook_id, eventTypeId=message.event.type_id, eventId=message.event.id)
        if quirks.message_ids == "top":
            del payload["eventTypeId"], payload["eventId"]
        payload["links"] = self.links(payload["links"])  # type: ignore[arg-type]  # payload() makes it a dictionary
        is_expired = quirks.payloads == "expire-90d" and message.is_expired(now)
        body["payload"] = {"expired": True} if is_expired else payload
        attempts = message.attempts if quirks.attempt_order == "oldest-first" else message.attempts[::-1]
        if form != "absent":
            body["attempts"] = [each.id if form == "strings" else self.attempt(each) for each in attempts]
        webhook = self.webhook_path(message.webhook_id)
        body["links"] = self.links({"self": f"{webhook}/messages/{message.id}", "webhook": webhook})
        return body

    def attempt(self, attempt: FakeAttempt) -> Json:
        code = 0 if attempt.status is None and self.quirks.no_response == "zero" else attempt.status
        return {
            "id": attempt.id,
            "url": attempt.url,
            "response": attempt.response,
            "responseStatusCode": str(code) if code is not None and self.quirks.status_code == "string" else code,
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

    def event(self, event: FakeEvent) -> Json:
        split, data = self.quirks.event_type == "split", self.entity(event)
        return {
            "type": self.type("event"),
            "id": event.id,
            "createdDate": date_text(event.created),
            **({"entity": event.entity, "eventType": event.kind} if split else {"eventTypeId": event.type_id}),
            "userId": event.user_id,
            "dataRef": self.base + event.path,
            "data": [data] if self.quirks.event_data == "list" else data,
            "links": self.links({"self": f"{self.base}/events/{event.id}"}),
        }

    def entity(self, event: FakeEvent) -> Json:
        """Return the entity that an event is about."""
        if event.data is not None:
            return event.data
        if event.entity == "transactions":
            link = f"{self.base}{event.path}?filter=connection.id.eq('{event.entity_id}')"
            return {"connection": event.entity_id, "count": CHANGED, "links": {"transactions": link}}
        return {
            "type": event.entity,
            "id": event.user_id if event.entity == "user" else event.entity_id,
            "links": {"self": self.base + event.path},
        }


def signed_headers(keys: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the three signature headers of a delivery, with a signature of each key."""
    content = b".".join((message_id.encode(), str(timestamp).encode(), body))
    signatures = ["v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode() for key in keys]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
    }
