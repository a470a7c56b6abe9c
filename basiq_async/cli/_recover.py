"""Commands for messages and events that a service missed: ``recover`` delivers them, ``reconcile`` counts them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import attrs
import typer

from .._wire.hosts import show_url
from ..errors import ConfigurationError, ReplayError
from ._doctor import problem_details, problem_rows
from ._inboxes import InboxPlace, Receiver, open_checkpoints, open_inbox, open_inbox_of, open_receiver
from ._options import (
    EventPattern,
    Filter,
    Json,
    Since,
    Until,
    WebhookId,
    check_event_types,
    command_of,
    moment_at_basiq,
    option,
    program_line,
    read_secrets,
    selection,
)
from ._output import live, note, session
from ._results import Output, Row, View, as_row, count_details
from ._run import make_client
from ._runs import Evidence, ProgressLine, RunOptions, To, look_at_dead_letters, name_checkpoint, report_row

if TYPE_CHECKING:
    from ..client import BasiqClient
    from ..receiver import Inbox, WebhookReceiver
    from ..replay import Checkpoint, Recovery, Replay, Report, Target


@attrs.frozen(kw_only=True)
class RecoverOptions(RunOptions):
    """The options of a recovery."""

    command: ClassVar[str] = "recover"

    to: To = None
    receiver: Receiver = None
    inbox: Annotated[
        str | None,
        option(
            "With --to: the place that remembers what was posted, so that nothing is posted twice; such as "
            "postgresql+asyncpg://... By default a file beside the checkpoints.",
            metavar="URL|FILE",
        ),
    ] = None
    everything: Annotated[
        bool,
        option(
            "Include messages that Basiq delivered before the inbox was in use; with --to, all messages.",
            "--everything",
        ),
    ] = False
    all_types: Annotated[
        bool, option("Include events of types that the webhook is not subscribed to.", "--all-types")
    ] = False
    acknowledged: Annotated[
        str | None,
        option("Accept that events before this time are out of reach: a date, or how long ago (9d).", metavar="WHEN"),
    ] = None
    concurrency: Annotated[int | None, typer.Option(min=1, help="Maximum messages under way at once. Default: 32.")] = (
        None
    )
    checkpoint: Annotated[
        str | None,
        option(
            "How the names of the checkpoint files begin, or the URL of a database. By default the files are named "
            "after the job."
        ),
    ] = None
    report: Annotated[
        str | None,
        option(
            "Append evidence to this file, as JSON lines: the webhook, the target, the id of each message, and "
            "the result.",
            metavar="FILE",
        ),
    ] = None

    @property
    def place(self) -> str:
        """See ``RunOptions``."""
        name = name_checkpoint("recover", self.webhook_id, self.to or self.receiver or "", self.selected)
        return self.checkpoint or name


_RECOVERY: View[Recovery] = View(
    "finished messages events out_of_reach status quarantined left_alone problems",
    messages=lambda found: report_row(found.messages),
    events=lambda found: report_row(found.events),
    out_of_reach=lambda found: [as_row(each) for each in found.out_of_reach],
    status=lambda found: found.webhook.status,
    problems=lambda found: problem_rows(found.problems),
)
_NOTHING_READ: Row = {**dict.fromkeys(_RECOVERY.names), "finished": False, "out_of_reach": [], "problems": []}


def _recovery_details(found: Recovery) -> Iterable[tuple[str, Any]]:
    yield from _report_details("messages", found.messages)
    yield from _report_details("events", found.events)
    if found.left_alone:
        yield (
            "left alone",
            f"{found.left_alone:,} that Basiq delivered; to include them, pass --everything with a new --checkpoint",
        )
    yield "finished", found.finished
    yield from problem_details(found.problems, "left")


def _report_details(source: str, report: Report) -> Iterable[tuple[str, Any]]:
    yield f"{source} handled", f"{report.handled:,}"
    for why, count in report.skipped.items():
        yield f"{source} skipped, {why}", f"{count:,}"
    if report.failed or report.dead:
        yield f"{source} failed", f"{report.failed:,}, {report.dead:,} kept"


@command_of(RecoverOptions)
def recover(options: RecoverOptions) -> Awaitable[int]:
    """Deliver everything that a service missed: first from the message history, then from the events of 7 days.

    An event that happens while a webhook is not active makes no message, but is in the event list for 7 days. Messages
    that Basiq delivered are left out, unless the inbox of --receiver knows that they were not handled; --everything
    includes them. Each event is delivered once. After an interruption, run the same line again to resume. After SIGINT
    or SIGTERM, the messages under way are finished. The exit code is 1 if something is left or out of reach, and 3 if
    Basiq, the inbox or the checkpoint gave no usable response.
    """
    session().verdict = True
    options.confirm_drop()
    if not options.looks and (options.to is None) == (options.receiver is None):
        raise ConfigurationError("name the target with either --to or --receiver")
    if options.inbox is not None and options.to is None:
        raise ConfigurationError("--inbox is for --to: a receiver has an inbox of its own")
    return _look_or_recover(options)


async def _look_or_recover(options: RecoverOptions) -> int:
    from ..replay import JSONLinesTarget, Replay

    async with make_client() as basiq, open_checkpoints(options.place) as (messages, events):
        await check_event_types(basiq, options.event)
        if not options.looks:
            return await _recover(basiq, options, messages, events)
        idle, where = JSONLinesTarget(os.devnull), options.where()
        both = [
            Replay(basiq, options.webhook_id, idle, checkpoint=messages, where=where),
            Replay(basiq, options.webhook_id, idle, checkpoint=events, source="events", where=where),
        ]
        return await look_at_dead_letters(both, options)


async def _recover(basiq: BasiqClient, options: RecoverOptions, messages: Checkpoint, events: Checkpoint) -> int:
    """Run a recovery to its end, show its report, and return the exit code."""
    from ..replay import recover as deliver_missed

    output = Output(options.json)
    replays: list[Replay] = []
    async with AsyncExitStack() as stack:
        evidence = stack.enter_context(Evidence(options.report))
        target, inbox = await stack.enter_async_context(_open_target(options))
        shown = options.receiver if options.to is None else show_url(options.to)  # a query can hold a key
        evidence.write("began", webhook=options.webhook_id, target=shown)

        def watch(replay: Replay) -> None:
            replays.append(replay)
            evidence.watch(replay)

        def stop() -> None:
            for each in replays:
                each.stop()

        stopped = stack.enter_context(options.stopping(stop))
        try:
            found = await deliver_missed(
                basiq,
                options.webhook_id,
                target,
                checkpoint=messages,
                events_checkpoint=events,
                inbox=inbox,
                where=options.where(),
                everything=options.everything,
                all_types=options.all_types,
                acknowledged=await moment_at_basiq(basiq, options.acknowledged, "--acknowledged"),
                concurrency=options.concurrency,
                rate=options.rate,
                max_pause=options.max_pause,
                progress=ProgressLine(),
                instrument=watch,
            )
            if options.retry_dead and not stopped:
                await found.retry_dead(ProgressLine())
        except ReplayError as exc:
            live(None)
            if exc.report is not None:
                row = {**_NOTHING_READ, "messages": report_row(exc.report)}  # the events were not read
                evidence.write("ended", finished=False, messages=row["messages"])
                output.one(row, details=[*_report_details("messages", exc.report), ("finished", False)])
                options.show_line()
            if stopped:
                return 128 + stopped[0]
            raise
        evidence.write("ended", **_RECOVERY.row(found))
    output.one(found, _RECOVERY, _recovery_details(found))
    if stopped:
        options.show_line()
        return 128 + stopped[0]
    if found.dead:
        options.show_line("--retry-dead", introduction=f"{found.dead:,} failed and are kept; try them again with:")
    if ends := [each.until for each in found.out_of_reach if each.until is not None]:
        known = attrs.evolve(options, acknowledged=f"{max(ends).astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}")
        known.show_line(introduction="after you have fetched the present state, acknowledge what is out of reach with:")
    if found.quarantined and options.receiver is not None:
        line = program_line("quarantine retry", options={"--receiver": options.receiver})
        note(f"{found.quarantined:,} deliveries are in the quarantine; try them again with: {line}")
    return 0 if found.finished else 1


@asynccontextmanager
async def _open_target(options: RecoverOptions) -> AsyncIterator[tuple[Target | WebhookReceiver, Inbox | None]]:
    """Open the target of a recovery, and an inbox for a target that has none of its own."""
    from ..receiver import SQLiteInbox
    from ..replay import HttpTarget

    async with AsyncExitStack() as stack:
        if options.to is None:
            yield await stack.enter_async_context(open_receiver(options.receiver or "")), None
            return
        target = HttpTarget(options.to, read_secrets(options.secret_file), connections=options.concurrency or 32)
        # An event that became a message is in both sources. The inbox prevents that it is posted twice.
        if options.inbox is None:
            inbox: Inbox = await stack.enter_async_context(SQLiteInbox(f"{options.place}-inbox.db"))
        else:
            inbox = await stack.enter_async_context(open_inbox(options.inbox, of_recovery=True))
        yield await stack.enter_async_context(target), inbox


async def reconcile(
    webhook_id: WebhookId,
    inbox: InboxPlace = None,
    receiver: Receiver = None,
    since: Since = None,
    until: Until = None,
    event: EventPattern = None,
    filter: Filter = None,
    ids: Annotated[int, typer.Option(min=0, metavar="N", help="Show the ids of the first N missing messages.")] = 20,
    json: Json = None,
) -> int:
    """Compare the messages that Basiq delivered with the messages that an inbox recorded as handled.

    The exit code is 1 if messages are missing, and 3 if Basiq or the inbox gave no usable response. 'basiq-async
    replay' to the same service delivers what is missing.
    """
    from ..replay import JSONLinesTarget, MemoryCheckpoint, Replay

    session().verdict = True
    async with make_client() as basiq:
        await check_event_types(basiq, event)
        job = Replay(
            basiq,
            webhook_id,
            JSONLinesTarget(os.devnull),
            checkpoint=MemoryCheckpoint(),
            filter=filter,
            where=selection(since=since, until=until, event=event),
        )
        async with open_inbox_of(inbox, receiver) as opened:
            found = await job.reconcile(opened, ids=ids)
    Output(json).one(found, details=count_details(found))
    if found.missing or found.undelivered:
        note("'basiq-async replay' or 'basiq-async recover' delivers the missing messages")
        return 1
    return 0
