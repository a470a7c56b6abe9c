"""One delivery by hand: ``basiq-async sign``, ``verify`` and ``trigger``."""

from __future__ import annotations

import json as json_module
import sys
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from .._redaction.text import json_line
from .._wire.urls import VENDOR_URL
from ..errors import ConfigurationError, RequestTimeoutError
from ._completion import event_types
from ._history import History, show_reading
from ._options import SECRET_VARIABLE, EndpointSecretFile, Json, check_documented, check_event_types, read_secrets
from ._output import live, note, write, write_lines
from ._results import Output, Shape, fields_of, keys, shows
from ._run import run, run_until_signal
from ._shapes import MESSAGE

if TYPE_CHECKING:
    from ..client import BasiqClient
    from ..models import Message


Body = Annotated[str, typer.Argument(help="The file with the body, as it is sent; - for standard input.")]
SecretOption = Annotated[
    list[str],
    typer.Option(
        "--secret",
        envvar=SECRET_VARIABLE,
        show_default=False,
        help="The webhook's signing secret; better in the environment, where the list of processes does not show it. "
        "May be repeated.",
    ),
]
PlainJson = Annotated[
    str | None,
    typer.Option("--json", metavar="[FIELDS]", help="One JSON object; errors are JSON too.", show_default=False),
]

_HEADERS: Shape[Mapping[str, str]] = Shape(keys("webhook-id", "webhook-timestamp", "webhook-signature"))
_GENUINE: Shape[bool] = Shape({"genuine": bool})


@shows(_HEADERS)
def sign(
    secret: SecretOption,
    body: Body = "-",
    message_id: Annotated[str, typer.Option("--id", help="The webhook-id.")] = "msg_test",
    at: Annotated[int | None, typer.Option(help="Seconds since 1970; now by default.", show_default=False)] = None,
    json: PlainJson = None,
) -> None:
    """Print the headers that Basiq would send with a body, one a line: curl reads them with -H @FILE."""
    from ..receiver import sign as make_headers

    headers = make_headers(secret, message_id, _moment(at), _read(body))
    if json is not None:
        Output(json).one(headers, _HEADERS)
    else:
        write_lines(f"{name}: {value}" for name, value in headers.items())


@shows(_GENUINE)
def verify(
    secret: SecretOption,
    body: Body = "-",
    header: Annotated[
        list[str] | None,
        typer.Option("--header", "-H", help='"name: value"; the three webhook- ones.', show_default=False),
    ] = None,
    headers: Annotated[
        str | None, typer.Option(help="A file with the headers, one a line, or as JSON.", show_default=False)
    ] = None,
    tolerance: Annotated[float, typer.Option(help="Seconds that the timestamp may be away.")] = 300.0,
    at: Annotated[
        int | None,
        typer.Option(help="The time to compare with, in seconds since 1970; now by default.", show_default=False),
    ] = None,
    json: PlainJson = None,
) -> None:
    """Say whether a body and its headers are a genuine delivery: exit code 0, or 1 and the reason."""
    from ..receiver import verify as check

    if not 0 <= tolerance < 1e9:
        raise ConfigurationError("--tolerance must be a number of seconds, 0 or more")
    pairs = [_pair(line) for line in header or ()]
    pairs += _headers_of(headers) if headers is not None else []
    check(secret, pairs, _read(body), tolerance=timedelta(seconds=tolerance), now=_moment(at))
    output = Output(json)
    if output.as_json:
        output.one(True, _GENUINE)
    else:
        write("genuine")


def _moment(at: int | None) -> datetime:
    try:
        return datetime.now(UTC) if at is None else datetime.fromtimestamp(at, UTC)
    except (ValueError, OverflowError, OSError):
        raise ConfigurationError("--at is beyond the dates that there are") from None


def _read(path: str) -> bytes:
    if path == "-":
        if sys.stdin is None:  # closed by the parent
            raise ConfigurationError("standard input is closed: name the file with the body")
        return sys.stdin.buffer.read()
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "its name holds a null character"
        raise ConfigurationError(f"the file {path!r} cannot be read: {why}") from None


def _headers_of(path: str) -> list[tuple[str, str]]:
    text = _read(path).decode("utf-8", "replace")
    try:
        found = json_module.loads(text)
    except (ValueError, RecursionError):
        return [_pair(line) for line in text.splitlines() if line.strip()]
    if not isinstance(found, dict):
        raise ConfigurationError(f"the headers in {path!r} are neither lines nor one JSON object")
    return [(str(name), str(value)) for name, value in found.items()]


def _pair(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon:
        raise ConfigurationError(f"a header is written as name: value, not {line!r}")
    return name.strip(), value.strip()


_POLL = 1.0


@attrs.frozen(kw_only=True)
class _Sent:
    """A delivery from here, and what became of it."""

    id: str
    event_type_id: Any
    event_id: Any
    url: str
    status: int | None
    accepted: bool
    error: str | None


_SENT: Shape[_Sent] = Shape(fields_of(_Sent))
_ASKED: Shape[str] = Shape({"event_type_id": str, "asked": lambda event_type: True})


@shows(MESSAGE, _SENT, _ASKED)
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
    wait: Annotated[bool, typer.Option("--wait", help="Show the message when it was delivered, or failed.")] = False,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds that --wait waits.")] = 60.0,
    json: Json = None,
) -> None:
    """Ask Basiq to send a test message of an event type to your webhooks; with --to, send one from here.

    Ends with 1 where a delivery from here is not accepted, and with --wait where one of Basiq's is not, or is not there
    or still under way when --timeout is over.
    """
    output = Output(json)
    if to is not None:
        if text is not None or url is not None or wait:
            raise ConfigurationError("--to sends from here: --text, --url and --wait are for Basiq's test messages")
        check_documented([event_type], """; for a new one, lay it over the payload: --data '{"eventTypeId": "..."}'""")
        if not run_until_signal(
            lambda: _send(output, event_type, to, user_id, entity_id, data, message_id, secret_file)
        ):
            raise typer.Exit(1)
        return
    if user_id is not None or entity_id is not None or data is not None or message_id is not None:
        raise ConfigurationError("--user-id, --entity-id, --data and --id go with --to")
    if url is not None and text is not None:
        raise ConfigurationError("--text and --url cannot be given together: Basiq accepts one or the other")

    async def work(basiq: BasiqClient) -> bool:
        await check_event_types(basiq, [event_type])
        arrivals = _Arrivals(basiq, event_type, url)
        if wait:
            await arrivals.begin()
        if url is None:
            await basiq.messages.send_test(event_type, text=text)
        else:
            await basiq.messages.send_test_to(url, [event_type])
        if not wait:
            note(f"asked for a test message {event_type}")
            if output.as_json:
                output.one(event_type, _ASKED)
            return True
        try:
            await arrivals.wait(timeout)
        finally:
            live("")
            for message in arrivals.found.values():
                output.one(message, MESSAGE)
        outcomes = [_tell_outcome(message) for message in arrivals.found.values()]
        return all(outcomes)

    if not run(work):
        raise typer.Exit(1)


def _tell_outcome(message: Message) -> bool:
    if not message.delivered:
        why = "was not accepted" if message.attempts else "is still under way"
        note(f"the delivery of {message.id} {why}")
    return message.delivered


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
    from ._serving import Forwarder

    message_id = message_id or str(uuid.uuid4())
    payload = _payload(event_type, user_id, entity_id, data)
    body = json_module.dumps(payload, separators=(",", ":")).encode()
    headers = {
        **sign(read_secrets(secret_file), message_id, datetime.now(UTC), body),
        "content-type": "application/json",
    }
    async with Forwarder(to) as forwarder:
        done = await forwarder.post(headers, body)
    sent = _Sent(
        id=message_id,
        event_type_id=payload.get("eventTypeId"),
        event_id=payload.get("eventId"),
        url=to,
        status=None if done.error else done.status,
        accepted=done.accepted,
        error=done.error,
    )
    output.one(sent, _SENT)
    return done.accepted


def _payload(event_type: str, user_id: str | None, entity_id: str | None, data: str | None) -> dict[str, Any]:
    from ..testing.fake.catalog import entity_path

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


class _Arrivals:
    """Wait until the test messages that Basiq was asked for are there, and have an outcome."""

    def __init__(self, basiq: BasiqClient, event_type: str, url: str | None) -> None:
        self._basiq = basiq
        self._event_type = event_type
        self._url = url
        self._histories: dict[str, History] = {}
        self._expected: set[str] = set()
        self.found: dict[str, Message] = {}

    async def begin(self) -> None:
        """Read which messages exist already."""
        async for webhook in self._basiq.webhooks.list():
            if self._url is not None and webhook.url != self._url:
                continue
            history = self._histories[webhook.id] = History(self._basiq, webhook.id)
            await history.begin(1, on_read=show_reading)
            subscribed = self._url is not None or self._event_type in webhook.subscribed_events
            if subscribed and (webhook.status or "").lower() == "active":
                self._expected.add(webhook.id)
        live("")

    async def wait(self, timeout: float) -> None:
        """Wait for a message of each webhook that is active and subscribed, and for a first attempt of each message.

        Raises ``RequestTimeoutError`` where one does not appear.
        """
        import asyncio

        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while True:
            await self._look()
            missing = self._expected - self.found.keys()
            if self.found and not missing and all(message.attempts for message in self.found.values()):
                return
            left = deadline - loop.time()
            if left <= 0:
                break
            what = "an attempt" if self.found and not missing else "the message to appear"
            live(f"waiting for {what}, {left:.0f} s left")
            await asyncio.sleep(min(_POLL, max(0.05, left)))
        live("")
        if missing or not self.found:
            where = f"the history of {', '.join(sorted(missing))}" if missing else "no webhook's history"
            verb = "shows no" if missing else "shows a"
            raise RequestTimeoutError(f"{where} {verb} message of type {self._event_type!r} in {timeout:g} s")

    async def _look(self) -> None:
        for webhook_id, message in self.found.items():
            if not message.attempts:
                self.found[webhook_id] = await self._basiq.messages.get(webhook_id, message.id)
        for webhook_id, history in self._histories.items():
            if webhook_id not in self.found:
                async for message in history.poll():
                    if message.event_type_id == self._event_type:
                        self.found[webhook_id] = message
