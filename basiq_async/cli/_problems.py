"""Show what is wrong: as JSON has it, and in a terminal first of all, with the one line to run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from .._redaction.text import amount
from ._inboxes import INBOX_TIMEOUT
from ._options import help_line
from ._output import Styled, note, write
from ._results import Row, cell_text

if TYPE_CHECKING:
    from ..receiver import Inbox
    from ..services.diagnosis import Problem
    from ._lines import Words


def problem_rows(problems: Iterable[Problem], find: Callable[[Problem], Words]) -> Sequence[Row]:
    """Return problems as JSON shows them: each with the command that ``find`` returns, as a line for a shell."""
    rows = [({"code": each.code, "text": each.text}, find(each)) for each in problems]
    return [{**row, "command": help_line(words) if words else None} for row, words in rows]


def show_head(what: str, count: int) -> None:
    """Show in a terminal whose problems follow."""
    write(Styled(f"{what}: {count or 'no'} problem{'' if count == 1 else 's'}", "bold"))


def show_problem(problem: Problem, since: datetime | None, words: Words) -> None:
    """Show a problem in a terminal: what is wrong, since when, and the line to run."""
    write(problem.text)
    parts = [] if since is None else [f"since {cell_text(since)}"]
    if words:
        is_whole = not any("?…" in word for word in words)
        parts.append("run:" if is_whole else "put back what is not shown, and run:")
    if parts:
        write("; ".join(parts))
    if words:
        write(f"  {help_line(words)}")


async def oldest_set_aside(
    inbox: Inbox | None, webhook_id: str, identity: str | None, job: str | None = None
) -> datetime | None:
    """Return when the oldest entry of a webhook in the quarantine was set aside; None if there is none.

    job: the name or the url of a job that posts, whose entries are meant.
    """
    from .._work.keys import owner_of_job, posting_job
    from .._work.owners import find_identity
    from .._work.quarantine import first_quarantined

    if inbox is None:
        return None
    owner = await find_identity(inbox, webhook_id, identity, timeout=INBOX_TIMEOUT)
    owner = owner if job is None else owner_of_job(posting_job(job), owner)
    found = await first_quarantined(inbox, owner, 1, timeout=INBOX_TIMEOUT)
    return found[0].quarantined_at if found else None


def tell_left_alone(count: int, so: str) -> None:
    """Say how many messages Basiq delivered, and an inbox need not know."""
    if count:
        note(
            f"{amount(count, 'message was', 'messages were')} delivered, as Basiq says, before the inbox began or "
            f"longer ago than it remembers: {so}; recover --everything includes them"
        )
