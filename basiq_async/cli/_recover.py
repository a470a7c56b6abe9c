"""Commands for messages and events that a service missed: ``recover`` delivers them, ``reconcile`` counts them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import attrs
import typer

from .._wire.hosts import show_url
from ..errors import ConfigurationError, ReplayError
from ._doctor import ProblemView, problem_details
from ._inboxes import InboxPlace, Receiver, open_checkpoints, open_inbox, open_inbox_of, open_receiver
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
    moment_at_basiq,
    option,
    program_line,
    read_secrets,
    selection,
)
from ._output import live, note, session
from ._replay import Concurrency, MaxPause, Rate
from ._results import Output, as_row, count_details, view_of
from ._run import confirm, make_client, stopping
from ._runs import (
    DropDead,
    Evidence,
    ExportDead,
    ListDead,
    ProgressLine,
    RetryDead,
    RunOptions,
    look_at_dead_letters,
    name_checkpoint,
    report_row,
)

if TYPE_CHECKING:
    from ..client import BasiqClient
    from ..receiver import Inbox, WebhookReceiver
    from ..replay import Checkpoint, Recovery, Replay, Report, Target


@attrs.frozen(kw_only=True)
class RecoverOptions(RunOptions):
    """The options of a recovery."""

    command: ClassVar[str] = "recover"

    receiver: str | None = None
    inbox: str | None = None
    everything: bool = False
    all_types: bool = False
    acknowledged: str | None = None
    report: str | None = None

    @property
    def shown_target(self) -> str | None:
        """The target, without the query of its URL."""
        return self.receiver if self.to is None else show_url(self.to)


@attrs.frozen(kw_only=True)
class RecoveryView:
    """The result of a recovery. After a stop or an error, only the messages may have been read."""

    finished: bool
    messages: Any
    events: Any = None
    out_of_reach: Sequence[Any] = ()
    status: str | None = None
    quarantined: int | None = None
    left_alone: int | None = None
    problems: Sequence[ProblemView] = ()

    @classmethod
    def of(cls, found: Recovery) -> RecoveryView:
        """Return the view of a recovery."""
        return view_of(
            cls,
            found,
            messages=report_row(found.messages),
            events=report_row(found.events),
            status=found.webhook.status,
            problems=ProblemView.of(found.problems),
        )


def _recovery_details(found: Recovery) -> Iterable[tuple[str, Any]]:
    yield from _report_details("messages", found.messages)
    yield from _report_details("events", found.events)
    if found.left_alone:
        yield (
            "left alone",
            f"{found.left_alone:,} that Basiq delivered; to include them, pass --everything with a new --checkpoint",
        )
    yield "finished", found.finished
    yield from problem_details(ProblemView.of(found.problems), "left")


def _report_details(source: str, report: Report) -> Iterable[tuple[str, Any]]:
    yield f"{source} handled", f"{report.handled:,}"
    for why, count in report.skipped.items():
        yield f"{source} skipped, {why}", f"{count:,}"
    if report.failed or report.dead:
        yield f"{source} failed", f"{report.failed:,}, {report.dead:,} kept"


def recover(
    webhook_id: WebhookId,
    to: Annotated[str | None, option("The endpoint to post to.", metavar="URL")] = None,
    receiver: Receiver = None,
    inbox: Annotated[
        str | None,
        option(
            "With --to: the place that remembers what was posted, so that nothing is posted twice; such as "
            "postgresql+asyncpg://... By default a file beside the checkpoints.",
            metavar="URL|FILE",
        ),
    ] = None,
    everything: Annotated[
        bool,
        option(
            "Include messages that Basiq delivered before the inbox was in use; with --to, all messages.",
            "--everything",
        ),
    ] = False,
    all_types: Annotated[
        bool, option("Include events of types that the webhook is not subscribed to.", "--all-types")
    ] = False,
    acknowledged: Annotated[
        str | None,
        option("Accept that events before this time are out of reach: such as 9d ago, or a date.", metavar="WHEN"),
    ] = None,
    since: Since = None,
    until: Until = None,
    event: EventPattern = None,
    rate: Rate = None,
    concurrency: Concurrency = None,
    max_pause: MaxPause = 3_600.0,
    checkpoint: Annotated[
        str | None,
        option(
            "The beginning of the names of the checkpoint files, or the URL of a database. By default files that "
            "are named after the job."
        ),
    ] = None,
    retry_dead: RetryDead = False,
    list_dead: ListDead = False,
    export_dead: ExportDead = None,
    drop_dead: DropDead = None,
    report: Annotated[
        str | None,
        option(
            "Append evidence to this file, as JSON lines: the webhook, the target, the id of each message, and "
            "the result.",
            metavar="FILE",
        ),
    ] = None,
    secret_file: EndpointSecretFile = None,
    yes: Yes = False,
    json: Json = None,
) -> Awaitable[int]:
    """Deliver everything that a service missed: first from the message history, then from the events of 7 days.

    An event that happens while a webhook is not active makes no message, but is in the event list for 7 days. Messages
    that Basiq delivered are left out, unless the inbox of --receiver knows that they were not handled; --everything
    includes them. Each event is delivered once. After an interruption, run the same line again to resume. After SIGINT
    or SIGTERM, the messages under way are finished. The exit code is 1 if something is left or out of reach, and 3 if
    Basiq, the inbox or the checkpoint gave no usable response.
    """
    from ..replay import JSONLinesTarget, Replay

    session().verdict = True
    options = RecoverOptions(
        webhook_id=webhook_id, to=to, receiver=receiver, inbox=inbox, everything=everything, all_types=all_types,
        acknowledged=acknowledged, since=since, until=until, event=event, rate=rate, concurrency=concurrency,
        max_pause=max_pause, checkpoint=checkpoint or "", report=report, secret_file=secret_file,
        json=json is not None,
    )  # fmt: skip
    if not checkpoint:
        options = attrs.evolve(
            options, checkpoint=name_checkpoint("recover", webhook_id, to or receiver or "", options.selected)
        )
    if drop_dead:
        confirm(f"Drop {len(set(drop_dead)):,} of the messages that failed for good?", yes=yes)
    looking = list_dead or export_dead is not None or bool(drop_dead)
    if not looking and (to is None) == (receiver is None):
        raise ConfigurationError("name the target with either --to or --receiver")
    if inbox is not None and to is None:
        raise ConfigurationError("--inbox is for --to: a receiver has an inbox of its own")

    async def work() -> int:
        async with make_client() as basiq, open_checkpoints(options.checkpoint) as (messages, events):
            await check_event_types(basiq, event)
            if not looking:
                return await _recover(basiq, options, messages, events, Output(json), retry_dead=retry_dead)
            idle, where = JSONLinesTarget(os.devnull), options.where()
            both = [
                Replay(basiq, webhook_id, idle, checkpoint=messages, where=where),
                Replay(basiq, webhook_id, idle, checkpoint=events, source="events", where=where),
            ]
            return await look_at_dead_letters(both, Output(json), show=list_dead, export=export_dead, drop=drop_dead)

    return work()


async def _recover(
    basiq: BasiqClient,
    options: RecoverOptions,
    messages: Checkpoint,
    events: Checkpoint,
    output: Output,
    *,
    retry_dead: bool,
) -> int:
    """Run a recovery to its end, show its report, and return the exit code."""
    import asyncio

    from ..replay import recover as deliver_missed

    replays: list[Replay] = []
    async with AsyncExitStack() as stack:
        evidence = stack.enter_context(Evidence(options.report))
        target, inbox = await stack.enter_async_context(_open_target(options))
        evidence.write("began", webhook=options.webhook_id, target=options.shown_target)

        def watch(replay: Replay) -> None:
            replays.append(replay)
            evidence.watch(replay)

        def stop() -> None:
            for each in replays:
                each.stop()

        stopped = stack.enter_context(stopping(stop))
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
            if retry_dead and not stopped:
                await found.retry_dead(ProgressLine())
        except asyncio.CancelledError:
            if stopped:
                live(None)
                options.show_line()
            raise
        except ReplayError as exc:
            live(None)
            if exc.report is not None:
                view = RecoveryView(finished=False, messages=report_row(exc.report))
                evidence.write("ended", finished=False, messages=view.messages)
                output.one(view, [*_report_details("messages", exc.report), ("finished", False)])
                options.show_line()
            if stopped:
                return 128 + stopped[0]
            raise
        finally:
            live(None)
        view = RecoveryView.of(found)
        evidence.write("ended", **as_row(view))
    output.one(view, _recovery_details(found))
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
        target = HttpTarget(options.to, read_secrets(options.secret_file), connections=options.connections)
        # An event that became a message is in both sources. The inbox prevents that it is posted twice.
        if options.inbox is None:
            inbox: Inbox = await stack.enter_async_context(SQLiteInbox(f"{options.checkpoint}-inbox.db"))
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
    Output(json).one(found, count_details(found))
    if found.missing or found.undelivered:
        note("'basiq-async replay' or 'basiq-async recover' delivers the missing messages")
        return 1
    return 0
