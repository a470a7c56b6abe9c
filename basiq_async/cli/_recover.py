"""Commands for messages and events that a service missed: ``recover`` delivers them, ``reconcile`` counts them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConfigurationError, ReplayError
from ._options import (
    EndpointSecretFile,
    EventPattern,
    Filter,
    Json,
    Since,
    Until,
    WebhookId,
    check_event_types,
    moment,
    open_receiver,
    read_secrets,
    selection,
)
from ._output import live, note
from ._replay import REPORT, default_path
from ._results import Fields, Output, Shape, attributes, fields_of, shows
from ._run import run
from ._shapes import problem_details, problem_rows

if TYPE_CHECKING:
    from ..client import BasiqClient
    from ..receiver import Inbox, WebhookReceiver
    from ..replay import Checkpoint, Reconciliation, Recovery, Target


def _recovery_details(found: Recovery) -> Iterable[tuple[str, Any]]:
    for source, report in (("messages", found.messages), ("events", found.events)):
        yield f"{source} handled", f"{report.handled:,}"
        for why, count in report.skipped.items():
            yield f"{source} skipped, {why}", f"{count:,}"
        if report.failed or report.dead:
            yield f"{source} failed", f"{report.failed:,}, {report.dead:,} kept"
    if found.left_alone:
        yield (
            "left alone",
            f"{found.left_alone:,} that Basiq delivered; to include them, pass --everything with a new --checkpoint",
        )
    yield "finished", found.finished
    yield from problem_details(found.problems, "left")


_RECOVERY: Shape[Recovery] = Shape(
    {
        **attributes("finished"),
        "messages": lambda found: REPORT.row(found.messages),
        "events": lambda found: REPORT.row(found.events),
        "out_of_reach": lambda found: [{"since": each.since, "until": each.until} for each in found.out_of_reach],
        "status": lambda found: found.webhook.status,
        **attributes("quarantined", "left_alone"),
        "problems": lambda found: problem_rows(found.problems),
    },
    details=_recovery_details,
)


@shows(_RECOVERY)
def recover(
    webhook_id: WebhookId,
    to: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The endpoint to post to.", show_default=False),
    ] = None,
    receiver: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:RECEIVER",
            help="Use the handlers and the inbox of this WebhookReceiver.",
            show_default=False,
        ),
    ] = None,
    everything: Annotated[
        bool,
        typer.Option(
            "--everything",
            help="Include messages that Basiq delivered before the inbox was in use; with --to, all messages.",
        ),
    ] = False,
    retry_dead: Annotated[
        bool, typer.Option("--retry-dead", help="At the end, retry the messages that failed in this or earlier runs.")
    ] = False,
    acknowledged: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help="Accept that events before this time are out of reach: such as 9d ago, or a date.",
            show_default=False,
        ),
    ] = None,
    since: Since = None,
    until: Until = None,
    event: EventPattern = None,
    rate: Annotated[float | None, typer.Option(help="The most messages per second.", show_default=False)] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="The most messages under way at once.")] = 32,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="The beginning of the names of the checkpoint files. By default they are named after the job.",
            show_default=False,
        ),
    ] = None,
    secret_file: EndpointSecretFile = None,
    json: Json = None,
) -> None:
    """Deliver everything that a service missed: first from the message history, then from the events of 7 days.

    An event that happens while a webhook is not active makes no message, but is in the event list for 7 days. Messages
    that Basiq delivered are left out, unless the inbox of --receiver knows that they were not handled; --everything
    includes them. Each event is delivered once. After an interruption, run the same line again to resume. The exit code
    is 1 if something is left or out of reach.
    """
    from ._replay import CommandLine, ProgressLine, named_options

    chosen: dict[str, Any] = {"since": since, "until": until, "event": event}
    base = checkpoint or checkpoint_base(webhook_id, to or receiver or "", chosen)
    known = None if acknowledged is None else moment(acknowledged, "--acknowledged")
    given = {
        "to": to, "receiver": receiver, "everything": everything, **chosen, "rate": rate, "concurrency": concurrency,
        "checkpoint": base, "secret_file": secret_file, "acknowledged": acknowledged, "json": json is not None,
    }  # fmt: skip
    again = CommandLine("recover", webhook_id, options=named_options(given, defaults={"concurrency": 32}))
    output = Output(json)

    async def work(basiq: BasiqClient) -> Recovery:
        from ..replay import recover as deliver_missed

        if (to is None) == (receiver is None):
            raise ConfigurationError("name the target with either --to or --receiver")
        await check_event_types(basiq, event)
        messages, events = checkpoints_at(base)
        async with open_target(to, receiver, base, concurrency, secret_file) as (target, inbox):
            try:
                found = await deliver_missed(
                    basiq,
                    webhook_id,
                    target,
                    checkpoint=messages,
                    events_checkpoint=events,
                    inbox=inbox,
                    where=selection(**chosen),
                    everything=everything,
                    acknowledged=datetime.now(UTC) - known if isinstance(known, timedelta) else known,
                    concurrency=concurrency,
                    rate=rate,
                    progress=ProgressLine(),
                )
                return await found.retry_dead(ProgressLine()) if retry_dead else found
            except ReplayError:
                again.show()
                raise
            finally:
                live("")

    found = run(work)
    output.one(found, _RECOVERY)
    if found.dead:
        again.show("--retry-dead", introduction=f"{found.dead:,} failed and are kept; try them again with:")
    if found.quarantined and receiver is not None:
        line = CommandLine("quarantine retry", options={"--receiver": receiver})
        line.show(introduction=f"{found.quarantined:,} deliveries are in the quarantine; try them again with:")
    if not found.finished:
        raise typer.Exit(1)


@asynccontextmanager
async def open_target(
    to: str | None, receiver: str | None, base: str, concurrency: int, secret_file: Any
) -> AsyncIterator[tuple[Target | WebhookReceiver, Inbox | None]]:
    """Open the target of a recovery, and an inbox for a target that has none of its own."""
    from ..receiver import SQLiteInbox
    from ..replay import HttpTarget

    async with AsyncExitStack() as stack:
        if to is None:
            yield await stack.enter_async_context(open_receiver(receiver or "")), None
            return
        target = HttpTarget(to, read_secrets(secret_file), connections=concurrency)
        # An event that became a message is in both sources. The inbox prevents that it is posted twice.
        inbox = await stack.enter_async_context(SQLiteInbox(f"{base}-inbox.db"))
        yield await stack.enter_async_context(target), inbox


def checkpoint_base(webhook_id: str, target: str, chosen: dict[str, Any]) -> str:
    """Return the beginning of the names of a recovery's files. The same command line gets the same names."""
    return default_path(webhook_id, target, chosen).replace("-replay-", "-recover-")[:-3]


def checkpoints_at(base: str) -> tuple[Checkpoint, Checkpoint]:
    """Return the two checkpoints of a recovery: for its messages, and for its events."""
    from ..replay import SQLiteCheckpoint

    return SQLiteCheckpoint(f"{base}-messages.db"), SQLiteCheckpoint(f"{base}-events.db")


def _reconciliation_fields() -> Fields[Reconciliation]:
    from ..replay import Reconciliation

    return fields_of(Reconciliation)


def _reconciliation_details(found: Reconciliation) -> Any:
    for name, value in _RECONCILIATION.row(found).items():
        if isinstance(value, dict):
            yield from ((f"{name.replace('_', ' ')} {key}", count) for key, count in value.items())
        elif not isinstance(value, (tuple, list)):
            yield name.replace("_", " "), value
        else:
            yield from ((f"{name.replace('_', ' ')}", each) for each in value)


_RECONCILIATION: Shape[Reconciliation] = Shape(_reconciliation_fields, details=_reconciliation_details)


@shows(_RECONCILIATION)
def reconcile(
    webhook_id: WebhookId,
    inbox: Annotated[
        str | None, typer.Option(metavar="FILE", help="The file of a SQLiteInbox.", show_default=False)
    ] = None,
    receiver: Annotated[
        str | None,
        typer.Option(metavar="MODULE:RECEIVER", help="The WebhookReceiver whose inbox to use.", show_default=False),
    ] = None,
    since: Since = None,
    until: Until = None,
    event: EventPattern = None,
    filter: Filter = None,
    ids: Annotated[int, typer.Option(min=0, metavar="N", help="Show the ids of the first N missing messages.")] = 20,
    json: Json = None,
) -> None:
    """Compare the messages that Basiq delivered with the messages that an inbox has as handled.

    The exit code is 1 if messages are missing. 'basiq-async replay' to the same service delivers them.
    """
    output = Output(json)

    async def work(basiq: BasiqClient) -> Reconciliation:
        from ..replay import JSONLinesTarget, MemoryCheckpoint, Replay

        await check_event_types(basiq, event)
        job = Replay(
            basiq,
            webhook_id,
            JSONLinesTarget(os.devnull),
            checkpoint=MemoryCheckpoint(),
            filter=filter,
            where=selection(since=since, until=until, event=event),
        )
        async with _open_inbox(inbox, receiver) as found:
            return await job.reconcile(found, ids=ids)

    found = run(work)
    output.one(found, _RECONCILIATION)
    if found.missing or found.undelivered:
        note("'basiq-async replay' or 'basiq-async recover' delivers the missing messages")
        raise typer.Exit(1)


@asynccontextmanager
async def _open_inbox(inbox: str | None, receiver: str | None) -> AsyncIterator[Inbox]:
    if (inbox is None) == (receiver is None):
        raise ConfigurationError("name the inbox with either --inbox or --receiver")
    if receiver is not None:
        async with open_receiver(receiver) as opened:
            yield opened.inbox
        return
    assert inbox is not None  # noqa: S101  # one of the two was given
    from ..receiver import SQLiteInbox

    if not os.path.isfile(inbox):  # noqa: ASYNC240  # a single check, before the work begins
        raise ConfigurationError(f"the inbox file {inbox!r} does not exist")
    async with SQLiteInbox(inbox) as made:
        yield made
