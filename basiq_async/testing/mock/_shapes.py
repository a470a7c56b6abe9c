"""The results of the control API. The JSON, the schemas and the OpenAPI document are made from these classes.

Secrets and tokens are hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Literal, TypeVar

import attrs

from ..fake._clock import SystemClock

if TYPE_CHECKING:
    from ..fake._deliveries import DeliveredAttempt
    from ..fake._fake import FakeBasiq
    from ..fake._inspect import Upcoming
    from ..fake._recent import RequestRecord
    from ..fake._recent import Violation as MadeViolation
    from ..fake._records import Message as FakeMessage
    from ..fake._records import Webhook as FakeWebhook

T = TypeVar("T", bound=attrs.AttrsInstance)
HIDDEN = "(hidden)"
_SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie", "x-fake-token"})
_SHOWN = 64 * 1024


@attrs.frozen(kw_only=True)
class ErrorDetail:
    code: str
    message: str


@attrs.frozen(kw_only=True)
class Error:
    error: ErrorDetail


@attrs.frozen(kw_only=True)
class Health:
    status: Literal["ok"]
    base_url: str
    version: str


@attrs.frozen(kw_only=True)
class Done:
    now: datetime
    next_due: datetime | None


@attrs.frozen(kw_only=True)
class Advanced(Done):
    attempts: int


@attrs.frozen(kw_only=True)
class Emitted:
    event_id: str
    message_ids: tuple[str, ...]


@attrs.frozen(kw_only=True)
class Added:
    webhook_id: str


@attrs.frozen(kw_only=True)
class Secret:
    secret: str = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class StateSummary:
    name: str
    seed: str
    now: datetime
    pending: int
    webhooks: int
    messages: int
    requests: int
    deliveries: int
    violations: int


@attrs.frozen(kw_only=True)
class States:
    items: tuple[StateSummary, ...]


@attrs.frozen(kw_only=True)
class NewState(StateSummary):
    api_key: str = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class Clock:
    running: bool
    speed: float | None


@attrs.frozen(kw_only=True)
class EndpointDown:
    url: str | None
    status: int | None


@attrs.frozen(kw_only=True)
class Fault:
    left: int
    method: str | None
    path: str | None
    status: int | None
    delay: float
    drop: str | None
    loop: bool


@attrs.frozen(kw_only=True)
class DeliveryFault:
    left: int
    url: str | None
    status: int | None
    drop: str | None


@attrs.frozen(kw_only=True)
class State(StateSummary):
    base_url: str
    next_due: datetime | None
    clock: Clock
    endpoints_down: tuple[EndpointDown, ...]
    faults: tuple[Fault, ...]
    delivery_faults: tuple[DeliveryFault, ...]
    revision: int


@attrs.frozen(kw_only=True)
class EventType:
    id: str
    description: str


@attrs.frozen(kw_only=True)
class EventTypes:
    items: tuple[EventType, ...]


@attrs.frozen(kw_only=True)
class Request:
    number: int
    at: datetime
    method: str
    path: str
    status: int | None
    duration: float
    violations: tuple[str, ...]


@attrs.frozen(kw_only=True)
class WholeRequest(Request):
    url: str
    headers: Mapping[str, str]
    body: str | None


@attrs.frozen(kw_only=True)
class Requests:
    items: tuple[Request, ...]
    total: int
    next: str | None


@attrs.frozen(kw_only=True)
class Delivery:
    number: int
    at: datetime
    webhook_id: str
    message_id: str
    event_type_id: str
    event_id: str
    url: str
    attempt: int
    status: int | None
    ok: bool
    response: str
    duration: float
    headers: Mapping[str, str]
    body: str


@attrs.frozen(kw_only=True)
class Deliveries:
    items: tuple[Delivery, ...]
    total: int
    next: str | None


@attrs.frozen(kw_only=True)
class Attempt:
    number: int
    at: datetime
    url: str
    status: int | None
    ok: bool
    response: str
    duration: float


@attrs.frozen(kw_only=True)
class NextAttempt:
    number: int
    due: datetime


@attrs.frozen(kw_only=True)
class Message:
    id: str
    webhook_id: str
    event_type_id: str
    event_id: str
    user_id: str
    entity_id: str
    created: datetime
    status: Literal["Success", "Failed", "Pending"]
    attempts: tuple[Attempt, ...]
    next_attempt: NextAttempt | None


@attrs.frozen(kw_only=True)
class WholeMessage(Message):
    data: Mapping[str, object] | None
    text: str | None


@attrs.frozen(kw_only=True)
class Messages:
    items: tuple[Message, ...]
    total: int
    next: str | None


@attrs.frozen(kw_only=True)
class Webhook:
    id: str
    url: str
    status: Literal["active", "pending-approval", "disabled"]
    name: str | None
    description: str | None
    subscribed_events: tuple[str, ...]
    active_at: datetime
    cool_off_left: float
    messages: int


@attrs.frozen(kw_only=True)
class Webhooks:
    items: tuple[Webhook, ...]


@attrs.frozen(kw_only=True)
class Violation:
    code: str
    detail: str
    at: datetime


@attrs.frozen(kw_only=True)
class Violations:
    items: tuple[Violation, ...]


# --- shapes from the fake's records ---


def summary_of(fake: FakeBasiq) -> StateSummary:
    return _take(
        StateSummary,
        fake,
        seed=str(fake.seed),
        now=fake.now(),
        webhooks=len(fake.webhooks()),
        messages=fake.count_messages(),
        requests=len(fake.request_log),
        deliveries=len(fake.deliveries),
        violations=len(fake.violations),
    )


def new_state_of(fake: FakeBasiq) -> NewState:
    return _take(NewState, summary_of(fake), api_key=fake.api_key)


def state_of(fake: FakeBasiq, base_url: str) -> State:
    clock = fake.clock
    running = isinstance(clock, SystemClock)
    return _take(
        State,
        summary_of(fake),
        base_url=base_url,
        next_due=fake.next_due,
        clock=Clock(running=running, speed=clock.speed if isinstance(clock, SystemClock) else None),
        endpoints_down=tuple(EndpointDown(url=url, status=status) for url, status in fake.endpoints_down.items()),
        faults=tuple(_take(Fault, fault) for fault in fake.faults),
        delivery_faults=tuple(_take(DeliveryFault, fault) for fault in fake.delivery_faults),
        revision=fake.revision,
    )


def violation_of(violation: MadeViolation) -> Violation:
    return _take(Violation, violation)


def request_of(record: RequestRecord) -> Request:
    return _take(Request, record, method=record.request.method)


def whole_request_of(record: RequestRecord) -> WholeRequest:
    sent = record.request
    return _take(
        WholeRequest,
        request_of(record),
        url=sent.url,
        headers=_show_headers(sent.headers),
        body=None if record.path == "/token" or sent.body is None else _show_body(sent.body),
    )


def delivery_of(number: int, attempt: DeliveredAttempt) -> Delivery:
    return _take(
        Delivery,
        attempt,
        number=number,
        attempt=attempt.number,
        headers=_show_headers(attempt.headers),
        body=_show_body(attempt.body),
    )


def message_of(message: FakeMessage, upcoming: Upcoming | None) -> Message:
    event = message.event
    return _take(
        Message,
        message,
        event_type_id=event.type_id,
        event_id=event.id,
        user_id=event.user_id,
        entity_id=event.entity_id,
        attempts=tuple(
            _take(Attempt, attempt, number=number, status=attempt.status_code)
            for number, attempt in enumerate(message.attempts, 1)
        ),
        next_attempt=None if upcoming is None else _take(NextAttempt, upcoming),
    )


def whole_message_of(message: FakeMessage, upcoming: Upcoming | None) -> WholeMessage:
    return _take(WholeMessage, message_of(message, upcoming), data=message.event.data, text=message.text)


def webhook_of(webhook: FakeWebhook, now: datetime, messages: int) -> Webhook:
    return _take(
        Webhook,
        webhook,
        status=webhook.status(now),
        subscribed_events=webhook.events,
        cool_off_left=max((webhook.active_at - now).total_seconds(), 0.0),
        messages=messages,
    )


def _take(shape: type[T], source: object, **more: object) -> T:
    """Make a shape from the values in ``more`` and, for its other fields, from the attributes of ``source``."""
    names = [field.name for field in attrs.fields(shape)]
    return shape(**{name: more[name] if name in more else getattr(source, name) for name in names})


def _show_headers(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: HIDDEN if name.lower() in _SECRET_HEADERS else value for name, value in headers.items()}


def _show_body(body: bytes) -> str:
    return body[:_SHOWN].decode(errors="replace")
