"""``basiq-async webhooks …``."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from ..errors import ConfigurationError
from ._completion import event_types, option
from ._doctor import doctor
from ._options import Json, SecretFile, WebhookId, Yes, expand_event_types, new_secret_file, program_line
from ._output import is_terminal, live, note, write
from ._results import Output
from ._run import confirm, run
from ._views import WEBHOOKS, WebhookView

if TYPE_CHECKING:
    from ..client import BasiqClient
    from ..models import EnsuredWebhook, Secret, Webhook

W = TypeVar("W", bound="Webhook")

webhooks_app = typer.Typer(help="Subscriptions: list, create, change, check, delete.", no_args_is_help=True)

Url = Annotated[str, typer.Option(help="The URL that Basiq calls.")]
Event = Annotated[
    list[str],
    typer.Option(
        "--event",
        help="An event type such as user.created, or several such as consent.*; may be repeated.",
        autocompletion=event_types,
    ),
]
Name = Annotated[str | None, option("A name for people.")]
Description = Annotated[str | None, option("A description for people.")]
NewSecretFile = Annotated[
    Path | None, option("Write the signing secret to this new file, which only you can read.", "--secret-file")
]


@webhooks_app.command("list")
def list_(json: Json = None) -> None:
    """Show all webhooks."""

    async def work(basiq: BasiqClient) -> list[Webhook]:
        return await basiq.webhooks.list().collect()

    found = run(work)
    Output(json).rows(map(WebhookView.of, found), WEBHOOKS, WebhookView)
    if not found:
        note("there are no webhooks; create one with 'basiq-async webhooks create'")


@webhooks_app.command("get")
def get(webhook_id: WebhookId, json: Json = None) -> None:
    """Show one webhook."""

    async def work(basiq: BasiqClient) -> Webhook:
        return await basiq.webhooks.get(webhook_id)

    Output(json).one(WebhookView.of(run(work)))


@webhooks_app.command("create")
def create(
    url: Url,
    event: Event,
    name: Name = None,
    description: Description = None,
    secret_file: NewSecretFile = None,
    json: Json = None,
) -> None:
    """Subscribe a URL. The signing secret is not shown; --secret-file writes it to a file."""

    async def work(basiq: BasiqClient) -> Webhook:
        types = await expand_event_types(basiq, event)
        return await basiq.webhooks.create(url=url, subscribed_events=types, name=name, description=description)

    _tell_secret(_show_and_keep(work, secret_file, json), secret_file)


@webhooks_app.command("ensure")
def ensure(
    url: Url,
    event: Event,
    name: Name = None,
    description: Description = None,
    remove_event_types: Annotated[
        bool, option("Remove the event types that are not named.", "--remove-event-types")
    ] = False,
    secret_file: NewSecretFile = None,
    json: Json = None,
) -> None:
    """Create the webhook with this URL, or update it if it exists and differs. Reactivate it if it is disabled.

    Event types of the webhook that are not named stay, unless --remove-event-types is given.
    """

    async def work(basiq: BasiqClient) -> EnsuredWebhook:
        types = await expand_event_types(basiq, event)
        return await basiq.webhooks.ensure(
            url=url,
            subscribed_events=types,
            name=name,
            description=description,
            remove_event_types=remove_event_types,
        )

    found = _show_and_keep(work, secret_file, json)
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


@webhooks_app.command("update")
def update(
    webhook_id: WebhookId,
    url: Annotated[str | None, option("The URL that Basiq calls.")] = None,
    event: Annotated[
        list[str] | None,
        typer.Option(
            "--event",
            help="An event type such as user.created, or several such as consent.*; may be repeated.",
            autocompletion=event_types,
        ),
    ] = None,
    name: Name = None,
    description: Description = None,
    secret_file: NewSecretFile = None,
    json: Json = None,
) -> None:
    """Change the named fields of a webhook. With only --secret-file, nothing changes, and the secret is written to it.

    Basiq reactivates a disabled webhook when it is updated.
    """
    if url is None and not event and name is None and description is None and secret_file is None:
        raise ConfigurationError("pass at least one of --url, --event, --name, --description and --secret-file")

    async def work(basiq: BasiqClient) -> Webhook:
        types = await expand_event_types(basiq, event) if event else None
        return await _change(basiq, webhook_id, url=url, event=types, name=name, description=description)

    changed = _show_and_keep(work, secret_file, json)
    if secret_file is not None:
        _tell_secret(changed, secret_file)


@webhooks_app.command("reactivate")
def reactivate(webhook_id: WebhookId, secret_file: NewSecretFile = None, json: Json = None) -> None:
    """Make a disabled webhook active again, and change nothing else."""

    async def work(basiq: BasiqClient) -> Webhook:
        return await basiq.webhooks.reactivate(webhook_id)

    found = _show_and_keep(work, secret_file, json)
    if secret_file is not None:
        _tell_secret(found, secret_file)


webhooks_app.command("doctor")(doctor)


@webhooks_app.command("secret")
def secret(
    webhook_id: WebhookId,
    secret_file: NewSecretFile = None,
    show: Annotated[bool, option("Print it in a terminal, where it stays on the screen.", "--show")] = False,
    json: Json = None,
) -> None:
    """Show the signing secret of a webhook again, in a file or in a pipe.

    Basiq returns the secret only in response to an update, so the webhook is updated with its own values. Basiq
    reactivates a disabled webhook when it is updated. No source says whether an update makes a new secret: use the
    secret that is shown.
    """

    async def work(basiq: BasiqClient) -> tuple[str, Secret]:
        if secret_file is None and is_terminal(sys.stdout) and not show:
            raise ConfigurationError(
                "the secret would stay on the screen: use --secret-file FILE or a pipe, or pass --show"
            )
        with new_secret_file(secret_file) as file:
            updated = await basiq.webhooks.reactivate(webhook_id)
            _keep(updated, file)
            if updated.secret is None:
                raise ConfigurationError("Basiq's response to the update holds no secret")
            return updated.id, updated.secret

    found, value = run(work)
    if secret_file is not None:
        note(f"the secret is in {str(secret_file)!r}")
    elif json is not None:
        Output(json).one({"id": found, "secret": value.reveal()})
    else:
        write(value.reveal())


@webhooks_app.command("delete")
def delete(webhook_id: WebhookId, yes: Yes = False, json: Json = None) -> None:
    """Delete a webhook with its messages. Asks first."""
    confirm(f"Delete the webhook {webhook_id} with its messages?", yes=yes)

    async def work(basiq: BasiqClient) -> None:
        await basiq.webhooks.delete(webhook_id)

    run(work)
    Output(json).one({"id": webhook_id, "deleted": True})


@webhooks_app.command("wait")
def wait(
    webhook_id: WebhookId,
    timeout: Annotated[
        float, typer.Option(min=0, help="Maximum seconds to wait. The cool-off takes up to 15 minutes.")
    ] = 1020.0,
    json: Json = None,
) -> None:
    """Wait until a webhook is active."""

    async def work(basiq: BasiqClient) -> Webhook:
        async with _countdown(timeout):
            return await basiq.webhooks.wait_until_active(webhook_id, timeout=timeout)

    Output(json).one(WebhookView.of(run(work)))


async def _change(
    basiq: BasiqClient,
    webhook_id: str,
    *,
    url: str | None = None,
    event: list[str] | None = None,
    name: str | None = None,
    description: str | None = None,
) -> Webhook:
    # All fields are sent, because the reference does not say whether an update clears a missing field.
    current = await basiq.webhooks.get(webhook_id)
    return await basiq.webhooks.update(
        webhook_id,
        url=url if url is not None else current.url,
        subscribed_events=event or current.subscribed_events or None,
        name=name if name is not None else current.name,
        description=description if description is not None else current.description,
    )


def _show_and_keep(work: Callable[[BasiqClient], Awaitable[W]], secret_file: Path | None, json: str | None) -> W:
    """Create or change a webhook with ``work``, show it, and write its secret to ``secret_file``, if one is named."""

    async def work_and_keep(basiq: BasiqClient) -> W:
        with new_secret_file(secret_file) as file:
            webhook = await work(basiq)
            _keep(webhook, file)
            return webhook

    kept = run(work_and_keep)
    Output(json).one(WebhookView.of(kept))
    return kept


def _keep(webhook: Webhook, file: SecretFile | None) -> None:
    if file is not None and webhook.secret is not None:
        file.write(webhook.secret)


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
