"""The settings of a client, and the file that stores API keys by name, which only its owner can read."""

from __future__ import annotations

import json as json_module
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import typer

from .._redaction.text import shell_line
from .._storage.private_files import replace_private
from .._wire.urls import VENDOR_URL, find_base_url
from ..errors import ConfigurationError
from ._output import session
from ._shell import PROGRAM

DEFAULT = "default"


@attrs.frozen
class Settings:
    """The API key and base URL for a client. ``source`` tells people where the key comes from."""

    api_key: str | None = attrs.field(repr=False)
    base_url: str
    source: str
    profile: str | None = None


def given_base_url(*, of_environment: bool = True) -> tuple[str, str] | None:
    """Return the base URL that the user gave, and the name of what gave it; None if nothing did.

    ``--base-url`` goes before ``BASIQ_BASE_URL``. Raises ``ConfigurationError`` for one that is empty.
    """
    url, where = session().base_url, "--base-url"
    if url is None and of_environment:
        url, where = find_base_url(), "BASIQ_BASE_URL"
    if url == "":
        raise ConfigurationError("--base-url is empty: give it a value, or leave it out")
    return None if url is None else (url, where)


def find_settings() -> Settings:
    """Return the settings: ``--profile`` first, then ``BASIQ_API_KEY``, then ``BASIQ_PROFILE``, then ``default``.

    A profile's key is sent only to the profile's own base URL. Raises ``ConfigurationError``.
    """
    chosen = session().profile
    key = os.environ.get("BASIQ_API_KEY")
    given = given_base_url(of_environment=chosen is None)
    if chosen is None and key is not None:
        return Settings(key, VENDOR_URL if given is None else given[0], "BASIQ_API_KEY")
    name = chosen or os.environ.get("BASIQ_PROFILE") or DEFAULT
    entry = entries().get(name)
    if entry is None:
        if chosen is None and not os.environ.get("BASIQ_PROFILE"):
            raise ConfigurationError("no API key: set BASIQ_API_KEY, or store one with 'basiq-async login'")
        line = shell_line([PROGRAM, "--profile", name, "login"])
        raise ConfigurationError(f"there is no profile {name!r}; make it with: {line}")
    key, own = entry.get("api_key"), str(entry.get("base_url") or VENDOR_URL)
    if not isinstance(key, str):
        raise ConfigurationError(f"the key of profile {name!r} is not in the file any more: log in again")
    if given is not None and given[0].rstrip("/") != own.rstrip("/"):
        raise ConfigurationError(
            f"{given[1]} differs from {own}, which the key of profile {name!r} is for: "
            "set BASIQ_API_KEY too, pass --profile, or leave the URL out"
        )
    return Settings(key, own, f"profile {name}", name)


def names() -> list[str]:
    """Return the names of all profiles."""
    return sorted(entries())


def store(name: str, api_key: str, base_url: str) -> None:
    """Store a profile."""
    _write({**entries(), name: {"base_url": base_url, "api_key": api_key}})


def remove(name: str) -> None:
    """Remove a profile and its key."""
    _write({each: entry for each, entry in entries().items() if each != name})


def _file() -> Path:
    folder = Path(typer.get_app_dir("basiq-async"))
    if not folder.is_absolute():  # as "~" stays, for a user without a home
        raise ConfigurationError("no folder for the profiles: this user has no home. Set HOME, or BASIQ_API_KEY")
    return folder / "profiles.json"


def entries() -> dict[str, dict[str, Any]]:
    """Return what the file has of each profile, by its name."""
    file = _file()
    try:
        with open(file, encoding="utf-8") as stream:
            if os.name == "posix" and stat.S_IMODE(os.fstat(stream.fileno()).st_mode) & 0o077:
                line = shell_line(["chmod", "600", str(file)])
                raise ConfigurationError(f"others can read {file}: replace the API keys in it, and run: {line}")
            found = json_module.load(stream)
    except FileNotFoundError:
        return {}
    except ConfigurationError:  # which is a ValueError
        raise
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is not JSON"
        raise ConfigurationError(f"the profiles in {file} cannot be read: {why}") from None
    profiles = found.get("profiles") if isinstance(found, dict) else None
    if not isinstance(profiles, dict) or not all(isinstance(entry, dict) for entry in profiles.values()):
        raise ConfigurationError(f"the profiles in {file} cannot be read: remove the file and log in again")
    return profiles


def _write(found: Mapping[str, Mapping[str, Any]]) -> None:
    file = _file()
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_private(file, json_module.dumps({"profiles": found}, indent=2).encode())
    except OSError as exc:
        raise ConfigurationError(f"the profiles cannot be written to {file}: {exc.strerror}") from None
