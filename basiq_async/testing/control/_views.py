"""What the fake keeps, as the control API shows it. Secrets and tokens are not shown."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from ..fake._clock import SystemClock
from ..fake._deliveries import DeliveredAttempt
from ..fake._fake import FakeBasiq
from ..fake._inspect import Upcoming
from ..fake._recent import RequestRecord
from ..fake._records import Attempt, Message, Webhook
from ..fake._violations import Violation
from ._fields import Json

HIDDEN = "(hidden)"
_SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie", "x-fake-token"})
_SHOWN = 64 * 1024


def show_time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="milliseconds")


def show_headers(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: HIDDEN if name.lower() in _SECRET_HEADERS else value for name, value in headers.items()}


def show_body(body: bytes | None) -> str | None:
    return None if body is None else body[:_SHOWN].decode(errors="replace")


def show_state(fake: FakeBasiq, base_url: str) -> Json:
    clock = fake.clock
    running = isinstance(clock, SystemClock)
    return {
        "name": fake.name,
        "seed": str(fake.seed),
        "baseUrl": base_url,
        "now": show_time(fake.now()),
        "nextDue": show_time(fake.next_due),
        "clock": {"running": running, "speed": clock.speed if isinstance(clock, SystemClock) else None},
        "pending": fake.pending,
        "webhooks": len(fake.webhooks()),
        "messages": fake.count_messages(),
        "requests": len(fake.request_log),
        "deliveries": len(fake.deliveries),
        "violations": len(fake.violations),
        "endpointsDown": [{"url": url, "status": status} for url, status in fake.endpoints_down.items()],
        "faults": [
            {
                "left": fault.left,
                "method": fault.method,
                "path": fault.path,
                "status": fault.status,
                "delay": fault.delay,
                "drop": fault.drop,
                "loop": fault.loop,
            }
            for fault in fake.faults
        ],
        "deliveryFaults": [
            {"left": fault.left, "url": fault.url, "status": fault.status, "drop": fault.drop}
            for fault in fake.delivery_faults
        ],
        "revision": fake.revision,
    }


def show_summary(fake: FakeBasiq) -> Json:
    return {
        "name": fake.name,
        "seed": str(fake.seed),
        "now": show_time(fake.now()),
        "pending": fake.pending,
        "webhooks": len(fake.webhooks()),
        "messages": fake.count_messages(),
        "requests": len(fake.request_log),
        "deliveries": len(fake.deliveries),
        "violations": len(fake.violations),
    }


def show_request(record: RequestRecord) -> Json:
    return {
        "number": record.number,
        "at": show_time(record.at),
        "method": record.request.method,
        "path": record.path,
        "status": record.status,
        "duration": record.duration,
        "violations": list(record.violations),
    }


def show_whole_request(record: RequestRecord) -> Json:
    body = None if record.path == "/token" else show_body(record.request.body)
    return {
        **show_request(record),
        "url": record.request.url,
        "headers": show_headers(record.request.headers),
        "body": body,
    }


def show_delivery(number: int, attempt: DeliveredAttempt) -> Json:
    return {
        "number": number,
        "at": show_time(attempt.at),
        "webhookId": attempt.webhook_id,
        "messageId": attempt.message_id,
        "eventTypeId": attempt.event_type_id,
        "eventId": attempt.event_id,
        "url": attempt.url,
        "attempt": attempt.number,
        "status": attempt.status,
        "ok": attempt.ok,
        "response": attempt.response,
        "duration": attempt.duration,
        "headers": show_headers(attempt.headers),
        "body": show_body(attempt.body),
    }


def show_attempt(number: int, attempt: Attempt) -> Json:
    return {
        "number": number,
        "at": show_time(attempt.at),
        "url": attempt.url,
        "status": attempt.status_code,
        "ok": attempt.ok,
        "response": attempt.response,
        "duration": attempt.duration,
    }


def show_message(message: Message, upcoming: Upcoming | None) -> Json:
    event = message.event
    return {
        "id": message.id,
        "webhookId": message.webhook_id,
        "eventTypeId": event.type_id,
        "eventId": event.id,
        "userId": event.user_id,
        "entityId": event.entity_id,
        "created": show_time(message.created),
        "status": message.status,
        "attempts": [show_attempt(number, attempt) for number, attempt in enumerate(message.attempts, 1)],
        "nextAttempt": None if upcoming is None else {"number": upcoming.number, "due": show_time(upcoming.due)},
    }


def show_whole_message(message: Message, upcoming: Upcoming | None) -> Json:
    return {**show_message(message, upcoming), "data": message.event.data, "text": message.text}


def show_webhook(webhook: Webhook, now: datetime, messages: int) -> Json:
    return {
        "id": webhook.id,
        "url": webhook.url,
        "status": webhook.status(now),
        "name": webhook.name,
        "description": webhook.description,
        "subscribedEvents": list(webhook.events),
        "activeAt": show_time(webhook.active_at),
        "coolOffLeft": max((webhook.active_at - now).total_seconds(), 0.0),
        "messages": messages,
    }


def show_violation(violation: Violation) -> Json:
    return {"code": violation.code, "detail": violation.detail, "at": show_time(violation.at)}
