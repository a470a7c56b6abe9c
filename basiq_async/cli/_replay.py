"""``basiq-async replay``: hand a webhook's history to an endpoint or a receiver again, or write it to a file."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import attrs
import typer

from .._redaction.text import amount
from ._command import command
from ._inboxes import INBOX_TIMEOUT, open_inbox, record_file, tell_newest
from ._options import Failed, Selection
from ._output import say
from ._results import Output, View, count_details
from ._run import DONE, NO_ANSWER, WRONG, make_client
from ._runs import (
    RunOptions,
    Watch,
    check_places,
    open_target,
    report_details,
    report_row,
    run_watched,
    tell_not_handled,
    tell_refusals,
)

if TYPE_CHECKING:
    from ..receiver import Inbox, WebhookReceiver
    from ..replay import Replay, Report, Target


Source = Literal["messages", "events"]


@attrs.frozen(kw_only=True)
class ReplayOptions(RunOptions, Selection):
    """The options of a replay.

    file: The file to append to, one message per line. It is its own record.
    anew: With --file: begin a new file, though an earlier one is missing or was replaced.
    source: messages: the history; events: all events of the last 7 days.
    filter: A filter in Basiq's syntax, which Basiq applies.
    limit N: At most N messages in this run; 0 for all.
    dry_run: Count the messages, and hand out none.
    on_error: What to do with a message that fails: quarantine, stop or skip.
    max_failures N: Stop after N failures in a row; 0 for never.
    """

    command: ClassVar[str] = "replay"
    once: ClassVar[frozenset[str]] = RunOptions.once | {"dry_run", "anew"}

    file: str | None = None
    anew: bool = False
    source: Source = "messages"
    filter: str | None = None
    failed: Failed = False
    limit: Annotated[int, typer.Option(min=0)] = 0
    dry_run: bool = False
    on_error: Literal["quarantine", "stop", "skip"] = "quarantine"
    max_failures: Annotated[int, typer.Option(min=0)] = 1_000

    @property
    def targets(self) -> Mapping[str, str | None]:
        """What names a target, by option."""
        return {"--to": self.to, "--receiver": self.receiver, "--file": self.file}


_PLAN = View[Any]("total by_type by_day skipped first last quarantined waiting order read_by_id")
_REPORT = View[Any](
    "read read_by_id handled skipped failed duration rate order finished waiting at_service quarantined"
)


@command()
async def replay(output: Output, options: ReplayOptions) -> int:
    """Hand a webhook's history to an endpoint or a receiver again, or write it to a file.

    What was handed out is recorded, and is not handed out again: after a stop or a kill, run the same line. A signal
    lets the messages under way finish, a second one does not. Messages that fail are set aside for 'quarantine retry',
    and the exit code is 1 while any are left. It is 3 if Basiq does not tell of a message whether it is selected.
    """
    output.expect(_PLAN if options.dry_run else _REPORT)
    watch = Watch()
    if options.dry_run:
        async with AsyncExitStack() as stack:
            job, record = await _make_job(stack, options, watch)
            plan = await job.plan()
            if record is not None:
                await tell_newest(record)
        output.one(plan, details=count_details(plan))
        return DONE
    check_places(options, options.targets)
    ended = await run_watched(watch, lambda: _replay(options, watch))
    options = watch.options or options
    if ended.result is None:
        row = report_row(watch.lists[0], finished=False) if watch.lists else {"finished": False}
        output.one(row, details=report_details(row))
        options.show_line()
        return ended.exit(WRONG)
    report, left = ended.result
    row = {**report_row(report), "quarantined": left}
    output.one(row, details=report_details(row))
    watch.say_errors()
    tell_not_handled(options, report.skipped)
    if ended.early:
        options.show_line()
    if left or report.at_service:
        options.show_retry(left, report.at_service)
    stays = left or report.failed or report.waiting or report.at_service or "busy" in report.skipped
    unknown = report.skipped.get("unknown", 0)
    if unknown:
        say(f"Basiq does not tell of {amount(unknown, 'message', 'messages')} whether the selection has them")
    return ended.exit(WRONG if stays else NO_ANSWER if unknown else DONE)


async def _replay(options: ReplayOptions, watch: Watch) -> tuple[Report, int]:
    """Run the replay. Return its report, and the number of messages in the quarantine."""
    from .._work.inbox_calls import InboxCalls

    async with AsyncExitStack() as stack:
        job, record = await _make_job(stack, options, watch)
        watch.follow(job)
        report = await job.run()
        calls = None if record is None else InboxCalls(record, INBOX_TIMEOUT)
        return report, 0 if calls is None else await calls.count_quarantined(job._handling.job)


async def _make_job(stack: AsyncExitStack, options: ReplayOptions, watch: Watch) -> tuple[Replay, Inbox | None]:
    """Return the replay, and the inbox with its quarantine."""
    from ..replay import Replay

    basiq = await stack.enter_async_context(make_client())
    options = watch.options = await options.fix_moments(basiq)
    where = await options.read(basiq, failed=options.failed, limit=options.limit)
    target, inbox = await _open_target(stack, options)
    stack.callback(tell_refusals, target, basiq)
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
    return job, getattr(target, "inbox", inbox)


async def _open_target(
    stack: AsyncExitStack, options: ReplayOptions
) -> tuple[Target | WebhookReceiver | Any, Inbox | None]:
    """Open the target. One that only counts leaves no file, and needs no secret."""
    from ..receiver import MemoryInbox
    from ..replay import HttpTarget, JSONLinesTarget

    if options.file is not None:
        return JSONLinesTarget(options.file, anew=options.anew), None
    if options.dry_run and options.receiver is None:
        counted = _count if options.to is None else HttpTarget(options.to, _UNUSED, name=options.job)
        place = options.inbox or record_file(options.webhook_id, options.job or options.to or "")
        if options.inbox is not None or os.path.isfile(place):  # noqa: ASYNC240  # once, before the work begins
            return counted, await stack.enter_async_context(open_inbox(place))
        return counted, MemoryInbox()
    write = not options.dry_run
    return await open_target(stack, options.webhook_id, options, concurrency=options.concurrency, write=write)


_UNUSED = f"whsec_{b64encode(os.urandom(24)).decode()}"
"""A plan posts nothing, and needs no secret."""


async def _count(message: object) -> None:
    """Do nothing: a plan counts."""
