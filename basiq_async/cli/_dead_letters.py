"""Show, export and drop the dead letters of a replay, of a recovery, or of a fleet's job."""

from __future__ import annotations

import glob
import os
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Protocol

import attrs

from .._redaction.text import json_line
from .._storage.private_files import open_new
from ..errors import CheckpointError, ConfigurationError
from ._completion import option
from ._options import program_line
from ._output import note
from ._results import Column, Output
from ._views import view_of

if TYPE_CHECKING:
    from ..replay import DeadLetter


_PAGE = 250

RetryDead = Annotated[bool, option("Deliver the messages that failed in earlier runs again.", "--retry-dead")]
ListDead = Annotated[bool, option("Show the messages that failed in earlier runs.", "--list-dead")]
ExportDead = Annotated[
    str | None, option("Write the messages that failed to a new file, one per line.", metavar="FILE")
]
DropDead = Annotated[list[str] | None, option("Drop a message that failed; may be repeated.", metavar="ID")]


@attrs.frozen(kw_only=True)
class DeadLetterView:
    """A message that failed and is kept."""

    id: str
    error: str
    failed_at: datetime
    event_type_id: str | None

    @classmethod
    def of(cls, dead_letter: DeadLetter) -> DeadLetterView:
        """Return the view of a dead letter."""
        from ..models import Message

        return view_of(cls, dead_letter, event_type_id=Message(dead_letter.id, dead_letter.message).event_type_id)


DEAD_LETTERS: Sequence[Column[DeadLetterView]] = (
    Column("ID", lambda dead: dead.id),
    Column("FAILED AT", lambda dead: dead.failed_at),
    Column("ERROR", lambda dead: dead.error, flexible=20),
    Column("EVENT TYPE", lambda dead: dead.event_type_id, optional=True),
)


class HasDeadLetters(Protocol):
    """A replay, both replays of a recovery, or a job of a fleet."""

    async def dead_letters(self, *, after: int = 0, limit: int = 250) -> Sequence[DeadLetter]:
        """Return a page of dead letters."""
        ...

    async def export_dead(self, path: str) -> int:
        """Write the dead letters to a new file, and return how many."""
        ...

    async def drop_dead(self, ids: Sequence[str]) -> int:
        """Remove the dead letters with these ids, and return how many."""
        ...


class DeadLettersOfBoth:
    """The dead letters of a recovery: those of its messages, then those of its events."""

    _SECOND = 2**60
    """Added to the numbers of the second, so that a number shows where the next page begins."""

    def __init__(self, first: HasDeadLetters, second: HasDeadLetters) -> None:
        self._first = first
        self._second = second

    async def dead_letters(self, *, after: int = 0, limit: int = 250) -> Sequence[DeadLetter]:
        """See ``HasDeadLetters``."""
        if after < self._SECOND and (page := await self._first.dead_letters(after=after, limit=limit)):
            return page
        page = await self._second.dead_letters(after=max(0, after - self._SECOND), limit=limit)
        return [attrs.evolve(each, number=each.number + self._SECOND) for each in page]

    async def export_dead(self, path: str) -> int:
        """See ``HasDeadLetters``. The lines are those that a replay writes."""
        try:
            descriptor = open_new(path)
        except (OSError, ValueError) as exc:
            raise ConfigurationError(f"the new file {path!r} cannot be made: {exc}") from None
        count = 0
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            async for page in _pages(self):
                for each in page:
                    line = {"id": each.id, "error": each.error, "failedAt": each.failed_at, "message": each.message}
                    file.write(json_line({"number": each.number % self._SECOND, **line}, ascii=True) + "\n")
                count += len(page)
        return count

    async def drop_dead(self, ids: Sequence[str]) -> int:
        """See ``HasDeadLetters``."""
        return await self._first.drop_dead(ids) + await self._second.drop_dead(ids)


async def look_at_dead_letters(
    job: HasDeadLetters, output: Output, *, show: bool, export: str | None, drop: Sequence[str] | None
) -> int:
    """Show, export and drop dead letters as the options say. Return 1 if they were shown or dropped and some are left.

    An export that succeeded returns 0.
    """
    if show:
        await list_dead_letters(job, output)
    if export is not None:
        await export_dead_letters(job, export)
    if drop:
        await drop_dead_letters(job, drop)
    return 1 if (show or drop) and await has_dead_letters(job) else 0


async def list_dead_letters(job: HasDeadLetters, output: Output) -> None:
    """List the dead letters, or write a note that there are none."""
    count = 0
    async for page in _pages(job):
        output.rows(map(DeadLetterView.of, page), DEAD_LETTERS, DeadLetterView)
        count += len(page)
    if not count:
        note("there are no dead letters")


async def export_dead_letters(job: HasDeadLetters, file: str) -> None:
    """Write the dead letters to a new file. The job keeps them."""
    note(f"{await job.export_dead(file):,} messages written to {file!r}")


async def drop_dead_letters(job: HasDeadLetters, ids: Sequence[str]) -> None:
    """Remove the dead letters with these ids. Raises ``ConfigurationError`` if an id is not that of a dead letter."""
    dropped = await job.drop_dead(ids)
    note(f"{dropped:,} dead letters dropped")
    missing = len(set(ids)) - dropped
    if missing:
        raise ConfigurationError(f"{missing:,} of the ids are not ids of dead letters")


async def has_dead_letters(job: HasDeadLetters) -> bool:
    """Return whether the job has dead letters."""
    return bool(await job.dead_letters(limit=1))


async def tell_of_recoveries(webhook_id: str) -> bool:
    """Write a note for each recovery of a webhook in this folder that keeps dead letters. Return whether there is one.

    A recovery of which only a part is known, because it selects messages, is named too.
    """
    from ..replay import SQLiteCheckpoint, recovered_by

    found = False
    for file in sorted(glob.glob("basiq-recover-*-messages.db")):
        base = file.removesuffix("-messages.db")
        try:
            recovered = await recovered_by(webhook_id, SQLiteCheckpoint(file), SQLiteCheckpoint(f"{base}-events.db"))
        except CheckpointError:
            if webhook_id not in file:
                continue
            text = "perhaps some"
        else:
            if not recovered.dead_letters:
                continue
            text = f"{recovered.dead_letters:,}"
        found = True
        line = program_line("recover", webhook_id, options={"--checkpoint": base, "--list-dead": True})
        note(f"recover keeps {text} dead letters in {file!r}; list them with: {line}")
    return found


async def _pages(job: HasDeadLetters) -> AsyncIterator[Sequence[DeadLetter]]:
    after = 0
    while page := await job.dead_letters(after=after, limit=_PAGE):
        yield page
        after = page[-1].number
