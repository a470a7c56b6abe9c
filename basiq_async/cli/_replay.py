"""``basiq-async replay``: hand a webhook's history to an endpoint or a receiver again, or write it to a file."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import attrs
import typer

from .._redaction.text import amount
from .._work.keys import check_repeat_name
from ..errors import ConfigurationError
from ._command import command
from ._inboxes import INBOX_TIMEOUT, inbox_file_of, open_inbox, tell_newest
from ._options import FailedOption, Selection, program_line
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
    from ..models import Message
    from ..receiver import Inbox, WebhookReceiver
    from ..replay import Replay, Report, Target, Where


SourceOption = Literal["messages", "events"]


@attrs.frozen(kw_only=True)
class ReplayOptions(RunOptions, Selection):
    """The options of a replay.

    file: The file to append to, one message per line. It is its own record.
    overwrite: With --file: begin a new file, though an earlier one is missing or was replaced.
    source: messages: the history; events: all events of the last 7 days.
    filter: A filter in Basiq's syntax, which Basiq applies.
    limit N: At most N messages in this run; 0 for all.
    dry_run: Count the messages, and handle none.
    again NAME: With --receiver: handle again what is selected, whatever the inbox knows of it, once for each NAME.
        What waits or is in the quarantine is left there. Needs a selection such as --since, --event or --id, or
        --everything.
    id ID: Only these messages, by their ids or those of their events; may be repeated.
    everything: With --again: all messages of the history.
    on_error: What to do with a message that fails: quarantine, stop or skip.
    max_failures N: Stop after N failures in a row; 0 for never.
    """

    command: ClassVar[str] = "replay"
    once: ClassVar[frozenset[str]] = RunOptions.once | {"dry_run", "overwrite"}

    file: str | None = None
    overwrite: bool = False
    source: SourceOption = "messages"
    filter: str | None = None
    failed: FailedOption = False
    again: str | None = None
    id: list[str] | None = None
    everything: bool = False
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
    "read read_by_id handled skipped failed duration rate order finished read_to_end waiting at_service quarantined "
    "again"
)


@command()
async def replay(output: Output, options: ReplayOptions) -> int:
    """Hand a webhook's history to an endpoint or a receiver again, or write it to a file.

    What was recorded as handled is not handled again: after a stop or a kill, run the same line. A signal lets the
    messages under way finish, a second one does not. Messages that fail are quarantined, for 'quarantine retry', and
    the exit code is 1 while any are left. It is 3 if Basiq does not tell of a message whether it is selected.
    """
    output.expect(_PLAN if options.dry_run else _REPORT)
    watch = Watch()
    _check_again(options)
    if options.dry_run:
        async with AsyncExitStack() as stack:
            job, inbox = await _make_job(stack, options, watch)
            plan = await job.plan()
            if inbox is not None:
                await tell_newest(inbox)
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
    _tell_held(options, report.skipped)
    if ended.early:
        options.show_line()
    if left or report.at_service:
        options.show_retry(left, report.at_service)
    stays = left or report.failed or report.waiting or report.at_service or "busy" in report.skipped
    unknown = report.skipped.get("unknown", 0)
    if unknown:
        say(f"Basiq does not tell of {amount(unknown, 'message', 'messages')} whether the selection has them")
    forgotten = report.skipped.get("forgotten", 0)
    if forgotten:
        what = amount(forgotten, "message was", "messages were")
        say(
            f"{what} left out: the inbox no longer tells whether this job posted them. Select what is later, or name "
            "another inbox"
        )
    return ended.exit(WRONG if stays else NO_ANSWER if unknown or forgotten else DONE)


def _tell_held(options: ReplayOptions, counts: Mapping[str, int]) -> None:
    """Say what a run with ``--again`` left where it is."""
    if options.again is None:
        return
    if count := counts.get("waiting", 0):
        what = amount(
            count, "event waits for its deferred handler, and was", "events wait for deferred handlers, and were"
        )
        say(f"{what} left to that")
    if count := counts.get("quarantined", 0):
        what = amount(count, "event is in the quarantine, and was", "events are in the quarantine, and were")
        say(f"{what} left there: 'quarantine retry' handles what is in it")


def _check_again(options: ReplayOptions) -> None:
    """Raise ``ConfigurationError`` for options that do not go with ``--again``, or without it."""
    if options.again is None:
        if options.everything:
            raise ConfigurationError("--everything is for --again: else all is selected that the inbox does not know")
        return
    check_repeat_name(options.again)
    if options.receiver is None:
        named = {"--receiver": "MODULE:RECEIVER", "--again": options.again}
        raise ConfigurationError(
            "--again is for --receiver: a service responds 200 (duplicate) to an event that it knows, and no more; "
            f"its own receiver does, with a selection: {program_line('replay', options.webhook_id, options=named)}"
        )
    chosen = (options.since, options.until, options.event, options.id, options.filter, options.failed or None)
    if not any(chosen) and not options.everything:
        raise ConfigurationError(
            "--again repeats what was handled: select it with --since, --until, --event, --id, --filter or --failed, "
            "or say --everything"
        )


async def _replay(options: ReplayOptions, watch: Watch) -> tuple[Report, int]:
    """Run the replay. Return its report, and the number of messages in the quarantine."""
    from .._work.inbox_calls import InboxCalls

    async with AsyncExitStack() as stack:
        job, inbox = await _make_job(stack, options, watch)
        watch.follow(job)
        report = await job.run()
        calls = None if inbox is None else InboxCalls(inbox, INBOX_TIMEOUT)
        return report, 0 if calls is None else await calls.count_quarantined(job._job.handling.job)


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
        where=_select(options, where),
        again=options.again,
        concurrency=options.concurrency,
        rate=options.rate,
        on_error=options.on_error,
        max_failures=options.max_failures or None,
        max_pause=options.max_pause,
    )
    return job, getattr(target, "inbox", inbox)


def _select(options: ReplayOptions, where: Where | None) -> Where | Callable[[Message], bool] | None:
    if options.id:
        ids = frozenset(options.id)

        def is_named(message: Message) -> bool:
            return message.id in ids or message.event_id in ids

        return is_named if where is None else where & is_named
    return where if where is not None or not options.everything else lambda message: True


async def _open_target(
    stack: AsyncExitStack, options: ReplayOptions
) -> tuple[Target | WebhookReceiver | Any, Inbox | None]:
    """Open the target. One that only counts leaves no file, and needs no secret."""
    from ..receiver import MemoryInbox
    from ..replay import HttpTarget, JSONLinesTarget

    if options.file is not None:
        return JSONLinesTarget(options.file, overwrite=options.overwrite), None
    if options.dry_run and options.receiver is None:
        counted = _count if options.to is None else HttpTarget(options.to, _UNUSED, name=options.job)
        place = options.inbox or inbox_file_of(options.webhook_id, options.job or options.to or "")
        if options.inbox is not None or os.path.isfile(place):  # noqa: ASYNC240  # once, before the work begins
            return counted, await stack.enter_async_context(open_inbox(place))
        return counted, MemoryInbox()
    write = not options.dry_run
    return await open_target(stack, options.webhook_id, options, concurrency=options.concurrency, write=write)


_UNUSED = f"whsec_{b64encode(os.urandom(24)).decode()}"
"""A plan posts nothing, and needs no secret."""


async def _count(message: object) -> None:
    """Do nothing: a plan counts."""
