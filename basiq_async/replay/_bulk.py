"""A run into a target that is its own record: each page is handed over at once, without a queue and workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from ..models import Message
from ._engine import Engine
from ._sources import MessageBatch
from ._where import choose, everything

_MOST_UNWRITTEN = 4_096
"""The number of messages that are collected before they are written together."""


class BulkEngine(Engine):
    """A run whose messages are accepted one after the other, and written together.

    A target with a method ``add`` accepts a page at once.
    """

    async def _read_messages(self) -> None:
        """Hand the messages of each page to the target, and have it write them from time to time."""
        self._reading = asyncio.current_task()
        try:
            unwritten: list[tuple[MessageBatch, int]] = []
            count = 0
            while not self._stopped and self._left != 0:
                batch = await self._source.advance()
                if batch is None:
                    self._whole = self._source.finished
                    break
                accepted = await self._accept(batch)
                unwritten.append((batch, accepted))
                count += accepted
                self._room = self._settings.concurrency - count
                if count >= _MOST_UNWRITTEN or self._now() >= self._hint_due:
                    await self._write(unwritten)
                    count = 0
            await self._write(unwritten)
        except Exception as exc:
            self._whole = False
            self._fail(exc)

    async def _accept(self, batch: MessageBatch) -> int:
        """Hand the messages of a page to the target. Return the number that it accepted."""
        target = self._target
        add: Callable[[Sequence[Message]], None] | None = getattr(target, "add", None)
        if add is not None and self._left is None and self._settings.rate is None:
            chosen = batch.items if self._where.predicate is everything else self._select(batch)
            add(chosen)
            self._handled += len(chosen)
            await asyncio.sleep(0)
            return len(chosen)
        accepted = 0
        for message in batch.items:
            if self._stopped or self._left == 0:
                break
            wanted, error = choose(self._where, message)
            if not wanted:
                self._skipped["where"] += 1
                batch.finish()
                continue
            if error is None or add is not None:
                ending = await self._attempts.deliver(message)
                if ending is None:
                    break
                reason, error = ending
                if error is None:
                    accepted += 1
                    self._in_a_row = 0
                    if reason is not None:
                        self._skipped[reason] += 1
                        continue
                    self._handled += 1
                    if self._left is not None:
                        self._left -= 1
                    continue
            self._open += 1
            if not self._record_failure(message, batch, error):
                break
        return accepted

    def _select(self, batch: MessageBatch) -> list[Message]:
        chosen = [message for message in batch.items if choose(self._where, message)[0]]
        left = len(batch.items) - len(chosen)
        if left:
            self._skipped["where"] += left
            batch.finish(left)
        return chosen

    async def _write(self, unwritten: list[tuple[MessageBatch, int]]) -> None:
        """Write what the target has accepted, and note how far that is."""
        await self._recorder.record(())
        for batch, count in unwritten:
            batch.finish(count)
        unwritten.clear()
        self._room = self._settings.concurrency
        if self._now() >= self._hint_due:
            await self._note()

    def _record_soon(self) -> None:
        """Nothing waits: ``_write`` records."""
