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
    check_new_file,
    option,
    read_secrets,
)
from ._output import is_terminal, live, note, session
from ._results import Output, cell_text
from ._run import confirm, make_client, on_signals, stopping
from ._runs import (
    DropDead,
    ExportDead,
    ListDead,
    ProgressLine,
    RetryDead,
    RunOptions,
    has_dead_letters,
    look_at_dead_letters,
    name_checkpoint,
    report_details,
    report_row,
    tell_of_recoveries,
)

if TYPE_CHECKING:
    from ..client import BasiqClient
    from ..replay import Checkpoint, Plan, Replay, Report, Target


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
    checkpoint: Annotated[
        str | None,
        option(
            "The checkpoint: a file, or the URL of a database such as postgresql+asyncpg://... By default a file that "
            "is named after the job.",
            metavar="URL|FILE",
        ),
    ] = None,
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
) -> Awaitable[int]:
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
    if drop_dead:
        confirm(f"Drop {len(set(drop_dead)):,} of the messages that failed for good?", yes=yes)
    looking = list_dead or export_dead is not None or bool(drop_dead)

    async def work() -> int:
        async with AsyncExitStack() as stack:
            basiq = await stack.enter_async_context(make_client())
            await check_event_types(basiq, event)
            if (to is None) == (to_jsonl is None) and not ((dry_run or looking) and to is None):
                raise ConfigurationError("name the target with either --to or --to-jsonl")
            target = await stack.enter_async_context(_open_target(options, idle=dry_run or looking))
            place = await stack.enter_async_context(open_checkpoint(options.checkpoint))
            job = _make_job(basiq, options, target, place)
            output = Output(json)
            if looking:
                if list_dead and not await has_dead_letters([job]) and await tell_of_recoveries(webhook_id):
                    return 1
                return await look_at_dead_letters([job], output, show=list_dead, export=export_dead, drop=drop_dead)
            if dry_run:
                found = await job.plan()
                output.one(report_row(found), report_details(found))
                return 0
            if to_jsonl is not None:
                check_new_file(to_jsonl, begun=await place.peek(job.job) is not None)
            return await _run_job(job, place, options, output, retry_dead=retry_dead, plan=plan, ui=ui)

    return work()


def _make_job(basiq: BasiqClient, options: ReplayOptions, target: Target, checkpoint: Checkpoint) -> Replay:
    from ..replay import Replay

    return Replay(
        basiq,
        options.webhook_id,
        target,
        checkpoint=checkpoint,
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


async def _run_job(
    job: Replay,
    checkpoint: Checkpoint,
    options: ReplayOptions,
    output: Output,
    *,
    retry_dead: bool,
    plan: bool,
    ui: bool,
) -> int:
    """Run a job to its end, show its report, and return the exit code.

    After the first signal, the messages under way are finished. If messages failed, the page of ``ui`` stays until a
    signal, so that they can be retried and dropped there. The report includes that work.
    """
    import asyncio

    from ..replay import serve_page

    flags = ("--retry-dead",) if retry_dead else ()
    counted = await _make_plan(job) if plan and not retry_dead else None
    async with AsyncExitStack() as page:
        url = await page.enter_async_context(serve_page(job)) if ui else None
        if url is not None:
            note(f"the page is at {url}", url=url)
        with stopping(job.stop) as stopped:
            try:
                report = await (job.retry_dead(ProgressLine()) if retry_dead else job.run(ProgressLine(), plan=counted))
            except asyncio.CancelledError:
                if stopped:
                    live(None)
                    options.show_line(*flags)
                raise
            except ReplayError as exc:
                live(None)
                if exc.report is not None:
                    output.one(report_row(exc.report), report_details(exc.report))
                    options.show_line(*flags)
                raise
            finally:
                live(None)
        if url is not None and report.dead and not stopped:
            note(f"messages failed: retry or drop them at {url}; Ctrl-C ends", url=url)
            stop = asyncio.Event()
            with on_signals(lambda _: stop.set()):
                await stop.wait()
    if ui:
        report = await _count_again(job, checkpoint, report)
    output.one(report_row(report), report_details(report))
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
