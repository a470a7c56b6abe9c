"""How each kind of result looks: as JSON, as a row of a table, and alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .._redaction.text import shell_line
from ._results import Column, Shape, cell_text

if TYPE_CHECKING:
    from ..models import Event, EventType, Message, Webhook
    from ..services.diagnosis import Problem


_FEW_EVENTS = 2


def _webhook_row(webhook: Webhook) -> dict[str, Any]:
    row = {
        "id": webhook.id,
        "url": webhook.url,
        "status": webhook.status,
        "subscribed_events": webhook.subscribed_events,
        "name": webhook.name,
        "description": webhook.description,
    }
    action = getattr(webhook, "action", None)
    return row if action is None else {**row, "action": action}


def _events_cell(webhook: Webhook) -> str:
    events = webhook.subscribed_events
    return ", ".join(events) if len(events) <= _FEW_EVENTS else f"{len(events)} types"


WEBHOOK: Shape[Webhook] = Shape(
    ("id", "url", "status", "subscribed_events", "name", "description", "action"),
    _webhook_row,
    (
        Column("ID", lambda webhook: webhook.id),
        Column("STATUS", lambda webhook: cell_text(webhook.status)),
        Column("URL", lambda webhook: webhook.url, flexible=True),
        Column("EVENTS", _events_cell, flexible=True),
        Column("NAME", lambda webhook: webhook.name or "", flexible=True),
    ),
)


def _message_row(message: Message) -> dict[str, Any]:
    last = message.last_attempt
    return {
        "id": message.id,
        "event_type_id": message.event_type_id,
        "event_id": message.event_id,
        "webhook_id": message.webhook_id,
        "delivered": message.delivered,
        "last_status_code": last.status_code if last else None,
        "last_attempt": last.timestamp if last else None,
        "attempts": [
            {
                "timestamp": attempt.timestamp,
                "status": attempt.status,
                "status_code": attempt.status_code,
                "url": attempt.url,
                "response": attempt.response,
            }
            for attempt in message.attempts_by_time
        ],
    }


def _last_attempt(message: Message) -> str:
    last = message.last_attempt
    return cell_text(last.timestamp if last else None)


def _last_status(message: Message) -> str:
    last = message.last_attempt
    return cell_text(last.status_code if last else None)


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
    ("id", "event_type_id", "event_id", "webhook_id", "delivered", "last_status_code", "last_attempt", "attempts"),
    _message_row,
    (
        Column("ID", lambda message: message.id),
        Column("EVENT TYPE", lambda message: cell_text(message.event_type_id)),
        Column("DELIVERED", lambda message: cell_text(message.delivered)),
        Column("STATUS", _last_status),
        Column("LAST ATTEMPT", _last_attempt, optional=True),
        Column("EVENT", lambda message: cell_text(message.event_id), optional=True),
    ),
    _message_details,
)


def _event_row(event: Event) -> dict[str, Any]:
    return {
        "id": event.id,
        "type": event.type,
        "user_id": event.user_id,
        "created": event.created,
        "data_ref": event.data_ref,
    }


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
    ("id", "type", "user_id", "created", "data_ref"),
    _event_row,
    (
        Column("ID", lambda event: event.id),
        Column("TYPE", lambda event: event.type),
        Column("CREATED", lambda event: cell_text(event.created)),
        Column("USER", lambda event: cell_text(event.user_id), optional=True),
    ),
    _event_details,
)

EVENT_TYPE: Shape[EventType] = Shape(
    ("id", "description"),
    lambda kind: {"id": kind.id, "description": kind.description},
    (
        Column("ID", lambda kind: kind.id),
        Column("DESCRIPTION", lambda kind: cell_text(kind.description), flexible=True),
    ),
)

RECEIVED: Shape[dict[str, Any]] = Shape(
    ("result", "status", "reason", "delivery_id", "event_type_id", "event_id", "timestamp", "links",
     "forwarded_status", "forward_error", "body"),
    lambda row: row,
)  # fmt: skip
"""A delivery that ``listen`` received."""

POLLED: Shape[dict[str, Any]] = Shape(
    ("result", "message_id", "event_type_id", "event_id", "webhook_id", "error", "body"), lambda row: row
)
"""A message that ``listen --poll`` read."""

RAW: Shape[Mapping[str, Any]] = Shape((), lambda raw: raw)
"""An object as the API sent it."""

DELETED: Shape[str] = Shape(("id", "deleted"), lambda deleted: {"id": deleted, "deleted": True})

SECRET: Shape[tuple[str, str]] = Shape(("id", "secret"), lambda pair: {"id": pair[0], "secret": pair[1]})


def problem_rows(problems: Iterable[Problem]) -> list[dict[str, Any]]:
    """Return problems as they look in JSON."""
    return [
        {"code": each.code, "text": str(each), "command": shell_line(each.command) if each.command else None}
        for each in problems
    ]


def problem_details(problems: Iterable[Problem], name: str = "problem") -> Iterable[tuple[str, Any]]:
    """Return problems as they look in text, each with the line that helps."""
    for each in problems:
        yield name, str(each)
        if each.command:
            yield "what helps", shell_line(each.command)
