"""One run over messages: workers that hand them to the target, and one recording after the other."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias

import attrs

from ..models import Message
from ._report import OnProgress, Plan, Report
from ._sources import EXPIRED, Batch, MessageSource, is_expired
from ._tally import HintNotes, RunSettings, Tally, make_attempts, record_within
from .targets._base import ALONE, BUSY, Target

_MOST_AT_ONCE = 1_024
"""A target that never waits: the number of messages before other tasks get their turn."""
_MOST_BUSY = 5_000
"""A run keeps so many messages that other workers hold. Then it tries these again, before it reads further."""
Item: TypeAlias = tuple[Message, Batch[Any], Exception | None]
"""A message, its page, and the error with which it fails at once."""


@attrs.define(eq=False)
class Finished:
    """A message that was handed out, and how that ended.

    ``reason``: why there was nothing to do. ``error``: the failure for which it is to be set aside.
    """

    message: Message
    batch: Batch[Any]
    reason: str | None = None
    error: str | None = None

    @property
    def handled(self) -> bool:
        """Whether the target accepted it."""
        return self.reason is None and self.error is None


class Recorder(Protocol):
    """Records the messages of a run that are finished.

    ``in_batches``: whether handled messages wait for ``record``. Otherwise each is recorded when it is delivered, and
    ``record`` gets only those to set aside.
    """

    @property
    def in_batches(self) -> bool: ...

    async def record(self, finished: Sequence[Finished]) -> None:
        """Record messages durably. Raises if that is not certain. Safe to repeat."""
        ...


class _Queue:
    """The messages of the source, one after the other: no more than may be under way or not recorded yet.

    At the end come, once more, those that another worker held, and then, one at a time, those that are to be handled
    alone. ``begin_end`` is called before each of both.
    """

    def __init__(self, tally: Tally, settings: RunSettings, begin_end: Callable[[bool], None]) -> None:
        self._tally, self._source, self._begin_end = tally, tally.source, begin_end
        self._most_open, self._left = settings.concurrency, settings.limit
        self._items: Iterator[Item] = iter(())  # the messages that were read and not taken yet
        self._reading: asyncio.Task[Any] | None = None  # the worker that waits for a page
        self._turning = False  # whether a worker turns to the next page. The others wait
        self._changed = asyncio.Event()  # set when ``open`` has changed, or when there is another page
        self._stopped = False
        self.busy: deque[Item] = deque()
        """Messages that another worker holds."""
        self.alone: deque[Item] = deque()
        """Messages that are to be handled alone."""
        self._at_last = False
        self.at_end = False
        """Whether all pages were taken."""

    async def take(self) -> Item | None:
        """Return the next message. None: there are no more."""
        while not self._stopped:
            if self._left == 0 and not self._tally.open:
                break
            if self._tally.open >= self._most_open or self._left == 0 or self._turning:
                await self._wait_for_change()
            elif (following := next(self._items, None)) is not None:
                self._tally.open += 1
                if self._left is not None:
                    self._left -= 1
                return following
            elif not await self._turn_page():
                break
        return None

    def give_back(self) -> None:
        """Do not count a message against the limit: there was nothing to do."""
        if self._left is not None:
            self._left += 1

    def release(self, count: int) -> None:
        """Make room for as many messages, whose handling has ended."""
        self._tally.open -= count
        self._changed.set()

    def stop(self) -> None:
        """Hand out no more messages."""
        self._stopped = True
        self._changed.set()
        if self._reading is not None:
            self._reading.cancel()  # a page may take long

    async def _turn_page(self) -> bool:
        """Take the next page; at the end, once, the messages that were busy, then each that is to be handled alone.

        Return False if there is nothing more.
        """
        if self._at_last and not self.alone:
            return False
        self._turning = True
        try:
            if self.at_end:
                return await self._take_alone()
            self._reading = asyncio.current_task()  # ``stop`` cancels it while it waits here, and nowhere else
            try:
                if len(self.busy) >= _MOST_BUSY:
                    await asyncio.sleep(1)
                    self._items, self.busy = iter(self.busy), deque()
                    return True
                batch = await self._source.advance()
            finally:
                self._reading = None
            if batch is not None:
                errors = batch.errors
                self._items = iter([(each, batch, errors.get(place)) for place, each in enumerate(batch.items)])
                return True
            self.at_end = True
            await self._wait_for_open()
            self._begin_end(False)
            self._items, self.busy = iter(self.busy), deque()
            return True
        finally:
            self._turning = False
            self._changed.set()

    async def _take_alone(self) -> bool:
        await self._wait_for_open()
        if not self._at_last:
            self._at_last = True
            self._begin_end(True)
        if self._stopped or not self.alone:
            return False
        self._items = iter([self.alone.popleft()])
        return True

    async def _wait_for_open(self) -> None:
        while self._tally.open and not self._stopped:
            await self._wait_for_change()

    async def _wait_for_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class _Recording:
    """Records what is finished: many messages together, and one recording after the other.

    The last failures in a row are held back until a message succeeds or the run ends: if they end the run, the
    messages were not tried with a target that works.
    """

    def __init__(self, recorder: Recorder, hints: HintNotes, settings: RunSettings) -> None:
        self._recorder, self._hints, self._seconds = recorder, hints, settings.record_timeout
        self._holds_back = settings.max_failures is not None
        self._done: list[Finished] = []
        self._recent_failures: list[Finished] = []
        self._is_running = self._is_stopped = False
        self._broken = False  # whether a recording failed. Then nothing more is recorded

    def add(self, finished: Finished) -> None:
        """Have a message recorded with the next ones."""
        if finished.error is None or not self._holds_back:
            self._done.append(finished)
        else:
            self._recent_failures.append(finished)

    def settle_recent_failures(self) -> None:
        """Have the last failures in a row set aside."""
        self._done += self._recent_failures
        self._recent_failures = []

    def forget_recent_failures(self) -> None:
        """Set the last failures in a row not aside."""
        self._recent_failures = []

    @property
    def is_due(self) -> bool:
        """Whether there is anything to record, or a hint to note, and that is not under way."""
        return not self._is_running and (bool(self._done) or self._hints.is_due)

    def stop(self) -> None:
        """Begin no more recordings but the last one."""
        self._is_stopped = True

    async def record(self, release: Callable[[int], None]) -> Exception | None:
        """Record what is finished, until nothing is left. Return the error that ends the run, if it fails."""
        self._is_running = True
        try:
            while not self._broken and not self._is_stopped:
                if self._done:
                    # Workers that can go on, or have just started, have their turn: one recording has them all.
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                    if (error := await self._record_once(release)) is not None:
                        return error
                elif self._hints.is_due:
                    await self._hints.note()
                else:
                    break
            return None
        finally:
            self._is_running = False

    async def end(self, release: Callable[[int], None]) -> Exception | None:
        """Record the rest, and note the last hint. Return the error, if it fails. Safe to repeat."""
        if self._broken:
            return None
        self.settle_recent_failures()
        error = await self._record_once(release) if self._done else None
        if error is None:
            await self._hints.note()
        return error

    async def _record_once(self, release: Callable[[int], None]) -> Exception | None:
        """Record once. If it is cancelled, the next one has the same messages."""
        done, self._done = self._done, []
        try:
            error = await record_within(self._seconds, lambda: self._recorder.record(done))
        except asyncio.CancelledError:
            self._done[:0] = done
            raise
        if error is not None:
            self._broken = True
            return error
        for each in done:
            each.batch.mark_done()
        release(sum(each.error is None for each in done))  # one that failed made room at once
        return None


class Engine:
    """One run over a source of messages.

    Workers take messages, as many as may be handed out and not recorded yet, and count how each ended. What is finished
    is recorded by a worker while no other one records: what finishes meanwhile is in the next recording, so slower ones
    record more messages each.

    note_hint: keeps a hint of the source for the next run.
    begin_end: called at the end, before the messages are handed out again that other workers held, with False, and
        before each that is to be handled alone, with True. Returns the seconds for which the target waits for other
        workers then.
    """

    def __init__(
        self,
        source: MessageSource,
        *,
        target: Target,
        recorder: Recorder,
        settings: RunSettings,
        note_hint: Callable[[str], Awaitable[None]] | None = None,
        begin_end: Callable[[bool], float | None] = lambda alone: None,
    ) -> None:
        self._settings = settings
        self._in_batches = recorder.in_batches
        self._attempts = make_attempts(target, settings)

        def wait(alone: bool) -> None:
            self._attempts.timeout += begin_end(alone) or 0.0

        self._tally = Tally(source, self._attempts, settings)
        self._queue = _Queue(self._tally, settings, wait)
        self._recording = _Recording(recorder, HintNotes(source, note_hint, settings.record_timeout), settings)
        self._started = self._working = 0  # the number of workers, and of those that have a message
        self._stopped = False

    async def run(self, progress: OnProgress | None = None, plan: Plan | None = None) -> Report:
        """Hand messages to the target until the source ends or ``stop`` is called. Raises the error that ended the run.

        A cancellation cancels the messages under way. It is raised after all finished messages are recorded.
        """
        return await self._tally.run(self._work_all, self._end, progress, plan)

    def stop(self) -> None:
        """Begin no more messages. ``run`` returns when the messages under way are finished and recorded."""
        self._stopped = True
        self._attempts.stop()
        self._recording.stop()
        self._queue.stop()

    async def _work_all(self) -> None:
        if not self._stopped:
            async with asyncio.TaskGroup() as self._group:
                self._start_worker()

    async def _end(self) -> bool:
        """Record the finished messages that are not recorded yet, and the hint. Safe to repeat."""
        self.stop()
        try:
            for left in (*self._queue.busy, *self._queue.alone):
                left[1].keep_unread()
                self._tally.skipped[BUSY] += 1
            self._queue.busy.clear()
            self._queue.alone.clear()
            self._fail(await self._recording.end(self._queue.release))
        finally:
            await self._tally.source.aclose()
        return self._queue.at_end

    # --- workers ---

    def _start_worker(self) -> None:
        self._started += 1
        self._group.create_task(self._work())

    async def _work(self) -> None:
        """Take messages, hand them to the target, and count how each ended, until there are no more."""
        try:
            await asyncio.sleep(0)  # eager tasks would run in each other, as deep as there are workers
            for number in itertools.count(1):
                taken = await self._queue.take()
                if taken is None:
                    break
                message, batch, error = taken
                self._working += 1
                if self._working == self._started < self._settings.concurrency:  # a target that never awaits needs few
                    self._start_worker()
                reason = EXPIRED if error is None and is_expired(message) else None
                if error is None and reason is None:
                    ending = await self._attempts.deliver(message)
                    if ending is None:
                        break
                    reason, error = ending
                self._working -= 1
                if error is not None:
                    if not self._count_failure(message, batch, error):
                        break
                elif reason in (BUSY, ALONE):
                    self._queue.give_back()
                    (self._queue.busy if reason == BUSY else self._queue.alone).append((message, batch, None))
                    self._queue.release(1)
                else:
                    self._count_success(message, batch, reason)
                if self._recording.is_due:
                    self._fail(await self._recording.record(self._queue.release))
                if number % _MOST_AT_ONCE == 0:
                    await asyncio.sleep(0)
        except Exception as exc:
            self._fail(exc)

    def _count_success(self, message: Message, batch: Batch[Any], reason: str | None) -> None:
        self._tally.in_a_row = 0
        if reason is None:
            self._tally.handled += 1
        else:
            self._tally.skipped[reason] += 1
            self._queue.give_back()
        self._recording.settle_recent_failures()
        if self._in_batches:
            self._recording.add(Finished(message, batch, reason))
        else:
            batch.mark_done()
            self._queue.release(1)

    def _count_failure(self, message: Message, batch: Batch[Any], error: Exception) -> bool:
        """Treat a failed message as ``on_error`` says. Return False if the job ends in front of it."""
        text, end = self._tally.count_failure(message, error)
        if text is None or self._settings.on_error == "stop":
            self._fail(end)
            return end is None
        if self._settings.on_error == "quarantine":
            self._recording.add(Finished(message, batch, error=text))
        else:
            self._tally.given_up += 1
            batch.keep_unread()
        self._queue.release(1)
        if end is not None:
            self._recording.forget_recent_failures()
            self._fail(end)
        return True

    def _fail(self, error: Exception | None) -> None:
        if error is not None:
            self._tally.error = self._tally.error or error
            self.stop()
