"""What the times of a list's items show: the order of the list, and of which times all items were read. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import attrs

from .._wire.order import Order, raw_time
from ..services.diagnosis import Stretch
from ._place import WINDOW, Place

_SAMPLES = 20
"""The number of items of a page whose times are compared."""
_SURE = 32
"""The number of steps from one time to another that show an order; nine in ten must go the same way."""
_FEW = 5
_MIXED = 3
_FAR = timedelta(minutes=15)
"""Steps shorter than this do not show that a list has no order: first attempts can change places."""


class ListOrder:
    """The order of a list, as far as the times of its items and its growth show it. ``place`` records both."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._steps = [0, 0]
        """As ``Place.steps``, of this run."""
        self._last: datetime | None = None

    def begin_pass(self) -> None:
        """Compare the next item with none before it."""
        self._last = None

    @property
    def order(self) -> Order:
        """The order, as far as the times show it."""
        newer, older = self._place.steps[:2]
        return _order_of(newer, older)

    def agree_on(self, order: Order, grows: str) -> bool:
        """Return whether times and growth agree on the order of the list."""
        newer, older = self._place.steps[:2]
        sure = newer + older >= _SURE and max(newer, older) >= 9 * min(newer, older)
        return sure and self.order == order and self._place.grows == grows

    def may_grow_anywhere(self) -> bool:
        """Return whether new items can be anywhere: the list has no order, or shows none and all its ids are known."""
        newer, older, *far = self._place.steps
        if min(far) >= _MIXED and 8 * min(far) > max(far):
            return True
        return newer + older < _SURE and len(self._place.base.last) < WINDOW

    def learn(self, grows: str) -> None:
        """Note at which end of the list new items were found, "top" or "end"."""
        self._place.grows = grows if self._place.grows in ("", grows) else ""

    def see(self, items: Sequence[object]) -> None:
        """Compare the times of new items, in the order of the list."""
        steps = self._place.steps
        for item in items[:: max(1, len(items) // _SAMPLES)]:
            time = raw_time(item)
            if time is None:
                continue
            if self._last is not None and time != self._last:
                older = time < self._last
                self._steps[older] += 1
                steps[older] += 1
                steps[2 + older] += abs(time - self._last) > _FAR
            self._last = time
        seen = _order_of(*self._steps)
        if seen not in ("unknown", self.order) and sum(self._steps) >= _FEW:
            # The list has turned round, unless it showed before that it has no order.
            steps[:] = [*self._steps, *(steps[2:] if min(steps[2:]) >= _MIXED else (0, 0))]
        if sum(steps) > 100 * _SURE:
            steps[:] = [each // 2 for each in steps]


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


def _order_of(newer: int, older: int) -> Order:
    if newer > 0 and newer >= 4 * older:
        return "oldest-first"
    return "newest-first" if older > 0 and older >= 4 * newer else "unknown"
