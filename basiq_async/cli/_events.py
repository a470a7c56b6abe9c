"""``basiq-async events …``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..client import BasiqClient
from ..models import Event, EventType
from ._run import run, show

events_app = typer.Typer(help="Events of the last 7 days, and the types of event.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="JSON lines, as when the output is piped.")]


def _row(event: Event) -> dict[str, Any]:
    return {
        "id": event.id,
        "type": event.type,
        "user_id": event.user_id,
        "created": event.created,
        "data_ref": event.data_ref,
    }


@events_app.command("list")
def list_(
    filter: Annotated[str | None, typer.Option(help="A filter in Basiq's syntax.")] = None,
    max_items: Annotated[int, typer.Option("--max", min=1, help="Show at most so many.")] = 100,
    json: Json = False,
) -> None:
    """Show events of the last 7 days."""

    async def work(basiq: BasiqClient) -> list[Event]:
        return await basiq.events.list(filter=filter).collect(max_items)

    show(map(_row, run(work)), as_json=json)


@events_app.command("get")
def get(
    event_id: Annotated[str, typer.Argument(help="The event's id.")],
    raw: Annotated[bool, typer.Option("--raw", help="The event as it came, as JSON.")] = False,
    json: Json = False,
) -> None:
    """Show one event."""

    async def work(basiq: BasiqClient) -> Event:
        return await basiq.events.get(event_id)

    event = run(work)
    show([dict(event.raw) if raw else _row(event)], as_json=json or raw)


@events_app.command("types")
def types(json: Json = False) -> None:
    """Show the types of event that a webhook can subscribe to."""

    async def work(basiq: BasiqClient) -> list[EventType]:
        return await basiq.event_types.list().collect()

    show(({"id": kind.id, "description": kind.description} for kind in run(work)), as_json=json)
