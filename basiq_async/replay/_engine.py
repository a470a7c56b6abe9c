"""One run over messages: a loop takes each, a task hands it to the target, and what failed is quarantined."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, TypeAlias, TypeVar

from ..models import Message
from ._report import OnProgress, Plan, Report
from ._sources import EXPIRED, Batch, MessageSource, is_expired
from ._tally import ResumePointNotes, RunSettings, Tally, make_throttle, record_within
from .targets._base import ALONE, BUSY, STOPPED, End, Target

T = TypeVar("T")
_MOST_AT_ONCE = 1_024
"""A target that never waits: the number of messages before other tasks get their turn."""
_MOST_BUSY = 5_000
"""A run keeps so many messages that other workers hold. Then it tries these again, before it reads further."""
Item: TypeAlias = tuple[Message, Batch[Any], Exception | None]
"""A message, its page, and the error with which it fails at once."""


FailedMessage: TypeAlias = tuple[Message, Batch[Any], str]
"""A message that is to be quarantined, its page, and the text of its error."""
WriteQuarantine: TypeAlias = Callable[[Sequence[FailedMessage]], Awaitable[None]]
"""Quarantines messages durably. Raises if that is not certain. Safe to repeat."""


class _Queue:
    """The messages of the source, one after the other: no more than may be under way at once.

    At the end come, once more, those that another worker held, and then, one at a time, those that are to be handled
    alone. ``begin_end`` is called before each of both.
    """

    def __init__(self, tally: Tally, settings: RunSettings, begin_end: Callable[[bool], None]) -> None:
        self._tally, self._source, self._begin_end = tally, tally.source, begin_end
        self._most_open, self._left = settings.concurrency, settings.limit
        self._items: deque[Item] = deque()  # the messages that were read and not taken yet
        self._turns = self._turn()
        self._reading: asyncio.Task[Any] | None = None  # the loop, while it waits for a page
        self._changed = asyncio.Event()  # set when ``open`` has changed
        self._stopped = False
        self.busy: deque[Item] = deque()
        """Messages that another worker holds."""
        self.alone: deque[Item] = deque()
        """Messages that are to be handled alone."""
        self.at_end = False
        """Whether all pages were taken."""

    async def take(self) -> Item | None:
        """Return the next message, as soon as one more may be under way. None: there are no more."""
        tally = self._tally
        while not self._stopped and (self._left != 0 or tally.open):
            if self._left == 0 or tally.open >= self._most_open:
                await self._wait_for_change()
            elif self._items:
                tally.open += 1
                if self._left is not None:
                    self._left -= 1
                return self._items.popleft()
            elif not await anext(self._turns, False):
                break
        return None

    def give_back(self) -> None:
        """Do not count a message against the limit: there was nothing to do."""
        if self._left is not None:
            self._left += 1

    def release(self) -> None:
        """Make room for a message: the handling of one has ended."""
        self._tally.open -= 1
        self._changed.set()

    def stop(self) -> None:
        """Pass no more messages to the handler."""
        self._stopped = True
        self._changed.set()
        if self._reading is not None:
            self._reading.cancel()  # a page may take long

    def leave_held(self) -> int:
        """Leave what other workers held to the next run. Return the number of these messages. Safe to repeat."""
        held = [*self.busy, *self.alone, *(self._items if self.at_end else ())]
        for _, batch, _ in held:
            batch.keep_unread()
        for each in (self.busy, self.alone, self._items):
            each.clear()
        return len(held)

    async def _turn(self) -> AsyncGenerator[bool]:
        """Yield True after each turn to more messages."""
        while (batch := await self._read(self._source.advance())) is not None:
            errors = batch.errors
            self._items.extend([(each, batch, errors.get(place)) for place, each in enumerate(batch.items)])
            yield True
            while len(self.busy) >= _MOST_BUSY:
                await self._read(asyncio.sleep(1))
                self._items, self.busy = self.busy, deque()
                yield True
        self.at_end = True
        if await self._wait_until_none_open():
            self._begin_end(False)
            self._items, self.busy = self.busy, deque()
            yield True
        if await self._wait_until_none_open() and self.alone:
            self._begin_end(True)
            while self.alone and await self._wait_until_none_open():
                self._items.append(self.alone.popleft())
                yield True

    async def _read(self, wait: Awaitable[T]) -> T:
        """Wait for a page. ``stop`` cancels the loop while it waits here, and nowhere else."""
        self._reading = asyncio.current_task()
        try:
            return await wait
        finally:
            self._reading = None

    async def _wait_until_none_open(self) -> bool:
        """Wait until no message is under way. Return False if no more may be."""
        while self._tally.open and not self._stopped:
            await self._wait_for_change()
        return not self._stopped

    async def _wait_for_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class _Failures:
    """Quarantines what failed, one call after the other, and notes resume points.

    The last failures in a row are held back until a message succeeds or the run ends: if they end the run, the
    messages were not tried with a target that works.
    """

    def __init__(self, quarantine: WriteQuarantine, resume_points: ResumePointNotes, settings: RunSettings) -> None:
        self._quarantine, self._resume_points, self._seconds = quarantine, resume_points, settings.record_timeout
        self._holds_back = settings.max_failures is not None
        self._due: list[FailedMessage] = []
        self._recent: list[FailedMessage] = []
        self._is_running = self._is_stopped = False
        self._broken = False  # whether a call failed. Then nothing more is quarantined

    def add(self, failed: FailedMessage) -> None:
        """Have a message quarantined with the next ones."""
        (self._recent if self._holds_back else self._due).append(failed)

    def settle_recent(self) -> None:
        """Have the last failures in a row quarantined."""
        self._due += self._recent
        self._recent = []

    def forget_recent(self) -> None:
        """Do not quarantine the last failures in a row."""
        self._recent = []

    @property
    def is_due(self) -> bool:
        """Whether there is anything to record, or a resume point to note, and that is not under way."""
        return not self._is_running and (bool(self._due) or self._resume_points.is_due)

    def stop(self) -> None:
        """Make no more calls but the last one."""
        self._is_stopped = True

    async def record(self) -> Exception | None:
        """Record what failed, until nothing is left. Return the error that ends the run, if it fails."""
        self._is_running = True
        try:
            while not self._broken and not self._is_stopped:
                if self._due:
                    if (error := await self._record_once()) is not None:
                        return error
                elif self._resume_points.is_due:
                    await self._resume_points.note()
                else:
                    break
            return None
        finally:
            self._is_running = False

    async def end(self) -> Exception | None:
        """Record the rest, and note the last resume point. Return the error, if it fails. Safe to repeat."""
        if self._broken:
            return None
        self.settle_recent()
        error = await self._record_once() if self._due else None
        if error is None:
            await self._resume_points.note()
        return error

    async def _record_once(self) -> Exception | None:
        """Record once. If it is cancelled, the next one has the same messages."""
        due, self._due = self._due, []
        try:
            error = await record_within(self._seconds, lambda: self._quarantine(due))
        except asyncio.CancelledError:
            self._due[:0] = due
            raise
        if error is not None:
            self._broken = True
            return error
        for _, batch, _ in due:
            batch.mark_done()
        return None


class Engine:
    """One run over a source of messages.

    A loop takes messages, and starts a task for each, which hands it to the target and counts how that ended. No more
    are under way than ``concurrency``. A task records what failed while no other one records.

    note_resume_point: keeps a resume point of the source for the next run.
    begin_end: called at the end, before the messages are passed to the handler again that other workers held, with
        False, and before those that are to be handled alone, with True. Returns the seconds for which the target waits
        for other workers then.
    """

    def __init__(
        self,
        source: MessageSource,
        *,
        target: Target,
        quarantine: WriteQuarantine,
        settings: RunSettings,
        note_resume_point: Callable[[str], Awaitable[None]] | None = None,
        begin_end: Callable[[bool], float | None] = lambda alone: None,
    ) -> None:
        self._settings = settings
        self._throttle = make_throttle(target, settings)

        def wait(alone: bool) -> None:
            self._throttle.timeout += begin_end(alone) or 0.0

        self._tally = Tally(source, self._throttle, settings)
        self._queue = _Queue(self._tally, settings, wait)
        self._failures = _Failures(
            quarantine, ResumePointNotes(source, note_resume_point, settings.record_timeout), settings
        )
        self._stopped = False

    async def run(self, progress: OnProgress | None = None, plan: Plan | None = None) -> Report:
        """Hand messages to the target until the source ends or ``stop`` is called. Raises the error that ended the run.

        A cancellation cancels the messages under way. It is raised after what failed is recorded.
        """
        return await self._tally.run(self._work, self._end, progress, plan)

    def stop(self) -> None:
        """Begin no more messages. ``run`` returns when the messages under way are finished and recorded."""
        self._stopped = True
        self._throttle.stop()
        self._failures.stop()
        self._queue.stop()

    async def _work(self) -> None:
        if not self._stopped:
            async with asyncio.TaskGroup() as group:
                group.create_task(
                    self._pass_to_handler(group)
                )  # a task of its own: ``stop`` cancels it, and not the others

    async def _end(self) -> bool:
        """Record the failures that are not recorded yet, and the resume point. Safe to repeat."""
        self.stop()
        try:
            self._tally.skipped[BUSY] += self._queue.leave_held()
            if (error := await self._failures.end()) is not None:
                self._fail(error)
        finally:
            await self._tally.source.aclose()
        return self._queue.at_end

    async def _pass_to_handler(self, group: asyncio.TaskGroup) -> None:
        """Take each message, and start the task that handles it."""
        count = 0
        try:
            while (item := await self._queue.take()) is not None:
                group.create_task(self._handle(*item))
                del item  # the task has it
                count += 1
                if count % _MOST_AT_ONCE == 0:
                    await asyncio.sleep(0)
        except Exception as exc:
            self._fail(exc)

    async def _handle(self, message: Message, batch: Batch[Any], error: Exception | None) -> None:
        """Hand a message to the target, and count how that ended."""
        try:
            end: End = error or (EXPIRED if is_expired(message) else await self._throttle.deliver(message))
            if isinstance(end, Exception):
                self._count_failure(message, batch, end)
            elif end in (BUSY, ALONE):
                self._queue.give_back()
                (self._queue.busy if end == BUSY else self._queue.alone).append((message, batch, None))
                self._queue.release()
            elif end != STOPPED:
                self._count_success(batch, end)
            if self._failures.is_due and (error := await self._failures.record()) is not None:
                self._fail(error)
        except Exception as exc:
            self._fail(exc)

    def _count_success(self, batch: Batch[Any], reason: str | None) -> None:
        self._tally.in_a_row = 0
        if reason is None:
            self._tally.handled += 1
        else:
            self._tally.skipped[reason] += 1
            self._queue.give_back()
        self._failures.settle_recent()
        batch.mark_done()
        self._queue.release()

    def _count_failure(self, message: Message, batch: Batch[Any], error: Exception) -> None:
        """Treat a failed message as ``on_error`` says."""
        text, end = self._tally.count_failure(message, error)
        if text is None or self._settings.on_error == "stop":
            if end is not None:
                self._fail(end)
            return  # the run ends in front of it
        if self._settings.on_error == "quarantine":
            self._failures.add((message, batch, text))
        else:
            self._tally.given_up += 1
            batch.keep_unread()
        self._queue.release()
        if end is not None:
            self._failures.forget_recent()
            self._fail(end)

    def _fail(self, error: Exception) -> None:
        self._tally.error = self._tally.error or error
        self.stop()
