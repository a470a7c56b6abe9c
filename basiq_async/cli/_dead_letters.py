"""``basiq-async replay --list-dead``, ``--export-dead`` and ``--drop-dead``."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from .._redaction.text import json_line
from .._storage.private_files import open_new
from ..errors import ConfigurationError
from ._output import Output, Shape, cell_text, note
from ._table import Column

if TYPE_CHECKING:
    from ..replay import DeadLetter, Replay

_PAGE = 250

_DEAD: Shape[DeadLetter] = Shape(
    ("id", "error", "failed_at", "event_type_id"),
    lambda letter: {
        "id": letter.id,
        "error": letter.error,
        "failed_at": letter.failed_at,
        "event_type_id": _event_type(letter),
    },
    (
        Column("ID", lambda letter: letter.id),
        Column("FAILED AT", lambda letter: cell_text(letter.failed_at)),
        Column("ERROR", lambda letter: letter.error, flexible=True, least=32),
        Column("EVENT TYPE", lambda letter: cell_text(_event_type(letter)), optional=True),
    ),
)


def _event_type(letter: DeadLetter) -> str | None:
    from ..models import Message

    return Message(letter.id, letter.message).event_type_id


async def look_at_dead_letters(
    job: Replay, output: Output, *, show: bool, export: str | None, drop: Sequence[str]
) -> int:
    """List, export and drop, in this order; return 1 while dead letters remain."""
    if show:
        count = 0
        async for page in _pages(job):
            output.rows(page, _DEAD)
            count += len(page)
        if not count:
            note("there are no dead letters")
    if export is not None:
        note(f"{await _export(job, export):,} messages written to {export!r}")
    if drop:
        dropped = await job.drop_dead(drop)
        note(f"{dropped:,} dead letters dropped")
        missing = len(set(drop)) - dropped
        if missing:
            raise ConfigurationError(f"{missing} of the ids given to --drop-dead are not those of dead letters")
    remaining = 0
    async for page in _pages(job):
        remaining += len(page)
    return 1 if remaining else 0


async def _pages(job: Replay) -> AsyncIterator[Sequence[DeadLetter]]:
    after = 0
    while page := await job.dead_letters(after=after, limit=_PAGE):
        yield page
        after = page[-1].number


async def _export(job: Replay, path: str) -> int:
    count = 0
    try:
        with os.fdopen(open_new(path), "w", encoding="utf-8") as file:
            async for page in _pages(job):
                for letter in page:
                    file.write(json_line(dict(letter.message)) + "\n")
                    count += 1
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "its name holds a null character"
        raise ConfigurationError(f"the file {path!r} cannot be written: {why}") from None
    return count
