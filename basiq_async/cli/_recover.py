"""``basiq-async recover``: everything that a service missed, from both sources, in the right order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConfigurationError, ReplayError
from ._event_types import check_event_types
from ._options import EndpointSecretFile, EventPattern, Json, Since, Until, WebhookId
from ._output import Output, live
from ._replay import default_path
from ._run import run
from ._selection import selection

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
        bool, typer.Option("--everything", help="With --to: post what Basiq says it delivered, too.")
    ] = False,
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

    What happens while a webhook is not active makes no message; the event list still has it for 7 days. With --to,
    messages that Basiq delivered are not posted again, and each event is posted once. Interrupted, the same line goes
    on. Ends with 1 where something is left or out of reach.
    """
    from ._job import CommandLine, ProgressLine, named_options
    from ._recovery import RECOVERY, open_target

    chosen: dict[str, Any] = {"since": since, "until": until, "event": event}
    base = checkpoint or default_path(webhook_id, to or receiver or "", chosen).replace("-replay-", "-recover-")[:-3]
    given = {
        "to": to, "receiver": receiver, "everything": everything, **chosen, "rate": rate, "concurrency": concurrency,
        "checkpoint": base, "secret_file": secret_file, "json": json is not None,
    }  # fmt: skip
    again = CommandLine("recover", webhook_id, options=named_options(given, defaults={"concurrency": 32}))
    output = Output(json)

    async def work(basiq: BasiqClient) -> Recovery:
        from ..replay import SQLiteCheckpoint
        from ..replay import recover as bring

        if (to is None) == (receiver is None):
            raise ConfigurationError("say where to, with one of --to and --receiver")
        await check_event_types(basiq, event)
        async with open_target(to, receiver, base, everything, concurrency, secret_file) as (target, inbox):
            try:
                return await bring(
                    basiq,
                    webhook_id,
                    target,
                    checkpoint=SQLiteCheckpoint(f"{base}-messages.db"),
                    events_checkpoint=SQLiteCheckpoint(f"{base}-events.db"),
                    inbox=inbox,
                    where=selection(**chosen),
                    concurrency=concurrency,
                    rate=rate,
                    progress=ProgressLine(),
                )
            except ReplayError:
                again.show()
                raise
            finally:
                live("")

    found = run(work)
    output.one(found, RECOVERY)
    for report, source in ((found.messages, "messages"), (found.events, "events")):
        if report.dead:
            kept = {
                "source": source,
                "checkpoint": f"{base}-{source}.db",
                "to": to,
                **chosen,
                "secret_file": secret_file,
            }
            CommandLine("replay", webhook_id, options=named_options(kept)).show(
                "--retry-dead", introduction=f"{report.dead:,} are kept; try them again with:"
            )
    if not found.finished:
        raise typer.Exit(1)
