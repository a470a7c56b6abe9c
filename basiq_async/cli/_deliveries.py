"""Sign, verify or send one delivery: ``basiq-async sign``, ``verify`` and ``trigger``."""

from __future__ import annotations

import json as json_module
import sys
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from .._wire.hosts import show_url
from .._wire.urls import VENDOR_URL, absolute_url, quote_segment
from ..errors import ConfigurationError
from ._command import command
from ._options import (
    EndpointSecretFile,
    check_event_types,
    check_known,
    complete_event_type,
    option,
    read_file,
    read_secrets,
)
from ._output import say, write_lines
from ._results import Output, View
from ._run import DONE, WRONG, make_client

Body = Annotated[str, typer.Argument(help="The file with the exact body; - for standard input.")]


@command(shows=View("webhook-id webhook-timestamp webhook-signature"))
def sign(
    output: Output,
    body: Body = "-",
    secret_file: EndpointSecretFile = None,
    message_id: Annotated[str, typer.Option("--id")] = "msg_test",
    at: int | None = None,
) -> None:
    """Print the headers that Basiq would send with a body, one per line. curl reads them with -H @FILE.

    message_id: The webhook-id.
    at: The time to sign, in seconds since 1970; now by default.
    """
    from ..receiver import sign as make_headers

    headers = make_headers(read_secrets(secret_file), message_id, _moment(at), _read(body))
    if output.json is not None:
        output.one(headers)
    else:
        write_lines(f"{name}: {value}" for name, value in headers.items())


@command(shows=View("genuine"))
def verify(
    output: Output,
    headers: Annotated[str, option()],
    body: Body = "-",
    secret_file: EndpointSecretFile = None,
    tolerance: float = 300.0,
    at: int | None = None,
) -> None:
    """Check whether a body and its headers are a genuine delivery. The exit code is 0, or 1 with a reason.

    headers FILE: The file with the headers, one per line; - for standard input.
    tolerance: By how many seconds the timestamp may differ.
    at: The time to compare the timestamp with, in seconds since 1970; now by default.
    """
    from ..receiver import verify as check

    if not 0 <= tolerance < 1e9:
        raise ConfigurationError("--tolerance must be a number of seconds, 0 or more")
    lines = _read(headers).decode("utf-8", "replace").splitlines()
    pairs = [_pair(line) for line in lines if line.strip()]
    check(read_secrets(secret_file), headers=pairs, body=_read(body), tolerance=tolerance, now=_moment(at))
    output.one({"genuine": True})


def _moment(at: int | None) -> datetime:
    try:
        return datetime.now(UTC) if at is None else datetime.fromtimestamp(at, UTC)
    except (ValueError, OverflowError, OSError):
        raise ConfigurationError("--at must be a time within the years 1 to 9999") from None


def _read(path: str) -> bytes:
    if path == "-":
        if sys.stdin is None:  # closed by the parent
            raise ConfigurationError("standard input is closed: name the file with the body")
        return sys.stdin.buffer.read()
    return read_file(path, "the file")


def _pair(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon:
        raise ConfigurationError(f"a header must be written as name: value, not {line!r}")
    return name.strip(), value.strip()


_ASKED = View[Any]("event_type_id asked")
_SENT = View[Any]("id event_type_id event_id url status accepted error")


@command()
async def trigger(
    output: Output,
    event_type: Annotated[str, typer.Argument(autocompletion=complete_event_type)],
    to: str | None = None,
    event_id: str | None = None,
    user_id: str | None = None,
    entity_id: str | None = None,
    message_id: Annotated[str | None, option(None, "--id")] = None,
    secret_file: EndpointSecretFile = None,
    text: str | None = None,
    url: str | None = None,
) -> int:
    """Ask Basiq to send a test message of an event type to your webhooks. With --to, send a message from here.

    With --to, the exit code is 1 if the service does not accept the message. 'messages tail WEBHOOK_ID --follow' shows
    a test message when Basiq lists it. 'sign' and curl post any other body.

    event_type: The event type, such as user.created.
    to URL: Sign and send the message from here to this URL, without Basiq.
    event_id: With --to: the id of an event that exists; new by default.
    user_id: With --to: the user's id in the links.
    entity_id: With --to: the entity's id in the links.
    message_id: With --to: the webhook-id; new by default.
    text: A text for Basiq to repeat in the message.
    url: Have Basiq send the message only to this URL.
    """
    output.expect(_ASKED if to is None else _SENT)
    if to is not None:
        if text is not None or url is not None:
            raise ConfigurationError("--text and --url are for Basiq's test messages: omit them with --to")
        check_known([event_type], advice="; 'sign' and curl post a message of another type")
        if event_id is None:
            say("no such event exists: to fetch it is a 404; --event-id, --user-id and --entity-id name what exists")
        return await _send(output, to, event_type, event_id, user_id, entity_id, message_id, secret_file)
    if any(each is not None for each in (event_id, user_id, entity_id, message_id, secret_file)):
        raise ConfigurationError("--event-id, --user-id, --entity-id, --id and --secret-file require --to")
    if url is not None:
        absolute_url(url)
    if url is not None and text is not None:
        raise ConfigurationError("--text and --url cannot be used together: Basiq accepts only one of them")
    from ..services.coverage import gets_type

    found = False
    async with make_client() as basiq:
        await check_event_types(basiq, [event_type])
        async for each in basiq.webhooks.list():
            named = each.url == url if url is not None else gets_type(each, event_type)
            found, status = found or named, (each.status or "active").lower()
            if named and status != "active":
                say(f"nothing will come to the webhook {each.id}: it is {status}")
        if not found:
            say(f"nothing will come: no webhook {'has this URL' if url else f'is subscribed to {event_type}'}")
        if url is not None:
            await basiq.messages.send_test_to(url, [event_type])
        else:
            await basiq.messages.send_test(event_type, text=text)
    output.one({"event_type_id": event_type, "asked": True})
    return DONE


def _explain_401(headers: Mapping[str, str]) -> str:
    """Return what may be wrong where a service responds 401: its clock, or its secret."""
    from ..services.problems import CLOCK_CAUSE, ahead
    from ..transports.responses import read_lead

    lead = read_lead(next((value for name, value in headers.items() if name.lower() == "date"), None))
    if lead is None:
        return f"it has another secret, or a clock that is wrong. {CLOCK_CAUSE}"
    return f"the time of its response is {ahead(lead)} this machine's: set the clocks first. {CLOCK_CAUSE}"


async def _send(
    output: Output,
    to: str,
    event_type: str,
    event_id: str | None,
    user_id: str | None,
    entity_id: str | None,
    message_id: str | None,
    secret_file: Path | None,
) -> int:
    from ..receiver import sign
    from ..testing.fake.catalog import entity_path
    from ._listen import Forwarder

    new = [str(uuid.uuid4()) for _ in range(4)]
    sent = {"id": message_id or new[0], "event_type_id": event_type, "event_id": event_id or new[1]}
    event = f"{VENDOR_URL}/events/{quote_segment(sent['event_id'], 'the event id')}"
    entity = f"{VENDOR_URL}{entity_path(event_type, user_id or new[2], entity_id or new[3])}"
    payload = {
        "eventTypeId": event_type,
        "eventId": sent["event_id"],
        "links": {"event": event, "eventEntity": entity},
    }
    body = json_module.dumps(payload, separators=(",", ":")).encode()
    headers = sign(read_secrets(secret_file), sent["id"], datetime.now(UTC), body)
    async with Forwarder(to) as forwarder:
        done = await forwarder.post({**headers, "content-type": "application/json"}, body)
    status = None if done.error else done.status
    if done.status == 401 and not done.error:
        say(_explain_401(dict(done.headers)))
    # The query of a URL can hold a key.
    output.one({**sent, "url": show_url(to), "status": status, "accepted": done.accepted, "error": done.error})
    return DONE if done.accepted else WRONG
