"""``basiq-async sign`` and ``basiq-async verify``."""

from __future__ import annotations

import json as json_module
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ConfigurationError
from ._options import SECRET_VARIABLE
from ._output import Output, Shape, write, write_lines

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

_HEADERS: Shape[dict[str, str]] = Shape(
    ("webhook-id", "webhook-timestamp", "webhook-signature"), lambda headers: headers
)
_GENUINE: Shape[dict[str, Any]] = Shape(("genuine",), lambda row: row)


def sign(
    secret: SecretOption,
    body: Body = "-",
    message_id: Annotated[str, typer.Option("--id", help="The webhook-id.")] = "msg_test",
    at: Annotated[int | None, typer.Option(help="Seconds since 1970; now by default.", show_default=False)] = None,
    json: PlainJson = None,
) -> None:
    """Print the headers that Basiq would send with a body, one a line: curl takes them with -H @FILE."""
    from ..receiver import sign as make_headers

    headers = make_headers(secret, message_id, _moment(at), _read(body))
    if json is not None:
        Output(json).one(headers, _HEADERS)
    else:
        write_lines(f"{name}: {value}" for name, value in headers.items())


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
        output.one({"genuine": True}, _GENUINE)
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
