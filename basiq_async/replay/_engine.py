"""One run of a replay: workers take messages, hand them to the target, and have their results recorded."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Literal, Protocol, TypeVar

import attrs

from .._redaction.text import printable
from .._redaction.tracebacks import hide_parameters
from .._work.tasks import run_to_completion
from .._work.throughput import RECENT_SECONDS, messages_per_second, seconds_left
from ..errors import ReplayError, TargetError
from ..hooks import call_hook
from ..models import Message
from ._coverage import InactivityTracker
from ._ledger import Committer, Ledger, Span
from ._outages import Outages, describe
from ._reader import SPAN, MessageReader
from ._report import OnProgress, Plan, Progress, Report
from ._sources import MessageSource
from ._throttle import Backpressure, Limiter, RateLimiter
from ._where import Where
from .checkpoints._base import Commit, DeadLetter, State
from .targets._base import Target

logger = logging.getLogger("basiq_async.replay")

OnError = Literal["dead-letter", "stop", "skip"]
R = TypeVar("R", bound=ReplayError)

_REPORT_EVERY = 0.25
_MOST_AHEAD = 10_000
"""Maximum number of messages finished after a slow one. It bounds the memory, because their ids are kept."""
_MOST_AT_ONCE = 1_024
"""Synchronous target: maximum number of messages before other tasks get their turn."""


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
        return max(_MOST_AHEAD, 2 * self.concurrency) // SPAN


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
        self._source, self._tracker = source, tracker
        ledger = Ledger(state, most=settings.most_spans) if ledger is None else ledger
        self._target = target
        self._ledger = ledger
        self._state = state
        self._settings = settings
        self._limiter = limiter if limiter is not None or settings.rate is None else RateLimiter(settings.rate)
        self._pressure = Backpressure(settings.concurrency)
        self._outages = Outages(self._pressure, max_pause=settings.max_pause, on_pause=on_pause)
        self._committer = Committer(
            ledger,
            save=save,
            flush=target.flush,
            recorded=self._release,
            failed=self._fail,
            timeout=settings.checkpoint_timeout,
            is_last=lambda: self._reader.ended and ledger.idle,
            tracker=tracker,
        )
        self._reader = MessageReader(
            source,
            ledger,
            where=where,
            width=settings.concurrency,
            wanted=self._committer.wake,
            position=state.position,
            tracker=tracker,
        )
        self._moved = asyncio.Event()
        """Set when another worker may be needed, or when the reading has ended."""
        self._handled = 0
        self._failed = 0
        self._commits = 0
        self._in_a_row = 0
        self._skipped: Counter[str] = Counter()
        self._began = 0.0
        self._samples: deque[tuple[float, int]] = deque(maxlen=int(RECENT_SECONDS / _REPORT_EVERY) + 1)
        """Times of the event loop, each with the number of messages that were handled or failed until then."""
        self.error: Exception | None = None

    async def run(self, progress: OnProgress | None = None, plan: Plan | None = None) -> Report:
        """Hand messages to the target until the source ends or ``stop`` is called. Raises the error that ended the run.

        A cancellation cancels the messages under way. It is raised after all finished messages are recorded.
        """
        loop = asyncio.get_running_loop()
        self._began = loop.time()
        self._samples.append((self._began, 0))
        committing = loop.create_task(self._committer.run())
        reporting = None if progress is None else loop.create_task(self._report_progress(progress, plan))
        ended = False
        try:
            await self._work_together()
            ended = True
        finally:
            await run_to_completion(lambda: self._end(committing, reporting, ended=ended))
            if progress is not None:
                call_hook(progress, self._progress(plan))
        report = self._report()
        if self.error is not None:
            if isinstance(self.error, ReplayError):
                self.error.report = report
            else:
                self.error.add_note(f"the replay stopped after {report.handled} messages; run it again to continue")
            raise self.error
        return report

    def stop(self) -> None:
        """Begin no more messages. ``run`` returns when the messages under way are finished and recorded."""
        self._reader.stop()
        self._pressure.stop()
        if self._limiter is not None:
            self._limiter.stop()

    def pause(self, seconds: float) -> None:
        """Hand no message to the target for ``seconds``, as if it had asked for a pause."""
        self._pressure.pause(seconds)

    async def _end(self, committing: asyncio.Task[None], reporting: asyncio.Task[None] | None, *, ended: bool) -> None:
        """Record the finished messages that are not recorded yet, and the reader's place. Safe to repeat."""
        self.stop()
        if reporting is not None:
            reporting.cancel()
            await asyncio.wait((reporting,))
        self._committer.finish()
        await asyncio.wait((committing,))
        if not committing.cancelled() and isinstance(crash := committing.exception(), Exception):
            self._fail(crash)
        reader, ledger = self._reader, self._ledger
        try:
            if not self._committer.broken:
                reader.mark()
                if reader.whole:
                    ledger.forget_earlier()
                # The messages that killed runs had under way are the first that the next runs hand out.
                left = max(0, self._state.interrupted - (reader.handed_out if ledger.of_history else 0))
                await self._committer.commit(ended=ended, interrupted=left)
        finally:
            await reader.aclose()

    # --- workers ---

    async def _work_together(self) -> None:
        """Start workers as they are needed, twice as many each time. A target that never awaits needs only one."""
        reader, most, started = self._reader, self._settings.concurrency, 0
        async with asyncio.TaskGroup() as workers:
            while started < most and not reader.ended:
                count = min(max(1, started), most - started)
                started += count
                for _ in range(count):
                    workers.create_task(self._work())
                while True:
                    await self._moved.wait()
                    self._moved.clear()
                    if reader.ended or reader.short:
                        break

    async def _work(self) -> None:
        """Take messages, hand them to the target, and note how each ended, until there are no more."""
        ledger = self._ledger
        try:
            while (item := await self._reader.take()) is not None:
                self._moved.set()
                message, span, error = item
                reason = None
                if error is None:
                    ending = await self._deliver(message)
                    if ending is None:
                        return
                    reason, error = ending
                if error is None:
                    self._record_success(span, message, reason)
                elif not self._record_failure(span, message, error):
                    return
                if ledger.unsaved == 1:
                    self._committer.wake()
                elif ledger.unsaved % _MOST_AT_ONCE == 0:
                    await asyncio.sleep(0)
        except Exception as exc:
            self._fail(exc)
        finally:
            self._moved.set()

    async def _deliver(self, message: Message) -> tuple[str | None, Exception | None] | None:
        """Hand a message to the target: once, and again if the target asks for a pause, or is down.

        Return the reason for which there was nothing to do, and the error; None if the run stops before the message.
        """
        limiter, pressure, outages = self._limiter, self._pressure, self._outages
        tries = 0
        while True:
            entered = not pressure.open
            if entered and not await pressure.enter():
                return None
            accepted = outages.accepted
            try:
                if limiter is not None and not limiter.open and not await limiter.wait():
                    return None
                if not pressure.open and pressure.closed:  # a pause that began meanwhile
                    continue
                accepted = outages.accepted
                tries += 1
                reason = await self._attempt(message)
                outages.accept()
                return reason, None
            except asyncio.CancelledError as exc:
                if _is_cancelled():
                    raise
                failure: Exception = TargetError("the handler, or a function that it called, cancelled itself")
                failure.__cause__ = exc
            except Exception as exc:
                failure = exc
            finally:
                if entered:
                    pressure.leave()
            error = outages.judge(failure, message, tries, others_succeed=outages.accepted != accepted)
            if error is not None:
                return None, error
            if pressure.open and not await pressure.rest(outages.next_pause):
                return None

    async def _attempt(self, message: Message) -> str | None:
        seconds = self._settings.target_timeout
        if seconds is None:
            return await self._target.deliver(message)
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return await self._target.deliver(message)
        except TimeoutError as exc:
            if not limit.expired():
                raise
            raise TargetTimeoutError(f"no result within {seconds:g} s") from exc

    def _record_success(self, span: Span, message: Message, reason: str | None) -> None:
        self._in_a_row = 0
        if reason is None:
            self._handled += 1
            self._ledger.done(span, message, counts_as="handled")
        else:
            self._skipped[reason] += 1
            self._ledger.done(span, message, counts_as="skipped")
        if self._reader.limited:
            self._reader.decide(counts=reason is None)

    def _record_failure(self, span: Span, message: Message, error: Exception) -> bool:
        """Treat a failed message as ``on_error`` says. Return False if the job ends."""
        settings = self._settings
        if isinstance(error, ReplayError) and not isinstance(error, TargetError):
            self._fail(error)
            return False
        text = describe(hide_parameters(error))
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
        self._reader.decide(counts=True)
        if settings.max_failures is not None and self._in_a_row >= settings.max_failures:
            kept = ". They are dead letters: fix the target, then retry them" if dead is not None else ""
            stop = ReplayError(f"{self._in_a_row} messages in a row failed, the last one with {text}{kept}")
            self._fail(_with_cause(stop, error))
        return True

    def _release(self, count: int) -> None:
        self._commits += 1
        self._reader.release(count)
        self._moved.set()

    def _fail(self, exc: Exception) -> None:
        if self.error is None:
            self.error = exc
        self.stop()

    # --- report and progress ---

    def _report(self) -> Report:
        reader, state = self._reader, self._state
        advance = self._committer.advanced
        if self.error is None:
            self.error = reader.error
        progress = self._progress(None)
        seconds = progress.duration
        return Report(
            **attrs.asdict(progress, recurse=False, filter=attrs.filters.exclude("rate")),
            rate=(self._handled + self._failed) / seconds if seconds > 0 else 0.0,
            repeated=min(state.interrupted, self._handled),
            cursor=state.cursor if advance is None else advance.cursor,
            position=state.position if advance is None else advance.position,
            finished=reader.whole and self._ledger.idle and self.error is None,
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
        remaining = None if plan is None else max(0, plan.total - done - self._skipped.total())
        pause, since = self._pressure.paused_until, self._outages.since
        return Progress(
            read=self._reader.read - self._state.position,
            handled=self._handled,
            skipped=dict(self._reader.skipped + self._skipped),
            failed=self._failed,
            in_flight=self._reader.in_flight,
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


def _is_cancelled() -> bool:
    """Return whether somebody else has cancelled the current task."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class TargetTimeoutError(TargetError, TimeoutError):
    """The target took longer than ``target_timeout`` for one message."""


def _with_cause(error: R, cause: BaseException) -> R:
    error.__cause__ = cause
    return error
