"""One run of a replay: a reader, workers that hand messages to the target, a ledger, and one save after the other."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

import attrs

from .._redaction.text import printable
from .._redaction.tracebacks import hide_parameters
from .._work.failures import failure_text
from .._work.tasks import run_to_completion
from .._work.throughput import RECENT_SECONDS, messages_per_second, seconds_left
from ..errors import BasiqError, CheckpointError, ReplayError, TargetError
from ..hooks import call_hook
from ..models import Message
from ._coverage import InactivityTracker
from ._ledger import Ledger, Span
from ._report import OnProgress, Plan, Progress, Report
from ._sources import MessageSource, UnreadableMessage
from ._throttle import LONGEST_ERROR, Attempts, Limiter, RateLimiter
from ._where import Where, choose, everything
from .checkpoints._base import Advance, Commit, DeadLetter, State
from .targets._base import Target

logger = logging.getLogger("basiq_async.replay")

OnError = Literal["dead-letter", "stop", "skip"]
R = TypeVar("R", bound=BasiqError)

_REPORT_EVERY = 0.25
_SPAN = 500
"""The number of messages between two cursors that can be recorded."""
_MOST_AHEAD = 10_000
"""Maximum number of messages finished after a slow one. It bounds the memory, because their ids are kept."""
_MOST_AT_ONCE = 1_024
"""Synchronous target: maximum number of messages before other tasks get their turn."""

WorkItem: TypeAlias = tuple[Message, Span, Exception | None]
"""A message to handle, its span, and the error if reading or selecting it failed already."""


@attrs.frozen(kw_only=True)
class RunSettings:
    """The settings of a run. ``rate`` is in messages a second; ``max_pause`` and the timeouts are in seconds.

    ``target_timeout`` is None for a target that never waits in ``deliver``.
    """

    concurrency: int
    rate: float | None
    on_error: OnError
    max_failures: int | None
    max_pause: float
    target_timeout: float | None = 300.0
    checkpoint_timeout: float = 60.0

    @property
    def most_spans(self) -> int:
        """Maximum number of open spans of the history."""
        return max(_MOST_AHEAD, 2 * self.concurrency) // _SPAN


class Observer(Protocol):
    """Watches the runs of a replay, for example to record spans and metrics."""

    def wrap(self, target: Target) -> Target:
        """Return a target that wraps this one."""
        ...

    def begin(self) -> None:
        """Called when a run begins."""
        ...

    def on_progress(self, progress: Progress) -> None:
        """Called with the progress of the run."""
        ...


class Engine:
    """One run over a source of messages, starting from ``state``.

    The reader puts messages into a queue, as many as may be handed out and not recorded yet. Workers take them, and
    note in the ledger how each ended. What the ledger has is saved while no other save is under way: what finishes
    meanwhile is in the next one, so slower saves record more messages each.

    save: records a commit, within ``checkpoint_timeout``.
    limiter: replaces the settings' rate if several engines share one.
    tracker: finds the periods of inactivity from the messages. What it finds is recorded.
    on_pause: called with the length of each pause that the target causes.
    """

    def __init__(
        self,
        source: MessageSource,
        *,
        target: Target,
        save: Callable[[Commit], Awaitable[None]],
        state: State,
        where: Where,
        settings: RunSettings,
        ledger: Ledger | None = None,
        limiter: Limiter | None = None,
        tracker: InactivityTracker | None = None,
        on_pause: Callable[[float], None] | None = None,
    ) -> None:
        self._source, self._where, self._tracker = source, where, tracker
        self._flush, self._save = target.flush, save
        self._state, self._settings = state, settings
        self._ledger = ledger = Ledger(state, most=settings.most_spans) if ledger is None else ledger
        self._attempts = Attempts(
            target,
            limiter if limiter is not None or settings.rate is None else RateLimiter(settings.rate),
            width=settings.concurrency,
            max_pause=settings.max_pause,
            timeout=settings.target_timeout,
            on_pause=on_pause,
        )
        self._queue: asyncio.Queue[WorkItem | None] = asyncio.Queue()
        """The messages to begin; None is for the end."""
        self._reading: asyncio.Task[Any] | None = None
        self._whole = False
        """Whether the history was read to its end."""
        self._read = 0
        """The number of messages of the history that this run read."""
        self._in_span = 0
        self._left = where.limit
        self._room = settings.concurrency
        self._released = asyncio.Event()
        """Set when the reader may go on."""
        self._started = self._idle = 0
        """The number of workers, and of those that have no message."""
        self._saving: asyncio.Task[None] | None = None
        self._broken = False
        """Whether a save failed, or its result is unknown. Then nothing more may be recorded."""
        self._noted: str | None = None
        self._advanced: Advance | None = None
        self._stopped = False
        self._begun = self._recorded = self._handled = self._failed = self._commits = self._in_a_row = 0
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
        self._samples.append((self._began, 0))
        reporting = None if progress is None else loop.create_task(self._report_progress(progress, plan))
        ended = False
        try:
            if not self._stopped:
                async with asyncio.TaskGroup() as self._group:
                    self._group.create_task(self._read_messages())
            ended = True
        finally:
            await run_to_completion(lambda: self._end(reporting, ended=ended))
            if progress is not None:
                call_hook(progress, self._progress(plan))
        report = self._report()
        if self._error is not None:
            if isinstance(self._error, ReplayError):
                self._error.report = report
            else:
                self._error.add_note(f"the replay stopped after {report.handled} messages; run it again to continue")
            raise self._error
        return report

    def stop(self) -> None:
        """Begin no more messages. ``run`` returns when the messages under way are finished and recorded."""
        self._stopped = True
        self._attempts.stop()
        if self._reading is not None:
            self._reading.cancel()  # a page may take long

    def pause(self, seconds: float) -> None:
        """Hand no message to the target for ``seconds``, as if it had asked for a pause."""
        self._attempts.pressure.pause(seconds)

    async def _end(self, reporting: asyncio.Task[None] | None, *, ended: bool) -> None:
        """Record the finished messages that are not recorded yet, and the reader's place. Safe to repeat."""
        self.stop()
        if reporting is not None:
            reporting.cancel()
        if others := [task for task in (reporting, self._saving) if task is not None]:
            await asyncio.wait(others)
        ledger = self._ledger
        try:
            if not self._broken:
                self._mark()
                if self._whole:
                    ledger.forget_earlier()
                # The messages that killed runs had under way are the first that the next runs hand out.
                left = max(0, self._state.interrupted - (self._begun if ledger.of_history else 0))
                await self._commit(ended=ended, interrupted=left)
        finally:
            await self._source.aclose()

    # --- reader ---

    async def _read_messages(self) -> None:
        """Put the messages to handle into the queue, until the source ends."""
        source, ledger = self._source, self._ledger
        self._reading = asyncio.current_task()  # here, because an eager task runs before ``create_task`` returns it
        try:
            while self._left != 0 or not ledger.idle:
                if self._in_span >= _SPAN and not ledger.full:
                    self._mark()
                    if ledger.dirty:
                        self._save_soon()
                if self._left == 0 or self._room == 0 or self._in_span >= _SPAN:
                    self._released.clear()
                    await self._released.wait()
                elif (message := source.take()) is not None:
                    self._hand_out(message)
                elif not await source.advance():
                    self._whole = source.finished
                    break
        except Exception as exc:
            self._error = self._error or exc
        finally:
            self._queue.put_nowait(None)

    def _hand_out(self, message: Message) -> None:
        """Count a message that was read, and put it into the queue if it is to be handled."""
        ledger = self._ledger
        self._read += 1
        self._in_span += 1
        if self._tracker is not None and type(message) is not UnreadableMessage:
            self._tracker.see(message)
        if ledger.earlier and ledger.match(message.id):
            self._skipped["recorded"] += 1
            return
        error = None
        if self._where.predicate is not everything or type(message) is UnreadableMessage:
            chosen, error = choose(self._where, message)
            if not chosen:
                self._skipped["where"] += 1
                return
        self._room -= 1
        if self._left is not None:
            self._left -= 1
        self._queue.put_nowait((message, ledger.begin(), error))
        self._need_worker()

    def _mark(self) -> None:
        """Begin a new span at the reader's place."""
        self._ledger.mark(self._source.text(), self._state.position + self._read)
        self._in_span = 0

    # --- workers ---

    def _need_worker(self) -> None:
        """Start another worker if all have a message. A target that never awaits needs only one."""
        if not self._idle and self._started < self._settings.concurrency:
            self._started += 1
            self._idle += 1
            self._group.create_task(self._work())

    async def _work(self) -> None:
        """Take messages, hand them to the target, and note how each ended, until there are no more."""
        queue, ledger = self._queue, self._ledger
        try:
            await asyncio.sleep(0)  # an eager task would run in the middle of ``_hand_out``, and start others in itself
            while (item := await queue.get()) is not None and not self._stopped:
                self._idle -= 1
                if not queue.empty():
                    self._need_worker()
                self._begun += 1
                message, span, error = item
                reason = None
                if error is None:
                    ending = await self._attempts.deliver(message)
                    if ending is None:
                        break
                    reason, error = ending
                if error is None:
                    self._record_success(span, message, reason)
                elif not self._record_failure(span, message, error):
                    break
                self._idle += 1
                if ledger.unsaved == 1:
                    self._save_soon()
                elif ledger.unsaved % _MOST_AT_ONCE == 0:
                    await asyncio.sleep(0)
        except Exception as exc:
            self._fail(exc)
        finally:
            queue.put_nowait(None)  # for the next worker

    def _record_success(self, span: Span, message: Message, reason: str | None) -> None:
        self._in_a_row = 0
        if reason is None:
            self._handled += 1
            self._ledger.done(span, message, counts_as="handled")
        else:
            self._skipped[reason] += 1
            self._ledger.done(span, message, counts_as="skipped")
            if self._left is not None:
                self._left += 1  # it does not count against the limit

    def _record_failure(self, span: Span, message: Message, error: Exception) -> bool:
        """Treat a failed message as ``on_error`` says. Return False if the job ends."""
        settings = self._settings
        if isinstance(error, ReplayError) and not isinstance(error, TargetError):
            self._fail(error)
            return False
        text = failure_text(hide_parameters(error), longest=LONGEST_ERROR)
        logger.warning("message %r failed: %s", message.id, printable(text))
        self._failed += 1
        self._in_a_row += 1
        if settings.on_error == "stop":
            stop = ReplayError(f"message {message.id!r} failed, and the replay stopped before it: {text}")
            self._fail(_with_cause(stop, error))
            return False
        dead = None
        if settings.on_error == "dead-letter":
            dead = DeadLetter(message.id, text, datetime.now(UTC), message.raw)
        elif self._tracker is not None:
            self._tracker.given_up += 1
        self._ledger.done(span, message, dead=dead, counts_as="failed")
        if settings.max_failures is not None and self._in_a_row >= settings.max_failures:
            kept = ". They are dead letters: fix the target, then retry them" if dead is not None else ""
            stop = ReplayError(f"{self._in_a_row} messages in a row failed, the last one with {text}{kept}")
            self._fail(_with_cause(stop, error))
        return True

    def _fail(self, exc: Exception) -> None:
        self._error = self._error or exc
        self.stop()

    # --- saves ---

    def _save_soon(self) -> None:
        """Save what the ledger has, unless a save is under way."""
        if self._saving is None or self._saving.done():
            self._saving = asyncio.create_task(self._save_all())

    async def _save_all(self) -> None:
        """Commit until nothing is left. The last commit of the run is its end's, which records the rest."""
        await asyncio.sleep(0)  # an eager task would run in the middle of ``_save_soon``
        reading, ledger = self._reading, self._ledger
        while ledger.dirty and not self._broken and reading is not None and not (reading.done() and ledger.idle):
            await self._commit()
            await asyncio.sleep(0)  # the workers that can go on have their turn, so that one commit records them all

    async def _commit(self, *, ended: bool = False, interrupted: int = 0) -> None:
        """Commit once. A failure ends the run.

        If it is cancelled before the save, the changes go back into the ledger. If it is cancelled during the save, the
        result is unknown, so nothing more may be recorded.
        """
        ledger, seconds = self._ledger, self._settings.checkpoint_timeout
        count = ledger.unsaved
        commit = ledger.take(ended=ended, interrupted=interrupted)
        notes = None if self._tracker is None else self._tracker.notes
        if notes != self._noted:
            commit = attrs.evolve(commit, notes=notes)
        saving = False
        try:
            async with asyncio.timeout(seconds):
                await self._flush()
                saving = True
                await self._save(commit)
        except asyncio.CancelledError:
            self._broken = saving
            if not saving:
                ledger.put_back(commit, count)
            raise
        except Exception as exc:
            self._broken = True
            self._fail(_explain(exc, saving, seconds))
        else:
            self._advanced = commit.advance or self._advanced
            self._noted = notes
            self._commits += 1
            self._recorded += count
            self._room += count
            self._released.set()

    # --- report and progress ---

    def _report(self) -> Report:
        state, advance = self._state, self._advanced
        progress = self._progress(None)
        seconds = progress.duration
        return Report(
            **attrs.asdict(progress, recurse=False, filter=attrs.filters.exclude("rate")),
            rate=(self._handled + self._failed) / seconds if seconds > 0 else 0.0,
            repeated=min(state.interrupted, self._handled),
            cursor=state.cursor if advance is None else advance.cursor,
            position=state.position if advance is None else advance.position,
            finished=self._whole and self._ledger.idle and self._error is None,
            handled_in_all=state.handled + self._handled,
            may_repeat=self._source.repeats,
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
        not_read = self._skipped["where"] + self._skipped["recorded"]
        remaining = None if plan is None else max(0, plan.total - done - self._skipped.total() + not_read)
        pause, since = self._attempts.pressure.paused_until, self._attempts.since
        return Progress(
            read=self._read,
            handled=self._handled,
            skipped=dict(self._skipped),
            failed=self._failed,
            in_flight=self._begun - self._recorded,
            duration=now - self._began,
            rate=rate,
            remaining=remaining,
            eta=seconds_left(remaining, rate),
            paused=0.0 if pause is None else pause - now,
            down=0.0 if since is None else now - since,
            dead=self._ledger.dead,
            commits=self._commits,
            order=self._source.order,
        )


def _explain(exc: Exception, saving: bool, timeout: float) -> BasiqError:
    """Return the error of a commit."""
    if isinstance(exc, BasiqError):
        return exc
    if isinstance(exc, TimeoutError):
        kind, what = (CheckpointError, "the checkpoint") if saving else (ReplayError, "the target's flush")
        text = f"{what} did not finish within {timeout:g} s: fix it, then run the same again to continue"
        return _with_cause(kind(text), exc)
    return _with_cause(ReplayError(f"the finished messages could not be recorded: {type(exc).__name__}: {exc}"), exc)


def _with_cause(error: R, cause: BaseException) -> R:
    error.__cause__ = cause
    return error
