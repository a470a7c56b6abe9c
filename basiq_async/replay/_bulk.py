"""A run into a target that is its own record: each page is handed over at once, without a queue and workers."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from ._engine import Engine
from ._sources import Batch, UnreadableMessage
from .targets._json_lines import JSONLinesTarget

_MOST_UNWRITTEN = 4_096
"""The number of messages that are collected before they are written together."""


class BulkEngine(Engine):
    """A run whose messages are accepted one after the other, and written together.

    file: the target, if it is a file: it takes also what cannot be read.
    as_sent: the source has items as Basiq sent them, all of which the file takes, page by page.
    """

    def __init__(self, *args: Any, file: JSONLinesTarget | None, as_sent: bool, **options: Any) -> None:
        super().__init__(*args, **options)
        self._file = file
        self._as_sent = as_sent
        self._unwritten: Counter[Batch[Any]] = Counter()
        """The number of messages of each page that were accepted, and are not written yet."""

    async def _work(self) -> None:
        """Hand the messages of each page to the target, and have it write them from time to time."""
        try:
            while not self._stopped and self._left != 0:
                batch = await self._next_page()
                if batch is None:
                    self._at_end = True
                    break
                if self._as_sent and self._file is not None:
                    await self._accept_page(batch, self._file)
                else:
                    await self._accept(batch)
        except Exception as exc:
            self._fail(exc)

    async def _accept_page(self, batch: Batch[Any], file: JSONLinesTarget) -> None:
        """Hand a page to the file as Basiq sent it."""
        count = len(batch.items) if self._left is None else min(self._left, len(batch.items))
        file._accept(batch.items[:count], batch.keys[:count])
        self._note_accepted(batch, count)
        batch.items = ()  # they stand in lines by now
        await asyncio.sleep(0)
        await self._write_if_due()

    async def _accept(self, batch: Batch[Any]) -> None:
        """Hand the messages of a page to the target, one after the other."""
        for place, message in enumerate(batch.items):
            if self._stopped or self._left == 0:
                return
            error = batch.errors.get(place)
            reason = None
            if error is None or (self._file is not None and isinstance(message, UnreadableMessage)):
                ending = await self._attempts.deliver(message)
                if ending is None:
                    return
                reason, error = ending
            if error is not None:
                self._open += 1
                if not self._record_failure(message, batch, error):
                    return
            elif reason is not None:
                self._skipped[reason] += 1
                batch.finish()
            else:
                self._note_accepted(batch, 1)
            await self._write_if_due()

    def _note_accepted(self, batch: Batch[Any], count: int) -> None:
        self._handled += count
        self._in_a_row = 0
        if self._left is not None:
            self._left -= count
        self._open += count
        self._unwritten[batch] += count

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
            self._open -= self._unwritten.total()
            self._unwritten.clear()
