"""The results of the control API. They are made from the fake's own classes: the JSON, the schemas and the
OpenAPI document follow from both.

Secrets and tokens are hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

import attrs
from cattrs import Converter
from cattrs.gen import make_dict_unstructure_fn, override

from ..fake import _faults as fake
from ..fake import _records as records
from ..fake._deliveries import DeliveredAttempt, Emission
from ..fake._logs import RequestRecord

T = TypeVar("T")
HIDDEN = "(hidden)"
_SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie", "x-fake-token"})
_SHOWN = 64 * 1024
Headers = Mapping[str, str]


def shown(title: str, /, *sources: type[Any], without: str = "", **more: Any) -> Any:
    """Make the class of a result: ``more`` fields with their types, and the sources' own except those ``without``."""
    types: dict[str, Any] = {}
    for source in sources:
        types |= {each.name: each.type for each in attrs.fields(attrs.resolve_types(source))}
    types = {name: hint for name, hint in types.items() if name not in without.split()} | more
    fields = {name: attrs.field(type=hint) for name, hint in types.items()}
    return attrs.make_class(title, fields, frozen=True, kw_only=True, repr=False)  # results can have secrets


def several(kind: Any) -> Any:
    """Return the type of a tuple of these."""
    return tuple[kind, ...]


@attrs.frozen(kw_only=True)
class Items(Generic[T]):
    """A whole list."""

    items: tuple[T, ...]


@attrs.frozen(kw_only=True)
class Page(Items[T]):
    """A page of a list."""

    total: int
    next: str | None


Error = shown("Error", error=shown("ErrorDetail", code=str, message=str))
Health = shown("Health", status=Literal["ok"], base_url=str, version=str)
Done = shown("Done", now=datetime, next_due=datetime | None)
Advanced = shown("Advanced", Done, attempts=int)
Emitted = shown("Emitted", Emission, without="_complete not_sent")
Added = shown("Added", webhook_id=str)
Secret = shown("Secret", secret=str)

_COUNTED = ("pending", "webhooks", "messages", "requests", "deliveries", "violations")
_COUNTS: Mapping[str, Any] = dict.fromkeys(_COUNTED, int)
StateSummary = shown("StateSummary", name=str, seed=str, now=datetime, **_COUNTS)
NewState = shown("NewState", StateSummary, api_key=str)
Clock = shown("Clock", running=bool, speed=float | None)
EndpointDown = shown("EndpointDown", url=str | None, status=int | None)
Fault = shown("Fault", fake.Fault, without="headers body", drop=str | None)
DeliveryFault = shown("DeliveryFault", fake.DeliveryFault, drop=str | None)
State = shown(
    "State",
    StateSummary,
    Done,
    base_url=str,
    clock=Clock,
    endpoints_down=several(EndpointDown),
    faults=several(Fault),
    delivery_faults=several(DeliveryFault),
    revision=int,
)

EventType = shown("EventType", id=str, description=str)
Request = shown("Request", RequestRecord, without="request", method=str)
WholeRequest = shown("WholeRequest", Request, url=str, headers=Headers, body=str | None)
Delivery = shown("Delivery", DeliveredAttempt, attempt=int, headers=Headers, body=str)
Attempt = shown("Attempt", records.Attempt, without="id", number=int)
NextAttempt = shown("NextAttempt", number=int, due=datetime)
Message = shown(
    "Message",
    records.Message,
    without="event text",
    **dict.fromkeys(("event_type_id", "event_id", "user_id", "entity_id"), str),
    status=Literal["Success", "Failed", "Pending"],
    attempts=several(Attempt),
    next_attempt=NextAttempt | None,
)
WholeMessage = shown("WholeMessage", Message, data=Mapping[str, object] | None, text=str | None)
Webhook = shown(
    "Webhook",
    records.Webhook,
    without="serial events key disabled",
    status=Literal["active", "pending-approval", "disabled"],
    subscribed_events=tuple[str, ...],
    cool_off_left=float,
    messages=int,
)


def take(kind: Any, *sources: object, **more: object) -> Any:
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


def as_json(result: attrs.AttrsInstance) -> dict[str, Any]:
    """Return a result as JSON data that fits its schema."""
    found: dict[str, Any] = _converter.unstructure(result)
    return found
