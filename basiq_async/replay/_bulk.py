"""A run into a target that is its own record: each page is handed over at once, without a queue and workers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol, cast, runtime_checkable

from .._wire.codec import Unreadable, read_message
from ..models import Message
from ._engine import Engine
from ._sources import Batch, UnreadableMessage
from ._where import choose, everything

_MOST_UNWRITTEN = 4_096
"""The number of messages that are collected before they are written together."""


@runtime_checkable
class PageTarget(Protocol):
    """A bulk target that takes a page at once, as Basiq sent it, also what cannot be read."""

    def accept_page(self, items: Sequence[Any], ids: Sequence[str]) -> None:
        """Accept items of the list, with their plain ids. They are written with the next ``flush``."""
        ...


class BulkEngine(Engine):
    """A run whose messages are accepted one after the other, and written together.

    as_sent: the source has items as Basiq sent them, and the target is a ``PageTarget``.
    """

    def __init__(self, *args: Any, as_sent: bool = False, **options: Any) -> None:
        super().__init__(*args, **options)
        self._as_sent = as_sent
        self._accepts_unreadable = getattr(self._target, "accepts_unreadable", False)
        self._unwritten: Counter[Batch[Any]] = Counter()
        """The number of messages of each page that were accepted, and are not written yet."""

    async def _work(self) -> None:
        """Hand the messages of each page to the target, and have it write them from time to time."""
        accept = self._accept_page if self._as_sent else self._accept
        try:
            while not self._stopped and self._left != 0:
                batch = await self._next_page()
                if batch is None:
                    self._whole = self._source.finished
                    break
                await accept(batch)
        except Exception as exc:
            self._fail(exc)

    async def _accept_page(self, batch: Batch[Any]) -> None:
        """Hand a page to the target as Basiq sent it."""
        places = list(range(len(batch.items)))
        if self._where.predicate is not everything:
            places = []
            for place, item in enumerate(batch.items):
                message = _read(item)
                wanted, error = (True, None) if message is None else choose(self._where, message)
                if not wanted:
                    self._skip(batch)
                elif message is None or error is None:
                    places.append(place)
                else:
                    self._hand_over(batch, places)
                    places = []
                    if not self._fail_with(message, batch, error):
                        return
        self._hand_over(batch, places)
        batch.items = ()  # they stand in lines by now
        await asyncio.sleep(0)
        await self._write_if_due()

    def _hand_over(self, batch: Batch[Any], places: Sequence[int]) -> None:
        places = places[: self._left]
        if self._left is not None:
            self._left -= len(places)
        if places:
            cast(PageTarget, self._target).accept_page(
                [batch.items[each] for each in places], [batch.keys[each] for each in places]
            )
            self._note_accepted(batch, len(places))

    async def _accept(self, batch: Batch[Any]) -> None:
        """Hand the messages of a page to the target, one after the other."""
        for message in batch.items:
            if self._stopped or self._left == 0:
                return
            wanted, error = choose(self._where, message)
            if not wanted:
                self._skip(batch)
            elif error is not None and not (self._accepts_unreadable and isinstance(message, UnreadableMessage)):
                if not self._fail_with(message, batch, error):
                    return
            elif not await self._deliver(message, batch):
                return

    def _skip(self, batch: Batch[Any]) -> None:
        self._skipped["where"] += 1
        batch.finish()

    async def _deliver(self, message: Message, batch: Batch[Any]) -> bool:
        """Hand one message to the target. Return False if the run ends."""
        ending = await self._attempts.deliver(message)
        if ending is None:
            return False
        reason, error = ending
        if error is not None:
            return self._fail_with(message, batch, error)
        if reason is not None:
            self._skipped[reason] += 1
            batch.finish()
        else:
            self._left = None if self._left is None else self._left - 1
            self._note_accepted(batch, 1)
        await self._write_if_due()
        return True

    def _note_accepted(self, batch: Batch[Any], count: int) -> None:
        self._handled += count
        self._in_a_row = 0
        self._room -= count
        self._unwritten[batch] += count

    def _fail_with(self, message: Message, batch: Batch[Any], error: Exception) -> bool:
        self._open += 1
        self._room -= 1
        return self._record_failure(message, batch, error)

    async def _write_if_due(self) -> None:
        if self._unwritten.total() >= _MOST_UNWRITTEN or self._now() >= self._hint_due:
            await self._record_rest()
            await self._note()

    async def _record_rest(self) -> None:
        """Write what the target has accepted."""
        if not self._unwritten:
            return
        await self._record()
        if not self._broken:
            for batch, count in self._unwritten.items():
                batch.finish(count)
            self._room += self._unwritten.total()
            self._unwritten.clear()


def _read(item: Any) -> Message | None:
    try:
        return read_message(item)
    except Unreadable:
        return None
