"""A file that keeps a fake's state across runs."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from ..._concurrency.tasks import wait_uncancelled
from ..._storage.private_files import replace_private
from ...errors import ConfigurationError
from ..fake._fake import FakeBasiq

SOONEST, LATEST = 0.1, 1.0
"""Seconds from a change to its save, at least and at most: saving is to take a tenth of the time."""


@asynccontextmanager
async def keeping_state(fake: FakeBasiq, path: str | os.PathLike[str]) -> AsyncGenerator[None]:
    """Restore a fake from a file that exists; save it within a second of each change, and at the end."""
    file = Path(path)
    load_state(fake, file)
    save_state(fake, file)  # a file that cannot be written is an error now, not at the end
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
    saved, wait = _revisions(fake), SOONEST
    while True:
        await asyncio.sleep(wait)
        if (found := _revisions(fake)) != saved:
            saved, began = found, time.perf_counter()
            save_state(fake, file)
            wait = min(max(10 * (time.perf_counter() - began), SOONEST), LATEST)


def _revisions(fake: FakeBasiq) -> list[tuple[FakeBasiq, int]]:
    return [(each, each.revision) for each in (fake, *fake.states.values())]


def load_state(fake: FakeBasiq, path: str | os.PathLike[str]) -> bool:
    """Restore a fake from a file. False if the file does not exist. Raises ConfigurationError."""
    snapshot = _read(path)
    if snapshot is None:
        return False
    fake.restore(snapshot)
    return True


def load_api_key(path: str | os.PathLike[str]) -> str | None:
    """The first API key of the state in a file; None if the file does not exist. Raises ConfigurationError."""
    snapshot = _read(path)
    if snapshot is None:
        return None
    applications = snapshot.get("applications")
    if not isinstance(applications, dict) or not applications:
        raise ConfigurationError(f"the state file {os.fspath(path)} holds no state of a fake")
    return str(next(iter(applications)))


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
    """Write a fake's state to a file that only its owner can read: it holds keys and secrets.

    The file is replaced as a whole. Raises ConfigurationError where it cannot be written.
    """
    write_private(Path(path), json.dumps(fake.snapshot()).encode(), "state file")


def write_private(file: Path, content: bytes, what: str) -> None:
    """Replace a file, as a whole, by one that only its owner can read. Raises ConfigurationError."""
    try:
        replace_private(file, content)
    except OSError as error:
        raise ConfigurationError(f"the {what} {file} cannot be written: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else "it is not JSON"
