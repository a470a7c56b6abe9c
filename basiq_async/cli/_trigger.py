"""``basiq-async trigger``: a test delivery, from Basiq or from here."""

from __future__ import annotations

import json as json_module
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._text import json_line
from .._urls import VENDOR_URL
from ..errors import ConfigurationError, RequestTimeoutError
from ._completion import event_types
from ._files import read_secrets
from ._options import EndpointSecretFile, Json
from ._output import Output, Shape, live, note
from ._run import run, run_until_signal
from ._shapes import MESSAGE

if TYPE_CHECKING:
    from ..client import BasiqClient
    from ..models import Message

_POLL = 1.0
_SENT: Shape[dict[str, Any]] = Shape(
    ("id", "event_type_id", "event_id", "url", "status", "accepted", "error"), lambda row: row
)
_ASKED: Shape[dict[str, Any]] = Shape(("event_type_id", "asked"), lambda row: row)


def trigger(
    event_type: Annotated[str, typer.Argument(help="Such as user.created.", autocompletion=event_types)],
    to: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Sign and send it from here, to this service, without Basiq.", show_default=False
        ),
    ] = None,
    user_id: Annotated[str | None, typer.Option(help="With --to: the user in its links.", show_default=False)] = None,
    entity_id: Annotated[
        str | None, typer.Option(help="With --to: the entity in its links.", show_default=False)
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="JSON|@FILE", help="With --to: an object laid over the payload.", show_default=False),
    ] = None,
    message_id: Annotated[
        str | None, typer.Option("--id", help="With --to: the webhook-id; new by default.", show_default=False)
    ] = None,
    secret_file: EndpointSecretFile = None,
    text: Annotated[str | None, typer.Option(help="A text that Basiq sends along.", show_default=False)] = None,
    url: Annotated[str | None, typer.Option(help="Have Basiq send it to this URL alone.", show_default=False)] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show the message when the history has it.")] = False,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds that --wait waits.")] = 60.0,
    json: Json = None,
) -> None:
    """Ask Basiq to send a test message of an event type to your webhooks; with --to, send one from here.

    A delivery that is not accepted, or does not appear within --timeout, ends with 1.
    """
    output = Output(json)
    if to is not None:
        if text is not None or url is not None or wait:
            raise ConfigurationError("--to sends from here: --text, --url and --wait are for Basiq's test messages")
        if not run_until_signal(
            lambda: _send(output, event_type, to, user_id, entity_id, data, message_id, secret_file)
        ):
            raise typer.Exit(1)
        return
    if user_id is not None or entity_id is not None or data is not None or message_id is not None:
        raise ConfigurationError("--user-id, --entity-id, --data and --id go with --to")
    if url is not None and text is not None:
        raise ConfigurationError("--text and --url cannot be given together: Basiq takes one or the other")

    async def work(basiq: BasiqClient) -> None:
        ends = await _ends(basiq) if wait else {}
        if url is None:
            await basiq.messages.send_test(event_type, text=text)
        else:
            await basiq.messages.send_test_to(url, [event_type])
        if not wait:
            note(f"asked for a test message {event_type}")
            if output.as_json:
                output.one({"event_type_id": event_type, "asked": True}, _ASKED)
            return
        output.one(await _await_arrival(basiq, ends, event_type, timeout), MESSAGE)

    run(work)


async def _send(
    output: Output,
    event_type: str,
    to: str,
    user_id: str | None,
    entity_id: str | None,
    data: str | None,
    message_id: str | None,
    secret_file: Path | None,
) -> bool:
    from ..receiver import sign
    from ._forward import Forwarder

    message_id = message_id or str(uuid.uuid4())
    payload = _payload(event_type, user_id, entity_id, data)
    body = json_module.dumps(payload, separators=(",", ":")).encode()
    headers = {
        **sign(read_secrets(secret_file), message_id, datetime.now(UTC), body),
        "content-type": "application/json",
    }
    async with Forwarder(to) as forwarder:
        done = await forwarder.post(headers, body)
    row = {
        "id": message_id,
        "event_type_id": payload.get("eventTypeId"),
        "event_id": payload.get("eventId"),
        "url": to,
        "status": None if done.error else done.status,
        "accepted": done.accepted,
        "error": done.error,
    }
    output.one(row, _SENT)
    return done.accepted


def _payload(event_type: str, user_id: str | None, entity_id: str | None, data: str | None) -> dict[str, Any]:
    from ..testing.fake._catalog import entity_path

    event_id = uuid.uuid4().hex
    entity = entity_path(event_type, user_id or str(uuid.uuid4()), entity_id or str(uuid.uuid4()))
    payload: dict[str, Any] = {
        "eventTypeId": event_type,
        "eventId": event_id,
        "links": {"event": f"{VENDOR_URL}/events/{event_id}", "eventEntity": f"{VENDOR_URL}{entity}"},
    }
    return payload | read_json_object(data, "--data") if data is not None else payload


def read_json_object(text: str, name: str) -> dict[str, Any]:
    """Return a JSON object that was given as it is, or as ``@FILE``. Raises ``ConfigurationError``."""
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except (OSError, ValueError) as exc:
            why = exc.strerror if isinstance(exc, OSError) else "it is not text"
            raise ConfigurationError(f"the file of {name} {text!r} cannot be read: {why}") from None
    try:
        found = json_module.loads(text)
        json_line(found)
    except (ValueError, RecursionError):
        raise ConfigurationError(f"{name} is not JSON") from None
    if not isinstance(found, dict):
        raise ConfigurationError(f"{name} must be a JSON object")
    return found


async def _ends(basiq: BasiqClient) -> dict[str, str | None]:
    """Return where the history of each webhook ends."""
    found: dict[str, str | None] = {}
    async for webhook in basiq.webhooks.list():
        history = basiq.messages.list(webhook.id)
        count = 0
        async for _ in history:
            count += 1
            if count % 500 == 0:
                live(f"finding the end of the history of {webhook.id}, {count:,} messages so far")
        found[webhook.id] = history.cursor
    live("")
    return found


async def _await_arrival(basiq: BasiqClient, ends: dict[str, str | None], event_type: str, timeout: float) -> Message:
    import asyncio

    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    while True:
        for webhook_id, cursor in ends.items():
            history = basiq.messages.list(webhook_id, cursor=cursor, prefetch=0)
            async for message in history:
                if message.event_type_id == event_type:
                    return message
            ends[webhook_id] = history.cursor or cursor
        if loop.time() >= deadline:
            raise RequestTimeoutError(f"no webhook's history shows a message of type {event_type!r} in {timeout:g} s")
        live(f"waiting for the message to appear, {max(0, deadline - loop.time()):.0f} s left")
        await asyncio.sleep(min(_POLL, max(0.05, deadline - loop.time())))
