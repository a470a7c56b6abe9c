"""Show messages and events: ``basiq-async messages …`` and ``basiq-async events …``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import attrs
import typer

from ..errors import BadRequestError, NotFoundError, TargetError, TransportError
from ._completion import option
from ._options import (
    EndpointSecretFile,
    EventPattern,
    Failed,
    Filter,
    Json,
    Limit,
    Raw,
    Since,
    Until,
    WebhookId,
    check_event_types,
    moment_at_basiq,
    read_secrets,
    selection_at_basiq,
)
from ._output import live, note
from ._results import Column, Output
from ._run import run
from ._views import (
    EVENT_TYPES,
    EVENTS,
    MESSAGES,
    EventTypeView,
    EventView,
    MessageView,
    event_details,
    message_details,
)

if TYPE_CHECKING:
    from ..client import BasiqClient
    from ..models import Event, EventType, Message

T = TypeVar("T")

messages_app = typer.Typer(help="The history of a webhook.", no_args_is_help=True)


@messages_app.command("list")
def list_messages(
    webhook_id: WebhookId,
    failed: Failed = False,
    since: Since = None,
    until: Until = None,
    event: EventPattern = None,
    filter: Filter = None,
    limit: Limit = None,
    raw: Raw = False,
    json: Json = None,
) -> None:
    """Show a webhook's messages.

    A terminal shows the newest messages, newest first. A pipe gets all messages, in Basiq's order.
    """
    output = Output(json, json_only=raw)

    async def work(basiq: BasiqClient) -> None:
        await check_event_types(basiq, event)
        where = await selection_at_basiq(basiq, since=since, until=until, failed=failed, event=event)
        messages = aiter(basiq.messages.list(webhook_id, filter=filter))
        if raw:
            await _show_list(messages, output, limit, lambda message: message.raw, wanted=where)
        else:
            await _show_list(messages, output, limit, MessageView.of, MESSAGES, MessageView, wanted=where)

    run(work)


@messages_app.command("get")
def get_message(
    webhook_id: WebhookId,
    message_id: Annotated[str, typer.Argument(help="The message's id.")],
    raw: Raw = False,
    json: Json = None,
) -> None:
    """Show one message with all its attempts."""

    async def work(basiq: BasiqClient) -> Message:
        return await basiq.messages.get(webhook_id, message_id)

    message = run(work)
    Output(json, json_only=raw).one(message.raw if raw else MessageView.of(message), message_details(message))


@messages_app.command("tail")
def tail(
    webhook_id: WebhookId,
    follow: Annotated[bool, option("Keep showing new messages as they appear.", "--follow", "-f")] = False,
    failed: Failed = False,
    since: Since = None,
    event: EventPattern = None,
    filter: Filter = None,
    limit: Annotated[int, typer.Option(min=0, metavar="N", help="Show the newest N; 0 for all.")] = 10,
    json: Json = None,
) -> None:
    """Show the newest messages, newest first. With --follow, show new messages below them until SIGINT or SIGTERM."""
    from ._follow import History, new_messages

    output = Output(json)

    async def work(basiq: BasiqClient) -> None:
        await check_event_types(basiq, event)
        where = await selection_at_basiq(basiq, since=since, failed=failed, event=event)
        history = History(basiq, webhook_id, filter)
        found = await history.begin(limit or None, wanted=where, on_read=show_reading)
        live(None)
        output.rows(map(MessageView.of, found.items), MESSAGES, MessageView)
        if not found.items:
            note("nothing found")
        if follow:
            async for message in new_messages(history):
                if where is None or where(message):
                    output.rows([MessageView.of(message)], MESSAGES, MessageView)

    run(work)


@attrs.frozen(kw_only=True)
class _Resent:
    """A message that was posted again, and whether the endpoint accepted it."""

    id: str
    event_type_id: str | None
    accepted: bool
    error: str | None


_RESENT: Sequence[Column[_Resent]] = (
    Column("ID", lambda sent: sent.id),
    Column("ACCEPTED", lambda sent: sent.accepted),
    Column("EVENT TYPE", lambda sent: sent.event_type_id, optional=True),
    Column("ERROR", lambda sent: sent.error or "", flexible=24),
)


@messages_app.command("resend")
def resend(
    webhook_id: WebhookId,
    message_ids: Annotated[list[str], typer.Argument(help="The ids of the messages.", metavar="MESSAGE_ID...")],
    to: Annotated[str, typer.Option(help="The endpoint to post to. Deliveries are signed as Basiq signs them.")],
    secret_file: EndpointSecretFile = None,
    json: Json = None,
) -> None:
    """Post messages to an endpoint again, each with a new signature.

    The exit code is 1 if a message was not accepted.
    """
    output = Output(json)

    async def work(basiq: BasiqClient) -> bool:
        from ..models import Message
        from ..replay import HttpTarget

        accepted = True
        async with HttpTarget(to, read_secrets(secret_file)) as target:
            for message_id in message_ids:
                message, error = Message(message_id, {}), None
                try:
                    message = await basiq.messages.get(webhook_id, message_id)
                    await target.deliver(message)
                except (BadRequestError, NotFoundError, TargetError, TransportError) as exc:
                    error, accepted = str(exc), False  # the other messages are still posted
                kind = message.event_type_id
                output.rows([_Resent(id=message.id, event_type_id=kind, accepted=error is None, error=error)], _RESENT)
        return accepted

    if not run(work):
        raise typer.Exit(1)


async def _show_list(
    items: AsyncIterator[Any],
    output: Output,
    limit: int | None,
    view: Callable[[Any], T],
    columns: Sequence[Column[T]] = (),
    kind: type[T] | None = None,
    *,
    wanted: Callable[[Any], bool] | None = None,
) -> None:
    """Show a list in constant memory: all items in a pipe, the newest items in a terminal."""
    from .._wire.order import read_newest

    most = limit if limit is not None else 0 if output.as_json else _IN_A_TERMINAL
    count = 0
    if most == 0:
        batch: list[T] = []
        async for item in items:
            if wanted is not None and not wanted(item):
                continue
            count += 1
            batch.append(view(item))
            if len(batch) == 200:
                output.rows(batch, columns, kind)
                batch.clear()
        output.rows(batch, columns, kind)
        if not count:
            note("nothing found")
        return

    def read(item: object) -> None:
        nonlocal count
        count += 1
        show_reading(count)

    found = await read_newest(items, most, wanted=wanted, on_read=read)
    live(None)
    output.rows(map(view, found.items), columns, kind)
    if not found.items:
        note("nothing found")
    elif not output.as_json and (not found.complete or (wanted is None and found.read > most)):
        total = f"of {found.read:,}" if found.complete else "and there are more"
        note(f"the newest {len(found.items):,} {total}; --limit N shows N of them, --limit 0 shows all")


def show_reading(count: int) -> None:
    """Show how many items of a list were read, every 500 items."""
    if count % 500 == 0:
        live(f"reading, {count:,} so far")


_IN_A_TERMINAL = 50

events_app = typer.Typer(help="The events of the last 7 days, and the event types.", no_args_is_help=True)


@events_app.command("list")
def list_events(
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

    async def work(basiq: BasiqClient) -> None:
        await check_event_types(basiq, event)
        wanted = None
        if since is not None or until is not None or event:
            times = [
                await moment_at_basiq(basiq, text, name) for text, name in ((since, "--since"), (until, "--until"))
            ]
            wanted = _select_events(times[0], times[1], event or ())
        events = aiter(basiq.events.list(filter=filter))
        if raw:
            await _show_list(events, output, limit, lambda each: each.raw, wanted=wanted)
        else:
            await _show_list(events, output, limit, EventView.of, EVENTS, EventView, wanted=wanted)

    run(work)


def _select_events(since: datetime | None, until: datetime | None, types: Sequence[str]) -> Callable[[Event], bool]:
    """Return a function that says whether an event is selected. An event without a time is selected."""
    exact = frozenset(types)
    beginnings = tuple(each[:-1] for each in types if each.endswith("*"))

    def wanted(event: Event) -> bool:
        made = event.created
        if made is not None and ((since is not None and made < since) or (until is not None and made >= until)):
            return False
        return not types or event.type in exact or event.type.startswith(beginnings)

    return wanted


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
    Output(json, json_only=raw).one(event.raw if raw else EventView.of(event), event_details(event))


@events_app.command("types")
def list_event_types(json: Json = None) -> None:
    """Show the event types that a webhook can subscribe to."""

    async def work(basiq: BasiqClient) -> list[EventType]:
        return await basiq.event_types.list().collect()

    found = run(work)
    Output(json).rows(map(EventTypeView.of, found), EVENT_TYPES, EventTypeView)
    if not found:
        note("there are no event types")
