"""``basiq-async webhooks …``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ..client import BasiqClient
from ..errors import ConfigurationError
from ..models import Webhook
from ._run import run, show

webhooks_app = typer.Typer(help="Subscriptions: list, create, change, delete.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="JSON lines, as when the output is piped.")]
WebhookId = Annotated[str, typer.Argument(help="The webhook's id.")]
Url = Annotated[str, typer.Option(help="The url that Basiq is to call.")]
Event = Annotated[list[str], typer.Option("--event", help="A type of event, such as user.created; repeat it.")]
Name = Annotated[str | None, typer.Option(help="A name for people.")]
Description = Annotated[str | None, typer.Option(help="A text for people.")]
SecretFile = Annotated[
    Path | None, typer.Option(help="Write the signing secret to this new file, readable by you alone.")
]


def _row(webhook: Webhook) -> dict[str, Any]:
    return {
        "id": webhook.id,
        "url": webhook.url,
        "status": webhook.status,
        "subscribed_events": webhook.subscribed_events,
        "name": webhook.name,
        "description": webhook.description,
    }


def _check_free(file: Path | None) -> None:
    if file is not None and file.exists():
        raise ConfigurationError(f"{file} exists already; name a new file for the secret")


def _keep_secret(webhook: Webhook, file: Path | None) -> None:
    if file is None:
        return
    if webhook.secret is None:
        raise ConfigurationError("this answer holds no secret: only creating and updating give one")
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(webhook.secret.reveal())


@webhooks_app.command("list")
def list_(json: Json = False) -> None:
    """Show all webhooks."""

    async def work(basiq: BasiqClient) -> list[Webhook]:
        return await basiq.webhooks.list().collect()

    show(map(_row, run(work)), as_json=json)


@webhooks_app.command("get")
def get(webhook_id: WebhookId, json: Json = False) -> None:
    """Show one webhook."""

    async def work(basiq: BasiqClient) -> Webhook:
        return await basiq.webhooks.get(webhook_id)

    show([_row(run(work))], as_json=json)


@webhooks_app.command("create")
def create(
    url: Url,
    event: Event,
    name: Name = None,
    description: Description = None,
    secret_file: SecretFile = None,
    json: Json = False,
) -> None:
    """Subscribe a url. The signing secret is shown nowhere; --secret-file keeps it."""

    async def work(basiq: BasiqClient) -> Webhook:
        _check_free(secret_file)
        made = await basiq.webhooks.create(url=url, subscribed_events=event, name=name, description=description)
        _keep_secret(made, secret_file)
        return made

    show([_row(run(work))], as_json=json)


@webhooks_app.command("ensure")
def ensure(
    url: Url,
    event: Event,
    name: Name = None,
    description: Description = None,
    secret_file: SecretFile = None,
    json: Json = False,
) -> None:
    """Find the webhook with this url, or create it, or bring it up to date."""

    async def work(basiq: BasiqClient) -> Webhook:
        _check_free(secret_file)
        found = await basiq.webhooks.ensure(url=url, subscribed_events=event, name=name, description=description)
        if found.secret is not None:
            _keep_secret(found, secret_file)
        return found

    show([_row(run(work))], as_json=json)


@webhooks_app.command("update")
def update(
    webhook_id: WebhookId,
    url: Url,
    event: Annotated[list[str] | None, typer.Option("--event", help="A type of event; repeat it.")] = None,
    name: Name = None,
    description: Description = None,
    secret_file: SecretFile = None,
    json: Json = False,
) -> None:
    """Change a webhook; what is not named stays."""

    async def work(basiq: BasiqClient) -> Webhook:
        _check_free(secret_file)
        changed = await basiq.webhooks.update(
            webhook_id, url=url, subscribed_events=event or None, name=name, description=description
        )
        _keep_secret(changed, secret_file)
        return changed

    show([_row(run(work))], as_json=json)


@webhooks_app.command("delete")
def delete(webhook_id: WebhookId) -> None:
    """Delete a webhook."""

    async def work(basiq: BasiqClient) -> None:
        await basiq.webhooks.delete(webhook_id)

    run(work)
    typer.echo(f"deleted {webhook_id}")


@webhooks_app.command("wait")
def wait(
    webhook_id: WebhookId,
    timeout: Annotated[float, typer.Option(help="Seconds to wait at most.")] = 900.0,
    json: Json = False,
) -> None:
    """Wait until a webhook is active."""

    async def work(basiq: BasiqClient) -> Webhook:
        return await basiq.webhooks.wait_until_active(webhook_id, timeout=timeout)

    show([_row(run(work))], as_json=json)
