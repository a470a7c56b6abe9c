"""Read dead letters as messages, export them, and drop them."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import suppress
from typing import Protocol

import attrs

from .._storage.private_files import open_new
from .._wire.codec import Unreadable, read_message
from ..errors import ConfigurationError, ReplayError
from ..models import Message
from ._sources import FixedMessages, UnreadableMessage
from .checkpoints._base import DeadLetter


class DeadLetterStore(Protocol):
    """Holds dead letters: a checkpoint, a replay, or a job of a fleet."""

    async def dead_letters(self, *, after: int = 0, limit: int = 250) -> Sequence[DeadLetter]:
        """Return up to ``limit`` dead letters with numbers greater than ``after``, oldest first."""
        ...


async def read_all(store: DeadLetterStore) -> AsyncIterator[DeadLetter]:
    """Yield all dead letters, oldest first."""
    after = 0
    while page := await store.dead_letters(after=after):
        for dead_letter in page:
            yield dead_letter
        after = page[-1].number


def open_dead(store: DeadLetterStore, ids: Collection[str] | None) -> FixedMessages:
    """Return a message source with the dead letters of a store: all of them, or those with certain ids."""
    after = 0

    async def read_page() -> Iterable[Message] | None:
        nonlocal after
        page = await store.dead_letters(after=after)
        if not page:
            return None
        after = page[-1].number
        return (as_message(each) for each in page if ids is None or each.id in ids)

    return FixedMessages(read_page=read_page)


def as_message(dead_letter: DeadLetter) -> Message:
    """Return the message that a dead letter holds."""
    try:
        return attrs.evolve(read_message(dict(dead_letter.message)), id=dead_letter.id)
    except Unreadable as exc:
        return UnreadableMessage(dead_letter.id, dead_letter.message, exc)


async def export_dead(store: DeadLetterStore | None, path: str | os.PathLike[str]) -> int:
    """Write the dead letters to a new file, a line of JSON each, and return their number. A ``store`` of None is empty.

    If an error interrupts the writing, the file is removed.
    """
    count = 0
    try:
        descriptor = open_new(path)
    except FileExistsError:
        raise ConfigurationError(f"the file {os.fspath(path)!r} exists already: pass another path") from None
    except (OSError, ValueError) as exc:
        raise _unwritable(path, exc) from exc
    whole = False
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            if store is not None:
                async for dead_letter in read_all(store):
                    file.write(_line(dead_letter))
                    count += 1
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


def _line(dead_letter: DeadLetter) -> str:
    fields = {
        "number": dead_letter.number,
        "id": dead_letter.id,
        "error": dead_letter.error,
        "failedAt": dead_letter.failed_at.isoformat(),
        "message": dead_letter.message,
    }
    return json.dumps(fields, separators=(",", ":")) + "\n"


def _unwritable(path: str | os.PathLike[str], exc: OSError | ValueError) -> ReplayError:
    why = exc.strerror if isinstance(exc, OSError) else "its name holds a null character"
    return ReplayError(f"the file {os.fspath(path)!r} cannot be written: {why}")
