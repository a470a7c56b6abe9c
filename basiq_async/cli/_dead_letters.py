"""``basiq-async replay --list-dead``, ``--export-dead`` and ``--drop-dead``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Protocol

from ..errors import ConfigurationError
from ._output import Output, Shape, cell_text, note
from ._table import Column

if TYPE_CHECKING:
    from ..replay import DeadLetter

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


class HasDeadLetters(Protocol):
    """A replay, or a job of a fleet."""

    async def dead_letters(self, *, after: int = 0, limit: int = 250) -> Sequence[DeadLetter]:
        """Return a page of them."""
        ...

    async def export_dead(self, path: str) -> int:
        """Write them to a new file."""
        ...

    async def drop_dead(self, ids: Sequence[str]) -> int:
        """Remove those with these ids."""
        ...


def _event_type(letter: DeadLetter) -> str | None:
    from ..models import Message

    return Message(letter.id, letter.message).event_type_id


async def look_at_dead_letters(
    job: HasDeadLetters, output: Output, *, show: bool, export: str | None, drop: Sequence[str]
) -> int:
    """List, export and drop, in this order; return 1 while dead letters remain."""
    if show:
        count = 0
        async for page in _dead_letter_pages(job):
            output.rows(page, _DEAD)
            count += len(page)
        if not count:
            note("there are no dead letters")
    if export is not None:
        note(f"{await job.export_dead(export):,} messages written to {export!r}")
    if drop:
        dropped = await job.drop_dead(drop)
        note(f"{dropped:,} dead letters dropped")
        missing = len(set(drop)) - dropped
        if missing:
            raise ConfigurationError(f"{missing} of the ids given to --drop-dead are not those of dead letters")
    remaining = 0
    async for page in _dead_letter_pages(job):
        remaining += len(page)
    return 1 if remaining else 0


async def _dead_letter_pages(job: HasDeadLetters) -> AsyncIterator[Sequence[DeadLetter]]:
    after = 0
    while page := await job.dead_letters(after=after, limit=_PAGE):
        yield page
        after = page[-1].number
