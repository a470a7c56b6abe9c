"""``basiq-async login``, ``logout``, ``whoami`` and ``profiles``: API keys that are stored by name."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Awaitable, Sequence

from .._wire.urls import VENDOR_URL
from ..errors import ConfigurationError
from ._command import command
from ._options import Yes
from ._output import is_terminal, note, session
from ._results import ROWS, Column, Output, Row, View
from ._run import confirm, make_client
from ._settings import DEFAULT, Settings, entries, find_settings, given_base_url, names, remove, store

_PROFILE: View[Row] = View(
    "profile base_url",
    Column("PROFILE", "profile"),
    Column("BASE URL", "base_url", flexible=16),
)


def _chosen() -> str:
    return session().profile or os.environ.get("BASIQ_PROFILE") or DEFAULT


@command()
def login(
    output: Output,
    base_url: str | None = None,
    check: bool = True,
) -> Awaitable[None]:
    """Store an API key as a profile (basiq-async --profile NAME login). The key is read from standard input.

    It is stored in a file that only you can read.

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
        note(f"the API key of profile {name!r} was stored")
        output.one({"profile": name, "base_url": url})

    return work()


@command(ROWS)
def logout(yes: Yes = False) -> Row:
    """Remove a profile and its key (basiq-async --profile NAME logout). Asks first."""
    name = _chosen()
    if name not in names():
        raise ConfigurationError(f"there is no profile {name!r}")
    confirm(f"Remove the profile {name} and its key?", yes=yes)
    remove(name)
    return {"profile": name, "removed": True}


@command(ROWS)
async def whoami() -> Row:
    """Show where the API key in use comes from, and check that Basiq accepts it. The key itself is not shown."""
    found = find_settings()
    async with make_client(found) as basiq:
        webhooks = len(await basiq.webhooks.list().collect())
    digest = hashlib.sha256((found.api_key or "").encode(errors="replace")).hexdigest()[:12]
    return {
        "profile": found.profile,
        "source": found.source,
        "base_url": found.base_url,
        "key_digest": f"sha256:{digest}",
        "webhooks": webhooks,
    }


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
