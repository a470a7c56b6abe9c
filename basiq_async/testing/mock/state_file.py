"""Keep a fake's state in a file, across runs."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from ..._storage.private_files import replace_private
from ..._work.tasks import wait_uncancelled
from ...errors import ConfigurationError
from ..fake._fake import FakeBasiq

logger = logging.getLogger("basiq_async.testing")
EVERY = 0.5
"""Seconds between two looks for a change that is to be saved."""


@asynccontextmanager
async def keeping_state(fake: FakeBasiq, path: str | os.PathLike[str]) -> AsyncGenerator[None]:
    """Restore a fake from a file if it exists. Save the fake within a second of each change, and at the end."""
    file = Path(path)
    load_state(fake, file)
    save_state(fake, file)  # fail now, not at the end, if the file cannot be written
    saver = asyncio.create_task(_save_changes(fake, file), name="basiq-async fake state")
    try:
        yield
    finally:
        saver.cancel()
        cancelled = await wait_uncancelled(saver)
        save_state(fake, file)
        if cancelled is not None:
            raise cancelled


async def _save_changes(fake: FakeBasiq, file: Path) -> None:
    saved, failed = _revisions(fake), False
    while True:
        await asyncio.sleep(EVERY)
        if (found := _revisions(fake)) != saved:
            try:
                save_state(fake, file)
                saved, failed = found, False
            except ConfigurationError as error:  # such as a full disk: try again, until it works
                if not failed:
                    logger.error("%s; it is tried again", error)
                failed = True


def _revisions(fake: FakeBasiq) -> list[tuple[FakeBasiq, int]]:
    return [(each, each._changes.revision) for each in (fake, *fake.states.values())]


def load_state(fake: FakeBasiq, path: str | os.PathLike[str]) -> bool:
    """Restore a fake from a file. Return False if it does not exist. Raises ``ConfigurationError`` if it is invalid."""
    snapshot = _read(path)
    if snapshot is None:
        return False
    fake.restore(snapshot)
    return True


def load_api_key(path: str | os.PathLike[str]) -> str | None:
    """Return the API key in a state file; None without one. Raises ``ConfigurationError``."""
    found = (_read(path) or {}).get("api_key")
    return None if found is None else str(found)


def _read(path: str | os.PathLike[str]) -> dict[str, object] | None:
    try:
        snapshot = json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"the state file {os.fspath(path)} cannot be read: {_reason(error)}") from error
    if not isinstance(snapshot, dict):
        raise ConfigurationError(f"the state file {os.fspath(path)} holds no state of a fake")
    return snapshot


def save_state(fake: FakeBasiq, path: str | os.PathLike[str]) -> None:
    """Write a fake's state to a file. Only its owner can read it, because it has keys and secrets.

    The file is replaced at once. Raises ``ConfigurationError`` if it cannot be written.
    """
    write_private(Path(path), json.dumps(fake.snapshot()).encode(), "state file")


def write_private(file: Path, content: bytes, what: str) -> None:
    """Replace a file at once, readable only by its owner. Raises ``ConfigurationError`` if it cannot be written."""
    try:
        replace_private(file, content)
    except OSError as error:
        raise ConfigurationError(f"the {what} {file} cannot be written: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else "it is not JSON"
