"""``basiq-async webhooks …``."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from .._redaction.tracebacks import hide_arguments
from .._signing.secrets import read_keys
from .._storage.private_files import open_new, read_private, replace_private
from ..errors import ConfigurationError
from ._command import Group
from ._doctor import doctor
from ._options import WebhookId, complete_event_type, expand_event_types, explain, option, program_line
from ._output import is_terminal, live, note, write
from ._results import ROWS, Column, Output, Row, View

if TYPE_CHECKING:
    from ..client import BasiqClient
    from ..models import EnsuredWebhook, Webhook

W = TypeVar("W", bound="Webhook")
webhooks_app = Group("Subscriptions: list, create, change, check, delete.")

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
    url: Url,
    event: Event,
    name: Name = None,
    description: Description = None,
    secret_file: SecretFile = None,
) -> Webhook:
    """Subscribe a URL. The signing secret is not shown; --secret-file writes it to a file."""
    types = await expand_event_types(basiq, event)
    named = {"url": url, "subscribed_events": types, "name": name, "description": description}
    return await _keep_secret(secret_file, basiq.webhooks.create, **named)


@webhooks_app.add(_ENSURED)
async def ensure(
    basiq: BasiqClient,
    url: Url,
    event: Event,
    name: Name = None,
    description: Description = None,
    remove_event_types: bool = False,
    secret_file: SecretFile = None,
) -> EnsuredWebhook:
    """Create the webhook with this URL, or update it if it exists and differs. Reactivate it if it is disabled.

    Event types that are not named stay subscribed, unless --remove-event-types is given. A --secret-file of an earlier
    run stays; if the webhook has another secret by now, the file gets that, and the one before goes to FILE.old.

    remove_event_types: Remove the event types that are not named.
    """
    types = await expand_event_types(basiq, event)
    request = partial(
        basiq.webhooks.ensure,
        url=url,
        subscribed_events=types,
        name=name,
        description=description,
        remove_event_types=remove_event_types,
    )
    found: EnsuredWebhook = await _keep_or_renew(secret_file, request)
    if found.kept_event_types:
        kept = ", ".join(found.kept_event_types)
        note(f"the webhook stays subscribed to {kept}; to remove them, pass --remove-event-types")
    if found.removed_event_types:
        note(f"the webhook is no longer subscribed to {', '.join(found.removed_event_types)}")
    return found


@webhooks_app.add(_WEBHOOK)
async def update(
    basiq: BasiqClient,
    webhook_id: WebhookId,
    url: str | None = None,
    event: Annotated[list[str] | None, _EVENT] = None,
    name: Name = None,
    description: Description = None,
    secret_file: SecretFile = None,
) -> Webhook:
    """Change the named fields of a webhook. With only --secret-file, nothing changes, and the secret is written to it.

    Basiq reactivates a disabled webhook when it is updated.

    url: The URL that Basiq calls.
    """
    if url is None and not event and name is None and description is None and secret_file is None:
        raise ConfigurationError("pass at least one of --url, --event, --name, --description and --secret-file")
    types = await expand_event_types(basiq, event) if event else None
    # All fields are sent: the reference does not say whether an update clears a missing field.
    current = await basiq.webhooks.get(webhook_id)
    return await _keep_secret(
        secret_file,
        basiq.webhooks.update,
        webhook_id,
        url=url if url is not None else current.url,
        subscribed_events=types or current.subscribed_events or None,
        name=name if name is not None else current.name,
        description=description if description is not None else current.description,
    )


@webhooks_app.add(_WEBHOOK)
async def reactivate(basiq: BasiqClient, webhook_id: WebhookId, secret_file: SecretFile = None) -> Webhook:
    """Make a disabled webhook active again, and change nothing else.

    No source says whether the update makes a new secret. A --secret-file of an earlier run stays; if the webhook has
    another secret by now, the file gets that, and the one before goes to FILE.old.
    """
    return await _keep_or_renew(secret_file, partial(basiq.webhooks.reactivate, webhook_id))


webhooks_app.command()(doctor)


@webhooks_app.add()
async def secret(
    basiq: BasiqClient,
    output: Output,
    webhook_id: WebhookId,
    secret_file: SecretFile = None,
    show: bool = False,
) -> None:
    """Show the signing secret of a webhook again, in a file or in a pipe.

    Basiq returns the secret only in response to an update, so the webhook is updated with its own values. Basiq
    reactivates a disabled webhook when it is updated. No source says whether an update makes a new secret: use the
    secret that is shown. A --secret-file of an earlier run is treated as by 'reactivate'.

    show: Print it in a terminal, where it stays on the screen.
    """
    if secret_file is None and is_terminal(sys.stdout) and not show:
        raise ConfigurationError(
            "the secret would stay on the screen: use --secret-file FILE or a pipe, or pass --show"
        )
    if secret_file is not None:
        updated = await _keep_or_renew(secret_file, partial(basiq.webhooks.reactivate, webhook_id))
    else:
        updated = await basiq.webhooks.reactivate(webhook_id)
    if updated.secret is None:
        raise ConfigurationError("Basiq's response to the update holds no secret")
    if secret_file is not None:
        return
    if output.json is not None:
        output.one({"id": updated.id, "secret": updated.secret.reveal()})
    else:
        write(updated.secret.reveal())


@webhooks_app.add(ROWS, ask=lambda webhook_id: f"Delete the webhook {webhook_id} with its messages?")
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
    """Make a request, and write the secret of its webhook to a new file that only its owner can read.

    The file is opened before the request, because Basiq sends the secret only once. It is removed if no secret was
    written. Raises ``ConfigurationError`` if the file (or a link of this name) exists, or cannot be created or written.
    """
    if file is None:
        found = await request(*given, **named)
        if found.secret is not None:
            note(f"the webhook's secret was not stored; get it with: {_line_for_secret(found)}")
        return found
    try:
        descriptor = open_new(file)
    except FileExistsError:
        raise ConfigurationError(f"{str(file)!r} exists already; name a new file for the secret") from None
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"the file {str(file)!r} for the secret cannot be created: {explain(exc)}") from None
    written = False
    try:
        found = await request(*given, **named)
        if found.secret is not None:
            with _told(file):
                os.write(descriptor, found.secret.reveal().encode() + b"\n")
                os.fsync(descriptor)
            written = True
    finally:
        os.close(descriptor)
        if not written:
            with suppress(OSError):
                os.unlink(file)
    if written:
        note(f"the secret was written to {str(file)!r}")
    else:
        why = f"nothing changed, so Basiq did not send the secret, and {str(file)!r} was not written"
        note(f"{why}; get the secret with: {_line_for_secret(found)}")
    return found


async def _keep_or_renew(file: Path | None, request: Callable[[], Awaitable[W]]) -> W:
    """As ``_keep_secret``, but a file of an earlier run may exist: it gets the secret that the webhook has by now."""
    earlier = None if file is None else _read_earlier(file)
    if file is None or earlier is None:
        return await _keep_secret(file, request)
    found = await request()
    _renew(file, earlier, found)
    return found


@hide_arguments
def _read_earlier(file: Path) -> str | None:
    """Return the secret that an earlier run wrote; None if there is no such file. Any other file is refused."""
    why = "holds no signing secret"
    try:
        text = read_private(str(file)).decode().strip()
        read_keys(text)
    except FileNotFoundError:
        return None
    except ConfigurationError:
        pass
    except (OSError, ValueError) as exc:
        why = f"cannot be read: {explain(exc)}"
    else:
        return text
    raise ConfigurationError(f"{str(file)!r} exists already, and {why}; name another file for the secret")


@hide_arguments
def _renew(file: Path, earlier: str, webhook: Webhook) -> None:
    """Write the webhook's secret to the file of an earlier run, if it is another one by now."""
    secret = earlier if webhook.secret is None else webhook.secret.reveal()
    if secret == earlier:
        note(f"{str(file)!r} keeps the secret that it has")
        return
    with _told(file):
        replace_private(f"{file}.old", earlier.encode() + b"\n")
        replace_private(file, secret.encode() + b"\n")
    note(f"the webhook has another secret: it is in {str(file)!r}, and the one before in '{file}.old'")


@contextmanager
def _told(file: Path) -> Iterator[None]:
    """Say what to do if the secret cannot be written."""
    try:
        yield
    except OSError as exc:
        raise ConfigurationError(
            f"the secret could not be written to {str(file)!r}: {exc.strerror}; "
            "'basiq-async webhooks secret' shows it again"
        ) from None


def _line_for_secret(webhook: Webhook) -> str:
    return program_line("webhooks secret", webhook.id, options={"--secret-file": "FILE"})
