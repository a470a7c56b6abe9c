"""``basiq-async login``, ``logout``, ``whoami`` and ``profiles``: API keys that are stored by name."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from .._wire.urls import VENDOR_URL
from ..errors import ConfigurationError
from ._command import command
from ._options import YesOption
from ._output import is_terminal, say, session
from ._results import Column, Output, Row, View
from ._run import DONE, WRONG, confirm, make_client
from ._settings import DEFAULT, Settings, entries, find_settings, given_base_url, names, remove, store

if TYPE_CHECKING:
    from ..client import BasiqClient
    from ..models import Webhook

_PROFILE: View[Row] = View(
    "profile base_url",
    Column("PROFILE", "profile"),
    Column("BASE URL", "base_url", flexible=16),
)


def _chosen() -> str:
    return session().profile or os.environ.get("BASIQ_PROFILE") or DEFAULT


@command(shows=_PROFILE)
def login(
    output: Output,
    base_url: str | None = None,
    check: bool = True,
) -> Awaitable[None]:
    """Store an API key, read from standard input, in a file that only you can read (basiq-async --profile NAME login).

    base_url: The API's URL for this key. By default BASIQ_BASE_URL, or else Basiq's own.
    check: Check first that Basiq accepts the key.
    """
    if base_url is not None:
        if session().base_url not in (None, base_url):
            raise ConfigurationError("--base-url is given twice, with two values: leave one of them out")
        session().base_url = base_url
    name, (url, _) = _chosen(), given_base_url() or (VENDOR_URL, "")
    key = _read_key()

    async def work() -> None:
        async with make_client(Settings(key, url, "standard input")) as basiq:
            if check:
                await basiq.event_types.list().first()
        store(name, key, url)
        say(f"the API key of profile {name!r} was stored")
        output.one({"profile": name, "base_url": url})

    return work()


@command(View("profile removed"))
def logout(yes: YesOption = False) -> Row:
    """Remove a profile and its key (basiq-async --profile NAME logout). Asks first."""
    name = _chosen()
    if name not in names():
        raise ConfigurationError(f"there is no profile {name!r}")
    confirm(f"Remove the profile {name} and its key?", yes=yes)
    remove(name)
    return {"profile": name, "removed": True}


@command(shows=View("profile source base_url key_digest webhooks refused"))
async def whoami(output: Output) -> int:
    """Show where the API key in use comes from, and check that Basiq accepts it. The key itself is not shown.

    A key can lack the permission for single endpoints. "refused" names the reads of this program to which Basiq
    responds 403, and the exit code is then 1. Whether a key may write, only a write shows.
    """
    found = find_settings()
    async with make_client(found) as basiq:
        webhooks, refused = await _try_reads(basiq)
    digest = hashlib.sha256((found.api_key or "").encode(errors="replace")).hexdigest()[:12]
    output.one(
        {
            "profile": found.profile,
            "source": found.source,
            "base_url": found.base_url,
            "key_digest": f"sha256:{digest}",
            "webhooks": webhooks,
            "refused": refused,
        }
    )
    return WRONG if refused else DONE


async def _try_reads(basiq: BasiqClient) -> tuple[int | None, list[str]]:
    """Return the number of webhooks, and the reads that are refused. Raises the error if all of them are."""
    from ..errors import NotFoundError, PermissionDeniedError
    from ..services.resources import EVENT_TYPES, EVENTS, MESSAGES, WEBHOOKS

    webhooks: list[Webhook] | None = None
    refused: list[str] = []

    async def list_webhooks() -> None:
        nonlocal webhooks
        webhooks = await basiq.webhooks.list().collect()

    async def list_messages() -> None:
        with suppress(NotFoundError):  # without a webhook; the key may read its messages
            await basiq.messages.list(webhooks[0].id if webhooks else _NO_WEBHOOK, page_size=1).first()

    reads: Mapping[str, Callable[[], Awaitable[object]]] = {
        WEBHOOKS.path: list_webhooks,
        MESSAGES.path: list_messages,
        EVENT_TYPES.path: lambda: basiq.event_types.list().first(),
        EVENTS.path: lambda: basiq.events.list().first(),
    }
    for path, read in reads.items():
        try:
            await read()
        except PermissionDeniedError:
            refused.append(f"GET {path}")
            if len(refused) == len(reads):
                raise
    return None if webhooks is None else len(webhooks), refused


_NO_WEBHOOK = "00000000-0000-4000-8000-000000000000"


@command(_PROFILE, empty="there are no profiles; make one with 'basiq-async login'")
def profiles() -> Sequence[Row]:
    """List the profiles: their names and base URLs. No key is shown."""
    return [
        {"profile": name, "base_url": str(entry.get("base_url") or VENDOR_URL)}
        for name, entry in sorted(entries().items())
    ]


def _read_key() -> str:
    if sys.stdin is None:
        raise ConfigurationError("the API key is read from standard input, which is closed")
    if is_terminal(sys.stdin):
        import getpass

        key = getpass.getpass("API key (not shown): ")
    else:
        key = sys.stdin.readline()
    if not key.strip():
        raise ConfigurationError("no API key was entered")
    return key.strip()
