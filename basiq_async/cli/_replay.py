"""``basiq-async replay``: post a webhook's history to an endpoint, or write it to a file. The same line resumes it."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import attrs
import typer

from ..errors import ConfigurationError, ReplayError
from ._inboxes import open_checkpoint
from ._options import Filter, check_event_types, check_new_file, command_of, option, read_secrets
from ._output import is_terminal, live, note, session
from ._results import Output, cell_text
from ._run import make_client, on_signals
from ._runs import (
    ProgressLine,
    RunOptions,
    To,
    has_dead_letters,
    look_at_dead_letters,
    name_checkpoint,
    report_details,
    report_row,
    tell_of_recoveries,
)

if TYPE_CHECKING:
    from ..replay import Checkpoint, Plan, Replay, Report, Target


Source = Literal["messages", "events"]


@attrs.frozen(kw_only=True)
class ReplayOptions(RunOptions):
    """The options of a replay."""

    command: ClassVar[str] = "replay"

    to: To = None
    to_jsonl: Annotated[str | None, option("The file to append to, one message per line.")] = None
    source: Annotated[Source, typer.Option(help="messages: the history; events: all events of the last 7 days.")] = (
        "messages"
    )
    failed_only: Annotated[bool, option("Only messages without a successful attempt.", "--failed-only", "--failed")] = (
        False
    )
    filter: Filter = None
    limit: Annotated[int, typer.Option(min=0, metavar="N", help="At most N messages in this run; 0 for all.")] = 0
    dry_run: Annotated[bool, option("Count the messages, and deliver none.", "--dry-run")] = False
    plan: Annotated[
        bool, option("In a terminal: count first, for a progress bar and the time left.", "--plan/--no-plan")
    ] = True
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, help="Maximum messages under way at once. Default: 32, and 1,024 for --to-jsonl."),
    ] = None
    checkpoint: Annotated[
        str | None,
        option(
            "The checkpoint: a file, or the URL of a database such as postgresql+asyncpg://... By default the "
            "file is named after the job.",
            metavar="URL|FILE",
        ),
    ] = None
    on_error: Annotated[
        Literal["dead-letter", "stop", "skip"],
        typer.Option(help="What to do with a message that fails: dead-letter keeps it."),
    ] = "dead-letter"
    max_failures: Annotated[
        int, typer.Option(min=0, metavar="N", help="Stop after N failures in a row; 0 for never.")
    ] = 1_000
    ui: Annotated[bool, option("Serve a page with the progress, and the failed messages to retry or drop.", "--ui")] = (
        False
    )

    @property
    def selected(self) -> Mapping[str, Any]:
        """See ``RunOptions``."""
        return {**super().selected, "failed": self.failed_only, "filter": self.filter, "limit": self.limit}

    @property
    def place(self) -> str:
        """See ``RunOptions``."""
        selected = self.selected if self.source == "messages" else {**self.selected, "source": self.source}
        name = name_checkpoint("replay", self.webhook_id, self.to or self.to_jsonl or "", selected)
        return self.checkpoint or f"{name}.db"


@command_of(ReplayOptions)
def replay(options: ReplayOptions) -> Awaitable[int]:
    """Post a webhook's history to an endpoint again, or write it to a file.

    After a stop or a kill, run the same line again to resume. After SIGINT or SIGTERM, the messages under way are
    finished; a second signal stops at once. Messages that fail are kept for --retry-dead, and the exit code is 1 while
    any are left.
    """
    session().verdict = True
    options.confirm_drop()
    return _replay(options)


async def _replay(options: ReplayOptions) -> int:
    from ..replay import Replay

    async with AsyncExitStack() as stack:
        basiq = await stack.enter_async_context(make_client())
        await check_event_types(basiq, options.event)
        idle = options.dry_run or options.looks
        if (options.to is None) == (options.to_jsonl is None) and not (idle and options.to is None):
            raise ConfigurationError("name the target with either --to or --to-jsonl")
        target = await stack.enter_async_context(_open_target(options, idle=idle))
        place = await stack.enter_async_context(open_checkpoint(options.place))
        job = Replay(
            basiq,
            options.webhook_id,
            target,
            checkpoint=place,
            source=options.source,
            filter=options.filter,
            where=options.where(),
            concurrency=options.concurrency,
            rate=options.rate,
            on_error=options.on_error,
            max_failures=options.max_failures or None,
            max_pause=options.max_pause,
        )
        if options.looks:
            if options.list_dead and not await has_dead_letters([job]) and await tell_of_recoveries(options.webhook_id):
                return 1
            return await look_at_dead_letters([job], options)
        if options.dry_run:
            found = await job.plan()
            Output(options.json).one(report_row(found), details=report_details(found))
            return 0
        if options.to_jsonl is not None:
            check_new_file(options.to_jsonl, begun=await place.peek(job.job) is not None)
        return await _run_job(job, place, options)


@asynccontextmanager
async def _open_target(options: ReplayOptions, *, idle: bool) -> AsyncIterator[Target]:
    """Open the target of a replay. ``idle`` says that the job delivers nothing."""
    from ..replay import HttpTarget, JSONLinesTarget

    if idle or options.to is None:
        yield JSONLinesTarget(options.to_jsonl or os.devnull)
        return
    secrets = read_secrets(options.secret_file)
    async with HttpTarget(options.to, secrets, connections=options.concurrency or 32) as target:
        yield target


async def _run_job(job: Replay, checkpoint: Checkpoint, options: ReplayOptions) -> int:
    """Run a job to its end, show its report, and return the exit code.

    After the first signal, the messages under way are finished. If messages failed, the page of ``--ui`` stays until a
    signal, so that they can be retried and dropped there. The report includes that work.
    """
    import asyncio

    from ..replay import serve_page

    output = Output(options.json)
    flags = ("--retry-dead",) if options.retry_dead else ()
    counted = await _make_plan(job) if options.plan and not options.retry_dead else None
    async with AsyncExitStack() as page:
        url = await page.enter_async_context(serve_page(job)) if options.ui else None
        if url is not None:
            note(f"the page is at {url}", url=url)
        try:
            with options.stopping(job.stop, *flags) as stopped:
                progress = ProgressLine()
                report = await (job.retry_dead(progress) if options.retry_dead else job.run(progress, plan=counted))
        except ReplayError as exc:
            if exc.report is not None:
                output.one(report_row(exc.report), details=report_details(exc.report))
                options.show_line(*flags)
            raise
        if url is not None and report.dead and not stopped:
            note(f"messages failed: retry or drop them at {url}; Ctrl-C ends", url=url)
            stop = asyncio.Event()
            with on_signals(lambda _: stop.set()):
                await stop.wait()
    if options.ui:
        report = await _count_again(job, checkpoint, report)
    output.one(report_row(report), details=report_details(report))
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
    elif report.failed:
        note(f"{report.failed:,} messages failed")
    return 1 if report.dead or report.failed else 0


async def _count_again(job: Replay, checkpoint: Checkpoint, report: Report) -> Report:
    """Return the report of a run, with what was done on its page since, as the checkpoint has recorded it."""
    state = await checkpoint.peek(job.job)
    handled = 0 if state is None else state.handled - report.handled_in_all
    if state is None or (handled, state.dead) == (0, report.dead):
        return report
    dropped = report.dead - state.dead - handled
    note(f"on the page: {handled:,} handled, {dropped:,} dropped")
    return attrs.evolve(
        report,
        handled=report.handled + handled,
        handled_in_all=state.handled,
        failed=max(0, report.failed - handled - dropped),
        dead=state.dead,
    )


async def _make_plan(job: Replay) -> Plan | None:
    """Count the messages for the progress bar. Return None without a terminal, which shows no bar."""
    if not is_terminal(sys.stderr) or session().json:
        return None
    live("counting the messages; with --no-plan the run starts at once")
    try:
        return await job.plan()
    finally:
        live(None)
