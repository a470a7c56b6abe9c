"""``basiq-async login``, ``logout``, ``whoami`` and ``profiles``."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import attrs

from .._wire.urls import VENDOR_URL
from ..errors import ConfigurationError
from . import _profiles
from ._completion import option
from ._options import Json
from ._output import is_terminal, note, session
from ._results import Column, Output
from ._run import open_client, run, run_until_signal

if TYPE_CHECKING:
    from ..client import BasiqClient


@attrs.frozen(kw_only=True)
class _Who:
    """Where the API key in use comes from, without the key itself."""

    profile: str | None
    source: str
    base_url: str
    key_digest: str
    webhooks: int
    profiles: Sequence[str]


_PROFILES: Sequence[Column[_profiles.Profile]] = (
    Column("PROFILE", lambda each: each.profile),
    Column("KEY IN", lambda each: each.key_in),
    Column("BASE URL", lambda each: each.base_url, flexible=16),
)


def login(
    base_url: Annotated[
        str | None, option("The API's URL for this key. By default BASIQ_BASE_URL, or else Basiq's own.")
    ] = None,
    check: Annotated[bool, option("Check first that Basiq accepts the key.", "--check/--no-check")] = True,
    json: Json = None,
) -> None:
    """Store an API key as a profile (basiq-async --profile NAME login). The key is read from standard input.

    The key is stored in the operating system's keyring if the library 'keyring' is installed and finds one. Otherwise
    it is stored in a file that only you can read.
    """
    name = session().profile or os.environ.get("BASIQ_PROFILE") or _profiles.DEFAULT
    url = base_url or os.environ.get("BASIQ_BASE_URL") or VENDOR_URL
    key = _read_key()

    async def main() -> None:
        async with open_client(key, url) as basiq:
            if check:
                await basiq.event_types.list().first()

    run_until_signal(main)
    place = _profiles.store(name, key, url)
    note(f"the API key of profile {name!r} was stored in the {place}")
    Output(json).one(_profiles.Profile(profile=name, key_in=place, base_url=url))


def logout(json: Json = None) -> None:
    """Remove a profile and its key (basiq-async --profile NAME logout)."""
    name = session().profile or os.environ.get("BASIQ_PROFILE") or _profiles.DEFAULT
    if not _profiles.remove(name):
        raise ConfigurationError(f"there is no profile {name!r}")
    Output(json).one({"profile": name, "removed": True})


def whoami(json: Json = None) -> None:
    """Show where the API key in use comes from, and check that Basiq accepts it. The key itself is not shown."""
    found = _profiles.settings()

    async def work(basiq: BasiqClient) -> int:
        return len(await basiq.webhooks.list().collect())

    webhooks = run(work)
    digest = hashlib.sha256((found.api_key or "").encode(errors="replace")).hexdigest()[:12]
    who = _Who(
        profile=found.profile,
        source=found.source,
        base_url=found.base_url,
        key_digest=f"sha256:{digest}",
        webhooks=webhooks,
        profiles=_profiles.names(),
    )
    Output(json).one(who)


def profiles(json: Json = None) -> None:
    """List the profiles: their names, base URLs, and where their keys are stored. No key is shown."""
    found = _profiles.describe()
    Output(json).rows(found, _PROFILES, _profiles.Profile)
    if not found:
        note("there are no profiles; make one with 'basiq-async login'")


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
