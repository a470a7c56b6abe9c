"""What is recorded of a list: where a feed resumes, and by which ids it knows what was handed out. No I/O."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import attrs

from ..errors import CheckpointError
from ..services.diagnosis import Stretch

WINDOW = 1_000
"""The number of items before a place whose ids are retained."""
TOP = 200
"""The number of items at the top of the list whose ids are retained."""
_VERSION = 1


@attrs.define
class Part:
    """A part of the list that was read without a gap.

    top: the ids of its first items. last: those of its last ones, in the order of the list.
    link: the page to resume at, which begins a little before the last item.
    """

    top: list[str] = attrs.Factory(list)
    last: dict[str, None] = attrs.Factory(dict)
    link: str | None = None

    def passed(self, ids: list[str]) -> dict[str, None]:
        """Return ``last`` after these ids."""
        last = {**self.last}
        for each in ids:
            last.pop(each, None)
            last[each] = None
        return last if len(last) <= 2 * WINDOW else dict.fromkeys(list(last)[-WINDOW:])

    def fields(self) -> dict[str, Any]:
        """Return what is recorded of it."""
        return {"top": self.top, "last": list(self.last)[-WINDOW:], "link": self.link}


@attrs.define
class Place:
    """Where a feed resumes, and what it knows of the list.

    base: the part that reaches, or is to reach, the end of the list.
    whole: whether it has reached the end, in passes that are proven.
    above: a part that was begun at the top, and has not reached the base.
    begin: the page where the passes began that are not proven, and its first ids; None if all are.
    marks: some ids from all over the base.
    steps: how often a new item was newer, and how often older, than the one before it; how often by far.
    grows: where new items were found, "top" or "end"; empty before there were any, and if they came at both ends.
    page: the number of items of the longest page.
    read: the times of which all items were read, as the API's clock tells them.
    """

    base: Part = attrs.Factory(Part)
    whole: bool = False
    above: Part | None = None
    begin: Part | None = None
    marks: list[str] = attrs.Factory(list)
    steps: list[int] = attrs.Factory(lambda: [0, 0, 0, 0])
    grows: str = ""
    page: int = 1
    read: tuple[Stretch, ...] = ()

    def ids(self) -> frozenset[str]:
        """Return the ids of items that were handed out."""
        above = self.above or Part()
        return frozenset((*self.marks, *self.base.top, *self.base.last, *above.top, *above.last))

    def write(self) -> str:
        """Return the text from which ``read_place`` makes the same place."""
        fields = {
            "version": _VERSION,
            "base": self.base.fields(),
            "whole": self.whole,
            "above": None if self.above is None else self.above.fields(),
            "begin": None if self.begin is None else self.begin.fields(),
            "marks": self.marks,
            "steps": self.steps,
            "grows": self.grows,
            "page": self.page,
            "read": [[begin.isoformat(), end.isoformat()] for begin, end in self.read],
        }
        return json.dumps(fields, separators=(",", ":"))


def read_place(text: str) -> Place:
    """Parse the text of ``Place.write``. Raises ``CheckpointError``."""
    try:
        fields = json.loads(text)
        if fields.pop("version") != _VERSION:
            raise ValueError("another version")
        for name in ("base", "above", "begin"):
            fields[name] = None if fields[name] is None else _read_part(**fields[name])
        newer, older, *far = map(int, fields["steps"])
        fields["steps"], fields["marks"] = [newer, older, *far], list(map(str, fields["marks"]))
        fields["read"] = tuple((_moment(begin), _moment(end)) for begin, end in fields["read"])
        return Place(**fields)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise CheckpointError(
            "the checkpoint's place in the list cannot be read (it is damaged, or of another release): pass another "
            "checkpoint to begin anew, with an inbox, so that nothing is handled twice"
        ) from exc


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no time zone")
    return moment


def _read_part(top: list[str], last: list[str], link: str | None) -> Part:
    return Part(list(map(str, top)), dict.fromkeys(map(str, last)), link)
