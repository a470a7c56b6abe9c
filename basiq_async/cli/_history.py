"""``basiq-async messages …``: the history of a webhook."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from itertools import count
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from .._redaction.text import amount
from .._wire.urls import quote_segment
from ..errors import BadRequestError, NotFoundError, TargetError, TransportError
from ._command import Group
from ._options import (
    IN_A_TERMINAL,
    EndpointSecretFile,
    FailedOption,
    FilterOption,
    LimitOption,
    Selection,
    WebhookId,
    option,
    read_secrets,
)
from ._output import live, say
from ._results import Column, Output, Row, View, cell_text
from ._run import DONE, NO_ANSWER, WRONG, exit_code, follow_up
from ._runs import tell_refusals

if TYPE_CHECKING:
    from .._wire.order import NewestItems
    from ..client import BasiqClient
    from ..models import Message
    from ..pagination import Paginator
    from ..replay import Where

T = TypeVar("T")

messages_app = Group("The history of a webhook.")


UNKNOWN = "unknown"
"""What people see of attempts that Basiq does not tell; in JSON it is null."""


def _message_row(message: Message) -> Row:
    attempts, last = message.attempts_by_time, message.last_attempt
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
                "timestamp": each.timestamp,
                "status": each.status,
                "status_code": each.status_code,
                "url": each.url,
                "response": each.response,
            }
            for each in attempts
        ]
        if attempts or message.delivered is not None
        else None,
    }


def _short_time(message: Row) -> str:
    moment = message["last_attempt"]
    return _or_unknown(message, None if moment is None else f"{moment.astimezone(UTC):%m-%d %H:%M:%S}")


def _or_unknown(message: Row, value: Any) -> str:
    """Return a value as text; ``unknown`` where the message does not tell its attempts."""
    return UNKNOWN if value is None and message["delivered"] is None else cell_text(value)


MESSAGE: View[Message] = View(
    "id event_type_id event_id webhook_id delivered last_status_code last_attempt attempts",
    Column("ID", "id"),
    Column("EVENT TYPE", "event_type_id", flexible=16),
    Column("CODE", lambda message: _or_unknown(message, message["last_status_code"])),
    Column("LAST (UTC)", _short_time),
    Column("DELIVERED", lambda message: _or_unknown(message, message["delivered"]), optional=True),
    Column("EVENT", "event_id", optional=True),
    read=_message_row,
)


def message_details(message: Message) -> Iterable[tuple[str, Any]]:
    """Yield the names and values of a message, its links and its attempts."""
    from ..models import read_links

    yield "id", message.id
    yield "event type", message.event_type_id
    yield "event", message.event_id
    yield "webhook", message.webhook_id
    yield "delivered", UNKNOWN if message.delivered is None else message.delivered
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


@messages_app.add(shows=MESSAGE, raw=True, name="list")
async def list_(
    basiq: BasiqClient,
    output: Output,
    webhook_id: WebhookId,
    selection: Selection,
    failed: FailedOption = False,
    filter: FilterOption = None,
    limit: LimitOption = None,
) -> int:
    """Show a webhook's messages: the newest first in a terminal, in Basiq's order in a pipe.

    What --failed, --since and --until need, and the list does not tell, is read from each message. The exit code is 3
    if a message does not tell it either.
    """
    chosen = _Chosen(basiq, webhook_id, await selection.read(basiq, failed=failed))
    await show_list(chosen.read(basiq.messages.list(webhook_id, filter=filter)), output, MESSAGE, limit, chosen.wanted)
    return chosen.end()


@messages_app.add(MESSAGE, details=message_details, raw=True)
async def get(
    basiq: BasiqClient,
    webhook_id: WebhookId,
    message_id: str,
) -> Message:
    """Show one message with all its attempts.

    message_id: The message's id.
    """
    return await basiq.messages.get(webhook_id, message_id)


@messages_app.add(shows=MESSAGE)
async def tail(
    basiq: BasiqClient,
    output: Output,
    webhook_id: WebhookId,
    selection: Selection,
    follow: Annotated[bool, option(None, "--follow", "-f")] = False,
    failed: FailedOption = False,
    filter: FilterOption = None,
    limit: Annotated[int, typer.Option(min=0)] = 10,
) -> int:
    """Show the newest messages, newest first. With --follow, show new messages below them until SIGINT or SIGTERM.

    follow: Keep showing new messages as they appear.
    limit N: Show the newest N; 0 for all.
    """
    where = await selection.read(basiq, failed=failed)
    chosen = _Chosen(basiq, webhook_id, where)
    messages = chosen.read(basiq.messages.list(webhook_id, filter=filter))
    found = await _read_newest(messages, limit, wanted=chosen.wanted)
    output.rows(found.items, MESSAGE)
    if not found.items:
        say("nothing found")
    _say_undated(found)
    if not follow:
        return chosen.end()
    poll = follow_after(found, basiq, webhook_id, filter, where)

    async def show_new() -> int:
        fresh = await poll()
        output.rows(fresh, MESSAGE)
        return len(fresh)

    say("waiting for new messages; Ctrl-C ends")
    await follow_up(show_new)
    return chosen.end()


class _Chosen:
    """Chooses messages of a list. Those that do not tell what the selection needs are read by their ids."""

    def __init__(self, basiq: BasiqClient, webhook_id: str, where: Where | None) -> None:
        from ..services.details import Details

        self._details, self._where = Details(basiq._api, webhook_id), where
        self.wanted = None if where is None else self._count
        self._unknown = 0

    async def read(self, messages: Paginator[Message]) -> AsyncIterator[Message]:
        """Yield the messages, each with all that it tells."""
        if self._where is None:
            async for message in messages:
                yield message
            return
        from ..models import Message
        from ..services.details import RawMessages

        async for page in messages.pages():
            items = RawMessages(each.raw for each in page.items)
            await self._details.fill(items, range(len(items)), self._where._judges)
            for message, raw in zip(page.items, items, strict=True):
                yield message if raw is message.raw else Message(message.id, raw)

    def _count(self, message: Message) -> bool | None:
        """Return whether a message is selected. Count those that do not tell."""
        found = None if self._where is None else self._where(message)
        self._unknown += found is None
        return found

    def end(self) -> int:
        """Say how many messages do not tell whether they are selected. Return the exit code."""
        if not self._unknown:
            return DONE
        say(f"Basiq does not tell of {amount(self._unknown, 'message', 'messages')} whether the selection has them")
        return NO_ANSWER


def follow_after(
    found: NewestItems[Message], basiq: BasiqClient, webhook_id: str, filter: str | None = None, where: Any = None
) -> Callable[[], Awaitable[Sequence[Message]]]:
    """Return a function that returns the messages that came after those that were found, each once, oldest first."""
    from .._wire.order import item_time
    from ..receiver import MemoryInbox
    from ..replay import Replay, since

    known = {each.id for each in found.items}
    fresh: list[Message] = []
    times = [time for each in found.items if (time := item_time(each)) is not None]
    oldest = None if found.read == len(found.items) else min(times, default=None)
    if oldest is not None:
        where = since(oldest) if where is None else where & since(oldest)

    async def collect(message: Message) -> None:
        # Of the messages of the oldest moment, those beyond the limit come in the first run: they are not new.
        if message.id not in known and (oldest is None or item_time(message) != oldest):
            fresh.append(message)

    job = Replay(basiq, webhook_id, collect, inbox=MemoryInbox(remember=None), filter=filter, where=where)

    async def poll() -> Sequence[Message]:
        nonlocal oldest
        await job.run()
        oldest = None
        new = sorted(fresh, key=lambda message: item_time(message) or _LONG_AGO)
        fresh.clear()
        return new

    return poll


_LONG_AGO = datetime.min.replace(tzinfo=UTC)


_RESENT: View[Row] = View(
    "id event_type_id accepted result error",
    Column("ID", "id"),
    Column("ACCEPTED", "accepted"),
    Column("RESULT", lambda sent: sent["result"] or ""),
    Column("EVENT TYPE", "event_type_id", optional=True),
    Column("ERROR", lambda sent: sent["error"] or "", flexible=24),
)


@messages_app.add(shows=_RESENT)
async def resend(
    basiq: BasiqClient,
    output: Output,
    webhook_id: WebhookId,
    message_ids: list[str],
    to: Annotated[str, typer.Option(help="The endpoint to post to. Deliveries are signed as Basiq signs them.")],
    secret_file: EndpointSecretFile = None,
) -> int:
    """Post messages to an endpoint again, each with a new signature. The exit code is 1 if one was not accepted.

    A service of this library says if it has not handled one: the result is then duplicate (it knows the event), ignored
    (it has no handler) or quarantined (it failed too often, and the exit code is 1).

    message_ids MESSAGE_ID...: The ids of the messages.
    """
    from ..models import Message
    from ..replay import HttpTarget

    code = 0
    for message_id in message_ids:
        quote_segment(message_id, "message id")
    async with HttpTarget(to, read_secrets(secret_file)) as target:
        for message_id in message_ids:
            message, error, result = Message(message_id, {}), None, None
            try:
                message = await basiq.messages.get(webhook_id, message_id)
                result = await target.deliver(message) or "accepted"
                code = max(code, WRONG if result == "quarantined" else DONE)
            except (BadRequestError, NotFoundError, TargetError, TransportError) as exc:
                error, code = str(exc), max(code, exit_code(exc))  # the other messages are still posted
            known = {"id": message.id, "event_type_id": message.event_type_id}
            sent = {**known, "accepted": error is None, "result": result, "error": error}
            output.rows([sent], _RESENT)
        tell_refusals(target, basiq)
    return code


async def show_list(
    items: AsyncIterator[T],
    output: Output,
    view: View[T],
    limit: int | None,
    wanted: Callable[[T], bool | None] | None = None,
) -> None:
    """Show a list in constant memory: all items in a pipe, the newest items in a terminal."""
    most = limit if limit is not None else 0 if output.as_json else IN_A_TERMINAL
    if most == 0:
        if not await output.stream(items, view, wanted=wanted):
            say("nothing found")
        return
    found = await _read_newest(items, most, wanted=wanted)
    output.rows(found.items, view)
    if not found.items:
        say("nothing found")
    elif _say_undated(found):
        pass
    elif not output.as_json and (not found.complete or (wanted is None and found.read > most)):
        total = f"of {found.read:,}" if found.complete else "and there are more"
        say(f"the newest {len(found.items):,} {total}; --limit N shows N of them, --limit 0 shows all")


def _say_undated(found: NewestItems[T]) -> bool:
    """Say it where nothing tells which items are the newest. Return whether."""
    if not found.undated:
        return False
    say(f"Basiq's list does not tell their times: the last {len(found.items):,} of {found.read:,} in its order")
    return True


async def _read_newest(
    items: AsyncIterable[T], most: int, *, wanted: Callable[[T], bool | None] | None = None
) -> NewestItems[T]:
    """Return the newest items of a list, 0 for all, and show meanwhile how many were read."""
    from .._wire.order import read_newest

    read = count(1)

    def show(item: T) -> None:
        if (number := next(read)) % 500 == 0:
            live(f"reading, {number:,} so far")

    found = await read_newest(items, most or None, wanted=wanted, on_read=show)
    live(None)
    return found
