"""Read a list in passes, so that new items are found whether they come at its beginning or at its end.

No source says in which order Basiq lists anything. A first pass reads a list from its beginning to its end. If the list
begins with the oldest items, new items come after that end; if it begins with the newest, they come above the first
item. So the next run has two passes: one resumes after the end, the other reads from the top of the list down to the
newest item of an earlier pass. If the order is known, one of them is enough.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Generic, TypeVar

from .._wire.order import Order, item_time
from ..errors import CheckpointError, ConfigurationError, PaginationError, ReplayError
from ..pagination import Paginator, watch_pages
from ._watch import Before, Place, Top, Watch

T = TypeVar("T")
logger = logging.getLogger("basiq_async.replay")

OpenList = Callable[[str | None, str | None], Paginator[T]]
"""Opens a list after a cursor (first argument) or, if that cannot be used, after the item with an id (second)."""


class Passes(Generic[T]):
    """The passes over one list.

    text: the text that an earlier run recorded, or None.
    last_id: the id of the item to resume after, if ``text`` is only a cursor.
    ephemeral: items leave the list only because of their age, so that all listed items are newer than those that left.
    note_times: called with the times of each page of a list that begins with the newest, before its items are read.
    """

    def __init__(
        self,
        open_list: OpenList[T],
        text: str | None,
        last_id: str | None = None,
        *,
        ephemeral: bool = False,
        note_times: Callable[[Sequence[datetime]], None] | None = None,
    ) -> None:
        self._open_list = open_list
        self._ephemeral = ephemeral
        self._note_times = note_times
        self._order: Order = "unknown"
        self._sure = self._mixed = False
        self._end = Place()
        """The place that the first pass reached; if ``_ended``, the end of the list at that time."""
        self._ended = False
        self._known = Top()
        """The first items of the part that ends at ``_end``, which was read, or is being read by the first pass."""
        self._above: tuple[Place, Top] | None = None
        """The place that a pass above ``_known`` reached, and the first items of that pass."""
        self._end_is_gone: Exception | None = None
        if text is not None and text.startswith("{"):
            self._read(text)
        elif text is not None:
            self._end = Place(text, 0, last_id)
        if self._mixed and self._ended:  # the list is not ordered, so new items can be anywhere
            self._end, self._ended, self._known, self._above = Place(), False, Top(), None
        starts_above: Order = "newest-first"
        self._is_above = self._above is not None or (self._ended and self._sure and self._order == starts_above)
        self.start = self._end if not self._is_above else Place() if self._above is None else self._above[0]
        """The place where the present pass begins or resumes."""
        self._watch = Watch(self._before())
        self.finished = False
        """Whether the last pass has ended, and no other is needed."""
        self.exhausted = False
        """Whether the present pass has no items left, so that ``open`` must not be called."""

    @property
    def order(self) -> Order:
        """The order of the list, as far as it is known."""
        return self._watch.order

    def _before(self) -> Before:
        return Before(
            start=self.start,
            order=self._order,
            sure=self._sure,
            known=self._known if self._is_above else None,
            end=self._end.after,
            end_is_gone=self._end_is_gone is not None,
            note_times=self._note_times,
        )

    def open(self) -> Paginator[T]:
        """Open the list at ``start``, up to the end of the pass. Raises ``CheckpointError`` for an invalid cursor."""
        start = self.start
        try:
            paginator = self._open_list(start.cursor, start.after)
        except ConfigurationError as exc:
            if start.cursor is None:
                raise
            raise unreadable(str(exc)) from exc
        self._learn()
        if start.begun and self._is_above:
            self._above = (start, self._top)
        elif start.begun:
            self._known = self._top
        self._watch = Watch(self._before(), paginator)
        watch_pages(paginator, self._watch)
        return paginator

    def text(self, place: Place) -> str | None:
        """Return the text to record when the pass is at ``place``; None at the beginning of the list."""
        end, known, above = self._end, self._known, None
        if self._is_above:
            if place.begun and not self.finished:
                above = [_show_place(place), _show_top(self._top)]
        elif not self.finished:
            end, known = place, self._top
        if not end.begun and above is None:
            return None
        fields = {
            "order": self.order,
            "sure": self._sure or self._watch.detector.sure,
            "mixed": self._mixed or self._watch.detector.mixed,
            "end": _show_place(end),
            "ended": self._ended,
            "known": _show_top(known),
            "above": above,
        }
        return json.dumps(fields, separators=(",", ":"))

    def finish(self, place: Place) -> bool:
        """End the pass at ``place``. Return whether another pass is needed; it begins at ``start``.

        Raises ``ReplayError`` if it cannot tell which items are new.
        """
        watch = self._watch
        self._learn()
        covered = watch.at_start and watch.pages <= 1  # a single request returned the whole list
        if self._is_above:
            if self._end_is_gone is not None and watch.met == 0 and self._order != "newest-first":
                raise self._not_found(self._end_is_gone) from self._end_is_gone
            if watch.met is None and not watch.shifted and place.begun:
                self._end, self._ended = place, True  # read to the end of the list
            self._known = self._top if self._top.ids else self._known
            more = not covered
        else:
            found = place.after != self.start.after
            self._known = self._top
            self._end, self._ended = place, True
            more = not covered and bool(self._known.ids) and self._may_have_grown_above(found or watch.at_start)
        self._above, self.exhausted, self.finished = None, False, not more
        if more:
            self._begin_above()
        return more

    def _may_have_grown_above(self, found: bool) -> bool:
        if self._mixed:
            return False  # the next run reads the whole list
        if not self._sure or self._order != "oldest-first":
            return True
        return not found and self._watch.detector.order != "oldest-first"  # the last page shows it once more

    def _begin_above(self) -> None:
        self._is_above, self._above, self.start = True, None, Place()
        self._watch = Watch(self._before())

    @property
    def _top(self) -> Top:
        """The first items of the present pass."""
        if self._watch.at_start:
            return self._watch.top
        if self._is_above:
            return Top() if self._above is None else self._above[1]
        return self._known

    def _learn(self) -> None:
        """Adopt the order that the pages of the pass have shown."""
        if not self._watch.pages:
            return
        seen = self._watch.detector
        self._order = self.order
        sure, mixed = seen.sure, seen.mixed
        if sure or mixed:
            self._sure, self._mixed = sure, mixed
        if mixed:
            logger.warning("the list is not ordered by time, so each run reads all of it")

    # --- a place that is gone ---

    async def find(self, error: Exception, place: Place) -> bool:
        """Find the place again after ``error``. Return whether the pass continues; it resumes at ``start``.

        Raises ``ReplayError`` if the place is gone, and new items cannot be told from those that were read.
        """
        if isinstance(error, PaginationError) and error.link is None and place.begun:
            await self._continue_without(error, place)
            return True
        return False

    async def _continue_without(self, error: Exception, place: Place) -> None:
        """Continue the pass although the item at ``place`` has left the list. The oldest items leave first."""
        self._learn()
        last = self._watch.detector.last
        rest_is_gone = last is not None and place.time is not None and last > place.time
        newest_first = self._order == "newest-first"
        if self._is_above:
            if not rest_is_gone:
                raise self._not_found(error) from error
            self._skip_rest(place)
        elif newest_first and (self._ended or rest_is_gone):
            self._skip_rest(place)  # the items after it are older, so they have left too
        elif self._order == "unknown" and self._ended and self._known.ids and not self._ephemeral:
            self._end_is_gone = error
            self._begin_above()
        else:
            first = await self._open_list(None, None).first()
            if first is None:
                self._skip_rest(place)
                return
            if newest_first or not self._is_newer(item_time(first), place.time):
                raise self._not_found(error) from error
            logger.warning("the last message is no longer listed: the replay continues with the oldest listed message")
            self._end, self._ended, self._known, self.start = Place(), False, Top(), Place()

    def _skip_rest(self, place: Place) -> None:
        self.start = place
        self.exhausted = True

    def _is_newer(self, first: datetime | None, gone: datetime | None) -> bool:
        """Return whether the first item of the list is newer than the item that has left it."""
        return self._ephemeral if first is None or gone is None else first >= gone

    def _not_found(self, error: Exception) -> ReplayError:
        return ReplayError(
            f"the replay's place in the list cannot be found again ({error}). Begin anew with another checkpoint, "
            "and with an inbox, so that nothing is handled twice"
        )

    # --- the recorded text ---

    def _read(self, text: str) -> None:
        try:
            fields: dict[str, Any] = json.loads(text)
            order = fields["order"]
            if order not in ("oldest-first", "newest-first", "unknown"):
                raise ValueError(order)
            self._order, self._sure, self._mixed = order, bool(fields["sure"]), bool(fields["mixed"])
            self._end, self._ended = _read_place(fields["end"]), bool(fields["ended"])
            self._known = _read_top(fields["known"])
            above = fields["above"]
            self._above = None if above is None else (_read_place(above[0]), _read_top(above[1]))
        except (ValueError, TypeError, KeyError, IndexError) as exc:
            raise unreadable("it is damaged") from exc


def unreadable(why: str) -> CheckpointError:
    """Return the error for a cursor that cannot be read."""
    return CheckpointError(
        f"the checkpoint's cursor cannot be read ({why}): pass another checkpoint to begin anew, with an inbox, so "
        "that nothing is handled twice"
    )


def _show_place(place: Place) -> list[Any]:
    return [place.cursor, place.offset, place.after, _show_time(place.time)]


def _read_place(value: list[Any]) -> Place:
    cursor, offset, after, time = value
    return Place(_read_text(cursor), int(offset), _read_text(after), _read_time(time))


def _show_top(top: Top) -> list[Any]:
    return [list(top.ids), _show_time(top.time)]


def _read_top(value: list[Any]) -> Top:
    ids, time = value
    return Top(tuple(map(str, ids)), _read_time(time))


def _read_text(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError
    return value


def _show_time(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()


def _read_time(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value)
