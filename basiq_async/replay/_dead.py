"""What can be done with dead letters besides trying them again."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
from typing import Protocol

from .._storage.private_files import open_new
from ..errors import ConfigurationError, ReplayError
from .checkpoints._base import Checkpoint, Commit, DeadLetter


class DeadLetterStore(Protocol):
    """Holds dead letters: a checkpoint, a replay, or a job of a fleet."""

    async def dead_letters(self, *, after: int = 0, limit: int = 250) -> Sequence[DeadLetter]:
        """Return up to ``limit`` dead letters with numbers greater than ``after``, oldest first."""
        ...


async def pages(store: DeadLetterStore) -> AsyncIterator[Sequence[DeadLetter]]:
    """Go through the dead letters page by page, oldest first."""
    after = 0
    while letters := await store.dead_letters(after=after):
        yield letters
        after = letters[-1].number


async def export(store: DeadLetterStore | None, path: str | os.PathLike[str]) -> int:
    """Write the dead letters to a new file, a line of JSON each; return how many there were. None holds none.

    A file that could not be written whole is removed.
    """
    count = 0
    try:
        descriptor = open_new(path)
    except FileExistsError:
        raise ConfigurationError(f"there is a file {os.fspath(path)!r} already: pass another path") from None
    except (OSError, ValueError) as exc:
        raise _unwritable(path, exc) from exc
    whole = False
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            if store is not None:
                async for letters in pages(store):
                    file.writelines(_line(letter) for letter in letters)
                    count += len(letters)
            file.flush()
            await asyncio.to_thread(os.fsync, descriptor)
        whole = True
    except OSError as exc:
        raise _unwritable(path, exc) from exc
    finally:
        if not whole:
            with suppress(OSError):
                os.unlink(path)
    return count


async def drop(checkpoint: Checkpoint, ids: Iterable[str]) -> int:
    """Remove the dead letters with these ids; return how many there were."""
    wanted = frozenset(ids)
    found = [letter.id async for letters in pages(checkpoint) for letter in letters if letter.id in wanted]
    if found:
        await checkpoint.save(Commit(revived=found))
    return len(found)


def _line(letter: DeadLetter) -> str:
    fields = {
        "number": letter.number,
        "id": letter.id,
        "error": letter.error,
        "failedAt": letter.failed_at.isoformat(),
        "message": letter.message,
    }
    return json.dumps(fields, separators=(",", ":")) + "\n"


def _unwritable(path: str | os.PathLike[str], exc: OSError | ValueError) -> ReplayError:
    why = exc.strerror if isinstance(exc, OSError) else "its name holds a null character"
    return ReplayError(f"the file {os.fspath(path)!r} cannot be written: {why}")
