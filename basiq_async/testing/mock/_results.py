"""The results of the control API. The JSON, the schemas and the OpenAPI document are made from these classes.

Secrets and tokens are hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

import attrs
from cattrs import Converter
from cattrs.gen import make_dict_unstructure_fn, override

T = TypeVar("T")
C = TypeVar("C", bound=attrs.AttrsInstance)
HIDDEN = "(hidden)"
_SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie", "x-fake-token"})
_SHOWN = 64 * 1024


@attrs.frozen(kw_only=True)
class Items(Generic[T]):
    """A whole list."""

    items: tuple[T, ...]


@attrs.frozen(kw_only=True)
class Page(Items[T]):
    """A page of a list."""

    total: int
    next: str | None


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


def take(kind: type[C], *sources: object, **more: object) -> C:
    """Make a result from the values in ``more`` and, for its other fields, from the attributes of the sources."""

    def value(name: str) -> object:
        if name in more:
            return more[name]
        return next(getattr(source, name) for source in sources if hasattr(source, name))

    return kind(**{field.name: value(field.name) for field in attrs.fields(kind)})


def show_headers(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: HIDDEN if name.lower() in _SECRET_HEADERS else value for name, value in headers.items()}


def show_body(body: bytes) -> str:
    return body[:_SHOWN].decode(errors="replace")


def camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


_converter = Converter()
_converter.register_unstructure_hook(datetime, lambda moment: moment.isoformat(timespec="milliseconds"))
_converter.register_unstructure_hook_factory(
    attrs.has,
    lambda kind: make_dict_unstructure_fn(
        kind,
        _converter,
        **{field.name: override(rename=camel(field.name)) for field in attrs.fields(kind)},  # type: ignore[arg-type]  # of fields' names alone
    ),
)


def as_json(shown: attrs.AttrsInstance) -> dict[str, Any]:
    """Return a result as JSON data that fits its schema."""
    found: dict[str, Any] = _converter.unstructure(shown)
    return found
