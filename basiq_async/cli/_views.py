"""What the commands show of webhooks, messages, events and problems: a class for each, its columns and its details."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self, TypeVar

import attrs

from .._redaction.text import json_line, shell_line
from ._results import ABSENT, Column, cell_text

if TYPE_CHECKING:
    from ..models import Event, EventType, Message, Webhook
    from ..services.diagnosis import Problem


V = TypeVar("V", bound=attrs.AttrsInstance)


def view_of(kind: type[V], shown: object, **more: Any) -> V:
    """Make a view of an object: from its attributes of the same names as the fields of ``kind``, and ``more``."""
    names = (name for name in attrs.fields_dict(kind) if name not in more)
    return kind(**{name: getattr(shown, name) for name in names}, **more)


@attrs.frozen(kw_only=True)
class WebhookView:
    """A webhook, without its secret. ``action`` says what ``ensure`` did."""

    id: str
    url: str
    status: str | None
    subscribed_events: Sequence[str]
    name: str | None
    description: str | None
    action: Any = ABSENT

    @classmethod
    def of(cls, webhook: Webhook) -> Self:
        """Return the view of a webhook."""
        return view_of(cls, webhook, action=getattr(webhook, "action", None) or ABSENT)


def _events_cell(webhook: WebhookView) -> str:
    events = webhook.subscribed_events
    return ", ".join(events) if len(events) <= 2 else f"{len(events)} types"


WEBHOOKS: tuple[Column[WebhookView], ...] = (
    Column("ID", lambda webhook: webhook.id),
    Column("STATUS", lambda webhook: webhook.status),
    Column("URL", lambda webhook: webhook.url, flexible=16),
    Column("EVENTS", _events_cell, flexible=16, optional=True),
    Column("NAME", lambda webhook: webhook.name or "", flexible=16, optional=True),
)


@attrs.frozen(kw_only=True)
class AttemptView:
    """An attempt to deliver a message."""

    timestamp: datetime | None
    status: str | None
    status_code: int | None
    url: str | None
    response: str | None


@attrs.frozen(kw_only=True)
class MessageView:
    """A message with its attempts, oldest first."""

    id: str
    event_type_id: str | None
    event_id: str | None
    webhook_id: str | None
    delivered: bool
    last_status_code: int | None
    last_attempt: datetime | None
    attempts: Sequence[AttemptView]

    @classmethod
    def of(cls, message: Message) -> Self:
        """Return the view of a message."""
        last = message.last_attempt
        return view_of(
            cls,
            message,
            last_status_code=last.status_code if last else None,
            last_attempt=last.timestamp if last else None,
            attempts=[view_of(AttemptView, each) for each in message.attempts_by_time],
        )


def _short_time(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment.astimezone(UTC):%m-%d %H:%M:%S}"


MESSAGES: tuple[Column[MessageView], ...] = (
    Column("ID", lambda message: message.id),
    Column("EVENT TYPE", lambda message: message.event_type_id, flexible=16),
    Column("CODE", lambda message: message.last_status_code),
    Column("LAST (UTC)", lambda message: _short_time(message.last_attempt)),
    Column("DELIVERED", lambda message: message.delivered, optional=True),
    Column("EVENT", lambda message: message.event_id, optional=True),
)


def message_details(message: Message) -> Iterable[tuple[str, Any]]:
    """Yield the names and values of a message, its links and its attempts."""
    from ..models import read_links

    view = MessageView.of(message)
    yield "id", view.id
    yield "event type", view.event_type_id
    yield "event", view.event_id
    yield "webhook", view.webhook_id
    yield "delivered", view.delivered
    for name, link in read_links(message.payload.get("links")).items():
        yield f"link {name}", link
    for number, attempt in enumerate(view.attempts, 1):
        words = [cell_text(attempt.timestamp), cell_text(attempt.status_code), attempt.status or ""]
        yield f"attempt {number} of {len(view.attempts)}", "  ".join(word for word in words if word)
        if attempt.url:
            yield "  url", attempt.url
        if attempt.response:
            yield "  response", attempt.response


@attrs.frozen(kw_only=True)
class EventView:
    """An event of the event list."""

    id: str
    type: str
    user_id: str | None
    created: datetime | None
    data_ref: str | None

    @classmethod
    def of(cls, event: Event) -> Self:
        """Return the view of an event."""
        return view_of(cls, event)


EVENTS: tuple[Column[EventView], ...] = (
    Column("ID", lambda event: event.id),
    Column("TYPE", lambda event: event.type, flexible=12),
    Column("CREATED", lambda event: event.created, optional=True),
    Column("USER", lambda event: event.user_id, optional=True),
)


def event_details(event: Event) -> Iterable[tuple[str, Any]]:
    """Yield the names and values of an event, with its data."""
    yield from ((name.replace("_", " "), getattr(EventView.of(event), name)) for name in attrs.fields_dict(EventView))
    if event.data is not None:
        yield "data", json_line(event.data)


@attrs.frozen(kw_only=True)
class EventTypeView:
    """A type of event."""

    id: str
    description: str | None

    @classmethod
    def of(cls, kind: EventType) -> Self:
        """Return the view of an event type."""
        return view_of(cls, kind)


EVENT_TYPES: tuple[Column[EventTypeView], ...] = (
    Column("ID", lambda kind: kind.id),
    Column("DESCRIPTION", lambda kind: kind.description, flexible=16),
)


@attrs.frozen(kw_only=True)
class ProblemView:
    """A problem, with the command that helps as a line for a shell."""

    code: str
    text: str
    command: str | None

    @classmethod
    def of(cls, problems: Iterable[Problem]) -> Sequence[Self]:
        """Return the views of problems."""
        return [
            cls(code=each.code, text=str(each), command=shell_line(each.command) if each.command else None)
            for each in problems
        ]


def problem_details(problems: Iterable[Problem], name: str = "problem") -> Iterable[tuple[str, Any]]:
    """Yield the names and texts of problems, each with the command that helps."""
    for each in ProblemView.of(problems):
        yield name, each.text
        if each.command:
            yield "what helps", each.command


Raw = Mapping[str, Any]
"""An object as the API sent it."""
