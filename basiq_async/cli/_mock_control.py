"""``basiq-async mock advance``, ``emit``, ``fail`` and others: call the control API of a mock that runs.

Most commands call one operation, and are generated from its description, as the OpenAPI document is.
"""

from __future__ import annotations

import inspect
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints
from urllib.parse import quote, urlencode

import attrs
import typer

from .._wire.urls import BaseURL
from ..errors import BasiqError, ConfigurationError
from ._completion import event_types
from ._deliveries import read_json_object
from ._options import Json, duration
from ._output import note, write
from ._results import Column, Output, Shape, cell_text, keys, shows
from ._run import run_until_signal

if TYPE_CHECKING:
    from ..testing.mock import Field, Operation

TOKEN = "BASIQ_MOCK_TOKEN"  # noqa: S105  # the name of a variable
_TIMEOUT = 60.0
_LONG_TIMEOUT = 600.0
_MOST = 64 * 2**20
_CAPITAL = re.compile("[A-Z]")
_PAGE = 1_000
Row = dict[str, Any]
LogLimit = Annotated[int, typer.Option(min=0, metavar="N", help="Show the newest N; 0 for all.")]


@dataclass(frozen=True)
class _Plain:
    """A command that is generated from the description of one operation.

    arguments: maps the fields that are arguments and no options to the names that help shows for their values.
    options: maps fields to their option, if its name differs from the field's.
    fixed: values that every call sends.
    columns: the columns of the table, for an operation that lists items.
    """

    operation: str
    help: str | None = None
    arguments: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, object] = field(default_factory=dict)
    columns: tuple[Column[Row], ...] = ()


def _column(title: str, name: str, *, flexible: bool = False, optional: bool = False, least: int = 16) -> Column[Row]:
    return Column(title, lambda row: cell_text(row.get(name)), flexible=flexible, optional=optional, least=least)


_PLAIN = (
    _Plain("emit", arguments={"eventTypeId": "EVENT_TYPE"}),
    _Plain("redeliver", arguments={"messageId": "MESSAGE_ID"}, fixed={"wait": True}),
    _Plain("fail", arguments={"times": "N"}),
    _Plain("fail_deliveries", arguments={"times": "N"}, options={"url": "--to"}),
    _Plain("expire_tokens"),
    _Plain("seed", arguments={"messages": "N"}, options={"eventTypes": "--event-type"}),
    _Plain("reset", help="Remove everything in the state with the key BASIQ_API_KEY, except the key and the time."),
    _Plain("state"),
    _Plain(
        "requests",
        columns=(
            _column("NUMBER", "number"),
            _column("STATUS", "status"),
            Column("REQUEST", lambda row: f"{row.get('method')} {row.get('path')}", flexible=True),
            _column("AT", "at", optional=True),
            _column("VIOLATIONS", "violations"),
        ),
    ),
    _Plain(
        "deliveries",
        columns=(
            _column("MESSAGE", "message_id"),
            _column("STATUS", "status"),
            _column("EVENT TYPE", "event_type_id"),
            _column("ATTEMPT", "attempt"),
            _column("AT", "at", optional=True),
            _column("URL", "url", flexible=True),
        ),
    ),
    _Plain(
        "states",
        columns=(
            _column("NAME", "name", flexible=True),
            _column("WEBHOOKS", "webhooks"),
            _column("MESSAGES", "messages"),
            _column("DELIVERIES", "deliveries"),
            _column("VIOLATIONS", "violations"),
            _column("NOW", "now", optional=True),
        ),
    ),
    _Plain("remove_state", help="Remove the state with the key BASIQ_API_KEY, and everything in it."),
)
_ENDPOINT = (
    _Plain("endpoint_down", arguments={"url": "URL"}),
    _Plain("endpoint_up", arguments={"url": "URL"}),
)
_VIOLATIONS = (
    _column("CODE", "code"),
    _column("AT", "at", optional=True),
    _column("DETAIL", "detail", flexible=True, least=32),
)


def add_control_commands(app: typer.Typer) -> None:
    """Add the commands to the group. This imports the operations and the fake, which is slow."""
    from ..testing.mock import OPERATIONS

    operations = {each.name: each for each in OPERATIONS}
    _add_advance(app, operations["advance"])
    for plain in _PLAIN:
        app.command(plain.operation.replace("_", "-"))(_make_command(plain, operations[plain.operation]))
    _add_violations(app, operations["violations"])
    _add_secret(app, operations["webhook_secret"])
    endpoint = typer.Typer(help="Start and end an outage of an endpoint.", no_args_is_help=True)
    for plain in _ENDPOINT:
        name = plain.operation.removeprefix("endpoint_")
        endpoint.command(name)(_make_command(plain, operations[plain.operation]))
    app.add_typer(endpoint, name="endpoint")


# --- written by hand: several calls, or a special output ---


def _add_advance(app: typer.Typer, operation: Operation) -> None:
    shape = _shape_of(operation.returns)

    @app.command()
    @shows(shape)
    def advance(
        by: Annotated[
            str, typer.Argument(metavar="TIME|next", help="Such as 15m, 2h or 30s; next: until the next attempt.")
        ],
        json: Json = None,
    ) -> None:
        """Move the mock's clock forward, and make every delivery that is due meanwhile."""
        path, values = "/next", {}
        if by != "next":
            path, values = operation.path, {"seconds": duration(by, "the time").total_seconds()}
        found = run_until_signal(lambda: call(operation.method, path, values, timeout=_LONG_TIMEOUT))
        Output(json).one(found, shape)


def _add_violations(app: typer.Typer, operation: Operation) -> None:
    shape = _shape_of(_item_of(operation), _VIOLATIONS)

    @app.command()
    @shows(shape)
    def violations(json: Json = None) -> None:
        """Show what the real Basiq would refuse, and misuse of the API. The exit code is 1 if there is any."""
        found = run_until_signal(lambda: call(operation.method, operation.path, {})).get("items") or []
        Output(json).rows(found, shape)
        if found:
            raise typer.Exit(1)
        note("there are no violations")


def _add_secret(app: typer.Typer, operation: Operation) -> None:
    shape = _shape_of(operation.returns)

    @app.command()
    @shows(shape)
    def secret(
        webhook_id: Annotated[str, typer.Argument(help="The webhook's id.")],
        json: Json = None,
    ) -> None:
        """Print the signing secret of a webhook of the mock."""
        found = run_until_signal(lambda: call(operation.method, _fill(operation.path, {"webhookId": webhook_id}), {}))
        if json is not None:
            Output(json).one(found, shape)
        else:
            write(str(found.get("secret")))


# --- generated from an operation: one call ---


def _make_command(plain: _Plain, operation: Operation) -> Callable[..., None]:
    item = _item_of(operation)
    shape = _shape_of(item or operation.returns, plain.columns)
    paged = "next" in attrs.fields_dict(operation.returns)
    in_path = _path_fields(operation)
    fields = [each for each in (*in_path, *operation.fields) if each.name not in plain.fixed]
    if paged:
        fields = [each for each in fields if each.name not in ("limit", "next")]
    parameters = {_snake(each.name): _parameter(plain, each) for each in fields}

    @shows(shape)
    def command(json: str | None = None, limit: int = 0, **given: Any) -> None:
        values = {**plain.fixed, **{each.name: _read_value(each, given[_snake(each.name)]) for each in fields}}
        path = _fill(operation.path, {each.name: values.pop(each.name) for each in in_path})
        output = Output(json)
        if paged:
            _show_pages(path, values, limit, output, shape)
            return
        found = run_until_signal(lambda: call(operation.method, path, values))
        if item is None:
            output.one(found, shape)
        else:
            output.rows(found.get("items") or [], shape)

    if paged:
        parameters["limit"] = (LogLimit, 50)
    parameters["json"] = (Json, None)
    # typer reads a command's options from its signature.
    kind = inspect.Parameter.KEYWORD_ONLY
    made = [
        inspect.Parameter(name, kind, default=default, annotation=annotation)
        for name, (annotation, default) in parameters.items()
    ]
    vars(command)["__signature__"] = inspect.Signature(made)
    command.__annotations__ = {each.name: each.annotation for each in made}
    command.__doc__ = plain.help or _help(operation)
    return command


_TYPES: Mapping[str, Any] = {"whole": int, "number": float, "flag": bool, "texts": list[str]}
_VALUES = {"object": "JSON|@FILE", "texts": "TEXT"}


def _parameter(plain: _Plain, described: Field) -> tuple[Any, Any]:
    """Return the annotation and the default of typer's parameter for a field."""
    kind = _TYPES.get(described.kind, str)
    value = "|".join(described.choices) or _VALUES.get(described.kind)
    bounds: dict[str, Any] = {"min": described.least, "max": described.most} if kind in (int, float) else {}
    text = described.description + (" May be repeated." if described.kind == "texts" else "")
    if described.name in plain.arguments:
        complete = event_types if described.name == "eventTypeId" else None
        name = plain.arguments[described.name]
        if described.required:
            return Annotated[kind, typer.Argument(metavar=name, help=text, autocompletion=complete, **bounds)], ...
        return Annotated[kind | None, typer.Argument(metavar=name, help=text, **bounds)], None
    option = plain.options.get(described.name) or _option(described)
    if kind is bool:
        return Annotated[bool, typer.Option(option, help=text)], False
    made = typer.Option(option, metavar=value, help=text, show_default=False, **bounds)
    return Annotated[kind | None, made], None


def _option(described: Field) -> str:
    return "--" + _snake(described.name).replace("_", "-")


def _read_value(described: Field, given: Any) -> Any:
    """Return the value to send to the mock; None if the option was not given."""
    if given is None or given is False or given == []:
        return None
    return read_json_object(given, _option(described)) if described.kind == "object" else given


def _path_fields(operation: Operation) -> list[Field]:
    """Return the parameters of a path, such as ``messageId``, as fields."""
    from ..testing.mock import Field

    names = re.findall(r"{(\w+)}", operation.path)
    return [Field(name, "text", f"The {name.removesuffix('Id')}'s id.", required=True) for name in names]


def _fill(path: str, values: Mapping[str, Any]) -> str:
    return path.format_map({name: quote(str(value), safe="") for name, value in values.items()})


def _help(operation: Operation) -> str:
    """Return the help of a command from its operation's summary. For a GET, it begins with ``Show``."""
    summary = operation.summary
    return f"Show {summary[0].lower()}{summary[1:]}." if operation.method == "GET" else f"{summary}."


def _item_of(operation: Operation) -> Any:
    """Return the class of the items that an operation lists; None if it lists nothing."""
    items = get_type_hints(operation.returns).get("items")
    return None if items is None else items.__args__[0]


def _shape_of(kind: Any, columns: tuple[Column[Row], ...] = ()) -> Shape[Row]:
    return Shape(keys(*attrs.fields_dict(kind)), columns)


def _show_pages(path: str, values: dict[str, Any], limit: int, output: Output, shape: Shape[Row]) -> None:
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
                    note(
                        f"the newest {limit:,} of {page.get('total'):,}; --limit N shows N of them, --limit 0 shows all"
                    )
                return

    run_until_signal(work)


# --- the calls ---


class MockError(BasiqError):
    """A call to a mock failed. ``status`` is the HTTP status of its response; None if there was no response."""

    def __init__(self, message: str, *, status: int | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True)
class Place:
    """The URL of a mock, and the API key of the state in it that a command is for."""

    base: BaseURL
    api_key: str = field(repr=False)


def find_place() -> Place:
    """Return the mock at ``BASIQ_BASE_URL`` with the key ``BASIQ_API_KEY``.

    Neither has a default, because another program may listen on the usual port. Both must be set, so that the key of
    another API is never sent to a mock. Raises ``ConfigurationError`` if one is missing.
    """
    where, key = (os.environ.get(name) for name in ("BASIQ_BASE_URL", "BASIQ_API_KEY"))
    if not where or not key:
        raise ConfigurationError(
            f"no mock is named, because {'BASIQ_API_KEY' if where else 'BASIQ_BASE_URL'} is not set: evaluate the line "
            "that the mock printed, or the line that 'basiq-async mock wait' prints"
        )
    return Place(BaseURL.parse(where), key)


async def call(method: str, path: str, values: Mapping[str, Any], *, timeout: float = _TIMEOUT) -> dict[str, Any]:
    """Call an operation of the mock that the environment names, and return its response. Values of None are not sent.

    Raises ``MockError``, and ``ConfigurationError`` for a call that the mock refuses with the status 400.
    """
    return await call_at(find_place(), method, path, values, timeout=timeout)


async def call_at(
    place: Place, method: str, path: str, values: Mapping[str, Any], *, timeout: float = _TIMEOUT
) -> dict[str, Any]:
    """Call an operation of the mock at ``place``. The rest is as for ``call``."""
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
            f"no mock responds at {base.origin} ({type(exc).__name__}): start one with 'basiq-async mock', "
            "and evaluate the line that it prints"
        ) from None
    return _read(base.origin, status, body)


def _name_as_commands_do(found: dict[str, Any]) -> dict[str, Any]:
    """Return a response of the control API with field names in snake case, such as ``next_due``, as commands show them.

    The values of fields, such as the headers of a delivery, are not changed.
    """
    named = {_snake(name): value for name, value in found.items()}
    if isinstance(items := named.get("items"), list):
        named["items"] = [_name_as_commands_do(each) for each in items]
    return named


def _read(origin: str, status: int, body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise MockError(f"the server at {origin} is not a mock of Basiq", status=status)
    if status == 200:
        return _name_as_commands_do(found)
    error = found.get("error")
    if not isinstance(error, dict):
        raise MockError(f"the server at {origin} is not a mock of Basiq", status=status)
    message = str(error.get("message"))
    if error.get("code") == "another-mock":
        message = (
            f"the mock at {origin} does not know the key in BASIQ_API_KEY: it is another mock, or it was restarted"
        )
    if status == 400:
        raise ConfigurationError(message)
    raise MockError(message, status=status, code=str(error.get("code")))


def _snake(name: str) -> str:
    return _CAPITAL.sub(lambda found: f"_{found[0].lower()}", name)
