"""``basiq-async sign`` and ``basiq-async verify``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigurationError
from ..receiver import sign as make_headers
from ..receiver import verify as check
from ._run import guarded

Body = Annotated[str, typer.Argument(help="The file with the body, as it is sent; - for the standard input.")]
SecretOption = Annotated[
    list[str],
    typer.Option(
        "--secret",
        envvar="BASIQ_WEBHOOK_SECRET",
        show_default=False,
        help="The webhook's signing secret; better in the environment, where the list of processes does not show it. "
        "May be given more than once.",
    ),
]


def sign(
    secret: SecretOption,
    body: Body = "-",
    message_id: Annotated[str, typer.Option("--id", help="The webhook-id.")] = "msg_test",
    at: Annotated[int | None, typer.Option(help="Seconds since 1970; now by default.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Print the headers that Basiq would send with a body, one a line: curl takes them with -H @FILE."""

    def work() -> None:
        headers = make_headers(secret, message_id, _moment(at), _read(body))
        if as_json:
            typer.echo(json.dumps(headers))
        else:
            typer.echo("\n".join(f"{name}: {value}" for name, value in headers.items()))

    _run(work)


def verify(
    secret: SecretOption,
    body: Body = "-",
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", help='"name: value"; the three webhook- ones.')
    ] = None,
    headers: Annotated[str | None, typer.Option(help="A file with the headers, one a line, or as JSON.")] = None,
    tolerance: Annotated[float, typer.Option(help="Seconds that the timestamp may be away.")] = 300.0,
    at: Annotated[
        int | None,
        typer.Option(help="The time to compare with, in seconds since 1970; now by default.", show_default=False),
    ] = None,
) -> None:
    """Tell whether a body and its headers are a genuine delivery: exit code 0, or 1 and the reason."""

    def work() -> None:
        if not 0 <= tolerance < 1e9:
            raise ConfigurationError("--tolerance must be a number of seconds, 0 or more")
        pairs = [_pair(line) for line in header or ()]
        pairs += _headers_of(headers) if headers is not None else []
        check(secret, pairs, _read(body), tolerance=timedelta(seconds=tolerance), now=_moment(at))
        typer.echo("genuine")

    _run(work)


def _run(work: Callable[[], None]) -> None:
    async def main() -> None:
        work()

    guarded(main)


def _moment(at: int | None) -> datetime:
    try:
        return datetime.now(UTC) if at is None else datetime.fromtimestamp(at, UTC)
    except (ValueError, OverflowError, OSError):
        raise ConfigurationError("--at is beyond the dates that there are") from None


def _read(path: str) -> bytes:
    if path == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(path).read_bytes()
    except OSError as exc:
        raise ConfigurationError(f"the file {path} cannot be read: {exc.strerror}") from exc


def _headers_of(path: str) -> list[tuple[str, str]]:
    text = _read(path).decode("utf-8", "replace")
    try:
        found = json.loads(text)
    except ValueError:
        return [_pair(line) for line in text.splitlines() if line.strip()]
    if not isinstance(found, dict):
        raise ConfigurationError(f"the headers in {path} are neither lines nor one JSON object")
    return [(str(name), str(value)) for name, value in found.items()]


def _pair(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon:
        raise ConfigurationError(f"a header is written as name: value, not {line!r}")
    return name.strip(), value.strip()
