"""One run of a replay: workers that hand messages to the target, and one recording after the other."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Literal, Protocol

import attrs

from .._redaction.text import amount, printable, shorten
from .._redaction.tracebacks import hide_parameters
from .._work.failures import failure_text
from .._work.limits import limit
from .._work.tasks import run_to_completion
from .._work.throughput import RECENT_SECONDS, messages_per_second, seconds_left
from ..errors import BasiqError, InboxError, ReplayError, TargetError
from ..hooks import call_hook
from ..models import Message
from ._report import OnProgress, Plan, Progress, Report
from ._sources import Batch, MessageSource, Source
from ._throttle import LONGEST_ERROR, Attempts, Limiter, RateLimiter, ending_error
from .targets._base import BUSY, HANDLED_BEFORE, Target

logger = logging.getLogger("basiq_async.replay")

OnError = Literal["quarantine", "stop", "skip"]

_REPORT_EVERY = 0.25
_NOTE_EVERY = 5.0
"""Seconds between two hints."""
_MOST_AT_ONCE = 1_024
"""A target that never waits: the number of messages before other tasks get their turn."""


@attrs.frozen(kw_only=True)
class RunSettings:
    """The settings of a run. ``rate`` is in messages a second; ``max_pause`` and the timeouts are in seconds.

    ``limit``: maximum number of messages to hand out; None for all. ``tries_once``: whether a message that fails is not
    tried again, and no outage is waited for; a pause that the target asks for is.
    """

    concurrency: int
    rate: float | None
    on_error: OnError
    max_failures: int | None
    max_pause: float
    target_timeout: float = 300.0
    record_timeout: float = 60.0
    limit: int | None = None
    tries_once: bool = False


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


class Observer(Protocol):
    """Watches the runs of a replay, for example to record spans and metrics."""

    def wrap(self, target: Target) -> Target:
        """Return a target that wraps this one."""
        ...

    def begin(self, source: Source) -> None:
        """Called when a run begins, with the list that it reads."""
        ...

    def on_progress(self, progress: Progress) -> None:
        """Called with the progress of the run."""
        ...


class Engine:
    """One run over a source of messages.

    Workers take messages, as many as may be handed out and not recorded yet, and note how each ended. What is finished
    is recorded by a worker while no other one records: what finishes meanwhile is in the next recording, so slower ones
    record more messages each.

    The last failures in a row are not recorded until a message succeeds or the run ends: if they end the run, nobody
    tried the messages with a target that works.

    limiter: replaces the settings' rate if several engines share one.
    on_pause: called with the length of each pause that the target causes.
    note_hint: keeps a hint of the source for the next run.
    wait_for_others: called at the end, before the messages are handed out again that other workers held. Returns the
        seconds for which the target waits for those workers then.
    """

    def __init__(
        self,
        source: MessageSource,
        *,
        target: Target,
        recorder: Recorder,
        settings: RunSettings,
        limiter: Limiter | None = None,
        on_pause: Callable[[float], None] | None = None,
        note_hint: Callable[[str], Awaitable[None]] | None = None,
        wait_for_others: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._source, self._recorder = source, recorder
        self._settings, self._target = settings, target
        self._attempts = Attempts(
            target,
            limiter if limiter is not None or settings.rate is None else RateLimiter(settings.rate),
            width=settings.concurrency,
            max_pause=settings.max_pause,
            timeout=settings.target_timeout,
            on_pause=on_pause,
            once=settings.tries_once,
        )
        self._note_hint, self._wait_for_others = note_hint, wait_for_others
        self._hint: str | None = None
        self._hint_due = 0.0
        self._items: Iterator[tuple[Message, Batch[Any], Exception | None]] = iter(())
        """The messages that were read and not taken yet, with the errors of those that fail at once."""
        self._reading: asyncio.Task[Any] | None = None  # the worker that waits for a page
        self._turning = False  # whether a worker turns to the next page. The others wait
        self._left = settings.limit
        self._open = 0  # the number of messages under way, or handled and not recorded yet
        self._changed = asyncio.Event()  # set when that has changed, or when there is another page
        self._started = self._working = 0  # the number of workers, and of those that have a message
        self._done: list[Finished] = []
        self._row: list[Finished] = []  # the last failures in a row
        self._busy: deque[tuple[Message, Batch[Any], None]] = deque()
        """Messages that another worker holds. They are handed out again at the end, once."""
        self._at_end = False  # whether all pages were taken
        self._recording = False
        self._broken = False  # whether a recording failed. Then nothing more is recorded
        self._stopped = False
        self._handled = self._failed = self._in_a_row = self._given_up = 0
        self._skipped: Counter[str] = Counter()
        self._began = 0.0
        self._samples: deque[tuple[float, int]] = deque(maxlen=int(RECENT_SECONDS / _REPORT_EVERY) + 1)
        """Times of the event loop, each with the number of messages that were handled or failed until then."""
        self._error: Exception | None = None

    async def run(self, progress: OnProgress | None = None, plan: Plan | None = None) -> Report:
        """Hand messages to the target until the source ends or ``stop`` is called. Raises the error that ended the run.

        A cancellation cancels the messages under way. It is raised after all finished messages are recorded.
        """
        loop = asyncio.get_running_loop()
        self._began = loop.time()
        self._hint_due = self._began + _NOTE_EVERY
        self._samples.append((self._began, 0))
        reporting = None if progress is None else loop.create_task(self._report_progress(progress, plan))
        try:
            if not self._stopped:
                async with asyncio.TaskGroup() as self._group:
                    self._start_worker()
        finally:
            await run_to_completion(lambda: self._end(reporting))
            report = self._report(plan)
            if progress is not None:
                call_hook(progress, report)
        if self._error is not None:
            if isinstance(self._error, ReplayError):
                self._error.report = report
            else:
                after = amount(report.handled, "message", "messages")
                self._error.add_note(f"the replay stopped after {after}; run it again to continue")
            raise self._error
        return report

    def stop(self) -> None:
        """Begin no more messages. ``run`` returns when the messages under way are finished and recorded."""
        self._stopped = True
        self._attempts.stop()
        self._changed.set()
        if self._reading is not None:
            self._reading.cancel()  # a page may take long

    def pause(self, seconds: float) -> None:
        """Hand no message to the target for ``seconds``, as if it had asked for a pause."""
        self._attempts.pressure.pause(seconds)

    async def _end(self, reporting: asyncio.Task[None] | None) -> None:
        """Record the finished messages that are not recorded yet, and the hint. Safe to repeat."""
        self.stop()
        if reporting is not None:
            reporting.cancel()
            await asyncio.wait((reporting,))
        try:
            while self._busy:
                self._busy.popleft()[1].hold()
                self._skipped[BUSY] += 1
            if not self._broken:
                await self._record_rest()
                await self._note()
        finally:
            await self._source.aclose()

    # --- workers ---

    def _start_worker(self) -> None:
        self._started += 1
        self._group.create_task(self._work())

    async def _work(self) -> None:
        """Take messages, hand them to the target, and note how each ended, until there are no more."""
        try:
            await asyncio.sleep(0)  # eager tasks would run in each other, as deep as there are workers
            for number in itertools.count(1):
                taken = await self._take()
                if taken is None:
                    break
                message, batch, error = taken
                reason = None
                if error is None:
                    ending = await self._attempts.deliver(message)
                    if ending is None:
                        break
                    reason, error = ending
                self._working -= 1
                if error is not None:
                    if not self._record_failure(message, batch, error):
                        break
                elif reason == BUSY:
                    self._give_back()
                    self._busy.append((message, batch, None))
                    self._release(1)
                else:
                    self._record_success(message, batch, reason)
                if not self._recording and (self._done or self._now() >= self._hint_due):
                    await self._record_finished()
                if number % _MOST_AT_ONCE == 0:
                    await asyncio.sleep(0)
        except Exception as exc:
            self._fail(exc)

    async def _take(self) -> tuple[Message, Batch[Any], Exception | None] | None:
        """Return the next message, with the error if it could not be read or selected. None: there are no more."""
        while not self._stopped:
            if self._left == 0 and not self._open:
                break
            if self._open >= self._settings.concurrency or self._left == 0 or self._turning:
                await self._wait_for_change()
            elif (following := next(self._items, None)) is not None:
                self._begin()
                return following
            elif not await self._turn_page():
                break
        return None

    async def _turn_page(self) -> bool:
        """Take the next page; at the end, once, the messages that were busy. Return False if there is neither."""
        if self._at_end:
            return False
        self._turning = True
        try:
            batch = await self._next_page()
            if batch is not None:
                self._items = _each(batch)
                return True
            self._at_end = True
            while self._open and not self._stopped:
                await self._wait_for_change()
            self._attempts.timeout += self._wait_for_others() or 0.0
            self._items, self._busy = iter(self._busy), deque()
            return True
        finally:
            self._turning = False
            self._changed.set()

    async def _next_page(self) -> Batch[Any] | None:
        self._reading = asyncio.current_task()  # ``stop`` cancels it while it waits here, and nowhere else
        try:
            return await self._source.advance()
        finally:
            self._reading = None

    def _begin(self) -> None:
        self._open += 1
        if self._left is not None:
            self._left -= 1
        self._working += 1
        if self._working == self._started < self._settings.concurrency:  # a target that never awaits needs few
            self._start_worker()

    async def _wait_for_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _record_success(self, message: Message, batch: Batch[Any], reason: str | None) -> None:
        self._in_a_row = 0
        if reason is None:
            self._handled += 1
        else:
            self._skipped[reason] += 1
            self._give_back()
        if self._row:
            self._settle_row()
        if self._recorder.in_batches:
            self._done.append(Finished(message, batch, reason))
        else:
            batch.finish()
            self._release(1)

    def _record_failure(self, message: Message, batch: Batch[Any], error: Exception) -> bool:
        """Treat a failed message as ``on_error`` says. Return False if the job ends."""
        settings = self._settings
        is_end = isinstance(error, ReplayError) and not isinstance(error, TargetError)
        if is_end or (isinstance(error, InboxError) and error._lasts):
            self._fail(error)
            return False
        text = failure_text(hide_parameters(error), longest=LONGEST_ERROR)
        logger.warning("message %r failed: %s", shorten(message.id), printable(text))
        self._failed += 1
        self._in_a_row += 1
        if settings.on_error == "stop":
            stop = f"message {shorten(message.id)!r} failed, and the replay stopped before it: {text}"
            self._fail(ending_error(stop, error))
            return False
        if settings.on_error == "quarantine":
            self._row.append(Finished(message, batch, error=text))
            if settings.max_failures is None:
                self._settle_row()
        else:
            self._given_up += 1
            batch.hold()
        self._release(1)
        if settings.max_failures is not None and self._in_a_row >= settings.max_failures:
            self._row.clear()
            what = amount(self._in_a_row, "message", "messages in a row")
            stop = f"{what} failed, the last one with {text}. The replay stopped in front"
            self._fail(ending_error(f"{stop} of that: fix the target, then run the same again", error))
        return True

    def _settle_row(self) -> None:
        """Have the last failures in a row set aside."""
        self._done += self._row
        self._row = []

    def _give_back(self) -> None:
        """Do not count a message against the limit: there was nothing to do."""
        if self._left is not None:
            self._left += 1

    def _release(self, count: int) -> None:
        """Make room for as many messages, whose handling has ended."""
        self._open -= count
        self._changed.set()

    def _fail(self, exc: Exception) -> None:
        self._error = self._error or exc
        self.stop()

    # --- recording ---

    async def _record_finished(self) -> None:
        """Record what is finished, until nothing is left, and note a hint from time to time."""
        self._recording = True
        try:
            while not self._broken and not self._stopped:
                if self._done:
                    # Workers that can go on, or have just started, have their turn: one recording has them all.
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                    await self._record()
                elif self._now() >= self._hint_due:
                    await self._note()
                else:
                    break
        finally:
            self._recording = False

    async def _record_rest(self) -> None:
        """Record what is finished and not recorded yet, at the end of the run."""
        self._settle_row()
        if self._done:
            await self._record()

    async def _record(self) -> None:
        """Record once. A failure ends the run. If it is cancelled, the next one has the same messages."""
        seconds = self._settings.record_timeout
        slow = ReplayError(
            f"the finished messages could not be recorded within {seconds:g} s: fix the record, then run the same again"
        )
        done, self._done = self._done, []
        try:
            async with limit(seconds, slow):
                await self._recorder.record(done)
        except asyncio.CancelledError:
            self._done[:0] = done
            raise
        except Exception as exc:
            self._broken = True
            text = f"the finished messages could not be recorded: {type(exc).__name__}: {exc}"
            self._fail(exc if isinstance(exc, BasiqError) else ending_error(text, exc))
        else:
            for each in done:
                each.batch.finish()
            self._release(sum(each.error is None for each in done))  # one that failed made room at once

    async def _note(self) -> None:
        """Keep the source's hint for the next run. Without it, the next run makes more requests."""
        self._hint_due = self._now() + _NOTE_EVERY
        hint = None if self._note_hint is None else self._source.hint()
        if self._note_hint is None or hint is None or hint == self._hint:
            return
        try:
            async with limit(self._settings.record_timeout, ReplayError("the record did not respond")):
                await self._note_hint(hint)
            self._hint = hint
        except Exception as exc:
            logger.warning("the place in the list could not be noted, so the next run reads more of it: %s", exc)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    # --- report and progress ---

    def _report(self, plan: Plan | None) -> Report:
        progress = self._progress(plan)
        finished = self._at_end and self._source.finished and not self._open and self._error is None
        return Report(
            **attrs.asdict(progress, recurse=False, filter=attrs.filters.exclude("rate")),
            rate=(self._handled + self._failed) / progress.duration if progress.duration > 0 else 0.0,
            finished=finished and not self._given_up and not self._skipped[BUSY],
        )

    async def _report_progress(self, progress: OnProgress, plan: Plan | None) -> None:
        while True:
            await asyncio.sleep(_REPORT_EVERY)
            call_hook(progress, self._progress(plan))
            self._samples.append((asyncio.get_running_loop().time(), self._handled + self._failed))

    def _progress(self, plan: Plan | None) -> Progress:
        now = asyncio.get_running_loop().time()
        done = self._handled + self._failed
        rate = messages_per_second(self._samples, now_seconds=now, began_seconds=self._began, finished=done)
        skipped = self._skipped.copy()
        skipped[HANDLED_BEFORE] += self._source.known_count
        skipped["where"] += self._source.unselected_count
        passed = self._skipped.total() - self._skipped["no-handler"]
        remaining = None if plan is None else max(0, plan.total - done - passed)
        pause, since = self._attempts.pressure.paused_until, self._attempts.since
        return Progress(
            read=self._source.read_count,
            handled=self._handled,
            skipped={reason: count for reason, count in skipped.items() if count},
            failed=self._failed,
            in_flight=self._open,
            duration=now - self._began,
            rate=rate,
            remaining=remaining,
            eta=seconds_left(remaining, rate),
            paused=0.0 if pause is None else pause - now,
            reason=None if pause is None else self._attempts.reason,
            down=0.0 if since is None else now - since,
            order=self._source.order,
        )


def _each(batch: Batch[Any]) -> Iterator[tuple[Message, Batch[Any], Exception | None]]:
    for place, message in enumerate(batch.items):
        yield message, batch, batch.errors.get(place)
