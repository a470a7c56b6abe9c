"""What is recorded of a list: where a feed resumes, which ids it knows, which times were read whole. No I/O."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import attrs

from .._wire.order import Order
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
    steps: see ``ListOrder``.
    grows: where new items were found, "top" or "end"; empty before there were any, and if they came at both ends.
    page: the number of items of the longest page.
    read: the times of which all items were read, as the API's clock tells them.
    """

    base: Part = attrs.Factory(Part)
    whole: bool = False
    above: Part | None = None
    begin: Part | None = None
    steps: list[int] = attrs.Factory(lambda: [0, 0, 0, 0])
    grows: str = ""
    page: int = 1
    read: tuple[Stretch, ...] = ()

    def learn(self, grows: str) -> None:
        """Note at which end of the list new items were found, "top" or "end"."""
        self.grows = grows if self.grows in ("", grows) else ""

    def ids(self) -> frozenset[str]:
        """Return the ids of items that were handed out."""
        above = self.above or Part()
        return frozenset((*self.base.top, *self.base.last, *above.top, *above.last))

    def write(self) -> str:
        """Return the text from which ``read_place`` makes the same place."""
        fields = {
            "version": _VERSION,
            "base": self.base.fields(),
            "whole": self.whole,
            "above": None if self.above is None else self.above.fields(),
            "begin": None if self.begin is None else self.begin.fields(),
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
        newer, older, newer_by_far, older_by_far = map(int, fields["steps"])
        fields["steps"] = [newer, older, newer_by_far, older_by_far]
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


@attrs.frozen
class PassTimes:
    """The times of the first and of the last item that a pass has passed; None before there were any.

    in_order: whether all of them went one way.
    """

    first: datetime | None = None
    last: datetime | None = None
    in_order: bool = True

    def after(self, times: Sequence[datetime]) -> PassTimes:
        """Return them after items with these times were passed too."""
        if not times:
            return self
        ends = [each for each in (self.first, self.last) if each is not None]
        in_order = self.in_order and _go_one_way(times) and _go_one_way([*ends, times[0], times[-1]])
        return PassTimes(times[0] if self.first is None else self.first, times[-1], in_order)

    def stretch(
        self, order: Order, oldest: datetime, newest: datetime, *, at_start: bool, at_end: bool
    ) -> list[Stretch]:
        """Return the stretch of time whose items were all passed, in a list from ``oldest`` to ``newest``.

        ``at_start`` and ``at_end`` say whether the pass has both ends of the list. Without an order it has no stretch.
        """
        first, last = self.first, self.last
        if first is None or last is None or not self.in_order:
            return []
        if order == "newest-first":
            # Items with the time of the last one may follow.
            begin, end = oldest if at_end else last + timedelta(microseconds=1), newest if at_start else first
        else:
            begin, end = oldest if at_start else first, newest if at_end else last
        begin = max(begin, oldest)
        return [(begin, end)] if begin < end else []


def _go_one_way(times: Sequence[datetime]) -> bool:
    return list(times) in (sorted(times), sorted(times, reverse=True))
