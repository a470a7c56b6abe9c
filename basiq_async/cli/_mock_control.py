"""``basiq-async mock advance``, ``emit``, ``fail`` and others: call the control API of a mock that runs.

Each command calls one operation of the control API, and shows the fields of its response.
"""

from __future__ import annotations

import json as json_module
import os
import re
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlencode, urlsplit

import attrs
import typer

from .._redaction.credentials import fingerprint
from .._wire.hosts import is_this_machine
from .._wire.urls import BaseURL
from ..errors import BasiqError, ConfigurationError
from ._deliveries import read_json_object
from ._options import Json, complete_event_type, duration, option
from ._output import note, write
from ._results import Column, Output, Row, View

TOKEN = "BASIQ_MOCK_TOKEN"  # noqa: S105  # the name of a variable
_TIMEOUT = 60.0
_LONG_TIMEOUT = 600.0
_MOST = 64 * 2**20
_CAPITAL = re.compile("[A-Z]")
_SMALL = re.compile("_([a-z])")
_PAGE = 1_000

mock_app = typer.Typer(invoke_without_command=True)
_endpoint = typer.Typer(help="Start and end an outage of an endpoint.", no_args_is_help=True)


def _object(parameter: typer.CallbackParam, value: str | None) -> Any:
    return None if value is None else read_json_object(value, f"--{parameter.name}")


def _json_option(help: str) -> Any:
    return option(help, metavar="JSON|@FILE", callback=_object)


Text = str | None
Number = int | None
Drop = Literal["request", "response"]
Times = Annotated[Number, typer.Argument(metavar="N", min=1, max=1_000_000, help="How many; 1 by default.")]
Status = Annotated[Number, option("Use this status.", min=100, max=999, metavar="N")]
EndpointURL = Annotated[Text, typer.Argument(metavar="URL", help="The endpoint's url; by default every endpoint.")]
LogLimit = Annotated[int, typer.Option(min=0, metavar="N", help="Show the newest N; 0 for all.")]
Search = Annotated[Text, option("Only items that contain this text, in any case.")]

_REQUESTS: View[Row] = View(
    "",
    Column("NUMBER", "number"),
    Column("STATUS", "status"),
    Column("REQUEST", lambda row: f"{row.get('method')} {row.get('path')}", flexible=16),
    Column("AT", "at", optional=True),
    Column("VIOLATIONS", "violations"),
)
_DELIVERIES: View[Row] = View(
    "",
    Column("MESSAGE", "message_id"),
    Column("STATUS", "status"),
    Column("EVENT TYPE", "event_type_id"),
    Column("ATTEMPT", "attempt"),
    Column("AT", "at", optional=True),
    Column("URL", "url", 16),
)
_STATES: View[Row] = View(
    "",
    Column("NAME", "name", 16),
    Column("WEBHOOKS", "webhooks"),
    Column("MESSAGES", "messages"),
    Column("DELIVERIES", "deliveries"),
    Column("VIOLATIONS", "violations"),
    Column("NOW", "now", optional=True),
)
_VIOLATIONS: View[Row] = View(
    "",
    Column("CODE", "code"),
    Column("AT", "at", optional=True),
    Column("DETAIL", "detail", 32),
)


def _operation(
    method: str, path: str, name: str | None = None, *, app: typer.Typer = mock_app, **fixed: object
) -> Callable[[Callable[..., None]], object]:
    """Make a command of a function without a body: it calls an operation, and shows the fields of the response.

    The parameters of the function are the inputs of the operation: the part of the path in braces, or a value. A value
    of None or False is not sent. ``fixed`` are values that no option changes.
    """

    def make(declared: Callable[..., None]) -> object:
        @app.command(name)
        @wraps(declared)
        async def command(json: str | None, **given: Any) -> None:
            inputs = {each: given.pop(each) for each in re.findall(r"{(\w+)}", path)}
            place = path.format(**{each: quote(value, safe="") for each, value in inputs.items()})
            values = {_SMALL.sub(lambda found: found[1].upper(), each): value for each, value in given.items()}
            sent = {each: value for each, value in values.items() if value is not False}
            Output(json).one(await call(method, place, {**sent, **fixed}))

        return command

    return make


@mock_app.command()
async def advance(
    by: Annotated[
        str, typer.Argument(metavar="TIME|next", help="Such as 15m, 2h or 30s; next: until the next attempt.")
    ],
    json: Json = None,
) -> None:
    """Move the mock's clock forward, and make every delivery that is due meanwhile."""
    values = {} if by == "next" else {"seconds": duration(by, "the time").total_seconds()}
    path = "/next" if by == "next" else "/advance"
    Output(json).one(await call("POST", path, values, timeout=_LONG_TIMEOUT))


@_operation("POST", "/emit")
def emit(
    event_type_id: Annotated[
        str,
        typer.Argument(
            metavar="event_type",
            help="The event type, such as consent.revoked.",
            autocompletion=complete_event_type,
        ),
    ],
    user_id: Annotated[Text, option("The user that the event is about; by default a new one.")] = None,
    entity_id: Annotated[Text, option("The entity that the event is about; by default a new one.")] = None,
    data: Annotated[Text, _json_option("The event's data; by default the type, id and link of the entity.")] = None,
    wait: Annotated[bool, option("Respond after the first attempt of each message.", "--wait")] = False,
    json: Json = None,
) -> None:
    """Emit an event, with a message for each active webhook that is subscribed to it."""


@_operation("POST", "/messages/{message_id}/redeliver", wait=True)
def redeliver(message_id: Annotated[str, typer.Argument(help="The message's id.")], json: Json = None) -> None:
    """Deliver a message once more, now."""


@_operation("POST", "/fail")
def fail(
    times: Times = None,
    status: Status = None,
    method: Annotated[Text, option("Only requests with this method.")] = None,
    path: Annotated[
        Text,
        option("Only requests to this path, with \\* for any text. By default all requests except the token call."),
    ] = None,
    retry_after: Annotated[Number, option("Seconds for the Retry-After header.", min=0, metavar="N")] = None,
    body: Annotated[Text, option("Respond with this body, unchanged.")] = None,
    headers: Annotated[Text, _json_option("More headers of the response.")] = None,
    delay: Annotated[float | None, option("Respond after this many seconds.", min=0, max=3600, metavar="N")] = None,
    drop: Annotated[
        Drop | None, option("Break the connection before the request is carried out, or before the response is sent.")
    ] = None,
    loop: Annotated[bool, option("Let a list's next link lead to the same page.", "--loop")] = False,
    json: Json = None,
) -> None:
    """Make the next requests fail."""


@_operation("POST", "/deliveries/fail", "fail-deliveries")
def fail_deliveries(
    times: Times = None,
    status: Status = None,
    drop: Annotated[
        Drop | None,
        option("request: the endpoint is not reached. response: it handles the delivery, and its response is lost."),
    ] = None,
    url: Annotated[Text, option("Only deliveries to this url, with \\* for any text.", "--to")] = None,
    json: Json = None,
) -> None:
    """Make the next deliveries fail. With --status, this status is recorded without calling the endpoint."""


@_operation("POST", "/expire-tokens", "expire-tokens")
def expire_tokens(json: Json = None) -> None:
    """Let all tokens that were issued expire now."""


@_operation("POST", "/seed")
def seed(
    messages: Annotated[int, typer.Argument(metavar="N", min=0, max=100_000_000, help="The number of messages.")],
    webhook_id: Annotated[Text, option("The webhook; by default the first one, which is added if none exists.")] = None,
    event_types: Annotated[
        list[str] | None,
        option(
            "An event type of the messages; may be repeated. By default the types that the webhook is subscribed to.",
            "--event-type",
        ),
    ] = None,
    every: Annotated[
        float | None, option("Seconds between two messages; 1 by default.", min=0.001, max=1e6, metavar="N")
    ] = None,
    failed: Annotated[
        float | None,
        option("The share of messages, from 0 to 1, whose only attempt failed.", min=0, max=1, metavar="N"),
    ] = None,
    json: Json = None,
) -> None:
    """Give a webhook a history of messages."""


@_operation("POST", "/reset")
def reset(
    log: Annotated[
        bool, option("Forget only recorded requests, deliveries and violations, and the faults.", "--log")
    ] = False,
    json: Json = None,
) -> None:
    """Remove everything in the state with the key BASIQ_API_KEY, except the key and the time."""


@_operation("GET", "/state")
def state(json: Json = None) -> None:
    """Show the time, the next attempt, the faults, and the number of webhooks, messages and requests."""


@mock_app.command()
async def requests(search: Search = None, limit: LogLimit = 50, json: Json = None) -> None:
    """Show the latest requests, newest first."""
    await _show_pages("/requests", {"search": search}, limit, Output(json), _REQUESTS)


@mock_app.command()
async def deliveries(
    message_id: Annotated[Text, option("Only attempts of this message.")] = None,
    search: Search = None,
    limit: LogLimit = 50,
    json: Json = None,
) -> None:
    """Show the latest delivery attempts, newest first."""
    await _show_pages("/deliveries", {"messageId": message_id, "search": search}, limit, Output(json), _DELIVERIES)


@mock_app.command()
async def states(json: Json = None) -> None:
    """Show the states of the mock, without their API keys."""
    found = await call("GET", "/states")
    Output(json).rows(found.get("items") or [], _STATES)


@_operation("POST", "/states/remove", "remove-state")
def remove_state(json: Json = None) -> None:
    """Remove the state with the key BASIQ_API_KEY, and everything in it."""


@mock_app.command()
async def violations(json: Json = None) -> int:
    """Show what the real Basiq would refuse, and misuse of the API. The exit code is 1 if there is any."""
    found = (await call("GET", "/violations")).get("items") or []
    Output(json).rows(found, _VIOLATIONS)
    if found:
        return 1
    note("there are no violations")
    return 0


@mock_app.command()
async def secret(webhook_id: Annotated[str, typer.Argument(help="The webhook's id.")], json: Json = None) -> None:
    """Print the signing secret of a webhook of the mock."""
    found = await call("POST", f"/webhooks/{quote(webhook_id, safe='')}/secret")
    if json is not None:
        Output(json).one(found)
    else:
        write(str(found.get("secret")))


@_operation("POST", "/endpoint/down", app=_endpoint)
def down(url: EndpointURL = None, status: Status = None, json: Json = None) -> None:
    """Let all deliveries to an endpoint fail, without calling it. Without --status, the connection fails."""


@_operation("POST", "/endpoint/up", app=_endpoint)
def up(url: EndpointURL = None, json: Json = None) -> None:
    """End the outage of an endpoint."""


mock_app.add_typer(_endpoint, name="endpoint")


async def _show_pages(path: str, values: Mapping[str, Any], limit: int, output: Output, view: View[Row]) -> None:
    left, following = limit, None
    while True:
        size = min(left, _PAGE) if limit else _PAGE
        page = await call("GET", path, {**values, "limit": size, "next": following})
        items = page.get("items") or []
        output.rows(items, view)
        if not items and following is None:
            note("nothing found")
        left -= len(items)
        following = page.get("next")
        if following is None:
            return
        if limit and left <= 0:
            if not output.as_json:
                note(f"the newest {limit:,} of {page.get('total'):,}; --limit N shows N of them, --limit 0 shows all")
            return


# --- the calls ---


class MockError(BasiqError):
    """A call to a mock failed. ``status`` is the HTTP status of its response; None if there was no response."""

    def __init__(self, message: str, *, status: int | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@attrs.frozen
class Place:
    """The URL of a mock, and the API key of the state in it that a command is for."""

    base_url: str
    api_key: str = attrs.field(repr=False)

    @classmethod
    def find(cls) -> Place:
        """Return the mock at ``BASIQ_BASE_URL`` with the key ``BASIQ_API_KEY``.

        Neither has a default, because another program may listen on the usual port. Both must be set, so that the key
        of another API is never sent to a mock. Raises ``ConfigurationError`` if one is missing.
        """
        where, key = (os.environ.get(name) for name in ("BASIQ_BASE_URL", "BASIQ_API_KEY"))
        if not where or not key:
            missing = "BASIQ_API_KEY" if where else "BASIQ_BASE_URL"
            raise ConfigurationError(
                f"no mock is named, because {missing} is not set: evaluate the line that the mock printed, or the line "
                "that 'basiq-async mock wait' prints"
            )
        return cls(BaseURL.parse(where).url(""), key)


async def call(
    method: str,
    path: str,
    values: Mapping[str, Any] | None = None,
    *,
    place: Place | None = None,
    timeout: float = _TIMEOUT,
) -> dict[str, Any]:
    """Call an operation of a mock, and return its response. Values of None are not sent.

    place: the mock and its state; by default those that the environment names. The key itself is not sent: below the
        host of a base url, another service may answer.

    Raises ``MockError``, and ``ConfigurationError`` for a call that the mock refuses with the status 400, or to a mock
    on another machine without its token.
    """
    import aiohttp

    place = place or Place.find()
    origin = BaseURL.parse(place.base_url).origin
    given = {name: value for name, value in (values or {}).items() if value is not None}
    target = f"{origin}/_fake{path}" + (f"?{urlencode(given)}" if method == "GET" and given else "")
    headers = {"X-Fake-State": fingerprint(place.api_key)}
    if token := os.environ.get(TOKEN):
        headers["X-Fake-Token"] = token
    elif not is_this_machine(urlsplit(origin).hostname or ""):
        raise ConfigurationError(
            f"{origin} is another machine: set {TOKEN} to the control token of the mock there. If it is no mock, set "
            "BASIQ_BASE_URL to that of your mock"
        )
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
        raise MockError(f"the mock at {origin} did not respond within {timeout:g} s") from None
    except (aiohttp.ClientError, OSError, ValueError) as exc:
        raise MockError(
            f"no mock responds at {origin} ({type(exc).__name__}): start one with 'basiq-async mock', "
            "and evaluate the line that it prints"
        ) from None
    return _read(origin, status, body)


def _read(origin: str, status: int, body: bytes) -> dict[str, Any]:
    try:
        found = json_module.loads(body)
    except (ValueError, RecursionError):
        found = None
    error = found.get("error") if isinstance(found, dict) else None
    if not isinstance(found, dict) or (status != 200 and not isinstance(error, dict)):
        raise MockError(f"the server at {origin} is not a mock of Basiq", status=status)
    if not isinstance(error, dict) or status == 200:
        return _name_as_commands_do(found)
    message, code = str(error.get("message")), str(error.get("code"))
    if code == "another-mock":
        message = (
            f"the mock at {origin} does not know the key in BASIQ_API_KEY: it is another mock, or it was restarted"
        )
    if status == 400:
        raise ConfigurationError(message)
    raise MockError(message, status=status, code=code)


def _name_as_commands_do(found: dict[str, Any]) -> dict[str, Any]:
    """Return a response of the control API with field names in snake case, such as ``next_due``, as commands show them.

    The values of fields, such as the headers of a delivery, are not changed.
    """
    named = {_CAPITAL.sub(lambda found: f"_{found[0].lower()}", name): value for name, value in found.items()}
    if isinstance(items := named.get("items"), list):
        named["items"] = [_name_as_commands_do(each) for each in items]
    return named
