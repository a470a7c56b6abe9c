"""``basiq-async webhooks …``."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigurationError
from ._doctor import doctor
from ._options import (
    Json,
    WebhookId,
    Yes,
    complete_event_type,
    expand_event_types,
    new_secret_file,
    option,
    program_line,
)
from ._output import is_terminal, live, note, write
from ._results import Column, Output, Row, View
from ._run import confirm, make_client

if TYPE_CHECKING:
    from ..models import EnsuredWebhook, Webhook

webhooks_app = typer.Typer(help="Subscriptions: list, create, change, check, delete.", no_args_is_help=True)

Url = Annotated[str, typer.Option(help="The URL that Basiq calls.")]
_EVENT = typer.Option(
    "--event",
    help="An event type such as user.created, or several such as consent.*; may be repeated.",
    autocompletion=complete_event_type,
)
Event = Annotated[list[str], _EVENT]
Name = Annotated[str | None, option("A name for people.")]
Description = Annotated[str | None, option("A description for people.")]
SecretFile = Annotated[
    Path | None, option("Write the signing secret to this new file, which only you can read.", "--secret-file")
]


def _events_cell(webhook: Row) -> str:
    events = webhook["subscribed_events"]
    return ", ".join(events) if len(events) <= 2 else f"{len(events)} types"


_WEBHOOK: View[Webhook] = View(
    "id url status subscribed_events name description",
    Column("ID", "id"),
    Column("STATUS", "status"),
    Column("URL", "url", flexible=16),
    Column("EVENTS", _events_cell, flexible=16, optional=True),
    Column("NAME", lambda webhook: webhook["name"] or "", flexible=16, optional=True),
)
_ENSURED: View[EnsuredWebhook] = View(" ".join([*_WEBHOOK.names, "action"]))


@webhooks_app.command("list")
async def list_(json: Json = None) -> None:
    """Show all webhooks."""
    async with make_client() as basiq:
        found = await basiq.webhooks.list().collect()
    Output(json).rows(found, _WEBHOOK)
    if not found:
        note("there are no webhooks; create one with 'basiq-async webhooks create'")


@webhooks_app.command()
async def get(webhook_id: WebhookId, json: Json = None) -> None:
    """Show one webhook."""
    async with make_client() as basiq:
        Output(json).one(await basiq.webhooks.get(webhook_id), _WEBHOOK)


@webhooks_app.command()
async def create(
    url: Url,
    event: Event,
    name: Name = None,
    description: Description = None,
    secret_file: SecretFile = None,
    json: Json = None,
) -> None:
    """Subscribe a URL. The signing secret is not shown; --secret-file writes it to a file."""
    with new_secret_file(secret_file) as keep:
        async with make_client() as basiq:
            types = await expand_event_types(basiq, event)
            made = await basiq.webhooks.create(url=url, subscribed_events=types, name=name, description=description)
            keep(made)
    Output(json).one(made, _WEBHOOK)
    _tell_secret(made, secret_file)


@webhooks_app.command()
async def ensure(
    url: Url,
    event: Event,
    name: Name = None,
    description: Description = None,
    remove_event_types: Annotated[
        bool, option("Remove the event types that are not named.", "--remove-event-types")
    ] = False,
    secret_file: SecretFile = None,
    json: Json = None,
) -> None:
    """Create the webhook with this URL, or update it if it exists and differs. Reactivate it if it is disabled.

    Event types that are not named stay subscribed, unless --remove-event-types is given.
    """
    with new_secret_file(secret_file) as keep:
        async with make_client() as basiq:
            found = await basiq.webhooks.ensure(
                url=url,
                subscribed_events=await expand_event_types(basiq, event),
                name=name,
                description=description,
                remove_event_types=remove_event_types,
            )
            keep(found)
    Output(json).one(found, _ENSURED)
    if found.kept_event_types:
        note(
            f"the webhook stays subscribed to {', '.join(found.kept_event_types)}; to remove them, pass "
            "--remove-event-types"
        )
    if found.removed_event_types:
        note(f"the webhook is no longer subscribed to {', '.join(found.removed_event_types)}")
    if found.secret is not None:
        _tell_secret(found, secret_file)
    elif secret_file is not None:
        note(
            f"nothing changed, so Basiq did not send the secret, and {str(secret_file)!r} was not written; "
            f"get the secret with: {_line_for_secret(found)}"
        )


@webhooks_app.command()
async def update(
    webhook_id: WebhookId,
    url: Annotated[str | None, option("The URL that Basiq calls.")] = None,
    event: Annotated[list[str] | None, _EVENT] = None,
    name: Name = None,
    description: Description = None,
    secret_file: SecretFile = None,
    json: Json = None,
) -> None:
    """Change the named fields of a webhook. With only --secret-file, nothing changes, and the secret is written to it.

    Basiq reactivates a disabled webhook when it is updated.
    """
    if url is None and not event and name is None and description is None and secret_file is None:
        raise ConfigurationError("pass at least one of --url, --event, --name, --description and --secret-file")
    with new_secret_file(secret_file) as keep:
        async with make_client() as basiq:
            types = await expand_event_types(basiq, event) if event else None
            # All fields are sent: the reference does not say whether an update clears a missing field.
            current = await basiq.webhooks.get(webhook_id)
            changed = await basiq.webhooks.update(
                webhook_id,
                url=url if url is not None else current.url,
                subscribed_events=types or current.subscribed_events or None,
                name=name if name is not None else current.name,
                description=description if description is not None else current.description,
            )
            keep(changed)
    Output(json).one(changed, _WEBHOOK)
    if secret_file is not None:
        _tell_secret(changed, secret_file)


@webhooks_app.command()
async def reactivate(webhook_id: WebhookId, secret_file: SecretFile = None, json: Json = None) -> None:
    """Make a disabled webhook active again, and change nothing else."""
    with new_secret_file(secret_file) as keep:
        async with make_client() as basiq:
            found = await basiq.webhooks.reactivate(webhook_id)
            keep(found)
    Output(json).one(found, _WEBHOOK)
    if secret_file is not None:
        _tell_secret(found, secret_file)


webhooks_app.command()(doctor)


@webhooks_app.command()
async def secret(
    webhook_id: WebhookId,
    secret_file: SecretFile = None,
    show: Annotated[bool, option("Print it in a terminal, where it stays on the screen.", "--show")] = False,
    json: Json = None,
) -> None:
    """Show the signing secret of a webhook again, in a file or in a pipe.

    Basiq returns the secret only in response to an update, so the webhook is updated with its own values. Basiq
    reactivates a disabled webhook when it is updated. No source says whether an update makes a new secret: use the
    secret that is shown.
    """
    if secret_file is None and is_terminal(sys.stdout) and not show:
        raise ConfigurationError(
            "the secret would stay on the screen: use --secret-file FILE or a pipe, or pass --show"
        )
    with new_secret_file(secret_file) as keep:
        async with make_client() as basiq:
            updated = await basiq.webhooks.reactivate(webhook_id)
            keep(updated)
    if updated.secret is None:
        raise ConfigurationError("Basiq's response to the update holds no secret")
    if secret_file is not None:
        note(f"the secret is in {str(secret_file)!r}")
    elif json is not None:
        Output(json).one({"id": updated.id, "secret": updated.secret.reveal()})
    else:
        write(updated.secret.reveal())


@webhooks_app.command()
def delete(webhook_id: WebhookId, yes: Yes = False, json: Json = None) -> Awaitable[None]:
    """Delete a webhook with its messages. Asks first."""
    confirm(f"Delete the webhook {webhook_id} with its messages?", yes=yes)

    async def work() -> None:
        async with make_client() as basiq:
            await basiq.webhooks.delete(webhook_id)
        Output(json).one({"id": webhook_id, "deleted": True})

    return work()


@webhooks_app.command()
async def wait(
    webhook_id: WebhookId,
    timeout: Annotated[
        float, typer.Option(min=0, help="Maximum seconds to wait. The cool-off takes up to 15 minutes.")
    ] = 1020.0,
    json: Json = None,
) -> None:
    """Wait until a webhook is active."""
    async with make_client() as basiq, _countdown(timeout):
        found = await basiq.webhooks.wait_until_active(webhook_id, timeout=timeout)
    Output(json).one(found, _WEBHOOK)


def _tell_secret(webhook: Webhook, file: Path | None) -> None:
    if file is not None and webhook.secret is not None:
        note(f"the secret was written to {str(file)!r}")
    else:
        note(f"the webhook's secret was not stored; get it with: {_line_for_secret(webhook)}")


def _line_for_secret(webhook: Webhook) -> str:
    return program_line("webhooks secret", webhook.id, options={"--secret-file": "FILE"})


@asynccontextmanager
async def _countdown(seconds: float) -> AsyncIterator[None]:
    """Show the time left in the status line during a wait."""
    import asyncio

    async def tick() -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while True:
            left = max(0, round(end - loop.time()))
            live(f"waiting for the webhook to become active, {left // 60}:{left % 60:02} left")
            await asyncio.sleep(0.5)

    ticking = asyncio.create_task(tick())
    try:
        yield
    finally:
        ticking.cancel()
        await asyncio.wait([ticking])
        live(None)
