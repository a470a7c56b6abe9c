"""``basiq-async webhooks doctor``: is a webhook well, and what helps where it is not."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._shell import command_line
from ..errors import ConfigurationError
from ._completion import webhook_ids
from ._files import SECRET_VARIABLE, read_secrets
from ._options import Json
from ._output import Output, Shape, live, note
from ._run import run

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..client import BasiqClient
    from ..diagnosis import Diagnosis


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
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Look at N messages and at N events at most.")] = 2_000,
    json: Json = None,
) -> None:
    """Find out whether webhooks work and what is wrong where they do not. Ends with 1 where something is.

    Looks at the status, the cool-off, the event types, the attempts of late, and what recovery would bring. Nothing is
    changed at Basiq.
    """
    output = Output(json)

    async def work(basiq: BasiqClient) -> bool:
        secrets = read_secrets(secret_file) if test or secret_file is not None else None
        async with AsyncExitStack() as stack:
            found = None
            if receiver is not None:
                from ._receivers import open_receiver

                found = await stack.enter_async_context(open_receiver(receiver))
            ids = [webhook_id] if webhook_id is not None else [each.id async for each in basiq.webhooks.list()]
            if not ids:
                raise ConfigurationError("there is no webhook; 'basiq-async webhooks create' makes one")
            healthy = True
            for each in ids:
                live(f"looking at webhook {each}")
                diagnosis = await basiq.webhooks.diagnose(each, receiver=found, secret=secrets, max_items=limit)
                live("")
                output.one(diagnosis, _DIAGNOSIS)
                healthy = healthy and diagnosis.healthy
            return healthy

    if not run(work):
        raise typer.Exit(1)
    note("all is well")


def _row(found: Diagnosis) -> dict[str, Any]:
    return {
        "id": found.webhook.id,
        "url": found.webhook.url,
        "status": found.status,
        "healthy": found.healthy,
        "problems": [{"code": problem.code, "text": str(problem)} for problem in found.problems],
        "cool_off_left": found.cool_off_left,
        "failed_share": found.failed_share,
        "last_success": found.last_success,
        "undelivered": found.undelivered,
        "never_sent": found.never_sent,
        "endpoint_status": found.endpoint.status if found.endpoint else None,
        "endpoint_error": found.endpoint.error if found.endpoint else None,
        "looked_at": found.looked_at,
        "complete": found.complete,
    }


def _details(found: Diagnosis) -> Iterable[tuple[str, Any]]:
    yield "webhook", found.webhook.id
    yield "url", found.webhook.url
    yield "status", found.status
    if found.cool_off_left:
        yield "cool-off left", f"{found.cool_off_left:.0f} s at most"
    if found.endpoint is not None:
        yield "signed test", found.endpoint.error or found.endpoint.status
    yield "failed of late", "no attempts" if found.failed_share is None else f"{found.failed_share:.0%} of the attempts"
    yield "last success", found.last_success
    yield "recovery brings", f"{found.undelivered} messages, {found.never_sent} events without a message"
    if not found.complete:
        yield "looked at", f"{found.looked_at:,} messages and events, and there are more; --limit N"
    for problem in found.problems:
        yield "problem", str(problem)
    if found.undelivered or found.never_sent:
        yield "what helps", command_line("recover", found.webhook.id, options={"--to": found.webhook.url})


_DIAGNOSIS: Shape[Diagnosis] = Shape(
    (
        "id", "url", "status", "healthy", "problems", "cool_off_left", "failed_share", "last_success", "undelivered",
        "never_sent", "endpoint_status", "endpoint_error", "looked_at", "complete",
    ),
    _row,
    details=_details,
)  # fmt: skip
