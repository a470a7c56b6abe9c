"""``basiq-async recover``: everything that a service missed, from both sources, in the right order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConfigurationError, ReplayError
from ._event_types import check_event_types
from ._options import EndpointSecretFile, EventPattern, Json, Since, Until, WebhookId
from ._output import Output, live
from ._run import run
from ._selection import moment, selection

if TYPE_CHECKING:
    from ..client import BasiqClient
    from ..replay import Recovery


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
            "--everything", help="Also what Basiq delivered when the inbox could not know of it; with --to, all of it."
        ),
    ] = False,
    retry_dead: Annotated[
        bool, typer.Option("--retry-dead", help="Then try again what failed, now or in an earlier run.")
    ] = False,
    acknowledged: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help="What is out of reach before this moment is known: such as 9d, or a date.",
            show_default=False,
        ),
    ] = None,
    since: Since = None,
    until: Until = None,
    event: EventPattern = None,
    rate: Annotated[float | None, typer.Option(help="Messages a second, at most.", show_default=False)] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Messages under way at once, at most.")] = 32,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="The beginning of the names of the files that remember; named after the job by default.",
            show_default=False,
        ),
    ] = None,
    secret_file: EndpointSecretFile = None,
    json: Json = None,
) -> None:
    """Bring a service everything that it missed: first from the message history, then from the events of 7 days.

    What happens while a webhook is not active makes no message; the event list still has it for 7 days. What Basiq
    delivered is left alone where no inbox can say whether it was handled, and always with --to. Each event goes out
    once. Interrupted, the same line goes on. Ends with 1 where something is left or out of reach.
    """
    from ._job import CommandLine, ProgressLine, named_options
    from ._recovery import RECOVERY, checkpoint_base, checkpoints_at, open_target

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
        from ..replay import recover as bring

        if (to is None) == (receiver is None):
            raise ConfigurationError("say where to, with one of --to and --receiver")
        await check_event_types(basiq, event)
        messages, events = checkpoints_at(base)
        async with open_target(to, receiver, base, concurrency, secret_file) as (target, inbox):
            try:
                found = await bring(
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
    output.one(found, RECOVERY)
    if found.dead:
        again.show("--retry-dead", introduction=f"{found.dead:,} are kept; try them again with:")
    if found.quarantined and receiver is not None:
        line = CommandLine("quarantine retry", options={"--receiver": receiver})
        line.show(introduction=f"{found.quarantined:,} are in the quarantine; try them again with:")
    if not found.finished:
        raise typer.Exit(1)
