"""A file that keeps a fake's state across runs."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from .._tasks import wait_out
from ..errors import ConfigurationError
from .fake._fake import FakeBasiq

SECONDS = 1.0
"""How long a change may wait to be saved."""


@asynccontextmanager
async def keeping_state(fake: FakeBasiq, path: str | os.PathLike[str]) -> AsyncGenerator[None]:
    """Restore a fake from a file where there is one, save it within a second of a change, and at the end."""
    file = Path(path)
    load_state(fake, file)
    save_state(fake, file)  # a file that cannot be written is an error now, not at the end
    saver = asyncio.create_task(_save_changes(fake, file), name="basiq-async fake state")
    try:
        yield
    finally:
        saver.cancel()
        cancelled = await wait_out(saver)
        save_state(fake, file)
        if cancelled is not None:
            raise cancelled


async def _save_changes(fake: FakeBasiq, file: Path) -> None:
    saved = fake.revision
    while True:
        await asyncio.sleep(SECONDS)
        if fake.revision != saved:
            saved = fake.revision
            save_state(fake, file)


def load_state(fake: FakeBasiq, path: str | os.PathLike[str]) -> bool:
    """Restore a fake from a file. False where there is no such file. Raises ConfigurationError."""
    try:
        snapshot = json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        return False
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"the state file {os.fspath(path)} cannot be read: {_reason(error)}") from error
    if not isinstance(snapshot, dict):
        raise ConfigurationError(f"the state file {os.fspath(path)} holds no state of a fake")
    fake.restore(snapshot)
    return True


def save_state(fake: FakeBasiq, path: str | os.PathLike[str]) -> None:
    """Write a fake's state to a file that only its owner can read: it holds keys and secrets.

    The file is replaced as a whole. Raises ConfigurationError where it cannot be written.
    """
    file = Path(path)
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        try:
            with os.fdopen(handle, "wb") as out:
                out.write(json.dumps(fake.snapshot()).encode())
                out.flush()
                os.fsync(out.fileno())
            Path(temporary).replace(file)
        except BaseException:
            with suppress(OSError):
                Path(temporary).unlink()
            raise
    except OSError as error:
        raise ConfigurationError(f"the state file {file} cannot be written: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else "it is not JSON"
