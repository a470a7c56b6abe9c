"""``basiq-async replay``: post a webhook's history to an endpoint, or write it to a file. The same line resumes it."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import attrs
import typer

from ..errors import ConfigurationError, ReplayError
from ._completion import option
from ._dead_letters import (
    DropDead,
    ExportDead,
    ListDead,
    RetryDead,
    has_dead_letters,
    look_at_dead_letters,
    tell_of_recoveries,
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
)
from ._output import is_terminal, live, note, session
from ._results import Output, cell_text
from ._run import confirm, run, stopping
from ._runs import ProgressLine, RunOptions, name_checkpoint, report_details, report_row

if TYPE_CHECKING:
    from ..client import BasiqClient
    from ..replay import Plan, Progress, Replay, Report, Target
    from ._replay_page import Settle

OnError = Literal["dead-letter", "stop", "skip"]
Source = Literal["messages", "events"]
Rate = Annotated[float | None, option("Maximum messages per second.")]
Concurrency = Annotated[int | None, typer.Option(min=1, help="Maximum messages under way at once. Default: 32.")]
_ConcurrencyOrFile = Annotated[
    int | None, typer.Option(min=1, help="Maximum messages under way at once. Default: 32, and 1,024 for --to-jsonl.")
]
MaxPause = Annotated[
    float, typer.Option(metavar="N", help="Stop when the target has been down, or asks for a pause, for N seconds.")
]


@attrs.frozen(kw_only=True)
class ReplayOptions(RunOptions):
    """The options of a replay."""

    command: ClassVar[str] = "replay"

    to_jsonl: str | None = None
    source: Source = "messages"
    failed: bool = attrs.field(default=False, metadata={"option": "failed-only"})
    filter: str | None = None
    limit: int = 0
    on_error: OnError = "dead-letter"
    max_failures: int = 1_000

    @property
    def selected(self) -> Mapping[str, Any]:
        """See ``RunOptions``."""
        return {**super().selected, "failed": self.failed, "filter": self.filter, "limit": self.limit}


def replay(
    webhook_id: WebhookId,
    to: Annotated[str | None, option("The endpoint to post to. Deliveries are signed as Basiq signs them.")] = None,
    to_jsonl: Annotated[str | None, option("The file to append to, one message per line.")] = None,
    source: Annotated[
        Source, typer.Option(help="messages: the history; events: all events of the last 7 days.")
    ] = "messages",
    since: Since = None,
    until: Until = None,
    failed: Annotated[bool, option("Only messages without a successful attempt.", "--failed-only", "--failed")] = False,
    event: EventPattern = None,
    filter: Filter = None,
    limit: Annotated[int, typer.Option(min=0, metavar="N", help="At most N messages in this run; 0 for all.")] = 0,
    dry_run: Annotated[bool, option("Count the messages, and deliver none.", "--dry-run")] = False,
    plan: Annotated[
        bool, option("In a terminal: count first, for a progress bar and the time left.", "--plan/--no-plan")
    ] = True,
    rate: Rate = None,
    concurrency: _ConcurrencyOrFile = None,
    max_pause: MaxPause = 3_600.0,
    checkpoint: Annotated[str | None, option("The checkpoint file. By default it is named after the job.")] = None,
    retry_dead: RetryDead = False,
    list_dead: ListDead = False,
    export_dead: ExportDead = None,
    drop_dead: DropDead = None,
    on_error: Annotated[
        OnError, typer.Option(help="What to do with a message that fails: dead-letter keeps it.")
    ] = "dead-letter",
    max_failures: Annotated[
        int, typer.Option(min=0, metavar="N", help="Stop after N failures in a row; 0 for never.")
    ] = 1_000,
    ui: Annotated[
        bool, option("Serve a page with the progress, and the failed messages to retry or drop.", "--ui")
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
    session().verdict = True
    options = ReplayOptions(
        webhook_id=webhook_id, to=to, to_jsonl=to_jsonl, source=source, since=since, until=until, failed=failed,
        event=event, filter=filter, limit=limit, rate=rate, concurrency=concurrency, max_pause=max_pause,
        checkpoint=checkpoint or "", on_error=on_error, max_failures=max_failures, secret_file=secret_file,
        json=json is not None,
    )  # fmt: skip
    if not checkpoint:
        selected = options.selected if source == "messages" else {**options.selected, "source": source}
        name = name_checkpoint("replay", webhook_id, to or to_jsonl or "", selected)
        options = attrs.evolve(options, checkpoint=f"{name}.db")
    output = Output(json)
    if drop_dead:
        confirm(f"Drop {len(set(drop_dead)):,} of the messages that failed for good?", yes=yes)
    looking = list_dead or export_dead is not None or bool(drop_dead)

    async def work(basiq: BasiqClient) -> int:
        await check_event_types(basiq, event)
        if (to is None) == (to_jsonl is None) and not ((dry_run or looking) and to is None):
            raise ConfigurationError("name the target with either --to or --to-jsonl")
        async with _open_target(options, idle=dry_run or looking) as target:
            job = _make_job(basiq, options, target, ui=ui)
            if looking:
                if list_dead and not await has_dead_letters(job) and await tell_of_recoveries(webhook_id):
                    return 1
                return await look_at_dead_letters(job, output, show=list_dead, export=export_dead, drop=drop_dead)
            if dry_run:
                found = await job.plan()
                output.one(report_row(found), report_details(found))
                return 0
            if to_jsonl is not None:
                _check_file(to_jsonl, options.checkpoint)
            counted = None if retry_dead else await _make_plan(job, wanted=plan)

            def begin(progress: Callable[[Progress], None]) -> Awaitable[Report]:
                return job.retry_dead(progress) if retry_dead else job.run(progress, plan=counted)

            flags = ("--retry-dead",) if retry_dead else ()
            if not ui:
                return await _run_job(job, begin, options, output, flags=flags)
            from ._replay_page import PagedReplay, run_with_page

            assert isinstance(job, PagedReplay)  # noqa: S101  # because of ui=True
            return await run_with_page(
                job, lambda settle: _run_job(job, begin, options, output, flags=flags, settle=settle)
            )

    if code := run(work):
        raise typer.Exit(code)


def _make_job(basiq: BasiqClient, options: ReplayOptions, target: Target, *, ui: bool) -> Replay:
    from ..replay import Replay, SQLiteCheckpoint

    kind = Replay
    if ui:
        from ._replay_page import PagedReplay

        kind = PagedReplay
    return kind(
        basiq,
        options.webhook_id,
        target,
        checkpoint=SQLiteCheckpoint(options.checkpoint),
        source=options.source,
        filter=options.filter,
        where=options.where(),
        concurrency=options.concurrency,
        rate=options.rate,
        on_error=options.on_error,
        max_failures=options.max_failures or None,
        max_pause=options.max_pause,
    )


@asynccontextmanager
async def _open_target(options: ReplayOptions, *, idle: bool) -> AsyncIterator[Target]:
    """Open the target of a replay. ``idle`` says that the job delivers nothing."""
    from ..replay import HttpTarget, JSONLinesTarget

    if idle or options.to is None:
        yield JSONLinesTarget(options.to_jsonl or os.devnull)
        return
    secrets = read_secrets(options.secret_file)
    async with HttpTarget(options.to, secrets, connections=options.connections) as target:
        yield target


def _check_file(file: str, checkpoint: str) -> None:
    """Raise ``ConfigurationError`` if the file's folder does not exist, or if another program wrote the file."""
    target = Path(file)
    if not target.parent.is_dir():
        raise ConfigurationError(f"{file!r} cannot be written: its folder does not exist")
    if target.is_file() and target.stat().st_size > 0 and not Path(checkpoint).exists():
        raise ConfigurationError(f"{file!r} exists, and this export did not write it: pass another file, or remove it")


async def _run_job(
    job: Replay,
    work: Callable[[Callable[[Progress], None]], Awaitable[Report]],
    options: RunOptions,
    output: Output,
    *,
    flags: Sequence[str] = (),
    settle: Settle | None = None,
) -> int:
    """Run a job to its end, show its report, and return the exit code.

    After the first signal, the messages under way are finished. ``settle`` may change the report before it is shown.
    """
    import asyncio

    def show(report: Report) -> None:
        output.one(report_row(report), report_details(report))

    with stopping(job.stop) as stopped:
        try:
            report = await work(ProgressLine())
        except asyncio.CancelledError:
            if not stopped:
                raise
            live(None)
            options.show_line(*flags)
            return 128 + stopped[0]
        except ReplayError as exc:
            live(None)
            if exc.report is not None:
                show(exc.report)
                options.show_line(*flags)
            raise
        finally:
            live(None)
    if settle is not None:
        report = await settle(report, not stopped)
    show(report)
    if stopped:
        options.show_line(*flags)
        return 128 + stopped[0]
    for each in report.inactive:
        period = f"from {cell_text(each.since)} to {cell_text(each.until) if each.until else 'now'}"
        note(
            f"the webhook was not active {period}, and events of that time made no messages: 'basiq-async recover' "
            "finds those of the last 7 days"
        )
    if report.dead:
        text = f"{report.dead:,} messages failed and are kept; try them again with:"
        options.show_line("--retry-dead", introduction=text)
        return 1
    if report.failed:
        note(f"{report.failed:,} messages failed")
        return 1
    return 0


async def _make_plan(job: Replay, *, wanted: bool) -> Plan | None:
    """Count the messages for the progress bar. Return None if that is not wanted, or without a terminal."""
    if not wanted or not is_terminal(sys.stderr) or session().json:
        return None
    live("counting the messages; with --no-plan the run starts at once")
    try:
        return await job.plan()
    finally:
        live(None)
