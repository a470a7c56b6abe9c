"""Commands that check the real API: ``basiq-async webhooks doctor`` and ``basiq-async compare``."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from ..errors import CheckpointError, ConfigurationError
from ._completion import webhook_ids
from ._options import SECRET_VARIABLE, Json, open_receiver, read_secrets
from ._output import live, note
from ._results import Column, Output, Shape, attributes, cell_text, shows
from ._run import run, run_until_signal
from ._shapes import problem_details, problem_rows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..client import BasiqClient
    from ..services.diagnosis import Diagnosis, Recovered
    from ..testing import Comparison, Difference


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
    if found.recovered:
        yield "recovered", f"{found.recovered:,} messages and events that had not been delivered"
    yield "looked at", f"{found.looked_at:,} messages and events, {'all' if found.complete else 'the newest'}"
    if found.earliest is not None and found.latest is not None:
        yield "messages", f"from {cell_text(found.earliest)} to {cell_text(found.latest)}"
    yield from problem_details(found.problems)


_DIAGNOSIS: Shape[Diagnosis] = Shape(
    {
        "id": lambda found: found.webhook.id,
        "url": lambda found: found.webhook.url,
        **attributes("status", "healthy"),
        "problems": lambda found: problem_rows(found.problems),
        **attributes("cool_off_left", "failed_share", "last_success", "undelivered", "never_sent", "recovered"),
        **attributes("dead_letters", "quarantined"),
        "endpoint_status": lambda found: found.endpoint.status if found.endpoint else None,
        "endpoint_error": lambda found: found.endpoint.error if found.endpoint else None,
        **attributes("looked_at", "earliest", "latest", "complete"),
    },
    details=_diagnosis_details,
)


@shows(_DIAGNOSIS)
def doctor(
    webhook_id: Annotated[
        str | None, typer.Argument(help="The webhook; all webhooks by default.", autocompletion=webhook_ids)
    ] = None,
    test: Annotated[
        bool, typer.Option("--test", help=f"Post a signed test to its URL. {SECRET_VARIABLE} must hold the secret.")
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
            help="The --checkpoint of a recovery: messages and events that it delivered are not a problem. By default "
            "the files in this folder of a recovery to the webhook's URL, or to --receiver.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=0, metavar="N", help="Read the newest N messages and N events; 0 for all.")
    ] = 2_000,
    json: Json = None,
) -> None:
    """Find out whether webhooks work, and if not, why. The exit code is 1 if a webhook has a problem.

    Checks the status, the cool-off, the event types, the latest attempts, and the messages and events that a recovery
    would deliver. A message or event is no problem if a recovery delivered it, or the inbox of --receiver handled it.
    It is a problem if messages or events were not read, since there may be more to recover. Changes nothing at Basiq.
    """
    output = Output(json)

    async def work(basiq: BasiqClient) -> bool:
        secrets = read_secrets(secret_file) if test or secret_file is not None else None
        async with AsyncExitStack() as stack:
            found = None
            if receiver is not None:
                found = await stack.enter_async_context(open_receiver(receiver))
            ids = [webhook_id] if webhook_id is not None else [each.id async for each in basiq.webhooks.list()]
            if not ids:
                raise ConfigurationError("there is no webhook; create one with 'basiq-async webhooks create'")
            healthy = True
            for each in ids:
                live(f"checking webhook {each}")
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
    note("no problems found")


async def _recovered_by(webhook_id: str, target: str, checkpoint: str | None) -> Recovered | None:
    from ..replay import recovered_by
    from ._recover import checkpoint_base, checkpoints_at

    base = checkpoint or checkpoint_base(webhook_id, target, {"since": None, "until": None, "event": None})
    try:
        return await recovered_by(webhook_id, *checkpoints_at(base))
    except CheckpointError:
        if checkpoint is not None:
            raise
        return None  # a recovery is running: what it delivered counts only when it has ended


_DIFFERENCE: Shape[Difference] = Shape(
    attributes("request", "where", "real", "fake"),
    (
        Column("REQUEST", lambda found: found.request),
        Column("WHERE", lambda found: found.where, flexible=True),
        Column("REAL", lambda found: found.real, flexible=True),
        Column("FAKE", lambda found: found.fake, flexible=True),
    ),
)


@shows(_DIFFERENCE)
def compare(
    shapes: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Write the shapes, without values, to this new file, for a bug report.",
            show_default=False,
        ),
    ] = None,
    json: Json = None,
) -> None:
    """Compare each response of the real API with the fake's response to the same request.

    The exit code is 1 if any differ. Needs an API key, and sends about 30 GET requests and one token request. Compares
    shapes and not values: status, relevant headers, fields, types, forms of links, and paging.
    """
    if shapes is not None:
        _require_new(Path(shapes))
    found = run_until_signal(_compare)
    Output(json).rows(found.differences, _DIFFERENCE)
    if shapes is not None:
        found.write_shapes(shapes)
        note(f"the shapes were written to {shapes!r}, without values")
    if found.skipped:
        note(f"not compared, because the account has no data for them: {', '.join(found.skipped)}")
    if found.differences:
        raise typer.Exit(1)
    note(f"no differences in {found.requests} requests")


def _require_new(file: Path) -> None:
    """Raise ConfigurationError if the file exists or its folder does not. Called before the first request."""
    if os.path.lexists(file):
        raise ConfigurationError(f"{str(file)!r} exists: pass another file, or remove it")
    if not file.parent.is_dir():
        raise ConfigurationError(f"{str(file)!r} cannot be written: its folder does not exist")


async def _compare() -> Comparison:
    from ..testing import compare as compare_with_fake
    from ._profiles import settings

    given = settings()
    return await compare_with_fake(given.api_key, base_url=given.base_url)
