"""What the commands share: a client, a loop, and how results and errors are shown."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .._urls import VENDOR_URL
from ..client import BasiqClient
from ..errors import BasiqError, ConfigurationError
from ..models import Secret

T = TypeVar("T")


def console(*, stderr: bool = False) -> Console:
    """A console that sends control characters to a terminal alone."""
    stream = sys.stderr if stderr else sys.stdout
    terminal = stream.isatty()
    width = None if terminal else 120
    return Console(file=stream, force_terminal=terminal, no_color=not terminal, width=width, highlight=False)


def run(work: Callable[[BasiqClient], Awaitable[T]]) -> T:
    """Do something with a client of the environment's settings. An error of ours ends the process with its text."""

    async def main() -> T:
        async with BasiqClient(base_url=os.environ.get("BASIQ_BASE_URL") or VENDOR_URL) as client:
            return await work(client)

    return guarded(main)


def guarded(main: Callable[[], Awaitable[T]]) -> T:
    """Run to the end; show an error of ours as one line, and end with 2 for wrong settings, else with 1."""

    async def begun() -> T:
        return await main()

    try:
        return asyncio.run(begun())
    except BasiqError as exc:
        console(stderr=True).print(f"[bold red]error:[/] {escape(f'{type(exc).__name__}: {exc}')}", soft_wrap=True)
        raise typer.Exit(2 if isinstance(exc, ConfigurationError) else 1) from None


def show(rows: Iterable[Mapping[str, Any]], *, as_json: bool) -> None:
    """A table for people; JSON lines, one object each, for programs and where ``--json`` asks for them."""
    if as_json or not sys.stdout.isatty():
        for row in rows:
            typer.echo(json.dumps(row, default=_plain, ensure_ascii=False))
        return
    table: Table | None = None
    for row in rows:
        if table is None:
            table = Table(*row)
        table.add_row(*(escape(str(_cell(value))) for value in row.values()))
    console().print(table if table is not None else "nothing found")


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        return ", ".join(str(_cell(entry)) for entry in value)
    return value.isoformat() if isinstance(value, datetime) else value


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Secret):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
