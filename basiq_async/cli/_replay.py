"""``basiq-async replay``: hand a webhook's history to an endpoint or a receiver again, or write it to a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import attrs
import typer

from ._command import command
from ._exit_codes import DONE, WRONG
from ._inboxes import INBOX_TIMEOUT, open_inbox, record_file
from ._options import Failed, Selection
from ._output import live, note
from ._results import Output, count_details
from ._run import make_client, on_signals
from ._runs import RunOptions, Watch, check_places, open_target, report_details, report_row, run_watched

if TYPE_CHECKING:
    from ..receiver import Inbox, WebhookReceiver
    from ..replay import Plan, Replay, Report, Target


Source = Literal["messages", "events"]


@attrs.frozen(kw_only=True)
class ReplayOptions(RunOptions, Selection):
    """The options of a replay.

    file: The file to append to, one message per line. It is its own record.
    anew: With --file: begin a new file, though an earlier one is missing or was replaced.
    source: messages: the history; events: all events of the last 7 days.
    filter: A filter in Basiq's syntax, which Basiq applies; may be repeated: all lists are read at once.
    limit N: At most N messages in this run; 0 for all.
    dry_run: Count the messages, and hand out none.
    on_error: What to do with a message that fails: quarantine sets it aside for 'quarantine retry'.
    max_failures N: Stop after N failures in a row; 0 for never.
    ui: Serve a page with the progress, and the failed messages to retry or drop.
    """

    command: ClassVar[str] = "replay"
    once: ClassVar[frozenset[str]] = RunOptions.once | {"dry_run", "ui", "anew"}

    file: str | None = None
    anew: bool = False
    source: Source = "messages"
    filter: list[str] | None = None
    failed: Failed = False
    limit: Annotated[int, typer.Option(min=0)] = 0
    dry_run: bool = False
    on_error: Literal["quarantine", "stop", "skip"] = "quarantine"
    max_failures: Annotated[int, typer.Option(min=0)] = 1_000
    ui: bool = False

    @property
    def targets(self) -> Mapping[str, str | None]:
        """What names a target, by option."""
        return {"--to": self.to, "--receiver": self.receiver, "--file": self.file}


@command()
async def replay(output: Output, options: ReplayOptions) -> int:
    """Hand a webhook's history to an endpoint or a receiver again, or write it to a file.

    What was handed out is recorded, and is not handed out again: after a stop or a kill, run the same line. What is
    posted is recorded in --inbox. A receiver has its own inbox, and a file is its own record. After SIGINT or SIGTERM,
    the messages under way are finished; a second signal stops at once. Messages that fail are set aside, see
    'quarantine retry', and the exit code is 1 while any are left. It is 4 if another run of this job is alive.
    """
    watch = Watch()
    if not options.dry_run:
        check_places(options, options.targets)

    async def work() -> tuple[Report, int] | Plan:
        async with AsyncExitStack() as stack:
            return await _replay(stack, options, watch)

    ended = await run_watched(watch, work)
    options = watch.options or options
    if ended.result is None:
        row = report_row(watch.lists[0], finished=False) if watch.lists else {"finished": False}
        output.one(row, details=report_details(row))
        options.show_line()
        return ended.exit(WRONG)
    if not isinstance(ended.result, tuple):
        output.one(ended.result, details=count_details(ended.result))
        return ended.exit(DONE)
    report, left = ended.result
    row = {**report_row(report), "quarantined": left}
    output.one(row, details=report_details(row))
    if ended.early:
        options.show_line()
    if left:
        options.show_retry(left)
    return ended.exit(WRONG if left or report.failed or "busy" in report.skipped else DONE)


async def _replay(stack: AsyncExitStack, options: ReplayOptions, watch: Watch) -> tuple[Report, int] | Plan:
    """Run the replay, or count what it would do. Return its report, and the number of messages in the quarantine."""
    from .._work.quarantine import count_quarantined
    from ..replay import Replay

    basiq = await stack.enter_async_context(make_client())
    options = watch.options = await options.fix_moments(basiq)
    where = await options.read(basiq, failed=options.failed, limit=options.limit)
    target, inbox = await _open_target(stack, options)
    job = Replay(
        basiq,
        options.webhook_id,
        target,
        inbox=inbox,
        source=options.source,
        filter=options.filter,
        where=where,
        concurrency=options.concurrency,
        rate=options.rate,
        on_error=options.on_error,
        max_failures=options.max_failures or None,
        max_pause=options.max_pause,
    )
    if options.dry_run:
        return await job.plan()
    report = await _run(job, options, watch)
    record = getattr(target, "inbox", inbox)
    owner = getattr(target, "webhook_id", options.webhook_id)
    return report, 0 if record is None else await count_quarantined(record, owner, timeout=INBOX_TIMEOUT)


async def _open_target(
    stack: AsyncExitStack, options: ReplayOptions
) -> tuple[Target | WebhookReceiver | Any, Inbox | None]:
    """Open the target. One that only counts leaves no file, and needs no secret."""
    from ..receiver import MemoryInbox
    from ..replay import JSONLinesTarget

    if options.file is not None:
        return JSONLinesTarget(options.file, anew=options.anew), None
    if options.dry_run and options.receiver is None:
        place = options.inbox or record_file(options.webhook_id, options.to or "")
        if options.inbox is not None or os.path.isfile(place):  # noqa: ASYNC240  # once, before the work begins
            return _count, await stack.enter_async_context(open_inbox(place))
        return _count, MemoryInbox()
    return await open_target(stack, options.webhook_id, options, concurrency=options.concurrency)


async def _count(message: object) -> None:
    """Do nothing: a plan counts."""


async def _run(job: Replay, options: ReplayOptions, watch: Watch) -> Report:
    """Run the job. If messages failed, the page of ``--ui`` stays until a signal: they can be tried again there."""
    import asyncio

    from ..replay import serve_page

    async with AsyncExitStack() as page:
        url = await page.enter_async_context(serve_page(job)) if options.ui else None
        if url is not None:
            note(f"the page is at {url}", url=url)
        watch.follow(job)
        report = await job.run()
        if url is not None and report.failed and report.finished:
            live(None)
            note(f"messages failed: retry or drop them at {url}; Ctrl-C ends", url=url)
            stop = asyncio.Event()
            with on_signals(lambda _: stop.set()):
                await stop.wait()
    # What began on the page has ended now, and is recorded.
    handled = sum(each.handled for each in watch.lists)
    return attrs.evolve(report, handled=handled, failed=max(0, report.failed - (handled - report.handled)))
