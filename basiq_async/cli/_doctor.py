"""``basiq-async webhooks doctor``: is a webhook well, and what helps where it is not."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from ..errors import CheckpointError, ConfigurationError
from ._completion import webhook_ids
from ._options import SECRET_VARIABLE, Json, read_secrets
from ._output import Output, Shape, cell_text, live, note
from ._run import run
from ._shapes import problem_details, problem_rows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..client import BasiqClient
    from ..services.diagnosis import Diagnosis, Recovered


def doctor(
    webhook_id: Annotated[
        str | None, typer.Argument(help="The webhook; all of them by default.", autocompletion=webhook_ids)
    ] = None,
    test: Annotated[
        bool, typer.Option("--test", help=f"Post a signed test to its URL from here; {SECRET_VARIABLE} has the secret.")
    ] = False,
    secret_file: Annotated[
        Path | None, typer.Option(help="The file with the signing secret, for the test.", show_default=False)
    ] = None,
    receiver: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:RECEIVER", help="Compare with the handlers of this WebhookReceiver.", show_default=False
        ),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="The files of a recovery, as recover --checkpoint: what they delivered is not a problem. By default "
            "those of a recovery to its URL, or to --receiver, in this folder.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=0, metavar="N", help="Look at the newest N messages and N events; 0 for all.")
    ] = 2_000,
    json: Json = None,
) -> None:
    """Find out whether webhooks work and what is wrong where they do not. Ends with 1 where something is.

    Looks at the status, the cool-off, the event types, the attempts of late, and what a recovery would deliver. What
    a recovery delivered, or the inbox of --receiver has handled, is not a problem. A look at a part of the messages and
    events does not show a webhook to be well. Nothing is changed at Basiq.
    """
    output = Output(json)

    async def work(basiq: BasiqClient) -> bool:
        secrets = read_secrets(secret_file) if test or secret_file is not None else None
        async with AsyncExitStack() as stack:
            found = None
            if receiver is not None:
                from ._options import open_receiver

                found = await stack.enter_async_context(open_receiver(receiver))
            ids = [webhook_id] if webhook_id is not None else [each.id async for each in basiq.webhooks.list()]
            if not ids:
                raise ConfigurationError("there is no webhook; 'basiq-async webhooks create' makes one")
            healthy = True
            for each in ids:
                live(f"looking at webhook {each}")
                url = receiver or (await basiq.webhooks.get(each)).url
                diagnosis = await basiq.webhooks.diagnose(
                    each,
                    receiver=found,
                    secret=secrets,
                    recovered=await _recovered_by(each, url, checkpoint),
                    max_items=limit,
                )
                live("")
                output.one(attrs.evolve(diagnosis, receiver=receiver, checkpoint=checkpoint), _DIAGNOSIS)
                healthy = healthy and diagnosis.healthy
            return healthy

    if not run(work):
        raise typer.Exit(1)
    note("all is well")


async def _recovered_by(webhook_id: str, target: str, checkpoint: str | None) -> Recovered | None:
    from ..replay import recovered_by
    from ._recover import checkpoint_base, checkpoints_at

    base = checkpoint or checkpoint_base(webhook_id, target, {"since": None, "until": None, "event": None})
    try:
        return await recovered_by(webhook_id, *checkpoints_at(base))
    except CheckpointError:
        if checkpoint is not None:
            raise
        return None  # a recovery is under way: what it has brought by now counts when it has ended


def _diagnosis_row(found: Diagnosis) -> dict[str, Any]:
    return {
        "id": found.webhook.id,
        "url": found.webhook.url,
        "status": found.status,
        "healthy": found.healthy,
        "problems": problem_rows(found.problems),
        "cool_off_left": found.cool_off_left,
        "failed_share": found.failed_share,
        "last_success": found.last_success,
        "undelivered": found.undelivered,
        "never_sent": found.never_sent,
        "brought": found.brought,
        "dead_letters": found.dead_letters,
        "quarantined": found.quarantined,
        "endpoint_status": found.endpoint.status if found.endpoint else None,
        "endpoint_error": found.endpoint.error if found.endpoint else None,
        "looked_at": found.looked_at,
        "earliest": found.earliest,
        "latest": found.latest,
        "complete": found.complete,
    }


def _diagnosis_details(found: Diagnosis) -> Iterable[tuple[str, Any]]:
    yield "webhook", found.webhook.id
    yield "url", found.webhook.url
    yield "status", found.status
    if found.cool_off_left:
        yield "cool-off left", f"{found.cool_off_left:.0f} s at most"
    if found.endpoint is not None:
        yield "signed test", found.endpoint.error or found.endpoint.status
    yield "failed of late", "no attempts" if found.failed_share is None else f"{found.failed_share:.0%} of the attempts"
    yield "last success", found.last_success
    yield "to recover", f"{found.undelivered} messages, {found.never_sent} events without a message"
    if found.brought:
        yield "recovered", f"{found.brought:,} messages and events that had not been delivered"
    yield "looked at", f"{found.looked_at:,} messages and events, {'all' if found.complete else 'the newest'}"
    if found.earliest is not None and found.latest is not None:
        yield "messages", f"from {cell_text(found.earliest)} to {cell_text(found.latest)}"
    yield from problem_details(found.problems)


_DIAGNOSIS: Shape[Diagnosis] = Shape(
    (
        "id", "url", "status", "healthy", "problems", "cool_off_left", "failed_share", "last_success", "undelivered",
        "never_sent", "brought", "dead_letters", "quarantined", "endpoint_status", "endpoint_error", "looked_at",
        "earliest", "latest", "complete",
    ),
    _diagnosis_row,
    details=_diagnosis_details,
)  # fmt: skip
