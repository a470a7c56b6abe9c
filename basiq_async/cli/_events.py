"""``basiq-async events …``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ._messages import show_list
from ._options import Filter, Json, Limit, Raw
from ._output import Output, note
from ._run import run
from ._shapes import EVENT, EVENT_TYPE, RAW

if TYPE_CHECKING:
    from ..client import BasiqClient
    from ..models import Event, EventType

events_app = typer.Typer(help="Events of the last 7 days, and the types of event.", no_args_is_help=True)


@events_app.command("list")
def list_events(filter: Filter = None, limit: Limit = None, raw: Raw = False, json: Json = None) -> None:
    """Show events of the last 7 days: the newest in a terminal, newest first; all in a pipe, in Basiq's order."""

    async def work(basiq: BasiqClient) -> None:
        events = aiter(basiq.events.list(filter=filter))
        shape = RAW if raw else EVENT
        await show_list(events, Output(json, json_only=raw), shape, limit, raw=raw)

    run(work)


@events_app.command("get")
def get_event(
    event_id: Annotated[str, typer.Argument(help="The event's id.")],
    raw: Raw = False,
    json: Json = None,
) -> None:
    """Show one event."""

    async def work(basiq: BasiqClient) -> Event:
        return await basiq.events.get(event_id)

    event = run(work)
    if raw:
        Output(json, json_only=True).one(event.raw, RAW)
    else:
        Output(json).one(event, EVENT)


@events_app.command("types")
def list_event_types(json: Json = None) -> None:
    """Show the types of event that a webhook can subscribe to."""

    async def work(basiq: BasiqClient) -> list[EventType]:
        return await basiq.event_types.list().collect()

    found = run(work)
    Output(json).rows(found, EVENT_TYPE)
    if not found:
        note("there are no types of event")
