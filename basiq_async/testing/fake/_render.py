"""What the fake sends: objects as JSON, secrets, and the signature of a delivery. From the vendor's pages alone."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime

from ._quirks import Quirks
from ._records import Attempt, Event, Message, Webhook

Json = dict[str, object]


def secret_text(key: bytes, form: str = "prefixed") -> str:
    """A signing key as the API shows it."""
    text = base64.b64encode(key).decode()
    if form == "bare":
        return text
    return "whsec_" + (text.rstrip("=") if form == "unpadded" else text)


def date_text(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


class Renderer:
    """Objects of responses, their links beginning with ``base`` (an origin and a path prefix)."""

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

    def messages_path(self, webhook_id: str) -> str:
        slash = "/" if self.quirks.messages_path == "slash" else ""
        return f"{self.webhook_path(webhook_id)}/messages{slash}"

    def listing(self, data: list[Json], links: Mapping[str, str]) -> Json:
        """A list; ``size`` and ``count`` are the number of items in this response."""
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
        """What is delivered to the endpoint: it is always in the guide's form."""
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
        code = attempt.status_code
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
        """The entity that an event is about."""
        if event.data is not None:
            return event.data
        user = event.entity in ("user", "transactions")
        return {
            "type": event.entity,
            "id": event.user_id if user else event.entity_id,
            "links": {"self": self.base + event.path},
        }


def signed_headers(key: bytes, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers that prove where a delivery comes from and when."""
    content = b".".join((message_id.encode(), str(timestamp).encode(), body))
    mac = hmac.new(key, content, hashlib.sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": "v1," + base64.b64encode(mac).decode(),
    }
