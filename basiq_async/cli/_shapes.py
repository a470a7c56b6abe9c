"""The shape of each kind of result: its JSON, its row in a table, and its details."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any

import attrs

from .._redaction.text import shell_line
from ._results import ABSENT, Column, Shape, attributes, cell_text, fields_of

if TYPE_CHECKING:
    from ..models import Event, EventType, Message, Webhook
    from ..services.diagnosis import Problem


_FEW_EVENTS = 2


def _events_cell(webhook: Webhook) -> str:
    events = webhook.subscribed_events
    return ", ".join(events) if len(events) <= _FEW_EVENTS else f"{len(events)} types"


WEBHOOK: Shape[Webhook] = Shape(
    {
        **attributes("id", "url", "status", "subscribed_events", "name", "description"),
        "action": lambda webhook: getattr(webhook, "action", None) or ABSENT,
    },
    (
        Column("ID", lambda webhook: webhook.id),
        Column("STATUS", lambda webhook: cell_text(webhook.status)),
        Column("URL", lambda webhook: webhook.url, flexible=True),
        Column("EVENTS", _events_cell, flexible=True),
        Column("NAME", lambda webhook: webhook.name or "", flexible=True),
    ),
)


def _last_attempt(message: Message) -> Any:
    last = message.last_attempt
    return last.timestamp if last else None


def _last_status_code(message: Message) -> Any:
    last = message.last_attempt
    return last.status_code if last else None


_ATTEMPT = ("timestamp", "status", "status_code", "url", "response")
_read_attempt = attrgetter(*_ATTEMPT)


def _message_details(message: Message) -> Iterable[tuple[str, Any]]:
    yield "id", message.id
    yield "event type", message.event_type_id
    yield "event", message.event_id
    yield "webhook", message.webhook_id
    yield "delivered", message.delivered
    from ..models import read_links

    for name, link in read_links(message.payload.get("links")).items():
        yield f"link {name}", link
    count = len(message.attempts)
    for number, attempt in enumerate(message.attempts_by_time, 1):
        words = [cell_text(attempt.timestamp), cell_text(attempt.status_code), attempt.status or ""]
        yield f"attempt {number} of {count}", "  ".join(word for word in words if word)
        if attempt.url:
            yield "  url", attempt.url
        if attempt.response:
            yield "  response", attempt.response


MESSAGE: Shape[Message] = Shape(
    {
        **attributes("id", "event_type_id", "event_id", "webhook_id", "delivered"),
        "last_status_code": _last_status_code,
        "last_attempt": _last_attempt,
        "attempts": lambda message: [
            dict(zip(_ATTEMPT, _read_attempt(each), strict=True)) for each in message.attempts_by_time
        ],
    },
    (
        Column("ID", lambda message: message.id),
        Column("EVENT TYPE", lambda message: cell_text(message.event_type_id)),
        Column("DELIVERED", lambda message: cell_text(message.delivered)),
        Column("STATUS", lambda message: cell_text(_last_status_code(message))),
        Column("LAST ATTEMPT", lambda message: cell_text(_last_attempt(message)), optional=True),
        Column("EVENT", lambda message: cell_text(message.event_id), optional=True),
    ),
    _message_details,
)


def _event_details(event: Event) -> Iterable[tuple[str, Any]]:
    yield "id", event.id
    yield "type", event.type
    yield "user", event.user_id
    yield "created", event.created
    yield "data ref", event.data_ref
    if event.data is not None:
        from .._redaction.text import json_line

        yield "data", json_line(event.data)


EVENT: Shape[Event] = Shape(
    attributes("id", "type", "user_id", "created", "data_ref"),
    (
        Column("ID", lambda event: event.id),
        Column("TYPE", lambda event: event.type),
        Column("CREATED", lambda event: cell_text(event.created)),
        Column("USER", lambda event: cell_text(event.user_id), optional=True),
    ),
    _event_details,
)

EVENT_TYPE: Shape[EventType] = Shape(
    attributes("id", "description"),
    (
        Column("ID", lambda kind: kind.id),
        Column("DESCRIPTION", lambda kind: cell_text(kind.description), flexible=True),
    ),
)


@attrs.frozen(kw_only=True)
class Received:
    """A delivery that ``listen`` received."""

    result: str
    status: int
    reason: str | None
    delivery_id: str | None
    event_type_id: str | None
    event_id: str | None
    timestamp: datetime | None
    links: Mapping[str, str] | None
    forwarded_status: Any = ABSENT
    forward_error: Any = ABSENT
    body: Any = ABSENT


@attrs.frozen(kw_only=True)
class Polled:
    """A message that ``listen --poll`` read."""

    result: str
    message_id: str
    event_type_id: str | None
    event_id: str | None
    webhook_id: str | None
    error: str | None
    body: Any = ABSENT


RECEIVED: Shape[Received] = Shape(fields_of(Received))
POLLED: Shape[Polled] = Shape(fields_of(Polled))

RAW: Shape[Mapping[str, Any]] = Shape(None)
"""An object as the API sent it."""

DELETED: Shape[str] = Shape({"id": str, "deleted": lambda webhook_id: True})

SECRET: Shape[tuple[str, str]] = Shape({"id": itemgetter(0), "secret": itemgetter(1)})


def problem_rows(problems: Iterable[Problem]) -> list[dict[str, Any]]:
    """Return problems as JSON objects."""
    return [
        {"code": each.code, "text": str(each), "command": shell_line(each.command) if each.command else None}
        for each in problems
    ]


def problem_details(problems: Iterable[Problem], name: str = "problem") -> Iterable[tuple[str, Any]]:
    """Yield the names and texts of problems, each with the command that helps."""
    for each in problems:
        yield name, str(each)
        if each.command:
            yield "what helps", shell_line(each.command)
