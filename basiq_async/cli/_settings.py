"""The settings of a client, and where API keys are stored by name: in the operating system's keyring, or in a file.

Only the file's owner can read it.
"""

from __future__ import annotations

import json as json_module
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import typer

from .._redaction.text import PROGRAM, shell_line
from .._storage.private_files import replace_private
from .._wire.urls import VENDOR_URL
from ..errors import ConfigurationError
from ._output import session

DEFAULT = "default"
_SERVICE = "basiq-async"


@attrs.frozen
class Settings:
    """The API key and base URL for a client. ``source`` tells people where the key comes from."""

    api_key: str | None = attrs.field(repr=False)
    base_url: str
    source: str
    profile: str | None = None


def find_settings() -> Settings:
    """Return the settings: ``--profile`` first, then ``BASIQ_API_KEY``, then ``BASIQ_PROFILE``, then ``default``.

    ``--base-url`` is as good as ``BASIQ_BASE_URL``, and goes before it.
    A profile's key is sent only to the profile's own base URL. Raises ``ConfigurationError``.
    """
    chosen = session().profile
    key = os.environ.get("BASIQ_API_KEY")
    asked = session().base_url
    base_url = os.environ.get("BASIQ_BASE_URL") if asked is None else asked
    if base_url == "" and chosen is None:
        # A command in a script probably failed to set it. Basiq's own address instead would call production.
        raise ConfigurationError("BASIQ_BASE_URL is set and empty: give it a value, or unset it")
    if chosen is None and key is not None:
        return Settings(key, VENDOR_URL if base_url is None else base_url, "BASIQ_API_KEY")
    name = chosen or os.environ.get("BASIQ_PROFILE") or DEFAULT
    found = read(name)
    if found is None:
        if chosen is None and not os.environ.get("BASIQ_PROFILE"):
            raise ConfigurationError("no API key: set BASIQ_API_KEY, or store one with 'basiq-async login'")
        line = shell_line([PROGRAM, "--profile", name, "login"])
        raise ConfigurationError(f"there is no profile {name!r}; make it with: {line}")
    if (chosen is None or asked) and base_url is not None and base_url.rstrip("/") != found.base_url.rstrip("/"):
        where = "BASIQ_BASE_URL" if asked is None else "--base-url"
        raise ConfigurationError(
            f"{where} differs from {found.base_url}, which the key of profile {name!r} is for: "
            "set BASIQ_API_KEY too, pass --profile, or leave the URL out"
        )
    return found


def read(name: str) -> Settings | None:
    """Return a profile's settings, or None if the profile does not exist."""
    entry = entries().get(name)
    if entry is None:
        return None
    place, key = entry.get("key_in"), entry.get("api_key")
    if place == "keyring":
        key = None
        if (keyring := _keyring()) is not None:
            with suppress(Exception):
                key = keyring.get_password(_SERVICE, name)
    if not isinstance(key, str):
        raise ConfigurationError(f"the key of profile {name!r} is not in the {place or 'file'} any more: log in again")
    return Settings(key, str(entry.get("base_url") or VENDOR_URL), f"profile {name} ({place})", name)


def names() -> list[str]:
    """Return the names of all profiles."""
    return sorted(entries())


def store(name: str, api_key: str, base_url: str) -> str:
    """Store a profile. Return where its key was stored: ``keyring`` or ``file``."""
    entry = {"base_url": base_url, "key_in": "file", "api_key": api_key}
    if (keyring := _keyring()) is not None:
        with suppress(Exception):
            keyring.set_password(_SERVICE, name, api_key)
            if keyring.get_password(_SERVICE, name) == api_key:
                entry = {"base_url": base_url, "key_in": "keyring"}
    _write({**entries(), name: entry})
    return entry["key_in"]


def remove(name: str) -> bool:
    """Remove a profile and its key. Return whether the profile existed."""
    found = entries()
    entry = found.pop(name, None)
    if entry is None:
        return False
    if entry.get("key_in") == "keyring" and (keyring := _keyring()) is not None:
        try:
            keyring.delete_password(_SERVICE, name)
        except Exception as exc:
            raise ConfigurationError(f"the keyring did not remove the key of profile {name!r}") from exc
    _write(found)
    return True


def _file() -> Path:
    return Path(typer.get_app_dir("basiq-async")) / "profiles.json"


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


def _keyring() -> Any:
    """Return the optional library ``keyring`` if it has a keyring here. Where it fails, the file is used."""
    if os.environ.get("BASIQ_NO_KEYRING"):
        return None
    try:
        import keyring
        from keyring.backends import fail

        return None if isinstance(keyring.get_keyring(), fail.Keyring) else keyring
    except Exception:
        return None
