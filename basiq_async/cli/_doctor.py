"""Commands that check the real API: ``basiq-async webhooks doctor`` and ``basiq-async compare``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from .._redaction.text import shell_line
from .._wire.hosts import show_url
from ..errors import CheckpointError, ConfigurationError
from ._inboxes import InboxPlace, Receiver, open_checkpoints, open_inbox, open_receiver
from ._options import SECRET_VARIABLE, Json, check_new_file, complete_webhook, option, read_secrets
from ._output import live, note, session
from ._profiles import find_settings
from ._results import Column, Output, Row, View, cell_text
from ._run import make_client
from ._runs import find_recoveries, name_checkpoint

if TYPE_CHECKING:
    from ..services.diagnosis import Diagnosis, Problem, Recovered
    from ..testing import Difference


def problem_rows(problems: Iterable[Problem]) -> Sequence[Row]:
    """Return problems as JSON shows them: with the command that helps as a line for a shell."""
    return [
        {"code": each.code, "text": each.text, "command": shell_line(each.command) if each.command else None}
        for each in problems
    ]


def problem_details(problems: Iterable[Problem], name: str = "problem") -> Iterable[tuple[str, Any]]:
    """Yield the names and texts of problems, each with the command that helps."""
    for each in problems:
        yield name, each.text
        if each.command:
            yield "what helps", shell_line(each.command)


_DIAGNOSIS: View[Diagnosis] = View(
    "id url status healthy problems cool_off_left failed_share by_status disabled_at last_success first_failure "
    "oldest_undelivered undelivered never_sent recovered dead_letters given_up quarantined out_of_reach "
    "endpoint_status endpoint_error looked_at earliest latest complete",
    id=lambda found: found.webhook.id,
    url=lambda found: show_url(found.webhook.url),
    problems=lambda found: problem_rows(found.problems),
    by_status=lambda found: {str(code or "none"): count for code, count in found.by_status.items()},
    out_of_reach=lambda found: [{"since": since, "until": until} for since, until in found.out_of_reach],
    endpoint_status=lambda found: found.endpoint.status if found.endpoint else None,
    endpoint_error=lambda found: found.endpoint.error if found.endpoint else None,
)


def _diagnosis_details(found: Diagnosis) -> Iterable[tuple[str, Any]]:
    yield "webhook", found.webhook.id
    yield "url", show_url(found.webhook.url)
    yield "status", found.status
    if found.cool_off_left:
        yield "cool-off left", f"{found.cool_off_left:.0f} s at most"
    if found.endpoint is not None:
        yield "signed test", found.endpoint.error or found.endpoint.status
    if found.disabled_at is not None:
        yield "disabled at", found.disabled_at
    yield "last success", found.last_success
    if found.first_failure is not None:
        yield "first failure", found.first_failure
    if found.oldest_undelivered is not None:
        yield "undelivered since", found.oldest_undelivered
    counts = [
        f"{count:,} {f'with {code}' if code else 'without a response'}" for code, count in found.by_status.items()
    ]
    yield "attempts in 24 h", ", ".join(counts) or "none"
    if found.failed_share:
        yield "failed recently", f"{found.failed_share:.0%} of the attempts, for messages that are still undelivered"
    yield "to recover", f"{found.undelivered:,} messages, {found.never_sent:,} events without a message"
    if found.recovered:
        yield "recovered", f"{found.recovered:,} messages and events that had not been delivered"
    yield "looked at", f"{found.looked_at:,} messages and events, {'all' if found.complete else 'the newest'}"
    if found.earliest is not None and found.latest is not None:
        yield "messages", f"from {cell_text(found.earliest)} to {cell_text(found.latest)}"
    yield from problem_details(found.problems)


async def doctor(
    webhook_id: Annotated[
        str | None, typer.Argument(help="The webhook; all webhooks by default.", autocompletion=complete_webhook)
    ] = None,
    test: Annotated[
        bool,
        option(
            f"Post a signed test to its URL, with the secret of --receiver, --secret-file or {SECRET_VARIABLE}.",
            "--test",
        ),
    ] = False,
    secret_file: Annotated[Path | None, option("The file with the signing secret, for --test.")] = None,
    receiver: Receiver = None,
    inbox: InboxPlace = None,
    checkpoint: Annotated[
        str | None,
        option(
            "The --checkpoint of a recovery: messages and events that it delivered are not a problem. By default "
            "the files of all recoveries in this folder, and of a replay to the webhook's URL."
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=0, metavar="N", help="Read the newest N messages and N events; 0 for all.")
    ] = 2_000,
    json: Json = None,
) -> int:
    """Find out whether webhooks work, and if not, why.

    The exit code is 1 if a webhook has a problem, and 3 if Basiq, the inbox or a checkpoint gave no usable response.
    Checks the status, the cool-off, the event types, the latest attempts, and the messages and events that a recovery
    would deliver. A message or event is no problem if a recovery delivered it, or the inbox handled it. It is a problem
    if messages or events were not read, since there may be more to recover. Changes nothing at Basiq, and posts nothing
    without --test.
    """
    session().verdict = True
    output = Output(json)

    healthy = True
    async with make_client() as basiq, AsyncExitStack() as stack:
        opened = None if receiver is None else await stack.enter_async_context(open_receiver(receiver))
        known = None if inbox is None else await stack.enter_async_context(open_inbox(inbox))
        secrets = read_secrets(secret_file) if test and (opened is None or secret_file is not None) else None
        ids = [webhook_id] if webhook_id is not None else [each.id async for each in basiq.webhooks.list()]
        if not ids:
            raise ConfigurationError("there is no webhook; create one with 'basiq-async webhooks create'")
        for each in ids:
            live(f"checking webhook {each}")
            url = (await basiq.webhooks.get(each)).url
            diagnosis = await basiq.webhooks.diagnose(
                each,
                receiver=opened,
                inbox=known,
                secret=secrets,
                recovered=await _recovered_by(each, url, checkpoint),
                max_items=limit or None,
                test=test,
            )
            live(None)
            diagnosis = attrs.evolve(diagnosis, receiver=receiver, checkpoint=checkpoint)
            output.one(diagnosis, _DIAGNOSIS, _diagnosis_details(diagnosis))
            healthy = healthy and diagnosis.healthy
    if not healthy:
        return 1
    note("no problems found")
    return 0


async def _recovered_by(webhook_id: str, url: str, checkpoint: str | None) -> Recovered | None:
    """Return what recoveries delivered: that of ``--checkpoint``, or all that left their files in this folder.

    A replay to the webhook's URL counts too. A recovery or replay that selects messages does not.
    """
    from ..replay import SQLiteCheckpoint, recovered_by

    if checkpoint is not None:
        async with open_checkpoints(checkpoint) as both:
            return await recovered_by(webhook_id, *both)
    selected: dict[str, Any] = {"since": None, "until": None, "event": None}
    replayed = name_checkpoint("replay", webhook_id, url, {**selected, "failed": False, "filter": None})
    places = [[f"{base}-messages.db", f"{base}-events.db"] for base in find_recoveries(webhook_id)]
    places += [[file] for file in glob(f"{replayed}.db")]
    found: Recovered | None = None
    for files in places:
        try:
            one = await recovered_by(webhook_id, *map(SQLiteCheckpoint, files))
        except CheckpointError:
            continue
        found = one if found is None else found | one
    return found


_DIFFERENCE: View[Difference] = View(
    "request where real fake",
    Column("REQUEST", "request"),
    Column("WHERE", "where", flexible=16),
    Column("REAL", "real", flexible=16),
    Column("FAKE", "fake", flexible=16),
)


async def compare(
    shapes: Annotated[
        str | None, option("Write the shapes, without values, to this new file, for a bug report.", metavar="FILE")
    ] = None,
    json: Json = None,
) -> int:
    """Compare each response of the real API with the fake's response to the same request.

    The exit code is 1 if any differ, and 3 if Basiq gave no usable response. Needs an API key, and sends about 30 GET
    requests and one token request. Compares shapes and not values: status, relevant headers, fields, types, forms of
    links, and paging.
    """
    from ..testing import compare as compare_with_fake

    session().verdict = True
    if shapes is not None:
        check_new_file(shapes)
    settings = find_settings()
    found = await compare_with_fake(settings.api_key, base_url=settings.base_url)
    Output(json).rows(found.differences, _DIFFERENCE)
    if shapes is not None:
        found.write_shapes(shapes)
        note(f"the shapes were written to {shapes!r}, without values")
    if found.skipped:
        note(f"not compared, because the account has no data for them: {', '.join(found.skipped)}")
    if any(each.where == "status" and each.real.startswith("5") for each in found.differences):
        note("Basiq answered with errors of its own, so this says nothing about the fake")
        return 3
    if found.differences:
        return 1
    note(f"no differences in {found.requests} requests")
    return 0
