"""Show what is wrong: as JSON has it, and in a terminal first of all, with the one line to run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from .._redaction.text import amount
from .._wire.hosts import show_place
from ._inboxes import INBOX_TIMEOUT
from ._options import help_line
from ._output import Styled, say, write
from ._results import Row, cell_text

if TYPE_CHECKING:
    from .._work.inbox_calls import InboxCalls
    from ..receiver import Inbox
    from ..services.problems import Problem
    from ._lines import Words


_TARGETS, _MOST_TARGETS = "posting targets", 100
"""The name of the note of where jobs post, and how many it names."""
_LONGEST = 60_000
"""The characters of that note: an inbox stores 64 kB."""
IF_HANDLED = "if another service handled them, acknowledge them with:"


def no_words(problem: Problem) -> Words:
    """Return no words."""
    return ()


def problem_rows(
    problems: Iterable[Problem], find: Callable[[Problem], Words], find_other: Callable[[Problem], Words] = no_words
) -> Sequence[Row]:
    """Return problems as JSON shows them: each with the commands that ``find`` and ``find_other`` return, as lines."""

    def line(words: Words) -> str | None:
        return help_line(words) if words else None

    return [
        {
            "code": each.code,
            "text": each.text,
            "since": each.since,
            "command": line(find(each)),
            "otherwise": line(find_other(each)),
        }
        for each in problems
    ]


def show_head(what: str, count: int) -> None:
    """Show in a terminal whose problems follow."""
    write(Styled(f"{what}: {count or 'no'} problem{'' if count == 1 else 's'}", "bold"))


def show_problem(problem: Problem, words: Words, other: Words = ()) -> None:
    """Show a problem in a terminal: what is wrong, since when, and the line to run, or the other one."""
    write(problem.text)
    parts = [] if problem.since is None else [f"since {cell_text(problem.since)}"]
    if words:
        is_whole = not any("?…" in word for word in words)
        parts.append("run:" if is_whole else "put back what is not shown, and run:")
    if parts:
        write("; ".join(parts))
    if words:
        write(f"  {help_line(words)}")
    if other:
        write(IF_HANDLED)
        write(f"  {help_line(other)}")


async def find_target(inbox: Inbox | None) -> Words:
    """Return the words that name the target of the job that set the oldest entry of the quarantine aside.

    There are none for an entry of the service.
    """
    from .._work.inbox_calls import ALL, InboxCalls
    from .._work.keys import split_key

    if inbox is None:
        return ()
    calls = InboxCalls(inbox, INBOX_TIMEOUT)
    found = await calls.first_quarantined(1, ALL)
    return await _read_target(calls, split_key(found[0].key)[0]) if found else ()


async def note_target(inbox: Inbox, to: str, job: str | None) -> None:
    """Note in the record of a job where it posts, for the line that tries again what failed.

    The newest hundred are kept: an older job is named by its entries alone.
    """
    from .._work.inbox_calls import InboxCalls
    from .._work.keys import posting_job

    calls, id = InboxCalls(inbox, INBOX_TIMEOUT), posting_job(job or to)
    known = _read_targets(await calls.note(_TARGETS))
    if known.get(id) != (target := [show_place(to), job]):
        known.pop(id, None)
        newest = {**dict([*known.items()][1 - _MOST_TARGETS :]), id: target}
        while len(text := json.dumps(newest)) > _LONGEST and len(newest) > 1:
            del newest[next(iter(newest))]
        await calls.set_note(_TARGETS, text)


async def _read_target(calls: InboxCalls, job: str | None) -> Words:
    """Return the words that name the target of a job, as its record noted it."""
    if job is None:
        return ()
    to, name = _read_targets(await calls.note(_TARGETS)).get(job, (None, None))
    return () if to is None else ("--to", to, *(("--job", name) if name else ()))


def _read_targets(text: str | None) -> dict[str, list[str | None]]:
    """Return where jobs post, and their names, from a note; nothing for one that is damaged."""
    try:
        return {
            str(job): [str(to), None if name is None else str(name)]
            for job, (to, name) in json.loads(text or "{}").items()
        }
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}


def tell_passed_over(count: int, so: str) -> None:
    """Say how many messages Basiq delivered, and an inbox need not know."""
    if count:
        say(
            f"{amount(count, 'message was', 'messages were')} delivered, as Basiq says, before the inbox began or "
            f"longer ago than it remembers: {so}; recover --everything includes them"
        )
