"""Sign, verify or send one delivery: ``basiq-async sign``, ``verify`` and ``trigger``."""

from __future__ import annotations

import json as json_module
import sys
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._redaction.text import json_line
from .._wire.hosts import show_url
from .._wire.urls import VENDOR_URL, quote_segment
from ..errors import ConfigurationError, RequestTimeoutError
from ._command import command
from ._exit_codes import DONE, WRONG
from ._history import MESSAGE, message_details, show_reading
from ._options import (
    SECRET_VARIABLE,
    EndpointSecretFile,
    check_event_types,
    check_known,
    complete_event_type,
    explain,
    option,
    read_file,
    read_secrets,
)
from ._output import live, note, write, write_lines
from ._results import Output
from ._run import make_client

if TYPE_CHECKING:
    from ..client import BasiqClient
    from ..models import Message
    from ._follow import History


Body = Annotated[str, typer.Argument(help="The file with the exact body; - for standard input.")]
SecretOption = Annotated[
    list[str],
    option(
        "The webhook's signing secret. Prefer the environment variable, which the list of processes does not "
        "show. May be repeated.",
        "--secret",
        envvar=SECRET_VARIABLE,
    ),
]


@command()
def sign(
    output: Output,
    secret: SecretOption,
    body: Body = "-",
    message_id: Annotated[str, typer.Option("--id")] = "msg_test",
    at: int | None = None,
) -> None:
    """Print the headers that Basiq would send with a body, one per line. curl reads them with -H @FILE.

    message_id: The webhook-id.
    at: The time to sign, in seconds since 1970; now by default.
    """
    from ..receiver import sign as make_headers

    headers = make_headers(secret, message_id, _moment(at), _read(body))
    if output.json is not None:
        output.one(headers)
    else:
        write_lines(f"{name}: {value}" for name, value in headers.items())


@command()
def verify(
    output: Output,
    secret: SecretOption,
    body: Body = "-",
    header: Annotated[list[str] | None, option(None, "--header", "-H")] = None,
    headers: str | None = None,
    tolerance: float = 300.0,
    at: int | None = None,
) -> None:
    """Check whether a body and its headers are a genuine delivery. The exit code is 0, or 1 with a reason.

    header: A header as "name: value"; repeat it for all three webhook- headers.
    headers: A file with the headers, one per line or as JSON.
    tolerance: By how many seconds the timestamp may differ.
    at: The time to compare the timestamp with, in seconds since 1970; now by default.
    """
    from ..receiver import verify as check

    if not 0 <= tolerance < 1e9:
        raise ConfigurationError("--tolerance must be a number of seconds, 0 or more")
    pairs = [_pair(line) for line in header or ()]
    pairs += _headers_of(headers) if headers is not None else []
    check(secret, headers=pairs, body=_read(body), tolerance=tolerance, now=_moment(at))
    if output.as_json:
        output.one({"genuine": True})
    else:
        write("genuine")


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
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"the file {path!r} cannot be read: {explain(exc)}") from None


def _headers_of(path: str) -> list[tuple[str, str]]:
    text = _read(path).decode("utf-8", "replace")
    try:
        found = json_module.loads(text)
    except (ValueError, RecursionError):
        return [_pair(line) for line in text.splitlines() if line.strip()]
    if not isinstance(found, dict):
        raise ConfigurationError(f"the headers in {path!r} must be lines or one JSON object")
    return [(str(name), str(value)) for name, value in found.items()]


def _pair(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon:
        raise ConfigurationError(f"a header must be written as name: value, not {line!r}")
    return name.strip(), value.strip()


_POLL = 1.0


@command()
async def trigger(
    output: Output,
    event_type: Annotated[str, typer.Argument(autocompletion=complete_event_type)],
    to: str | None = None,
    event_id: str | None = None,
    user_id: str | None = None,
    entity_id: str | None = None,
    data: str | None = None,
    message_id: Annotated[str | None, option(None, "--id")] = None,
    secret_file: EndpointSecretFile = None,
    text: str | None = None,
    url: str | None = None,
    wait: bool = False,
    timeout: Annotated[float, typer.Option(min=0)] = 60.0,
) -> int:
    """Ask Basiq to send a test message of an event type to your webhooks. With --to, send a message from here.

    With --to, the exit code is 1 if the service does not accept the message. With --wait, it is 1 if an endpoint does
    not accept its message, or if a message or its first attempt is missing when --timeout has passed.

    event_type: The event type, such as user.created.
    to URL: Sign and send the message from here to this URL, without Basiq.
    event_id: With --to: the id of an event that exists, so that it can be fetched; new by default.
    user_id: With --to: the user's id in the links.
    entity_id: With --to: the entity's id in the links.
    data JSON|@FILE: With --to: an object whose fields replace those of the payload.
    message_id: With --to: the webhook-id; new by default.
    text: A text for Basiq to repeat in the message.
    url: Have Basiq send the message only to this URL.
    wait: Wait for the first attempt, then show the message.
    timeout: Maximum seconds that --wait waits.
    """
    if to is not None:
        if text is not None or url is not None or wait:
            raise ConfigurationError("--text, --url and --wait are for Basiq's test messages: omit them with --to")
        check_known([event_type], advice="""; for another type, replace it with --data '{"eventTypeId": "..."}'""")
        more = {} if data is None else read_json_object(data, "--data")
        payload = _payload(event_type, event_id or more.get("eventId"), user_id, entity_id) | more
        if event_id is None and not more.keys() & {"eventId", "links"}:
            note("no such event exists: to fetch it is a 404; --event-id, --user-id and --entity-id name what exists")
        return await _send(output, payload, to, message_id or str(uuid.uuid4()), secret_file)
    if any(each is not None for each in (event_id, user_id, entity_id, data, message_id)):
        raise ConfigurationError("--event-id, --user-id, --entity-id, --data and --id require --to")
    if url is not None and text is not None:
        raise ConfigurationError("--text and --url cannot be used together: Basiq accepts only one of them")
    from ._follow import History

    async with make_client() as basiq:
        await check_event_types(basiq, [event_type])
        called = [
            each
            async for each in basiq.webhooks.list()
            if (each.url == url if url is not None else event_type in each.subscribed_events)
        ]
        active = [each for each in called if (each.status or "active").lower() == "active"]
        for each in called:
            if each not in active:
                note(f"nothing will come to the webhook {each.id}: it is {(each.status or '').lower()}")
        if not called and (wait or url is None):
            whose = f"is subscribed to {event_type}" if url is None else "has this URL"
            note(f"nothing will come: no webhook {whose}")
        if wait and not active:
            return WRONG
        histories = {each.id: History(basiq, each.id) for each in active} if wait else {}
        for history in histories.values():
            await history.begin(1, on_read=show_reading)
        live(None)
        if url is None:
            await basiq.messages.send_test(event_type, text=text)
        else:
            await basiq.messages.send_test_to(url, [event_type])
        if not wait:
            note(f"asked Basiq for a test message of type {event_type}")
            if output.as_json:
                output.one({"event_type_id": event_type, "asked": True})
            return DONE
        found: dict[str, Message] = {}
        try:
            await _receive(basiq, histories, found, event_type, timeout)
        finally:
            live(None)
            for message in found.values():
                output.one(message, MESSAGE, message_details(message))
    for message in found.values():
        if not message.delivered:
            why = "was not accepted by the endpoint" if message.attempts else "has no attempt yet"
            note(f"the message {message.id} {why}")
    return DONE if all(message.delivered for message in found.values()) else WRONG


async def _receive(
    basiq: BasiqClient, histories: Mapping[str, History], found: dict[str, Message], event_type: str, timeout: float
) -> None:
    """Wait for a new message of the type in each history, with a first attempt, and put it into ``found``.

    Raises ``RequestTimeoutError`` if a message does not appear.
    """
    import asyncio

    loop = asyncio.get_running_loop()
    end = loop.time() + timeout
    while True:
        for webhook_id, history in histories.items():
            if (known := found.get(webhook_id)) is None:
                for message in await history.poll():
                    if message.event_type_id == event_type:
                        found[webhook_id] = message
            elif not known.attempts:
                found[webhook_id] = await basiq.messages.get(webhook_id, known.id)
        missing = histories.keys() - found.keys()
        if not missing and all(message.attempts for message in found.values()):
            return
        left = end - loop.time()
        if left <= 0:
            break
        live(f"waiting for {'the message to appear' if missing else 'an attempt'}, {left:.0f} s left")
        await asyncio.sleep(min(_POLL, max(0.05, left)))
    if missing:
        whose = ", ".join(sorted(missing))
        raise RequestTimeoutError(
            f"the history of {whose} shows no new message of type {event_type!r} after {timeout:g} s"
        )


async def _send(output: Output, payload: dict[str, Any], to: str, message_id: str, secret_file: Path | None) -> int:
    from ..receiver import sign
    from ._listen import Forwarder

    body = json_module.dumps(payload, separators=(",", ":")).encode()
    headers = sign(read_secrets(secret_file), message_id, datetime.now(UTC), body)
    async with Forwarder(to) as forwarder:
        done = await forwarder.post({**headers, "content-type": "application/json"}, body)
    sent = {
        "id": message_id,
        "event_type_id": payload.get("eventTypeId"),
        "event_id": payload.get("eventId"),
        "url": show_url(to),  # its query can hold a key
        "status": None if done.error else done.status,
        "accepted": done.accepted,
        "error": done.error,
    }
    output.one(sent)
    return 0 if done.accepted else 1


def _payload(event_type: str, event_id: object, user_id: str | None, entity_id: str | None) -> dict[str, Any]:
    from ..testing.fake.catalog import entity_path

    event_id = str(event_id or uuid.uuid4().hex)
    entity = entity_path(event_type, user_id or str(uuid.uuid4()), entity_id or str(uuid.uuid4()))
    return {
        "eventTypeId": event_type,
        "eventId": event_id,
        "links": {
            "event": f"{VENDOR_URL}/events/{quote_segment(event_id, 'the event id')}",
            "eventEntity": f"{VENDOR_URL}{entity}",
        },
    }


def read_json_object(text: str, name: str) -> dict[str, Any]:
    """Parse a JSON object, given as text or as ``@FILE``. Raises ``ConfigurationError``."""
    if text.startswith("@"):
        text = read_file(text[1:], f"the file of {name}")
    try:
        found = json_module.loads(text)
        json_line(found)
    except (ValueError, RecursionError):
        raise ConfigurationError(f"{name} is not JSON") from None
    if not isinstance(found, dict):
        raise ConfigurationError(f"{name} must be a JSON object")
    return found
