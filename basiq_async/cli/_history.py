"""Show messages and events: ``basiq-async messages …`` and ``basiq-async events …``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ..errors import APIError, BadRequestError, NotFoundError, TargetError, TransportError
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
    read_secrets,
    selection,
)
from ._output import live, note
from ._results import Column, Output, Shape, cell_text, shows
from ._run import run, wait_patiently
from ._shapes import EVENT, EVENT_TYPE, MESSAGE, RAW

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from .._wire.order import NewestItems
    from ..client import BasiqClient
    from ..models import Event, EventType, Message


messages_app = typer.Typer(help="The history of a webhook.", no_args_is_help=True)

_FIRST_WAIT, _LONGEST_WAIT = 2.0, 30.0


@messages_app.command("list")
@shows(MESSAGE, RAW)
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
        where = selection(since=since, until=until, failed=failed, event=event)
        messages = aiter(basiq.messages.list(webhook_id, filter=filter))
        await show_list(messages, output, RAW if raw else MESSAGE, limit, wanted=where, raw=raw)

    run(work)


@messages_app.command("get")
@shows(MESSAGE, RAW)
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
    if raw:
        Output(json, json_only=True).one(message.raw, RAW)
    else:
        Output(json).one(message, MESSAGE)


@messages_app.command("tail")
@shows(MESSAGE)
def tail(
    webhook_id: WebhookId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep showing new messages as they appear.")] = False,
    failed: Failed = False,
    since: Since = None,
    event: EventPattern = None,
    filter: Filter = None,
    limit: Annotated[int, typer.Option(min=0, metavar="N", help="Show the newest N; 0 for all.")] = 10,
    json: Json = None,
) -> None:
    """Show the newest messages, newest first. With --follow, show new messages below them until SIGINT or SIGTERM."""
    output = Output(json)

    async def work(basiq: BasiqClient) -> None:
        await check_event_types(basiq, event)
        where = selection(since=since, failed=failed, event=event)
        history = History(basiq, webhook_id, filter)
        found = await history.begin(limit, wanted=where, on_read=show_reading)
        live("")
        output.rows(found.items, MESSAGE)
        if not found.items:
            note("nothing found")
        if follow:
            async for message in _new_ones(history):
                if where is None or where(message):
                    output.rows([message], MESSAGE)

    run(work)


_RESENT: Shape[tuple[Message, str | None]] = Shape(
    {
        "id": lambda pair: pair[0].id,
        "event_type_id": lambda pair: pair[0].event_type_id,
        "accepted": lambda pair: pair[1] is None,
        "error": itemgetter(1),
    },
    (
        Column("ID", lambda pair: pair[0].id),
        Column("ACCEPTED", lambda pair: cell_text(pair[1] is None)),
        Column("EVENT TYPE", lambda pair: cell_text(pair[0].event_type_id), optional=True),
        Column("ERROR", lambda pair: pair[1] or "", flexible=True, least=24),
    ),
)


@messages_app.command("resend")
@shows(_RESENT)
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
                output.rows([(message, error)], _RESENT)
        return accepted

    if not run(work):
        raise typer.Exit(1)


async def show_list(
    items: AsyncIterator[Any],
    output: Output,
    shape: Shape[Any],
    limit: int | None,
    *,
    wanted: Callable[[Any], bool] | None = None,
    raw: bool = False,
) -> None:
    """Show a list in constant memory: all items in a pipe, the newest items in a terminal."""
    from .._wire.order import read_newest

    most = most_of(limit, terminal=not output.as_json)
    count = 0
    if most == 0:
        batch: list[Any] = []
        async for item in items:
            if wanted is not None and not wanted(item):
                continue
            count += 1
            batch.append(item.raw if raw else item)
            if len(batch) == 200:
                output.rows(batch, shape)
                batch.clear()
        output.rows(batch, shape)
        if not count:
            note("nothing found")
        return

    def read(item: object) -> None:
        nonlocal count
        count += 1
        show_reading(count)

    found = await read_newest(items, most, wanted=wanted, on_read=read)
    live("")
    output.rows([item.raw if raw else item for item in found.items], shape)
    if not found.items:
        note("nothing found")
    elif not output.as_json and (not found.complete or wanted is None) and (not found.complete or found.read > most):
        total = f"of {found.read:,}" if found.complete else "and there are more"
        note(f"the newest {len(found.items):,} {total}; --limit N shows N of them, --limit 0 shows all")


def show_reading(count: int) -> None:
    """Show how many items of a list were read, every 500 items."""
    if count % 500 == 0:
        live(f"reading, {count:,} so far")


async def _new_ones(history: History) -> AsyncIterator[Message]:
    """Yield new messages forever. The pauses between requests grow while no message appears."""
    import asyncio

    wait = _FIRST_WAIT
    note("waiting for new messages; Ctrl-C ends")
    while True:
        await asyncio.sleep(wait)
        try:
            wait = min(_LONGEST_WAIT, wait * 1.5)
            async for message in history.poll():
                wait = _FIRST_WAIT
                yield message
        except (APIError, TransportError) as exc:
            wait = wait_patiently(exc, wait, _LONGEST_WAIT)


_IN_A_TERMINAL = 50
_PAGE = 500
"""The most messages of a history that is listed as a whole by each ``poll``, while its order is not known."""
_KNOWN_IN_A_ROW = 50
"""This many known messages in a row end the search for new ones, because messages can be slightly out of order."""
_MOST_KNOWN = 10_000


def most_of(limit: int | None, *, terminal: bool) -> int:
    """Return the most items to show; 0 for all."""
    if limit is None:
        return _IN_A_TERMINAL if terminal else 0
    return limit


class History:
    """The messages of a webhook: ``begin`` reads the newest, then each ``poll`` yields the messages that came since.

    A list that begins with the newest message is read up to the known messages. A list that begins with the oldest
    message is read from its former end. A list that is too short to show its order is read as a whole.
    """

    def __init__(self, basiq: BasiqClient, webhook_id: str, filter: str | None = None) -> None:
        self._basiq = basiq
        self._webhook_id = webhook_id
        self._filter = filter
        self._known: dict[str, None] = {}
        self._cursor: str | None = None
        self._begins_with = "unknown"

    async def begin(
        self,
        most: int,
        *,
        wanted: Callable[[Message], bool] | None = None,
        on_read: Callable[[int], object] = lambda count: None,
    ) -> NewestItems[Message]:
        """Return the ``most`` newest messages; 0 for all. ``on_read`` is called with the number of messages read."""
        from .._wire.order import read_newest

        count = 0

        def read(message: Message) -> None:
            nonlocal count
            count += 1
            if count <= _PAGE:
                self._known[message.id] = None
            on_read(count)

        history = self._basiq.messages.list(self._webhook_id, filter=self._filter)
        async with aclosing(cast("AsyncGenerator[Message]", aiter(history))) as messages:
            found = await read_newest(messages, most, wanted=wanted, on_read=read)
        if not found.complete:
            self._begins_with = "newest"
        elif found.read > _PAGE:
            self._begins_with = "newest" if found.order == "newest-first" else "oldest"
            self._cursor = history.cursor
        return found

    async def poll(self) -> AsyncIterator[Message]:
        """Yield the messages that came since the last call, oldest first."""
        if self._begins_with == "oldest":
            history = self._basiq.messages.list(self._webhook_id, filter=self._filter, cursor=self._cursor, prefetch=0)
            try:
                async for message in history:
                    yield message
            finally:
                self._cursor = history.cursor or self._cursor
            return
        for message in await self._find_unknown():
            self._known[message.id] = None
            yield message
        while len(self._known) > _MOST_KNOWN:
            del self._known[next(iter(self._known))]

    async def _find_unknown(self) -> list[Message]:
        from .._wire.order import OrderDetector, item_time

        fresh: list[Message] = []
        in_a_row = count = 0
        detector = OrderDetector()
        history = self._basiq.messages.list(self._webhook_id, filter=self._filter, prefetch=0)
        async with aclosing(cast("AsyncGenerator[Message]", aiter(history))) as messages:
            async for message in messages:
                count += 1
                detector.see(item_time(message))
                in_a_row = in_a_row + 1 if message.id in self._known else 0
                if not in_a_row:
                    fresh.append(message)
                elif in_a_row > _KNOWN_IN_A_ROW and self._begins_with == "newest":
                    break
        if self._begins_with == "unknown" and count > _PAGE:
            self._begins_with = "newest" if detector.order == "newest-first" else "oldest"
            self._cursor = history.cursor
        newest_first = self._begins_with == "newest" or detector.order == "newest-first"
        return fresh[::-1] if newest_first else fresh


events_app = typer.Typer(help="The events of the last 7 days, and the event types.", no_args_is_help=True)


@events_app.command("list")
@shows(EVENT, RAW)
def list_events(filter: Filter = None, limit: Limit = None, raw: Raw = False, json: Json = None) -> None:
    """Show the events of the last 7 days.

    A terminal shows the newest events, newest first. A pipe gets all events, in Basiq's order.
    """

    async def work(basiq: BasiqClient) -> None:
        events = aiter(basiq.events.list(filter=filter))
        shape = RAW if raw else EVENT
        await show_list(events, Output(json, json_only=raw), shape, limit, raw=raw)

    run(work)


@events_app.command("get")
@shows(EVENT, RAW)
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
@shows(EVENT_TYPE)
def list_event_types(json: Json = None) -> None:
    """Show the event types that a webhook can subscribe to."""

    async def work(basiq: BasiqClient) -> list[EventType]:
        return await basiq.event_types.list().collect()

    found = run(work)
    Output(json).rows(found, EVENT_TYPE)
    if not found:
        note("there are no event types")
