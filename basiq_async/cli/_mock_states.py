"""``basiq-async mock wait``, and the states of a mock: how a script gets one that is ready and its own."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer

from .._redaction.shell import shell_line
from .._wire.urls import BaseURL
from ._mock_control import MockError, Place, call, call_at, find_place
from ._options import Json
from ._output import Output, Shape, cell_text, note, write
from ._run import run_until_signal
from ._table import Column

READY: Shape[dict[str, Any]] = Shape(
    ("base_url", "api_key", "seed", "webhook_id", "page", "control_token"), lambda row: row
)
_NEW: Shape[dict[str, Any]] = Shape(("base_url", "api_key", "name", "seed"), lambda row: row)
_DONE: Shape[dict[str, Any]] = Shape(("now", "next_due"), lambda row: row)
_STATES: Shape[dict[str, Any]] = Shape(
    ("name", "seed", "now", "pending", "webhooks", "messages", "requests", "deliveries", "violations"),
    lambda row: row,
    (
        Column("NAME", lambda row: cell_text(row.get("name")), flexible=True),
        Column("WEBHOOKS", lambda row: cell_text(row.get("webhooks"))),
        Column("MESSAGES", lambda row: cell_text(row.get("messages"))),
        Column("DELIVERIES", lambda row: cell_text(row.get("deliveries"))),
        Column("VIOLATIONS", lambda row: cell_text(row.get("violations"))),
        Column("NOW", lambda row: cell_text(row.get("now")), optional=True),
    ),
)
_BETWEEN = 0.05
_ANSWERS = 5.0
# What a shell evaluates where there is no mock: it fails, and no later command reaches an API that is none.
_NO_MOCK = "export BASIQ_BASE_URL=http://no-mock.invalid BASIQ_API_KEY=no-mock; false"


def add_state_commands(app: typer.Typer) -> None:
    """Add the commands to the group."""
    for command in (wait, states):
        app.command()(command)
    app.command("add-state")(add_state)
    app.command("remove-state")(remove_state)


def wait(
    ready_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What 'mock --ready-file FILE' writes.", show_default=False),
    ] = None,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait.")] = 30.0,
    json: Json = None,
) -> None:
    """Wait until a mock can be called, and print what says which one it is, for a shell to evaluate.

    It is the mock whose --ready-file this is, or the one at BASIQ_BASE_URL whose key BASIQ_API_KEY is. Where
    none is ready in time, it ends with 1, and what it prints fails in the shell too.
    """
    try:
        found = run_until_signal(lambda: _wait(ready_file, timeout))
    except BaseException:  # a signal too
        if json is None:
            write(_NO_MOCK)
        raise
    if json is not None:
        Output(json).one(found, READY)
    else:
        write(export_line(found["base_url"], found["api_key"]))


def states(json: Json = None) -> None:
    """Show the states of the mock, without their keys."""
    Output(json).rows(run_until_signal(lambda: call("GET", "/states", {})).get("items") or [], _STATES)


def add_state(
    name: Annotated[str | None, typer.Option(help="What people know it by.", show_default=False)] = None,
    seed: Annotated[
        str | None, typer.Option(help="What its ids are made from; the same seed repeats them.", show_default=False)
    ] = None,
    still: Annotated[bool, typer.Option("--still", help="Its clock stands still until it is moved.")] = False,
    json: Json = None,
) -> None:
    """Add an empty state with a key, a clock and ids of its own; print the line that a shell evaluates to use it."""
    place = find_place()
    values = {"name": name, "seed": seed, "still": still or None}
    made = run_until_signal(lambda: call_at(place, "POST", "/states", values))
    base_url, api_key = place.base.url(""), str(made.get("api_key"))
    if json is not None:
        row = {"base_url": base_url, "api_key": api_key, "name": made.get("name"), "seed": made.get("seed")}
        Output(json).one(row, _NEW)
    else:
        write(export_line(base_url, api_key))
        note(f"{made.get('name')}; its ids are made from the seed {made.get('seed')}")


def remove_state(json: Json = None) -> None:
    """Remove the state whose key BASIQ_API_KEY is, with everything in it."""
    Output(json).one(run_until_signal(lambda: call("POST", "/states/remove", {})), _DONE)


def export_line(base_url: str, api_key: str) -> str:
    """Return the line that a shell evaluates to use a mock."""
    return shell_line(["export", f"BASIQ_BASE_URL={base_url}", f"BASIQ_API_KEY={api_key}"])


async def _wait(ready_file: Path | None, timeout: float) -> dict[str, Any]:
    import asyncio

    place = None if ready_file is not None else find_place()
    until = asyncio.get_running_loop().time() + timeout
    while True:
        ready: dict[str, Any] | None = None
        try:
            if ready_file is not None:
                ready = _read_ready(ready_file)
                place = Place(BaseURL.parse(ready["base_url"]), ready["api_key"])
            if place is None:
                raise MockError("no mock is meant")
            await call_at(place, "GET", "/health", {}, timeout=_ANSWERS)
        except MockError as exc:
            if ready_file is None and exc.code == "another-mock":
                raise
            why = exc
        else:
            return ready or {"base_url": place.base.url(""), "api_key": place.api_key}
        if asyncio.get_running_loop().time() >= until:
            raise MockError(f"no mock was ready within {timeout:g} s: {why}", status=why.status, code=why.code)
        await asyncio.sleep(_BETWEEN)


def _read_ready(file: Path) -> dict[str, Any]:
    """Return what a mock wrote. Raises ``MockError`` where it is not there yet, or is none."""
    try:
        found = json_module.loads(file.read_bytes())
    except FileNotFoundError:
        raise MockError(f"{file} is not there yet") from None
    except (OSError, ValueError) as exc:
        raise MockError(f"{file} cannot be read: {getattr(exc, 'strerror', None) or 'it is not JSON'}") from None
    if not isinstance(found, dict) or not all(isinstance(found.get(name), str) for name in ("base_url", "api_key")):
        raise MockError(f"{file} is no ready file of a mock")
    return found
