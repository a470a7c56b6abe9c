"""``basiq-async mock advance``, ``emit``, ``fail`` and so on: each one call of the control API of a mock that runs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer

from .._wire.urls import BaseURL
from ..errors import BasiqError, ConfigurationError
from ._completion import event_types
from ._deliveries import read_json_object
from ._options import Json, duration
from ._output import note
from ._results import Column, Output, Shape, cell_text
from ._run import run_until_signal

Times = Annotated[int, typer.Argument(min=1, metavar="N", help="How many of them.")]
LogLimit = Annotated[int, typer.Option(min=0, metavar="N", help="The newest N; 0 for all.")]

_PAGE = 1_000
_RESULT: Shape[dict[str, Any]] = Shape(
    ("now", "next_due", "attempts", "event_id", "message_ids", "webhook_id", "secret"), lambda row: row
)
_STATE: Shape[dict[str, Any]] = Shape(
    ("name", "seed", "base_url", "now", "next_due", "clock", "pending", "webhooks", "messages", "requests",
     "deliveries", "violations", "endpoints_down", "faults", "delivery_faults", "revision"),
    lambda row: row,
)  # fmt: skip
_REQUESTS: Shape[dict[str, Any]] = Shape(
    ("number", "at", "method", "path", "status", "duration", "violations"),
    lambda row: row,
    (
        Column("NUMBER", lambda row: cell_text(row.get("number"))),
        Column("STATUS", lambda row: cell_text(row.get("status"))),
        Column("REQUEST", lambda row: f"{row.get('method')} {row.get('path')}", flexible=True),
        Column("AT", lambda row: cell_text(row.get("at")), optional=True),
        Column("VIOLATIONS", lambda row: cell_text(row.get("violations"))),
    ),
)
_DELIVERIES: Shape[dict[str, Any]] = Shape(
    ("number", "at", "webhook_id", "message_id", "event_type_id", "event_id", "url", "attempt", "status", "ok",
     "response", "duration", "headers", "body"),
    lambda row: row,
    (
        Column("MESSAGE", lambda row: cell_text(row.get("message_id"))),
        Column("STATUS", lambda row: cell_text(row.get("status"))),
        Column("EVENT TYPE", lambda row: cell_text(row.get("event_type_id"))),
        Column("ATTEMPT", lambda row: cell_text(row.get("attempt"))),
        Column("AT", lambda row: cell_text(row.get("at")), optional=True),
        Column("URL", lambda row: cell_text(row.get("url")), flexible=True),
    ),
)  # fmt: skip
_VIOLATIONS: Shape[dict[str, Any]] = Shape(
    ("code", "detail", "at"),
    lambda row: row,
    (
        Column("CODE", lambda row: cell_text(row.get("code"))),
        Column("AT", lambda row: cell_text(row.get("at")), optional=True),
        Column("DETAIL", lambda row: cell_text(row.get("detail")), flexible=True, least=32),
    ),
)


def add_control_commands(app: typer.Typer) -> None:
    """Add the commands to the group."""
    for command in (advance, emit, fail, expire_tokens, reset, seed, state, requests, deliveries, violations):
        app.command()(command)
    app.command("fail-deliveries")(fail_deliveries)
    app.command()(redeliver)
    app.command()(secret)
    endpoint = typer.Typer(help="Take an endpoint down, and bring it back.", no_args_is_help=True)
    endpoint.command()(down)
    endpoint.command()(up)
    app.add_typer(endpoint, name="endpoint")


def advance(
    by: Annotated[str, typer.Argument(metavar="TIME|next", help="15m, 2h, 30s; or next: to the next attempt.")],
    json: Json = None,
) -> None:
    """Move the clock forward and make every delivery that is due on the way."""
    if by == "next":
        _post("/next", {}, json)
    else:
        _post("/advance", {"seconds": duration(by, "the time").total_seconds()}, json, timeout=600.0)


def emit(
    event_type: Annotated[str, typer.Argument(help="Such as consent.revoked.", autocompletion=event_types)],
    user_id: Annotated[str | None, typer.Option(help="The user; a new one by default.", show_default=False)] = None,
    entity_id: Annotated[str | None, typer.Option(help="The entity; a new one by default.", show_default=False)] = None,
    data: Annotated[
        str | None, typer.Option(metavar="JSON|@FILE", help="The event's data, an object.", show_default=False)
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return when the first attempts were made.")] = False,
    json: Json = None,
) -> None:
    """Let an event happen: a message for each webhook that is active and subscribed."""
    values = {
        "eventTypeId": event_type,
        "userId": user_id,
        "entityId": entity_id,
        "data": None if data is None else read_json_object(data, "--data"),
        "wait": wait or None,
    }
    _post("/emit", values, json)


def fail(
    times: Times = 1,
    status: Annotated[
        int | None, typer.Option(help="Respond with an error of this status.", show_default=False)
    ] = None,
    path: Annotated[
        str | None, typer.Option(help="Only requests to this path; * stands for anything.", show_default=False)
    ] = None,
    method: Annotated[str | None, typer.Option(help="Only requests with this method.", show_default=False)] = None,
    retry_after: Annotated[
        float | None, typer.Option(min=0, help="Seconds for the Retry-After header.", show_default=False)
    ] = None,
    delay: Annotated[
        float | None, typer.Option(min=0, help="Respond after this many seconds.", show_default=False)
    ] = None,
    drop: Annotated[
        str | None,
        typer.Option(metavar="request|response", help="Break the connection before or after.", show_default=False),
    ] = None,
    body: Annotated[str | None, typer.Option(help="Respond with this body.", show_default=False)] = None,
    json: Json = None,
) -> None:
    """Let the next N requests go wrong."""
    values = {
        "times": times, "status": status, "path": path, "method": method, "retryAfter": retry_after, "delay": delay,
        "drop": drop, "body": body,
    }  # fmt: skip
    _post("/fail", values, json)


def fail_deliveries(
    times: Times = 1,
    status: Annotated[
        int | None, typer.Option(help="Record this status without calling the endpoint.", show_default=False)
    ] = None,
    drop: Annotated[
        str | None,
        typer.Option(
            metavar="request|response",
            help="request: the endpoint is not reached; response: it handles, and its response is lost.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[
        str | None, typer.Option(metavar="URL", help="Only deliveries to this endpoint.", show_default=False)
    ] = None,
    json: Json = None,
) -> None:
    """Let the next N deliveries go wrong."""
    _post("/deliveries/fail", {"times": times, "status": status, "drop": drop, "url": to}, json)


def down(
    endpoint: Annotated[str | None, typer.Argument(metavar="[URL]", help="Every endpoint by default.")] = None,
    status: Annotated[
        int | None, typer.Option(help="The status it responds with; without, the connection fails.", show_default=False)
    ] = None,
    json: Json = None,
) -> None:
    """Take an endpoint down: deliveries fail without calling it."""
    _post("/endpoint/down", {"url": endpoint, "status": status}, json)


def up(
    endpoint: Annotated[str | None, typer.Argument(metavar="[URL]", help="Every endpoint by default.")] = None,
    json: Json = None,
) -> None:
    """End the outage of an endpoint."""
    _post("/endpoint/up", {"url": endpoint}, json)


def expire_tokens(json: Json = None) -> None:
    """Make every token that was issued an expired one."""
    _post("/expire-tokens", {}, json)


def reset(
    log: Annotated[bool, typer.Option("--log", help="Only requests, deliveries, violations and faults.")] = False,
    json: Json = None,
) -> None:
    """Forget everything in the state whose key BASIQ_API_KEY is, but the key and the time."""
    _post("/reset", {"log": log or None}, json)


def seed(
    messages: Annotated[int, typer.Argument(min=0, metavar="N", help="How many messages.")],
    webhook_id: Annotated[str | None, typer.Option(help="The first webhook by default.", show_default=False)] = None,
    failed: Annotated[float, typer.Option(min=0, max=1, help="The share that was not delivered.")] = 0.0,
    json: Json = None,
) -> None:
    """Give a webhook a history of N messages."""
    _post("/seed", {"messages": messages, "webhookId": webhook_id, "failed": failed}, json)


def redeliver(message_id: Annotated[str, typer.Argument(help="The message's id.")], json: Json = None) -> None:
    """Deliver a message once more, now."""
    _post(f"/messages/{segment(message_id)}/redeliver", {"wait": True}, json)


def secret(webhook_id: Annotated[str, typer.Argument(help="The webhook's id.")], json: Json = None) -> None:
    """Print the signing secret of a webhook of the mock."""
    from ._output import write

    found = run_until_signal(lambda: call("POST", f"/webhooks/{segment(webhook_id)}/secret", {}))
    if json is not None:
        Output(json).one(found, _RESULT)
    else:
        write(str(found.get("secret")))


def state(json: Json = None) -> None:
    """Show the time, what is due, and how much there is of everything."""
    Output(json).one(run_until_signal(lambda: call("GET", "/state", {})), _STATE)


def requests(
    limit: LogLimit = 50,
    search: Annotated[str | None, typer.Option(help="Only those with this text.", show_default=False)] = None,
    json: Json = None,
) -> None:
    """Show the latest requests, newest first."""
    _pages("/requests", {"search": search}, limit, Output(json), _REQUESTS)


def deliveries(
    limit: LogLimit = 50,
    search: Annotated[str | None, typer.Option(help="Only those with this text.", show_default=False)] = None,
    message_id: Annotated[str | None, typer.Option(help="Only attempts of this message.", show_default=False)] = None,
    json: Json = None,
) -> None:
    """Show the latest attempts to deliver, newest first."""
    _pages("/deliveries", {"search": search, "messageId": message_id}, limit, Output(json), _DELIVERIES)


def violations(json: Json = None) -> None:
    """Show what the real Basiq would refuse, or what misuses it. Ends with 1 if there are any."""
    found = run_until_signal(lambda: call("GET", "/violations", {})).get("items") or []
    Output(json).rows(found, _VIOLATIONS)
    if found:
        raise typer.Exit(1)
    note("there are no violations")


def _post(path: str, values: dict[str, Any], json: str | None, *, timeout: float = 60.0) -> None:
    Output(json).one(run_until_signal(lambda: call("POST", path, values, timeout=timeout)), _RESULT)


def _pages(path: str, values: dict[str, Any], limit: int, output: Output, shape: Shape[dict[str, Any]]) -> None:
    async def work() -> None:
        left, following = limit, None
        while True:
            size = min(left, _PAGE) if limit else _PAGE
            page = await call("GET", path, {**values, "limit": size, "next": following})
            items = page.get("items") or []
            output.rows(items, shape)
            if not items and following is None:
                note("nothing found")
            left -= len(items)
            following = page.get("next")
            if following is None:
                return
            if limit and left <= 0:
                if not output.as_json:
                    note(f"the newest {limit:,} of {page.get('total'):,}; --limit N shows N of them, --limit 0 all")
                return

    run_until_signal(work)


TOKEN = "BASIQ_MOCK_TOKEN"  # noqa: S105  # the name of a variable
_TIMEOUT = 60.0
_MOST = 64 * 2**20
_CAPITAL = re.compile("[A-Z]")


class MockError(BasiqError):
    """The mock did not do what it was asked for; ``status`` is its HTTP status, where it responded."""

    def __init__(self, message: str, *, status: int | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True)
class Place:
    """Which mock, and which of its states, is meant: where it is, and the API key that says that it is that one."""

    base: BaseURL
    api_key: str = field(repr=False)


def find_place() -> Place:
    """Return the mock that is meant: the one at ``BASIQ_BASE_URL`` whose key ``BASIQ_API_KEY`` is.

    Neither has a default, since what listens on a usual port can be somebody else's; and they are set together, so that
    the key of another API is sent to no mock. Raises ``ConfigurationError``.
    """
    where, key = (os.environ.get(name) for name in ("BASIQ_BASE_URL", "BASIQ_API_KEY"))
    if not where or not key:
        raise ConfigurationError(
            f"which mock? {'BASIQ_API_KEY' if where else 'BASIQ_BASE_URL'} is not set: evaluate the line that the mock "
            "printed, or that 'basiq-async mock wait' prints"
        )
    return Place(BaseURL.parse(where), key)


async def call(method: str, path: str, values: Mapping[str, Any], *, timeout: float = _TIMEOUT) -> dict[str, Any]:
    """Call an operation of the mock that is meant and return what it responds. Values that are None are left out.

    Raises ``MockError``, and ``ConfigurationError`` for a call that the mock does not take.
    """
    return await call_at(find_place(), method, path, values, timeout=timeout)


async def call_at(
    place: Place, method: str, path: str, values: Mapping[str, Any], *, timeout: float = _TIMEOUT
) -> dict[str, Any]:
    """Like ``call``, of the mock at ``place``."""
    import aiohttp

    base = place.base
    given = {name: value for name, value in values.items() if value is not None}
    target = f"{base.origin}/_fake{path}"
    if method == "GET" and given:
        target += "?" + urlencode(given)
    headers = {"Authorization": f"Basic {place.api_key}"}
    if token := os.environ.get(TOKEN):
        headers["X-Fake-Token"] = token
    try:
        async with (
            aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, timeout=aiohttp.ClientTimeout(total=timeout)
            ) as session,
            session.request(
                method, target, json=given if method == "POST" else None, headers=headers, allow_redirects=False
            ) as response,
        ):
            status, body = response.status, await response.content.read(_MOST)
    except TimeoutError:
        raise MockError(f"the mock at {base.origin} did not respond within {timeout:g} s") from None
    except (aiohttp.ClientError, OSError, ValueError) as exc:
        raise MockError(
            f"there is no mock at {base.origin} ({type(exc).__name__}): start one with 'basiq-async mock', "
            "and evaluate the line that it prints"
        ) from None
    return _read(base.origin, status, body)


def segment(text: str) -> str:
    """Return an id as one segment of a path."""
    return quote(text, safe="")


def _name_as_commands_do(found: dict[str, Any]) -> dict[str, Any]:
    """Return what the control API responded, its fields in the spelling of every other command: ``next_due``.

    What is inside of a field, such as the headers of a delivery, stays as it is.
    """
    named = {_CAPITAL.sub(lambda each: f"_{each[0].lower()}", name): value for name, value in found.items()}
    if isinstance(items := named.get("items"), list):
        named["items"] = [_name_as_commands_do(each) for each in items]
    return named


def _read(origin: str, status: int, body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise MockError(f"what responds at {origin} is not a mock of Basiq", status=status)
    if status == 200:
        return _name_as_commands_do(found)
    error = found.get("error")
    if not isinstance(error, dict):
        raise MockError(f"what responds at {origin} is not a mock of Basiq", status=status)
    message = str(error.get("message"))
    if error.get("code") == "another-mock":
        message = f"the mock at {origin} does not have the key in BASIQ_API_KEY: it is another one, or was started anew"
    if status == 400:
        raise ConfigurationError(message)
    raise MockError(message, status=status, code=str(error.get("code")))
