"""``basiq-async replay``: post a webhook's history to an endpoint, or write it to a file. The same line resumes it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from .._redaction.text import command_line
from ..errors import ConfigurationError, ReplayError
from ._dead_letters import (
    DEAD_LETTER,
    drop_dead_letters,
    export_dead_letters,
    has_dead_letters,
    list_dead_letters,
)
from ._options import (
    EndpointSecretFile,
    EventPattern,
    Filter,
    Json,
    Since,
    Until,
    WebhookId,
    Yes,
    check_event_types,
    read_secrets,
    selection,
)
from ._output import is_terminal, live, note, session
from ._results import Fields, Output, Shape, cell_text, fields_of, shows
from ._run import confirm, run, stopping

if TYPE_CHECKING:
    from ..client import BasiqClient
    from ..replay import Plan, Progress, Replay, Report, Target
    from ._replay_page import Settle


OnError = Literal["dead-letter", "stop", "skip"]
Source = Literal["messages", "events"]
_OPTIONS = {"failed": "--failed-only"}
_DEFAULTS = {"source": "messages", "concurrency": 32, "on_error": "dead-letter", "max_failures": 1_000, "limit": 0}


def _periods(found: Report | Plan) -> list[dict[str, Any]]:
    return [{"since": period.since, "until": period.until} for period in found.inactive]


def _details(row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if name == "cursor" or value is None or value == []:
            continue
        if name == "inactive":
            for period in value:
                yield "not active", f"{cell_text(period['since'])} to {cell_text(period['until']) or 'the end'}"
            continue
        for key, each in value.items() if isinstance(value, dict) else [("", value)]:
            yield f"{name.replace('_', ' ')} {key}".strip(), f"{each:,}" if type(each) is int else each


def _report_fields() -> Fields[Report]:
    from ..replay import Report

    return {
        **fields_of(Report),
        "duration": lambda report: round(report.duration, 3),
        "rate": lambda report: round(report.rate, 1),
        "inactive": _periods,
    }


def _plan_fields() -> Fields[Plan]:
    from ..replay import Plan

    return {
        **fields_of(Plan),
        "by_day": lambda plan: {str(day) if day else "unknown": count for day, count in plan.by_day.items()},
        "inactive": _periods,
    }


REPORT: Shape[Report] = Shape(_report_fields, details=lambda report: _details(REPORT.row(report)))
PLAN: Shape[Plan] = Shape(_plan_fields, details=lambda plan: _details(PLAN.row(plan)))


@shows(REPORT, PLAN, DEAD_LETTER)
def replay(
    webhook_id: WebhookId,
    to: Annotated[
        str | None,
        typer.Option(help="The endpoint to post to. Deliveries are signed as Basiq signs them.", show_default=False),
    ] = None,
    to_jsonl: Annotated[
        str | None, typer.Option(help="The file to append to, one message per line.", show_default=False)
    ] = None,
    source: Annotated[
        str,
        typer.Option(help="messages: the history; events: all events of the last 7 days."),
    ] = "messages",
    since: Since = None,
    until: Until = None,
    failed: Annotated[
        bool, typer.Option("--failed-only", "--failed", help="Only messages without a successful attempt.")
    ] = False,
    event: EventPattern = None,
    filter: Filter = None,
    limit: Annotated[int, typer.Option(min=0, metavar="N", help="At most N messages in this run; 0 for all.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count the messages, and deliver none.")] = False,
    plan: Annotated[
        bool,
        typer.Option("--plan/--no-plan", help="In a terminal: count first, for a progress bar and the time left."),
    ] = True,
    rate: Annotated[float | None, typer.Option(help="The most messages per second.", show_default=False)] = None,
    concurrency: Annotated[int, typer.Option(help="The most messages under way at once.")] = 32,
    checkpoint: Annotated[
        str | None,
        typer.Option(help="The checkpoint file. By default it is named after the job.", show_default=False),
    ] = None,
    retry_dead: Annotated[
        bool, typer.Option("--retry-dead", help="Deliver only the messages that failed in earlier runs.")
    ] = False,
    list_dead: Annotated[
        bool, typer.Option("--list-dead", help="Show the messages that failed in earlier runs.")
    ] = False,
    export_dead: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Write the messages that failed to a new file, one per line.", show_default=False
        ),
    ] = None,
    drop_dead: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Drop a message that failed; may be repeated.", show_default=False),
    ] = None,
    on_error: Annotated[
        str, typer.Option(help="What to do with a message that fails: dead-letter (keep it), stop or skip.")
    ] = "dead-letter",
    max_failures: Annotated[
        int, typer.Option(min=0, metavar="N", help="Stop after N failures in a row; 0 for never.")
    ] = 1_000,
    ui: Annotated[
        bool,
        typer.Option("--ui", help="Serve a page with the progress, and the failed messages to retry or drop."),
    ] = False,
    secret_file: EndpointSecretFile = None,
    yes: Yes = False,
    json: Json = None,
) -> None:
    """Post a webhook's history to an endpoint again, or write it to a file.

    After a stop or a kill, run the same line again to resume. After SIGINT or SIGTERM, the messages under way are
    finished; a second signal stops at once. Messages that fail are kept for --retry-dead, and the exit code is 1 while
    any are left.
    """
    chosen = {"since": since, "until": until, "failed": failed, "event": event, "filter": filter, "limit": limit}
    sourced = chosen if source == "messages" else {**chosen, "source": source}
    path = checkpoint or default_path(webhook_id, to or to_jsonl or "", sourced)
    given = {
        "to": to, "to_jsonl": to_jsonl, "source": source, **chosen, "rate": rate, "concurrency": concurrency,
        "checkpoint": path, "on_error": on_error, "max_failures": max_failures, "secret_file": secret_file,
        "json": json is not None,
    }  # fmt: skip

    again = CommandLine("replay", webhook_id, options=named_options(given, _OPTIONS, _DEFAULTS))
    output = Output(json)
    if drop_dead:
        confirm(f"Drop {len(set(drop_dead)):,} of the messages that failed for good?", yes=yes)
    looking = list_dead or export_dead is not None or bool(drop_dead)

    async def work(basiq: BasiqClient) -> int:
        await check_event_types(basiq, event)
        if (to is None) == (to_jsonl is None) and not ((dry_run or looking) and to is None):
            raise ConfigurationError("name the target with either --to or --to-jsonl")
        async with open_target(to, to_jsonl, secret_file, concurrency, idle=dry_run or looking) as target:
            job = _make_job(
                basiq, webhook_id, target, path, source, chosen, rate, concurrency, on_error, max_failures, ui=ui
            )
            if looking:
                if list_dead:
                    await list_dead_letters(job, output)
                if export_dead is not None:
                    await export_dead_letters(job, export_dead)
                if drop_dead:
                    await drop_dead_letters(job, drop_dead)
                return 1 if await has_dead_letters(job) else 0
            if dry_run:
                output.one(await job.plan(), PLAN)
                return 0
            if to_jsonl is not None:
                _refuse_to_mix(to_jsonl, path)
            counted = None if retry_dead else await make_plan(job, wanted=plan)

            def begin(progress: Callable[[Progress], None]) -> Awaitable[Report]:
                return job.retry_dead(progress) if retry_dead else job.run(progress, plan=counted)

            flags = ("--retry-dead",) if retry_dead else ()
            if not ui:
                return await run_job(job, begin, again, output, flags=flags)
            from ._replay_page import PagedReplay, run_with_page

            assert isinstance(job, PagedReplay)  # noqa: S101  # because of ui=True
            return await run_with_page(
                job, lambda settle: run_job(job, begin, again, output, flags=flags, settle=settle)
            )

    if code := run(work):
        raise typer.Exit(code)


def _make_job(
    basiq: BasiqClient,
    webhook_id: str,
    target: Target,
    path: str,
    source: str,
    chosen: dict[str, Any],
    rate: float | None,
    concurrency: int,
    on_error: str,
    max_failures: int,
    *,
    ui: bool,
) -> Replay:
    from ..replay import Replay, SQLiteCheckpoint

    kind = Replay
    if ui:
        from ._replay_page import PagedReplay

        kind = PagedReplay
    options = dict(chosen)
    filter = options.pop("filter")
    return kind(
        basiq,
        webhook_id,
        target,
        checkpoint=SQLiteCheckpoint(path),
        source=_one_of(Source, source, "--source"),
        filter=filter,
        where=selection(**options),
        concurrency=concurrency,
        rate=rate,
        on_error=_one_of(OnError, on_error, "--on-error"),
        max_failures=max_failures or None,
    )


@asynccontextmanager
async def open_target(
    to: str | None, to_jsonl: str | None, secret_file: Path | None, concurrency: int, *, idle: bool
) -> AsyncIterator[Target]:
    """Open the target of a replay. ``idle`` says that the job delivers nothing."""
    from ..replay import HttpTarget, JSONLinesTarget

    if idle or to is None:
        yield JSONLinesTarget(to_jsonl or os.devnull)
        return
    async with HttpTarget(to, read_secrets(secret_file), connections=max(1, concurrency)) as target:
        yield target


def _one_of(literal: Any, text: str, option: str) -> Any:
    known = get_args(literal)
    if text not in known:
        raise ConfigurationError(f"{option} must be {', '.join(known[:-1])} or {known[-1]}")
    return text


def _refuse_to_mix(file: str, path: str) -> None:
    """Raise ``ConfigurationError`` if the file has content but no checkpoint: another program wrote it."""
    target = Path(file)
    if target.is_file() and target.stat().st_size > 0 and not Path(path).exists():
        raise ConfigurationError(f"{file!r} exists, and this export did not write it: pass another file, or remove it")


def default_path(webhook_id: str, target: str, chosen: dict[str, Any]) -> str:
    """Return the name of the checkpoint file. The same webhook, target and selection get the same name.

    The limit is for one run, and does not change the name.
    """
    parts: list[Sequence[str] | str | bool | None] = [target]
    parts += [value for name, value in sorted(chosen.items()) if name != "limit"]
    digest = hashlib.blake2b(repr(parts).encode(errors="replace"), digest_size=4).hexdigest()
    return f"basiq-replay-{re.sub('[^A-Za-z0-9-]', '_', webhook_id)[:64]}-{digest}.db"


_BAR = 24


class CommandLine:
    """The command line that resumes a job, with its options."""

    def __init__(self, command: str, *arguments: str, options: Mapping[str, object]) -> None:
        self._command = command
        self._arguments = arguments
        self._options = dict(options)

    def text(self, *flags: str) -> str:
        """Return the line with further flags, quoted for a shell."""
        return command_line(self._command, *self._arguments, options={**self._options, **dict.fromkeys(flags, True)})

    def show(self, *flags: str, introduction: str = "to continue:") -> None:
        """Show the line on standard error."""
        if session().json:
            note(introduction, command=self.text(*flags))
        else:
            note(introduction)
            note("  " + self.text(*flags))


def named_options(
    given: Mapping[str, object], names: Mapping[str, str] | None = None, defaults: Mapping[str, object] | None = None
) -> dict[str, object]:
    """Return the options that differ from their defaults, by their names on the command line."""
    known, usual = names or {}, defaults or {}
    return {
        known.get(name, "--" + name.replace("_", "-")): value
        for name, value in given.items()
        if name not in usual or usual[name] != value
    }


async def run_job(
    job: Replay,
    work: Callable[[Callable[[Progress], None]], Awaitable[Report]],
    again: CommandLine,
    output: Output,
    *,
    flags: tuple[str, ...] = (),
    settle: Settle | None = None,
) -> int:
    """Run a job to its end, show its report, and return the exit code.

    After the first signal, the messages under way are finished. ``settle`` may change the report before it is shown.
    """
    import asyncio

    with stopping(job.stop) as stopped:
        try:
            report = await work(ProgressLine())
        except asyncio.CancelledError:
            if not stopped:
                raise
            live("")
            again.show(*flags)
            return 128 + stopped[0]
        except ReplayError as exc:
            live("")
            if exc.report is not None:
                output.one(exc.report, REPORT)
                again.show(*flags)
            raise
        finally:
            live("")
    if settle is not None:
        report = await settle(report, not stopped)
    output.one(report, REPORT)
    if stopped:
        again.show(*flags)
        return 128 + stopped[0]
    return finish(report, again)


def finish(report: Report, again: CommandLine) -> int:
    """Write notes about inactive periods and failed messages. Return 1 if messages failed, else 0."""
    for each in report.inactive:
        note(str(each))
    if report.dead:
        again.show("--retry-dead", introduction=f"{report.dead:,} messages failed and are kept; try them again with:")
        return 1
    if report.failed:
        note(f"{report.failed:,} messages failed")
        return 1
    return 0


class ProgressLine:
    """Shows the progress of a run as a status line, and writes a note when the target stops or starts responding."""

    def __init__(self) -> None:
        self._down = False

    def __call__(self, now: Progress) -> None:
        """Show the progress of the run."""
        if bool(now.down) != self._down:
            self._down = bool(now.down)
            if self._down:
                note(f"the target does not respond; one message is tried in {now.paused:.0f} s")
            else:
                note("the target responds again")
        live(progress_text(now))


def progress_text(now: Progress) -> str:
    """Return the progress of a run as a text, with a bar and the time left if a plan was made."""
    done = now.handled + now.failed + now.skipped
    words: list[str] = []
    if now.remaining is not None and done + now.remaining > 0:
        total = done + now.remaining
        words += [bar(done / total), f"{done:,}/{total:,}"]
    else:
        words.append(f"{done:,} done")
    if now.failed:
        words.append(f"{now.failed:,} failed")
    words.append(f"{now.rate:,.0f}/s")
    if now.paused:
        words.append(f"paused for {now.paused:.0f} s{f', down for {now.down:.0f} s' if now.down else ''}")
    elif now.eta is not None:
        words.append(f"{_clock(now.eta)} left")
    return "  ".join(words)


def bar(share: float) -> str:
    """Return a bar that is filled by a share from 0 to 1."""
    filled = round(max(0.0, min(1.0, share)) * _BAR)
    return "[" + "#" * filled + "." * (_BAR - filled) + "]"


async def make_plan(job: Replay, *, wanted: bool) -> Plan | None:
    """Count the messages for the progress bar. Return None if that is not wanted, or without a terminal."""
    import sys

    if not wanted or not is_terminal(sys.stderr) or session().json:
        return None
    live("counting the messages; with --no-plan the run starts at once")
    try:
        return await job.plan()
    finally:
        live("")


def _clock(seconds: float) -> str:
    whole = max(0, round(seconds))
    if whole >= 3600:
        return f"{whole // 3600}:{whole % 3600 // 60:02}:{whole % 60:02}"
    return f"{whole // 60}:{whole % 60:02}"
