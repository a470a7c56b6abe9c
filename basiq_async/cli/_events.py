"""``basiq-async events …``: the events of the last 7 days, and the event types."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .._redaction.text import json_line
from ._command import Group
from ._history import show_list
from ._options import FilterOption, LimitOption, Selection
from ._results import Column, Output, View

if TYPE_CHECKING:
    from ..client import BasiqClient
    from ..models import Event, EventType

events_app = Group("The events of the last 7 days, and the event types.")

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


def _event_details(event: Event) -> Iterable[tuple[str, Any]]:
    """Yield the names and values of an event, with its data."""
    yield from ((name.replace("_", " "), value) for name, value in _EVENT.row(event).items())
    if event.data is not None:
        yield "data", json_line(event.data)


@events_app.add(shows=_EVENT, raw=True, name="list")
async def list_events(
    basiq: BasiqClient,
    output: Output,
    selection: Selection,
    filter: FilterOption = None,
    limit: LimitOption = None,
) -> None:
    """Show the events of the last 7 days: the newest first in a terminal, in Basiq's order in a pipe."""
    from ..replay.shared import message_of

    where = await selection.read(basiq)
    wanted = None if where is None else lambda event: where(message_of(event, ""))
    await show_list(aiter(basiq.events.list(filter=filter)), output, _EVENT, limit, wanted)


@events_app.add(_EVENT, details=_event_details, raw=True, name="get")
async def get_event(basiq: BasiqClient, event_id: str) -> Event:
    """Show one event.

    event_id: The event's id.
    """
    return await basiq.events.get(event_id)


@events_app.add(_EVENT_TYPE, empty="there are no event types")
async def types(basiq: BasiqClient) -> Sequence[EventType]:
    """Show the event types that a webhook can subscribe to."""
    return await basiq.event_types.list().collect()
