"""``basiq-async events …``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._redaction.text import json_line
from ._messages import choose, show_list
from ._options import (
    EventPattern,
    Filter,
    Json,
    Limit,
    Raw,
    Since,
    Until,
)
from ._output import note
from ._results import Column, Output, View
from ._run import make_client

if TYPE_CHECKING:
    from ..models import Event, EventType

events_app = typer.Typer(help="The events of the last 7 days, and the event types.", no_args_is_help=True)


_EVENT: View[Event] = View(
    "id type user_id created data_ref",
    Column("ID", "id"),
    Column("TYPE", "type", flexible=12),
    Column("CREATED", "created", optional=True),
    Column("USER", "user_id", optional=True),
)
_EVENT_TYPE: View[EventType] = View(
    "id description", Column("ID", "id"), Column("DESCRIPTION", "description", flexible=16)
)


def _details(event: Event) -> Iterable[tuple[str, Any]]:
    """Yield the names and values of an event, with its data."""
    yield from ((name.replace("_", " "), value) for name, value in _EVENT.row(event).items())
    if event.data is not None:
        yield "data", json_line(event.data)


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
    from ..replay.shared import message_of

    async with make_client() as basiq:
        where = await choose(basiq, since=since, until=until, event=event)

        def wanted(found: Event) -> bool:
            return where is None or where(message_of(found, ""))

        events = aiter(basiq.events.list(filter=filter))
        await show_list(events, Output(json, raw), _EVENT, limit, wanted=None if where is None else wanted)


@events_app.command()
async def get(
    event_id: Annotated[str, typer.Argument(help="The event's id.")],
    raw: Raw = False,
    json: Json = None,
) -> None:
    """Show one event."""
    async with make_client() as basiq:
        event = await basiq.events.get(event_id)
    Output(json, raw).one(event, _EVENT, _details(event))


@events_app.command()
async def types(json: Json = None) -> None:
    """Show the event types that a webhook can subscribe to."""
    async with make_client() as basiq:
        found = await basiq.event_types.list().collect()
    Output(json).rows(found, _EVENT_TYPE)
    if not found:
        note("there are no event types")
