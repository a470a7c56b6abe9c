"""How many deferred deliveries may be begun at once: fewer while they fail one after the other."""

from __future__ import annotations

import asyncio
import math

from ._trying import jittered

_IN_A_ROW = 5
_SHORTEST, _LONGEST = 1.0, 60.0
_KEPT_FREE = 4
"""One of so many places is kept for what never failed."""


class Breaker:
    """One for a process. It does not ask why something failed.

    After five failures in a row, of different deliveries, what failed before is tried again one after the other, with
    pauses between their beginnings that grow to a minute: one that hangs does not hold up the next one for longer. What
    was never tried does not wait for that; after five failures in a row of first attempts,
    these too begin one at a time, without pauses. A success ends both.
    """

    def __init__(self) -> None:
        self._failed: set[str] = set()
        self._failed_first: set[str] = set()
        self._seconds, self._until = 0.0, -math.inf

    def room(self, concurrency: int, running: int, running_again: int) -> tuple[int, int]:
        """Return how many of ``concurrency`` may be begun now, and how many of them may have failed before.

        ``running``: how many run. ``running_again``: how many of these have failed before.
        """
        free = concurrency - running
        most_again = max(1, concurrency - math.ceil(concurrency / _KEPT_FREE)) - running_again
        if not self._is_open:
            return free, max(0, min(free, most_again))
        may_try = most_again > 0 and asyncio.get_running_loop().time() >= self._until
        if len(self._failed_first) >= _IN_A_ROW:
            free = min(free, int(running <= running_again) + may_try)
        return free, max(0, min(free, int(may_try)))

    def begin_again(self) -> None:
        """Count that a delivery is tried which has failed before."""
        if self._is_open:
            self._pause()

    def count(self, key: str, *, first: bool, failed: bool) -> None:
        """Count how an attempt ended, and whether it was the ``first`` of its delivery."""
        if not failed:
            self._failed.clear()
            self._failed_first.clear()
            self._seconds, self._until = 0.0, -math.inf
            return
        was_open = self._is_open
        for keys in (self._failed, self._failed_first) if first else (self._failed,):
            if len(keys) < _IN_A_ROW:
                keys.add(key)
        if self._is_open and not was_open:
            self._pause()

    @property
    def _is_open(self) -> bool:
        return len(self._failed) >= _IN_A_ROW

    def _pause(self) -> None:
        self._seconds = min(max(2 * self._seconds, _SHORTEST), _LONGEST)
        self._until = asyncio.get_running_loop().time() + jittered(self._seconds)
