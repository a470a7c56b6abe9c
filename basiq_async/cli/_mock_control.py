"""``basiq-async mock call``: call an operation of the control API of a mock that runs."""

from __future__ import annotations

import json as json_module
import os
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any
from urllib.parse import quote, urlencode, urlsplit

import attrs
import typer
from typer.core import TyperCommand

from .._redaction.credentials import prove
from .._wire.hosts import is_this_machine
from .._wire.urls import BaseURL
from ..errors import BasiqError, ConfigurationError, RequestTimeoutError, TransportError
from ..transports.base import Request
from ._command import Group
from ._results import Output, View
from ._settings import given_base_url

TOKEN = "BASIQ_MOCK_TOKEN"  # noqa: S105  # the name of a variable
_TIMEOUT = 600.0

mock_app = Group(invoke_without_command=True)


class _Listing(TyperCommand):
    """A command whose help lists the operations. Their declarations are imported only to show it."""

    @property
    def help(self) -> str:
        from ..testing.mock.control_api import OPERATIONS

        lines = [self._help]
        for name, operation in sorted(OPERATIONS.items()):
            lines.append(f"- `{name}`: {operation.summary}.")
            for field, each in operation.inputs.items():
                lines.append(f"    - `{field}`{' (required)' if each.required else ''}: {each.about.description}")
        return "\n".join(lines)

    @help.setter  # noqa: A003  # typer sets it
    def help(self, text: str) -> None:
        self._help = text


def _complete_operation(incomplete: str) -> list[str]:
    from ..testing.mock.control_api import OPERATIONS

    return [name for name in OPERATIONS if name.startswith(incomplete)]


@mock_app.add(cls=_Listing)
async def call(
    output: Output,
    name: Annotated[str, typer.Argument(autocompletion=_complete_operation)],
    fields: Annotated[list[str] | None, typer.Argument()] = None,
) -> None:
    """Call an operation of a mock that runs, and print its response as JSON.

    BASIQ_BASE_URL names the mock, and BASIQ_API_KEY the state in it. A value is JSON if it can be read as JSON, and
    text if not; a field that takes a text takes it as it is. The operations and their fields:

    name OPERATION: An operation.
    fields FIELD=VALUE: A field of the operation, and its value.
    """
    from ..testing.mock.control_api import OPERATIONS, fields_of

    operation = OPERATIONS.get(name)
    if operation is None:
        nearest = "".join(f" (did you mean {each!r}?)" for each in get_close_matches(name, OPERATIONS, n=1))
        raise ConfigurationError(f"there is no operation {name!r}{nearest}; 'basiq-async mock call --help' lists them")
    output.expect(View(" ".join(fields_of(operation.returns))))
    given: dict[str, Any] = {}
    for each in fields or ():
        field, equals, text = each.partition("=")
        if not equals:
            raise ConfigurationError(f"the field {field} has no value: write {field}=VALUE")
        declared = operation.inputs.get(field)  # the mock itself refuses a field that it does not have
        given[field] = text if declared is not None and declared.kind is str else _read_value(text)
    path = operation.path
    for field in operation.inputs.keys() - operation.fields.keys():
        if field not in given:
            raise ConfigurationError(f"{name} needs {field}=VALUE: {operation.inputs[field].about.description}")
        path = path.replace(f"{{{field}}}", quote(given.pop(field), safe=""))
    output.json = output.json or ""
    output.one(await call_mock(operation.method, path, given))


def _read_value(text: str) -> object:
    try:
        return json_module.loads(text)
    except (ValueError, RecursionError):
        return text


class MockError(BasiqError):
    """A call to a mock failed. ``status`` is the HTTP status of its response; None if there was no response."""

    def __init__(self, message: str, *, status: int | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@attrs.frozen
class MockPlace:
    """The URL of a mock, and the API key of the state in it that a command is for."""

    base_url: str
    api_key: str = attrs.field(repr=False)

    @classmethod
    def find(cls) -> MockPlace:
        """Return the mock at ``--base-url`` or ``BASIQ_BASE_URL`` with the key ``BASIQ_API_KEY``.

        Neither has a default, because another program may listen on the usual port. Both must be set, so that the key
        of another API is never sent to a mock. Raises ``ConfigurationError`` if one is missing.
        """
        given, key = given_base_url(), os.environ.get("BASIQ_API_KEY")
        if given is None or not key:
            missing = "BASIQ_API_KEY" if given else "BASIQ_BASE_URL"
            raise ConfigurationError(
                f"no mock is named, because {missing} is not set: evaluate the line that the mock printed, or the line "
                "that 'basiq-async mock wait' prints"
            )
        return cls(BaseURL.parse(given[0]).url(""), key)


async def call_mock(
    method: str,
    path: str,
    values: Mapping[str, Any] | None = None,
    *,
    place: MockPlace | None = None,
    timeout: float = _TIMEOUT,
) -> dict[str, Any]:
    """Call an operation of a mock, and return its response. Values of None are not sent.

    place: the mock and its state; by default those that the environment names. Neither the key nor the token is sent,
        but a proof of each for this call alone: below the host of a base url, another service may answer.

    Raises ``MockError``, and ``ConfigurationError`` for a call that the mock refuses with the status 400, or to a mock
    on another machine without its token.
    """
    from ..transports.aiohttp import AiohttpTransport

    place = place or MockPlace.find()
    origin = BaseURL.parse(place.base_url).origin
    given = {name: value for name, value in (values or {}).items() if value is not None}
    target = f"/_fake{path}" + (f"?{urlencode(given)}" if method == "GET" and given else "")
    headers = {"content-type": "application/json"}
    token = os.environ.get(TOKEN)
    if not token and not is_this_machine(urlsplit(origin).hostname or ""):
        raise ConfigurationError(
            f"{origin} is another machine: set {TOKEN} to the control token of the mock there. If it is no mock, set "
            "BASIQ_BASE_URL to that of your mock"
        )
    transport = AiohttpTransport(timeout=timeout)
    try:
        asked = await transport.send(Request("GET", f"{origin}/_fake/challenge", headers, None))
        challenge = str(_read(origin, asked.status, asked.body).get("challenge"))
        body = b"" if method == "GET" else json_module.dumps(given).encode()
        headers["x-fake-state"] = f"{challenge}.{prove(place.api_key, challenge, method, target, body)}"
        if token:
            headers["x-fake-token-proof"] = prove(token, challenge, method, target, b"")
        response = await transport.send(Request(method, origin + target, headers, body or None))
    except RequestTimeoutError:
        raise MockError(f"the mock at {origin} did not respond within {timeout:g} s") from None
    except TransportError as exc:
        raise MockError(
            f"no mock responds at {origin} ({type(exc).__name__}): start one with 'basiq-async mock', "
            "and evaluate the line that it prints"
        ) from None
    finally:
        await transport.aclose()
    return _read(origin, response.status, response.body)


def _read(origin: str, status: int, body: bytes) -> dict[str, Any]:
    try:
        found = json_module.loads(body)
    except (ValueError, RecursionError):
        found = None
    error = found.get("error") if isinstance(found, dict) else None
    if not isinstance(found, dict) or (status != 200 and not isinstance(error, dict)):
        raise MockError(f"the server at {origin} is not a mock of Basiq", status=status)
    if not isinstance(error, dict) or status == 200:
        return found
    message, code = str(error.get("message")), str(error.get("code"))
    if code == "another-mock":
        message = (
            f"the mock at {origin} does not know the key in BASIQ_API_KEY: it is another mock, or it was restarted"
        )
    if status == 400:
        raise ConfigurationError(message)
    raise MockError(message, status=status, code=code)
