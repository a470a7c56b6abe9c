"""``basiq-async replay``."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..client import BasiqClient
from ..errors import ConfigurationError
from ..replay import (
    HttpTarget,
    JSONLinesTarget,
    Plan,
    Replay,
    Report,
    SQLiteCheckpoint,
    Where,
    event_types,
    failed_only,
    since,
    until,
)
from ..replay import Progress as Told
from ..replay import limit as at_most
from ..replay.engine import OnError
from ..replay.report import OnProgress
from ._run import console, run

_SECRET = "BASIQ_WEBHOOK_SECRET"  # noqa: S105
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def replay(
    webhook_id: Annotated[str, typer.Argument(help="The webhook's id.")],
    to: Annotated[str | None, typer.Option(help="Post each message to this url, signed.", show_default=False)] = None,
    to_jsonl: Annotated[
        Path | None, typer.Option(help="Append each message to this file, a line each.", show_default=False)
    ] = None,
    since_: Annotated[
        str | None, typer.Option("--since", help="30m, 12h, 2d, or an ISO 8601 time.", show_default=False)
    ] = None,
    until_: Annotated[str | None, typer.Option("--until", help="The same, exclusive.", show_default=False)] = None,
    failed: Annotated[bool, typer.Option("--failed-only", help="Those of which no attempt succeeded.")] = False,
    event: Annotated[list[str], typer.Option(help="A type, or consent.*; may be repeated.")] = [],  # noqa: B006
    filter: Annotated[str | None, typer.Option(help="A filter in Basiq's syntax.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(help="At most so many in this run; 0 for all.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what would be done, and touch nothing.")] = False,
    rate: Annotated[float | None, typer.Option(help="At most so many a second.", show_default=False)] = None,
    concurrency: Annotated[int, typer.Option(help="So many at once.")] = 32,
    on_error: Annotated[str, typer.Option(help="dead-letter, stop or skip.")] = "dead-letter",
    checkpoint: Annotated[
        Path | None, typer.Option(help="Where it remembers how far it got.", show_default="replay-WEBHOOK_ID.db")
    ] = None,
    retry_dead: Annotated[bool, typer.Option("--retry-dead", help="Only the messages that failed before.")] = False,
    secret_file: Annotated[
        Path | None, typer.Option(help=f"Holds the signing secret; else {_SECRET}.", show_default=False)
    ] = None,
) -> None:
    """Put a webhook's history through an endpoint again, or into a file. The same line goes on where it was stopped."""
    stopped: list[int] = []

    async def work(basiq: BasiqClient) -> int:
        if not dry_run and (to is None) == (to_jsonl is None):
            raise ConfigurationError("say where to: either --to URL or --to-jsonl FILE")
        path = checkpoint or Path(f"replay-{re.sub('[^A-Za-z0-9_-]', '_', webhook_id)}.db")
        where, what_then = _where(since_, until_, failed, event, limit), _on_error(on_error)
        async with AsyncExitStack() as stack:
            if dry_run:
                target: HttpTarget | JSONLinesTarget = JSONLinesTarget(os.devnull)
            elif to is not None:
                target = await stack.enter_async_context(HttpTarget(to, _secret(secret_file), connections=concurrency))
            else:
                target = await stack.enter_async_context(JSONLinesTarget(to_jsonl or ""))
            job = Replay(
                basiq,
                webhook_id,
                target,
                checkpoint=SQLiteCheckpoint(path),
                filter=filter,
                where=where,
                concurrency=concurrency,
                rate=rate,
                on_error=what_then,
            )
            if dry_run:
                _show_plan(await job.plan())
                return 0
            with _signals(job, stopped), _bar() as progress:
                report = await (job.retry_dead(progress) if retry_dead else job.run(progress))
        _show_report(report, retried=retry_dead)
        if stopped:
            again = shlex.join(["basiq-async", *sys.argv[1:]])
            typer.echo(f"stopped, and saved in {path}; to go on: {again}", err=True)
            return 128 + stopped[0]
        if report.dead:
            typer.echo(f"{report.dead} messages failed and are kept in {path}; add --retry-dead to try them", err=True)
        return 1 if report.failed else 0

    code = run(work)
    if code:
        raise typer.Exit(code)


def _secret(file: Path | None) -> str:
    if file is not None:
        try:
            return file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise ConfigurationError(f"the secret file {str(file)!r} cannot be read") from None
    secret = os.environ.get(_SECRET)
    if not secret:
        raise ConfigurationError(f"--to needs the signing secret: set {_SECRET}, or pass --secret-file FILE")
    return secret


def _where(since_: str | None, until_: str | None, failed: bool, types: list[str], count: int) -> Where | None:
    chosen: list[Where] = []
    if since_ is not None:
        chosen.append(since(_moment(since_, "--since")))
    if until_ is not None:
        chosen.append(until(_moment(until_, "--until")))
    if failed:
        chosen.append(failed_only())
    if types:
        chosen.append(event_types(*types))
    if count:
        chosen.append(at_most(count))
    found: Where | None = None
    for each in chosen:
        found = each if found is None else found & each
    return found


def _moment(text: str, option: str) -> datetime | timedelta:
    ago = re.fullmatch(r"([0-9]{1,9})([smhdw])", text)
    if ago is not None:
        return timedelta(seconds=int(ago[1]) * _UNITS[ago[2]])
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(f"{option} takes 30m, 12h, 2d or a time such as 2026-01-31T12:00Z") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _on_error(text: str) -> OnError:
    choices: tuple[OnError, ...] = ("dead-letter", "stop", "skip")
    for choice in choices:
        if choice == text:
            return choice
    raise ConfigurationError("--on-error takes dead-letter, stop or skip")


@contextmanager
def _signals(job: Replay, stopped: list[int]) -> Iterator[None]:
    """The first signal drains the job; the second ends the process at once, as the checkpoint allows."""
    loop = asyncio.get_running_loop()

    def told(number: int) -> None:
        if stopped:
            os._exit(128 + number)
        stopped.append(number)
        typer.echo("stopping when what is under way is done; once more to stop at once", err=True)
        job.stop()

    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, told, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


@contextmanager
def _bar() -> Iterator[OnProgress | None]:
    """A progress bar, on a terminal alone. How much is left is not known: Basiq does not tell."""
    if not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn("replay"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[told]}"))
    with Progress(*columns, TimeElapsedColumn(), console=console(stderr=True), transient=True) as bar:
        task = bar.add_task("replay", total=None, told="")

        def told(now: Told) -> None:
            pause = f", paused {now.paused:.0f} s" if now.paused else ""
            text = f"{now.rate:.0f}/s, {now.failed} failed, {now.skipped} skipped{pause}"
            bar.update(task, completed=now.handled + now.failed, told=text)

        yield told


def _show_report(report: Report, *, retried: bool) -> None:
    table = Table("replay" if not retried else "dead letters", "")
    table.add_row("handled", str(report.handled))
    for reason, count in sorted(report.skipped.items()):
        table.add_row(f"skipped: {reason}", str(count))
    table.add_row("failed", str(report.failed))
    if report.repeated:
        table.add_row("repeated, at most", str(report.repeated))
    table.add_row("dead letters", str(report.dead))
    table.add_row("handled in all runs", str(report.handled_in_all))
    table.add_row("seconds", f"{report.duration:.1f}")
    table.add_row("messages a second", f"{report.rate:.0f}")
    table.add_row("history read to its end", "yes" if report.finished else "no")
    console().print(table)


def _show_plan(plan: Plan) -> None:
    table = Table("would be replayed", "messages")
    table.add_row("all", str(plan.total))
    for name, count in sorted(plan.by_type.items()):
        table.add_row(name or "(no type)", str(count))
    for day, count in sorted(plan.by_day.items(), key=lambda pair: str(pair[0])):
        table.add_row(str(day) if day is not None else "(no day)", str(count))
    for reason, count in sorted(plan.skipped.items()):
        table.add_row(f"skipped: {reason}", str(count))
    table.add_row("dead letters waiting", str(plan.dead))
    console().print(table)
