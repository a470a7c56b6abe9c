"""What can be done with dead letters besides trying them again."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

from .._storage.private_files import open_new
from ..errors import ConfigurationError, ReplayError
from .checkpoints._base import Checkpoint, Commit, DeadLetter


async def each_letter(checkpoint: Checkpoint) -> AsyncIterator[DeadLetter]:
    """Go through the dead letters of an open checkpoint, oldest first."""
    after = 0
    while letters := await checkpoint.dead_letters(after=after):
        for letter in letters:
            yield letter
        after = letters[-1].number


async def export(checkpoint: Checkpoint, path: str | os.PathLike[str]) -> int:
    """Write the dead letters to a new file, a line of JSON each; return how many there were."""
    lines = [json.dumps(_as_json(letter), separators=(",", ":")) + "\n" async for letter in each_letter(checkpoint)]
    try:
        await asyncio.to_thread(_write, Path(path), lines)
    except FileExistsError:
        raise ConfigurationError(f"there is a file {os.fspath(path)!r} already: pass another path") from None
    except OSError as exc:
        raise ReplayError(f"the file {os.fspath(path)!r} cannot be written: {exc.strerror}") from exc
    return len(lines)


async def drop(checkpoint: Checkpoint, ids: Iterable[str]) -> int:
    """Remove the dead letters with these ids; return how many there were."""
    wanted = frozenset(ids)
    found = [letter.id async for letter in each_letter(checkpoint) if letter.id in wanted]
    if found:
        await checkpoint.save(Commit(revived=found))
    return len(found)


def _as_json(letter: DeadLetter) -> dict[str, Any]:
    return {
        "number": letter.number,
        "id": letter.id,
        "error": letter.error,
        "failedAt": letter.failed_at.isoformat(),
        "message": letter.message,
    }


def _write(path: Path, lines: Iterable[str]) -> None:
    with os.fdopen(open_new(path), "w", encoding="ascii") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
