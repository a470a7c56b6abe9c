"""One run into a target that is its own record: pages are handed over at once, without a queue and workers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from ._report import OnProgress, Plan, Report
from ._sources import Batch, MessageSource, UnreadableMessage
from ._tally import ResumePointNotes, RunSettings, Tally, make_throttle, record_within
from .targets._base import STOPPED, BulkTarget, End, Target
from .targets._json_lines import JSONLinesTarget

_MOST_UNWRITTEN = 4_096
"""The number of messages that are collected before they are written together."""


class PageWriter:
    """One run whose messages are accepted one after the other, and written together.

    target: accepts the messages, as the run's observer wrapped it. written: the target that ``flush`` is asked of.
    raw_items: the source has items as Basiq sent them, all of which the file takes, page by page.
    note_resume_point: keeps a resume point of the source for the next run.
    """

    def __init__(
        self,
        source: MessageSource,
        *,
        target: Target,
        written: BulkTarget,
        settings: RunSettings,
        raw_items: bool,
        note_resume_point: Callable[[str], Awaitable[None]] | None,
    ) -> None:
        self._written, self._raw_items, self._settings = written, raw_items, settings
        self._throttle = make_throttle(target, settings, width=1)
        self._tally = Tally(source, self._throttle, settings)
        self._resume_points = ResumePointNotes(source, note_resume_point, settings.record_timeout)
        self._left = settings.limit
        self._unwritten: Counter[Batch[Any]] = Counter()
        """The number of messages of each page that were accepted, and are not written yet."""
        self._reading: asyncio.Task[Any] | None = None  # while it waits for a page
        self._at_end = self._stopped = False
        self._broken = False  # whether a writing failed. Then nothing more is written

    async def run(self, progress: OnProgress | None = None, plan: Plan | None = None) -> Report:
        """See ``Engine``."""
        return await self._tally.run(self._work_all, self._end, progress, plan)

    def stop(self) -> None:
        """See ``Engine``."""
        self._stopped = True
        self._throttle.stop()
        if self._reading is not None:
            self._reading.cancel()

    async def _work_all(self) -> None:
        if not self._stopped:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._work())

    async def _end(self) -> bool:
        self.stop()
        try:
            await self._write()
            if not self._broken:
                await self._resume_points.note()
        finally:
            await self._tally.source.aclose()
        return self._at_end

    async def _work(self) -> None:
        """Hand the messages of each page to the target, and have it write them from time to time."""
        try:
            while not self._stopped and self._left != 0:
                self._reading = asyncio.current_task()
                try:
                    batch = await self._tally.source.advance()
                finally:
                    self._reading = None
                if batch is None:
                    self._at_end = True
                    break
                if self._raw_items and isinstance(self._written, JSONLinesTarget):
                    await self._accept_page(batch, self._written)
                else:
                    await self._accept(batch)
        except Exception as exc:
            self._fail(exc)

    async def _accept_page(self, batch: Batch[Any], file: JSONLinesTarget) -> None:
        """Hand a page to the file as Basiq sent it."""
        count = len(batch.items) if self._left is None else min(self._left, len(batch.items))
        file._accept(batch.items[:count], batch.keys[:count])
        self._count_accepted(batch, count)
        batch.items = ()  # they stand in lines by now
        await asyncio.sleep(0)
        await self._write_if_due()

    async def _accept(self, batch: Batch[Any]) -> None:
        """Hand the messages of a page to the target, one after the other."""
        for place, message in enumerate(batch.items):
            if self._stopped or self._left == 0:
                return
            end: End = batch.errors.get(place)
            if end is None or (isinstance(self._written, JSONLinesTarget) and isinstance(message, UnreadableMessage)):
                end = await self._throttle.deliver(message)
            if end == STOPPED:
                return
            if isinstance(end, Exception):
                text, error = self._tally.count_failure(message, end)
                if text is not None and self._settings.on_error == "skip":
                    self._tally.given_up += 1
                    batch.keep_unread()
                if error is not None:
                    self._fail(error)
                    return
            elif end is not None:
                self._tally.skipped[end] += 1
                batch.mark_done()
            else:
                self._count_accepted(batch, 1)
            await self._write_if_due()

    def _count_accepted(self, batch: Batch[Any], count: int) -> None:
        self._tally.handled += count
        self._tally.in_a_row = 0
        self._tally.open += count
        if self._left is not None:
            self._left -= count
        self._unwritten[batch] += count

    async def _write_if_due(self) -> None:
        if self._unwritten.total() >= _MOST_UNWRITTEN or self._resume_points.is_due:
            await self._write()
            if not self._broken:
                await self._resume_points.note()

    async def _write(self) -> None:
        """Have the target write what it has accepted. A failure ends the run. Safe to repeat."""
        if not self._unwritten or self._broken:
            return
        error = await record_within(self._settings.record_timeout, self._written.flush)
        if error is not None:
            self._broken = True
            self._fail(error)
            return
        for batch, count in self._unwritten.items():
            batch.mark_done(count)
        self._tally.open -= self._unwritten.total()
        self._unwritten.clear()

    def _fail(self, error: Exception) -> None:
        self._tally.error = self._tally.error or error
        self.stop()
