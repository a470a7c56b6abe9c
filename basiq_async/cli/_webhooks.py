"""``basiq-async webhooks …``."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from ..errors import ConfigurationError
from ._command import Group
from ._doctor import doctor
from ._inboxes import InboxPlace, open_inbox
from ._options import WebhookId, complete_event_type, expand_event_types, option, program_line
from ._output import is_terminal, live, say, write
from ._results import Column, Output, Row, View

if TYPE_CHECKING:
    from ..client import BasiqClient
    from ..models import EnsuredWebhook, Secret, Webhook

W = TypeVar("W", bound="Webhook")
webhooks_app = Group("Subscriptions: list, create, change, check, delete.")

UrlOption = Annotated[str, typer.Option(help="The URL that Basiq calls.")]
_EVENT = typer.Option(
    "--event",
    help="An event type such as user.created, or several such as consent.*; may be repeated.",
    autocompletion=complete_event_type,
)
EventOption = Annotated[list[str], _EVENT]
NameOption = Annotated[str | None, option("A name for people.")]
DescriptionOption = Annotated[str | None, option("A description for people.")]
SecretFileOption = Annotated[
    Path | None,
    option(
        "Write the signing secret to this file, which only you can read. One that is there stays for 28 hours.",
        "--secret-file",
    ),
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
_ENSURED: View[EnsuredWebhook] = View(" ".join([*_WEBHOOK.names, "action", "joined"]))


@webhooks_app.add(_WEBHOOK, empty="there are no webhooks; create one with 'basiq-async webhooks create'", name="list")
async def list_(basiq: BasiqClient) -> Sequence[Webhook]:
    """Show all webhooks."""
    return await basiq.webhooks.list().collect()


@webhooks_app.add(_WEBHOOK)
async def get(basiq: BasiqClient, webhook_id: WebhookId) -> Webhook:
    """Show one webhook."""
    return await basiq.webhooks.get(webhook_id)


@webhooks_app.add(_WEBHOOK)
async def create(
    basiq: BasiqClient,
    url: UrlOption,
    event: EventOption,
    name: NameOption = None,
    description: DescriptionOption = None,
    secret_file: SecretFileOption = None,
) -> Webhook:
    """Subscribe a URL. The signing secret is not shown; --secret-file writes it to a file."""
    types = await expand_event_types(basiq, event)
    named = {"url": url, "subscribed_events": types, "name": name, "description": description}
    return await _keep_secret(secret_file, basiq.webhooks.create, **named)


@webhooks_app.add(_ENSURED)
async def ensure(
    basiq: BasiqClient,
    url: UrlOption,
    event: EventOption,
    name: NameOption = None,
    description: DescriptionOption = None,
    move_from: str | None = None,
    remove_event_types: bool = False,
    secret_file: SecretFileOption = None,
    inbox: InboxPlace = None,
) -> EnsuredWebhook:
    """Create the webhook with this URL, or update it if it exists and differs. Reactivate it if it is disabled.

    Event types that are not named stay subscribed, unless --remove-event-types is given.

    With --inbox, the webhook is noted in the service's inbox, if it is empty, or if the webhook took the place of the
    one before: "inbox join" says so otherwise.

    move_from URL: The former URL: its webhook gets the new one, and keeps its id.
    remove_event_types: Remove the event types that are not named.
    """
    types = await expand_event_types(basiq, event)
    async with AsyncExitStack() as stack:
        found: EnsuredWebhook = await _keep_secret(
            secret_file,
            basiq.webhooks.ensure,
            url=url,
            subscribed_events=types,
            name=name,
            description=description,
            move_from=move_from,
            remove_event_types=remove_event_types,
            inbox=None if inbox is None else await stack.enter_async_context(open_inbox(inbox, make=True)),
        )
    if found.action == "elsewhere":
        say(
            f"the webhook {found.name!r} has another URL, and this one gets no deliveries: nothing was done. "
            "If the service has moved, its former URL belongs into --move-from, and gets no more deliveries then; "
            "a second service needs another --name"
        )
    if found.joined is False:
        say(f"the webhook has not joined the inbox; {program_line('inbox join', found.id, options={'--inbox': inbox})}")
    if found.same_name:
        names = ", ".join(found.same_name)
        say(f"created at the same moment as {names}, of the same name: each gets every event; delete one of them")
    if found.kept_event_types:
        kept = ", ".join(found.kept_event_types)
        say(f"the webhook stays subscribed to {kept}; to remove them, pass --remove-event-types")
    if found.removed_event_types:
        say(f"the webhook is no longer subscribed to {', '.join(found.removed_event_types)}")
    return found


@webhooks_app.add(_WEBHOOK)
async def update(
    basiq: BasiqClient,
    webhook_id: WebhookId,
    url: str | None = None,
    event: Annotated[list[str] | None, _EVENT] = None,
    name: NameOption = None,
    description: DescriptionOption = None,
    secret_file: SecretFileOption = None,
) -> Webhook:
    """Change the named fields of a webhook. With only --secret-file, nothing changes, and the secret is written to it.

    An update may reactivate a disabled webhook.

    url: The URL that Basiq calls.
    """
    if url is None and not event and name is None and description is None and secret_file is None:
        raise ConfigurationError("pass at least one of --url, --event, --name, --description and --secret-file")
    types = await expand_event_types(basiq, event) if event else None
    return await _keep_secret(
        secret_file,
        basiq.webhooks.update,
        webhook_id,
        url=url,
        subscribed_events=types,
        name=name,
        description=description,
    )


@webhooks_app.add(_WEBHOOK)
async def reactivate(basiq: BasiqClient, webhook_id: WebhookId, secret_file: SecretFileOption = None) -> Webhook:
    """Make a disabled webhook active again, and change nothing else."""
    return await _keep_secret(secret_file, basiq.webhooks.reactivate, webhook_id)


webhooks_app.command()(doctor)


@webhooks_app.add(shows=View("id secret"))
async def secret(
    basiq: BasiqClient,
    output: Output,
    webhook_id: WebhookId,
    secret_file: SecretFileOption = None,
    show: bool = False,
) -> None:
    """Show the signing secret of a webhook again, in a file or in a pipe.

    The webhook is updated with its own values, which may reactivate it. No source says whether an update makes a new
    secret: use the one that is shown.

    show: Print it in a terminal, where it stays on the screen.
    """
    if secret_file is None and is_terminal(sys.stdout) and not show:
        raise ConfigurationError(
            "the secret would stay on the screen: use --secret-file FILE or a pipe, or pass --show"
        )
    if secret_file is None:
        updated = await basiq.webhooks.update(webhook_id)
    else:
        updated = await _keep_secret(secret_file, basiq.webhooks.update, webhook_id)
    if updated.secret is None:
        raise ConfigurationError("Basiq's response to the update holds no secret")
    if secret_file is not None:
        return
    if output.json is not None:
        output.one({"id": updated.id, "secret": updated.secret.reveal()})
    else:
        write(updated.secret.reveal())


@webhooks_app.add(View("id deleted"), ask=lambda webhook_id: f"Delete the webhook {webhook_id} with its messages?")
async def delete(basiq: BasiqClient, webhook_id: WebhookId) -> Row:
    """Delete a webhook with its messages. Asks first."""
    await basiq.webhooks.delete(webhook_id)
    return {"id": webhook_id, "deleted": True}


@webhooks_app.add(_WEBHOOK)
async def wait(
    basiq: BasiqClient,
    webhook_id: WebhookId,
    timeout: Annotated[float, typer.Option(min=0)] = 1020.0,
) -> Webhook:
    """Wait until a webhook is active.

    timeout: Maximum seconds to wait. The cool-off takes up to 15 minutes.
    """
    live(f"waiting at most {timeout / 60:.0f} minutes for the webhook to become active")
    return await basiq.webhooks.wait_until_active(webhook_id, timeout=timeout)


async def _keep_secret(file: Path | None, request: Callable[..., Awaitable[W]], *given: Any, **named: Any) -> W:
    """Make a request that writes the secret of its webhook to a file, and say where it is.

    Raises ``ConfigurationError`` before the request if the file cannot be written, or holds something else.
    """
    from .._signing.secret_file import SecretFile

    store = None if file is None else SecretFile(file)
    earlier = () if store is None else await store.read()
    found = await request(*given, secret=store, **named)
    _say_where(found, file, earlier)
    return found


def _say_where(found: Webhook, file: Path | None, earlier: Sequence[Secret]) -> None:
    """Say where the secret is that Basiq returned, or how to get it."""
    line = program_line("webhooks secret", found.id, options={"--secret-file": "FILE"})
    if file is None:
        if found.secret is not None:
            say(f"the webhook's secret was not stored; get it with: {line}")
    elif found.secret is not None and found.secret not in earlier:
        kept = ", which keeps the one before for 28 hours" if earlier else ""
        say(f"the secret was written to {str(file)!r}{kept}")
    elif earlier:
        say(f"{str(file)!r} keeps the secret that it has")
    elif found.secret is None:
        say(f"Basiq did not send the secret, and {str(file)!r} was not written; get the secret with: {line}")
