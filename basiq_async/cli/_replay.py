"""``basiq-async replay``: the history of a webhook, to an endpoint or a file, resumed by the same line."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shlex
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import attrs
import typer
from rich.markup import escape
from rich.progress import Progress as Bar
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

from ..client import BasiqClient
from ..errors import ConfigurationError, ReplayError
from ..replay import (
    JSONLinesTarget,
    Plan,
    Progress,
    Replay,
    Report,
    SQLiteCheckpoint,
    Target,
    Where,
    event_types,
    failed_only,
    limit,
    since,
    until,
)
from ..replay._engine import OnError
from ..replay._where import as_where
from ..replay.checkpoints._memory import Job
from ._run import console, run, show

_SECRET = "BASIQ_WEBHOOK_SECRET"  # noqa: S105  # the name of a variable, no secret
_DURATION = re.compile(r"([0-9]{1,6})([smhdw])", re.ASCII)
_OPTIONS = {"since_": "--since", "until_": "--until", "failed": "--failed-only", "most": "--limit", "as_json": "--json"}
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def replay(
    webhook_id: Annotated[str, typer.Argument(help="The webhook whose history it is.")],
    to: Annotated[
        str | None, typer.Option(help="The endpoint to post to, signed as Basiq signs.", show_default=False)
    ] = None,
    to_jsonl: Annotated[
        str | None, typer.Option(help="The file to append to, a line each.", show_default=False)
    ] = None,
    since_: Annotated[
        str | None, typer.Option("--since", help="First tried then or later: 2d, 90m, or a date.", show_default=False)
    ] = None,
    until_: Annotated[
        str | None, typer.Option("--until", help="First tried before that; as --since.", show_default=False)
    ] = None,
    failed: Annotated[bool, typer.Option("--failed-only", help="Only what no attempt delivered.")] = False,
    event: Annotated[
        list[str] | None,
        typer.Option(
            help="Only these types: exact, or a beginning such as consent.*; more than once.", show_default=False
        ),
    ] = None,
    filter: Annotated[
        str | None, typer.Option(help="A filter in Basiq's syntax, sent to Basiq.", show_default=False)
    ] = None,
    most: Annotated[
        int | None, typer.Option("--limit", help="At most so many in this run.", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what would be done, and do nothing.")] = False,
    rate: Annotated[float | None, typer.Option(help="Messages a second, at most.", show_default=False)] = None,
    concurrency: Annotated[int, typer.Option(help="Messages under way at once, at most.")] = 32,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="The file that remembers how far it got; named after the job by default.", show_default=False
        ),
    ] = None,
    retry_dead: Annotated[bool, typer.Option("--retry-dead", help="Only what failed in earlier runs.")] = False,
    on_error: Annotated[str, typer.Option(help="dead-letter, stop or skip.")] = "dead-letter",
    max_failures: Annotated[int, typer.Option(help="So many failures in a row end it; 0 for never.")] = 1_000,
    secret_file: Annotated[
        str | None,
        typer.Option(help=f"The file with the endpoint's signing secret; else {_SECRET} has it.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The result as one line of JSON.")] = False,
) -> None:
    """Put a webhook's history through an endpoint again, or into a file.

    Stopped or killed, the same line goes on where it was. SIGINT and SIGTERM finish what is under way; a second one
    stops at once. Ends with 1 where messages failed; they are kept, for --retry-dead.
    """
    path = checkpoint or _default_path(webhook_id, to or to_jsonl or "", filter)
    again = _Again(dict(locals()), path)

    async def work(basiq: BasiqClient) -> int:
        if (to is None) == (to_jsonl is None) and not (dry_run and to is None):
            raise ConfigurationError("say where to, with one of --to and --to-jsonl")
        async with _target(to, to_jsonl, secret_file, concurrency, dry_run) as target:
            job = Replay(
                basiq,
                webhook_id,
                target,
                checkpoint=SQLiteCheckpoint(path),
                filter=filter,
                where=_where(since_, until_, failed, event, most),
                concurrency=concurrency,
                rate=rate,
                on_error=_on_error(on_error),
                max_failures=max_failures or None,
            )
            if dry_run:
                _show_plan(await job.plan(), as_json)
                return 0
            if to_jsonl is not None:
                await _refuse_to_mix(to_jsonl, path, Job(webhook_id, filter or ""))
            return await _run_job(job, again, retry_dead=retry_dead, as_json=as_json)

    code = run(work)
    if code:
        raise typer.Exit(code)


async def _run_job(job: Replay, again: _Again, *, retry_dead: bool, as_json: bool) -> int:
    with _signals(job) as stopped, _bar() as progress:
        try:
            report = await (job.retry_dead(progress) if retry_dead else job.run(progress))
        except asyncio.CancelledError:
            if not stopped:
                raise
            again.tell()
            return 128 + stopped[0]
        except ReplayError as exc:
            if exc.report is not None:
                _show_report(exc.report, as_json)
                again.tell()
            raise
    _show_report(report, as_json)
    if stopped:
        again.tell()
        return 128 + stopped[0]
    if report.failed:
        console(stderr=True).print(f"{report.failed} messages failed; try them again with:", soft_wrap=True)
        again.tell("--retry-dead", introduced=True)
        return 1
    return 0


@contextmanager
def _signals(job: Replay) -> Iterator[list[int]]:
    """The first signal has the job finish what it began, the second one ends it. Gives the signals that came."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    came: list[int] = []

    def stop(number: int) -> None:
        came.append(number)
        if len(came) == 1:
            job.stop()
            console(stderr=True).print("finishing what is under way; once more to stop at once")
        elif task is not None:
            task.cancel()

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        try:
            loop.add_signal_handler(number, stop, number)
        except NotImplementedError:  # on Windows
            signal.signal(number, lambda got, _: loop.call_soon_threadsafe(stop, got))
    try:
        yield came
    finally:
        for number, handler in before.items():
            with suppress(NotImplementedError):
                loop.remove_signal_handler(number)
            signal.signal(number, handler)


@contextmanager
def _bar() -> Iterator[Any]:
    """A line that tells how it goes, on a terminal alone."""
    out = console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Bar(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        task = bar.add_task("reading", total=None)

        def told(now: Progress) -> None:
            text = f"{now.handled:,} handled, {now.failed:,} failed, {now.skipped:,} skipped, {now.rate:,.0f} a second"
            bar.update(task, description=text + (f", waiting {now.paused:.0f} s" if now.paused else ""))

        yield told


@asynccontextmanager
async def _target(
    to: str | None, to_jsonl: str | None, secret_file: str | None, concurrency: int, dry_run: bool
) -> AsyncIterator[Target]:
    if dry_run or to is None:
        yield JSONLinesTarget(to_jsonl or os.devnull)
        return
    from ..replay.targets._http import HttpTarget

    async with HttpTarget(to, _secret(secret_file), connections=max(1, concurrency)) as target:
        yield target


def _secret(file: str | None) -> list[str]:
    """One secret a line, more than one while one replaces another."""
    try:
        text = os.environ.get(_SECRET, "") if file is None else Path(file).read_text()
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is no text"
        raise ConfigurationError(f"--secret-file {file!r} cannot be read: {reason}") from None
    secrets = text.split()
    if not secrets:
        raise ConfigurationError(f"posting needs the endpoint's signing secret, in {_SECRET} or in a --secret-file")
    return secrets


def _where(since_: str | None, until_: str | None, failed: bool, event: list[str] | None, most: int | None) -> Where:
    where = as_where(None)
    if since_ is not None:
        where = where & since(_moment(since_, "--since"))
    if until_ is not None:
        where = where & until(_moment(until_, "--until"))
    if failed:
        where = where & failed_only()
    if event:
        where = where & event_types(*event)
    return where if most is None else where & limit(most)


def _moment(text: str, name: str) -> datetime | timedelta:
    found = _DURATION.fullmatch(text)
    try:
        if found is not None:
            return timedelta(**{_UNITS[found[2]]: int(found[1])})
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise ConfigurationError(f"{name} must be a length of time such as 2d, 12h or 90m, or a date") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _on_error(text: str) -> OnError:
    known: dict[str, OnError] = {"dead-letter": "dead-letter", "stop": "stop", "skip": "skip"}
    if text not in known:
        raise ConfigurationError("--on-error must be dead-letter, stop or skip")
    return known[text]


async def _refuse_to_mix(file: str, path: str, job: Job) -> None:
    if _is_begun(file) and await SQLiteCheckpoint(path).peek(job) is None:
        raise ConfigurationError(f"{file!r} is there already, and of another export: pass another file, or remove it")


def _is_begun(file: str) -> bool:
    path = Path(file)
    return path.is_file() and path.stat().st_size > 0


def _default_path(webhook_id: str, target: str, filter: str | None) -> str:
    """The same for the same line, another for another target: else an export would leave nothing to post."""
    digest = hashlib.blake2b(repr((target, filter or "")).encode(errors="replace"), digest_size=3).hexdigest()
    return f"basiq-replay-{re.sub('[^A-Za-z0-9-]', '_', webhook_id)[:64]}-{digest}.db"


class _Again:
    """The line that goes on with the job: what was given, without what is for one run alone."""

    def __init__(self, given: dict[str, Any], path: str) -> None:
        words = ["basiq-async", "replay", given.pop("webhook_id")]
        given["checkpoint"] = path
        defaults = {"concurrency": 32, "on_error": "dead-letter", "max_failures": 1_000}
        for name, value in given.items():
            option = _OPTIONS.get(name, "--" + name.replace("_", "-"))
            if name in ("path", "retry_dead", "dry_run") or value in (None, False) or defaults.get(name) == value:
                continue
            if value is True:
                words.append(option)
            else:
                for each in value if isinstance(value, list) else [value]:
                    words += [option, f"{each:g}" if isinstance(each, float) else str(each)]
        self._words = words
        self._retrying = bool(given.get("retry_dead"))

    def tell(self, *more: str, introduced: bool = False) -> None:
        out = console(stderr=True)
        if not introduced:
            out.print("to go on:")
        words = [*self._words, *(more or (["--retry-dead"] if self._retrying else []))]
        out.print("  " + escape(shlex.join(words)), soft_wrap=True)


def _show_plan(plan: Plan, as_json: bool) -> None:
    row = attrs.asdict(plan, recurse=False)
    row["by_day"] = {str(day) if day else "unknown": count for day, count in plan.by_day.items()}
    _show(row, as_json)


def _show_report(report: Report, as_json: bool) -> None:
    row = attrs.asdict(report, recurse=False)
    row["duration"] = round(report.duration, 3)
    row["rate"] = round(report.rate, 1)
    _show(row, as_json)


def _show(row: dict[str, Any], as_json: bool) -> None:
    if as_json or not console().is_terminal:
        show([row], as_json=True)
        return
    shown: list[dict[str, Any]] = []
    for name, value in row.items():
        if name == "cursor":
            continue
        for key, each in value.items() if isinstance(value, dict) else [("", value)]:
            shown.append({"": f"{name.replace('_', ' ')} {key}".strip(), " ": each})
    show(shown, as_json=False)
