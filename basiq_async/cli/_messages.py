"""``basiq-async messages …``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from ..client import BasiqClient
from ..errors import ConfigurationError
from ..models import Message
from ._run import run, show

messages_app = typer.Typer(help="The history of a webhook.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="JSON lines, as when the output is piped.")]
WebhookId = Annotated[str, typer.Argument(help="The webhook's id.")]


def _row(message: Message) -> dict[str, Any]:
    last = message.attempts[-1] if message.attempts else None
    return {
        "id": message.id,
        "event_type_id": message.event_type_id,
        "event_id": message.event_id,
        "delivered": message.delivered,
        "attempts": len(message.attempts),
        "last_status_code": last.status_code if last else None,
        "last_attempt": last.timestamp if last else None,
    }


def _rows(messages: list[Message], raw: bool) -> Iterator[dict[str, Any]]:
    for message in messages:
        yield dict(message.raw) if raw else _row(message)


@messages_app.command("list")
def list_(
    webhook_id: WebhookId,
    filter: Annotated[str | None, typer.Option(help="A filter in Basiq's syntax.")] = None,
    max_items: Annotated[int, typer.Option("--max", help="Show at most so many; 0 for all.")] = 100,
    raw: Annotated[bool, typer.Option("--raw", help="Each message as it came; only as JSON lines.")] = False,
    json: Json = False,
) -> None:
    """Show a webhook's messages. All of them are streamed where they are JSON lines."""

    async def work(basiq: BasiqClient) -> None:
        if max_items < 0:
            raise ConfigurationError("--max must be at least 0")
        batch: list[Message] = []
        shown = 0
        async for message in basiq.messages.list(webhook_id, filter=filter):
            batch.append(message)
            shown += 1
            if shown == max_items:
                break
            if len(batch) == 500 and json:
                show(_rows(batch, raw), as_json=True)
                batch.clear()
        if batch or not json:
            show(_rows(batch, raw), as_json=json or raw)

    run(work)


@messages_app.command("get")
def get(
    webhook_id: WebhookId,
    message_id: Annotated[str, typer.Argument(help="The message's id.")],
    raw: Annotated[bool, typer.Option("--raw", help="The message as it came, as JSON.")] = False,
    json: Json = False,
) -> None:
    """Show one message."""

    async def work(basiq: BasiqClient) -> Message:
        return await basiq.messages.get(webhook_id, message_id)

    show(_rows([run(work)], raw), as_json=json or raw)
