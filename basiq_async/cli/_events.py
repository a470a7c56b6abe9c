"""``basiq-async events …``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Self

import attrs
import typer

from .._redaction.text import json_line
from ._messages import show_list
from ._options import (
    EventPattern,
    Filter,
    Json,
    Limit,
    Raw,
    Since,
    Until,
    check_event_types,
    moment_at_basiq,
)
from ._output import note
from ._results import Column, Output, view_of
from ._run import make_client

if TYPE_CHECKING:
    from ..models import Event, EventType

events_app = typer.Typer(help="The events of the last 7 days, and the event types.", no_args_is_help=True)


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


_EVENTS: Sequence[Column[EventView]] = (
    Column("ID", lambda event: event.id),
    Column("TYPE", lambda event: event.type, flexible=12),
    Column("CREATED", lambda event: event.created, optional=True),
    Column("USER", lambda event: event.user_id, optional=True),
)


def _details(event: Event) -> Iterable[tuple[str, Any]]:
    """Yield the names and values of an event, with its data."""
    yield from ((name.replace("_", " "), value) for name, value in attrs.asdict(EventView.of(event)).items())
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


_TYPES: Sequence[Column[EventTypeView]] = (
    Column("ID", lambda kind: kind.id),
    Column("DESCRIPTION", lambda kind: kind.description, flexible=16),
)


@events_app.command("list")
async def list_(
    since: Since = None,
    until: Until = None,
    event: EventPattern = None,
    filter: Filter = None,
    limit: Limit = None,
    raw: Raw = False,
    json: Json = None,
) -> None:
    """Show the events of the last 7 days.

    A terminal shows the newest events, newest first. A pipe gets all events, in Basiq's order.
    """
    output = Output(json, json_only=raw)
    async with make_client() as basiq:
        await check_event_types(basiq, event)
        wanted = None
        if since is not None or until is not None or event:
            first = await moment_at_basiq(basiq, since, "--since")
            wanted = _selection(first, await moment_at_basiq(basiq, until, "--until"), event or ())
        events = aiter(basiq.events.list(filter=filter))
        if raw:
            await show_list(events, output, limit, lambda each: each.raw, wanted=wanted)
        else:
            await show_list(events, output, limit, EventView.of, _EVENTS, EventView, wanted=wanted)


def _selection(since: datetime | None, until: datetime | None, types: Sequence[str]) -> Callable[[Event], bool]:
    """Return a function that says whether an event is selected. An event without a time is selected."""
    beginnings = tuple(each[:-1] for each in types if each.endswith("*"))

    def wanted(event: Event) -> bool:
        made = event.created
        if made is not None and ((since is not None and made < since) or (until is not None and made >= until)):
            return False
        return not types or event.type in types or event.type.startswith(beginnings)

    return wanted


@events_app.command()
async def get(
    event_id: Annotated[str, typer.Argument(help="The event's id.")],
    raw: Raw = False,
    json: Json = None,
) -> None:
    """Show one event."""
    async with make_client() as basiq:
        event = await basiq.events.get(event_id)
    Output(json, json_only=raw).one(event.raw if raw else EventView.of(event), _details(event))


@events_app.command()
async def types(json: Json = None) -> None:
    """Show the event types that a webhook can subscribe to."""
    async with make_client() as basiq:
        found = await basiq.event_types.list().collect()
    Output(json).rows(map(EventTypeView.of, found), _TYPES, EventTypeView)
    if not found:
        note("there are no event types")
