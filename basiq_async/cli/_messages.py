"""``basiq-async messages …``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar

import attrs
import typer

from ..errors import BadRequestError, NotFoundError, TargetError, TransportError
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
    option,
    read_secrets,
    selection,
)
from ._output import live, note
from ._results import Column, Output, cell_text, view_of
from ._run import make_client

if TYPE_CHECKING:
    from ..client import BasiqClient
    from ..models import Message
    from ..replay import Where

T = TypeVar("T")
_IN_A_TERMINAL = 50

messages_app = typer.Typer(help="The history of a webhook.", no_args_is_help=True)


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


_MESSAGES: Sequence[Column[MessageView]] = (
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

    yield "id", message.id
    yield "event type", message.event_type_id
    yield "event", message.event_id
    yield "webhook", message.webhook_id
    yield "delivered", message.delivered
    for name, link in read_links(message.payload.get("links")).items():
        yield f"link {name}", link
    attempts = message.attempts_by_time
    for number, attempt in enumerate(attempts, 1):
        words = [cell_text(attempt.timestamp), cell_text(attempt.status_code), attempt.status or ""]
        yield f"attempt {number} of {len(attempts)}", "  ".join(word for word in words if word)
        if attempt.url:
            yield "  url", attempt.url
        if attempt.response:
            yield "  response", attempt.response


@messages_app.command("list")
async def list_(
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
    async with make_client() as basiq:
        where = await _selection(basiq, since=since, until=until, failed=failed, event=event)
        messages = aiter(basiq.messages.list(webhook_id, filter=filter))
        if raw:
            await show_list(messages, output, limit, lambda message: message.raw, wanted=where)
        else:
            await show_list(messages, output, limit, MessageView.of, _MESSAGES, MessageView, wanted=where)


async def _selection(
    basiq: BasiqClient, *, since: str | None, until: str | None = None, failed: bool, event: Sequence[str] | None
) -> Where | None:
    """Return the filter for the options, with times such as ``2d`` counted back by Basiq's clock."""
    await check_event_types(basiq, event)
    first = await moment_at_basiq(basiq, since, "--since")
    end = await moment_at_basiq(basiq, until, "--until")
    return selection(since=first, until=end, failed=failed, event=event)


@messages_app.command()
async def get(
    webhook_id: WebhookId,
    message_id: Annotated[str, typer.Argument(help="The message's id.")],
    raw: Raw = False,
    json: Json = None,
) -> None:
    """Show one message with all its attempts."""
    async with make_client() as basiq:
        message = await basiq.messages.get(webhook_id, message_id)
    Output(json, json_only=raw).one(message.raw if raw else MessageView.of(message), message_details(message))


@messages_app.command()
async def tail(
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
    from ._follow import History, follow_up

    output = Output(json)
    async with make_client() as basiq:
        where = await _selection(basiq, since=since, failed=failed, event=event)
        history = History(basiq, webhook_id, filter)
        found = await history.begin(limit or None, wanted=where, on_read=show_reading)
        live(None)
        output.rows(map(MessageView.of, found.items), _MESSAGES, MessageView)
        if not found.items:
            note("nothing found")
        if not follow:
            return

        async def show_new() -> int:
            fresh = await history.poll()
            output.rows([MessageView.of(each) for each in fresh if where is None or where(each)], _MESSAGES)
            return len(fresh)

        note("waiting for new messages; Ctrl-C ends")
        await follow_up(show_new)


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


@messages_app.command()
async def resend(
    webhook_id: WebhookId,
    message_ids: Annotated[list[str], typer.Argument(help="The ids of the messages.", metavar="MESSAGE_ID...")],
    to: Annotated[str, typer.Option(help="The endpoint to post to. Deliveries are signed as Basiq signs them.")],
    secret_file: EndpointSecretFile = None,
    json: Json = None,
) -> int:
    """Post messages to an endpoint again, each with a new signature.

    The exit code is 1 if a message was not accepted.
    """
    from ..models import Message
    from ..replay import HttpTarget

    output, code = Output(json), 0
    async with make_client() as basiq, HttpTarget(to, read_secrets(secret_file)) as target:
        for message_id in message_ids:
            message, error = Message(message_id, {}), None
            try:
                message = await basiq.messages.get(webhook_id, message_id)
                await target.deliver(message)
            except (BadRequestError, NotFoundError, TargetError, TransportError) as exc:
                error, code = str(exc), 1  # the other messages are still posted
            kind = message.event_type_id
            output.rows([_Resent(id=message.id, event_type_id=kind, accepted=error is None, error=error)], _RESENT)
    return code


async def show_list(
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
        try:
            async for item in items:
                if wanted is not None and not wanted(item):
                    continue
                count += 1
                batch.append(view(item))
                if len(batch) == 200:
                    shown, batch = batch, []
                    output.rows(shown, columns, kind)
        finally:  # what was read before an error or a signal is shown too
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
