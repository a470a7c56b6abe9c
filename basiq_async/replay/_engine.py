"""One run: workers that take messages, hand them to the target, and wait for what they did to be recorded."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Literal, TypeVar

import attrs

from ..errors import ReplayError, TargetError
from ..hooks import call_hook
from ..models import Message
from ._committer import Committer
from ._ledger import Ledger
from ._reader import Intake, Ticket
from ._report import OnProgress, Plan, Progress, Report
from ._throttle import Gate, Pace, Turns
from ._where import Where
from .checkpoints._memory import Checkpoint, DeadLetter, State
from .targets._adapters import Target

__all__ = ["Engine", "OnError", "Settings"]

logger = logging.getLogger("basiq_async.replay")

OnError = Literal["dead-letter", "stop", "skip"]
R = TypeVar("R", bound=ReplayError)

_REPORT_EVERY = 0.25
_RATE_OVER = 20
_MOST_PAUSES = 100
_MOST_AT_ONCE = 1_024
"""Messages that a target which does not wait may take before anything else gets its turn."""
_LONGEST_ERROR = 1_000


@attrs.frozen(kw_only=True)
class Settings:
    """How a run is to go. ``rate`` is in messages a second, ``max_pause`` in seconds."""

    concurrency: int
    rate: float | None
    on_error: OnError
    max_failures: int | None
    max_pause: float


class Engine:
    """One run over a stream of messages. ``cursor`` gives where the stream stands.

    ``pace`` takes the place of the settings' rate where several engines share one.
    """

    def __init__(
        self,
        items: AsyncIterator[Message],
        cursor: Callable[[], str | None],
        *,
        target: Target,
        checkpoint: Checkpoint,
        ledger: Ledger,
        state: State,
        where: Where,
        settings: Settings,
        pace: Turns | None = None,
    ) -> None:
        self._target = target
        self._ledger = ledger
        self._state = state
        self._settings = settings
        self._pace = pace if pace is not None or settings.rate is None else Pace(settings.rate)
        self._gate = Gate(settings.concurrency)
        self._committer = Committer(
            checkpoint,
            ledger,
            flush=target.flush,
            recorded=self._recorded,
            failed=self._fail,
            enough=max(1, settings.concurrency // 2),
        )
        self._intake = Intake(
            items,
            cursor,
            ledger,
            where=where,
            width=settings.concurrency,
            wanted=self._committer.now,
            position=state.position,
        )
        self._handled = 0
        self._failed = 0
        self._in_a_row = 0
        self._skipped: Counter[str] = Counter()
        self._began = 0.0
        self.error: Exception | None = None

    async def run(self, progress: OnProgress | None, plan: Plan | None) -> Report:
        """Go through the stream. Raises what ended the job, if it was not the end of the stream or ``stop``."""
        clock = asyncio.get_running_loop().time
        self._began = clock()
        ended = False
        try:
            await self._work_all(progress, plan)
            ended = True
        finally:
            await self._conclude(ended=ended)
            if progress is not None:
                call_hook(progress, self._progress(plan, 0.0))
        report = self._report(clock() - self._began)
        if self.error is not None:
            if isinstance(self.error, ReplayError):
                self.error.report = report
            else:
                self.error.add_note(f"the replay stopped after {report.handled} messages; run it again to go on")
            raise self.error
        return report

    def stop(self) -> None:
        """Begin no more messages; ``run`` returns when those under way are done and recorded."""
        self._intake.stop()
        self._gate.stop()
        if self._pace is not None:
            self._pace.stop()

    def pause(self, seconds: float) -> None:
        """Leave the target alone for so long, as if it had asked for that."""
        self._gate.pause(seconds)

    async def _work_all(self, progress: OnProgress | None, plan: Plan | None) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._committer.run())
            reporting = None if progress is None else group.create_task(self._tell(progress, plan))
            try:
                async with asyncio.TaskGroup() as workers:
                    for _ in range(self._settings.concurrency):
                        workers.create_task(self._work())
            finally:
                self._committer.finish()
                if reporting is not None:
                    reporting.cancel()

    async def _conclude(self, *, ended: bool) -> None:
        """Record what is done and not recorded yet, and where the reader stands."""
        self.stop()
        intake, ledger = self._intake, self._ledger
        try:
            if not self._committer.broken:
                intake.mark()
                if intake.whole:
                    ledger.forget_earlier()
                await self._committer.commit(lambda: ledger.take(ended=ended))
        finally:
            await intake.aclose()

    # --- a worker ---

    async def _work(self) -> None:
        task = asyncio.current_task()
        if task is not None:
            try:
                await self._handle_all(task)
            except Exception as exc:
                self._fail(exc)

    async def _handle_all(self, task: asyncio.Task[object]) -> None:
        # One long function: a call of its own for each step would be what most of the time goes to.
        intake, pace, committer, gate = self._intake, self._pace, self._committer, self._gate
        deliver, ledger = self._target.deliver, self._ledger
        enough, plenty = committer.enough, min(self._settings.concurrency, _MOST_AT_ONCE)
        while (ticket := await intake.take(task)) is not None:
            message, _, error = ticket
            reason = None
            if error is None and pace is not None and not await pace.wait():
                return
            while error is None:  # once, and again where the target asks for patience
                entered = not gate.open
                if entered and not await gate.enter():
                    return
                try:
                    reason = await deliver(message)
                    if gate.pauses:
                        gate.succeeded()
                    break
                except asyncio.CancelledError as exc:
                    if task.cancelling():
                        raise
                    error = _caused(TargetError("the handler was cancelled, by itself or what it called"), exc)
                except Exception as exc:
                    error = self._heeded(exc)
                finally:
                    if entered:
                        gate.leave()
            if error is None:
                self._taken(ticket, reason)
            elif not self._not_taken(ticket, error):
                return
            unsaved = ledger.unsaved
            # Where all that was handed out is done, the target does not wait for anything: go on with the next ones.
            if unsaved >= enough and (unsaved >= plenty or unsaved < intake.in_flight):
                if committer.begin():
                    await asyncio.sleep(0)
            elif unsaved == 1:
                committer.soon()

    def _heeded(self, exc: Exception) -> Exception | None:
        """None where the target asks for patience, and gets it; else what the failure comes to."""
        wait = _asked_to_wait(exc)
        if wait is None:
            return exc
        if wait > self._settings.max_pause:
            told = f"the target asks to be left alone for {wait:g} s, more than max_pause; run it again after that"
            return _caused(ReplayError(told), exc)
        self._gate.pause(wait)
        if self._gate.pauses > _MOST_PAUSES:
            told = f"the target asked to be left alone {_MOST_PAUSES} times in a row and took nothing"
            return _caused(ReplayError(f"{told}; run it again later"), exc)
        logger.info("the target asks for %.2f s, and the replay waits", wait)
        return None

    def _taken(self, ticket: Ticket, reason: str | None) -> None:
        self._in_a_row = 0
        if reason is None:
            self._handled += 1
            self._ledger.done(ticket.span, ticket.message, counts_as="handled")
        else:
            self._skipped[reason] += 1
            self._ledger.done(ticket.span, ticket.message, counts_as="skipped")

    def _not_taken(self, ticket: Ticket, error: Exception) -> bool:
        """What becomes of a message that failed; False where the job ends."""
        message, settings = ticket.message, self._settings
        if isinstance(error, ReplayError) and not isinstance(error, TargetError):
            self._fail(error)
            return False
        told = _told(error)
        logger.warning("message %s failed: %s", message.id, told)
        self._failed += 1
        self._in_a_row += 1
        if settings.on_error == "stop":
            self._fail(
                _caused(ReplayError(f"message {message.id} failed, and the replay stopped at it: {told}"), error)
            )
            return False
        dead = None
        if settings.on_error == "dead-letter":
            dead = DeadLetter(message.id, told, datetime.now(UTC), message.raw)
        self._ledger.done(ticket.span, message, dead=dead, counts_as="failed")
        if settings.max_failures is not None and self._in_a_row >= settings.max_failures:
            kept = "; they are dead letters: mend it, then retry them" if dead is not None else ""
            stop = ReplayError(f"{self._in_a_row} messages in a row failed, the last one with {told}{kept}")
            self._fail(_caused(stop, error))
        return True

    def _recorded(self, count: int) -> None:
        self._intake.release(count)

    def _fail(self, exc: Exception) -> None:
        if self.error is None:
            self.error = exc
        self.stop()

    # --- what is told ---

    def _report(self, duration: float) -> Report:
        intake, state = self._intake, self._state
        advance = self._committer.advanced
        if self.error is None:
            self.error = intake.error
        return Report(
            handled=self._handled,
            skipped=dict(intake.skipped + self._skipped),
            failed=self._failed,
            repeated=min(state.interrupted, self._handled),
            duration=duration,
            cursor=state.cursor if advance is None else advance.cursor,
            position=state.position if advance is None else advance.position,
            finished=intake.whole and self._ledger.idle and self.error is None,
            dead=self._ledger.dead,
            handled_in_all=state.handled + self._handled,
        )

    async def _tell(self, progress: OnProgress, plan: Plan | None) -> None:
        clock = asyncio.get_running_loop().time
        samples = deque([(clock(), 0)], maxlen=_RATE_OVER)
        while True:
            await asyncio.sleep(_REPORT_EVERY)
            now, count = clock(), self._handled + self._failed
            then, before = samples[0]
            samples.append((now, count))
            call_hook(progress, self._progress(plan, (count - before) / (now - then)))

    def _progress(self, plan: Plan | None, rate: float) -> Progress:
        now = asyncio.get_running_loop().time()
        elapsed = now - self._began
        done = self._handled + self._failed
        rate = rate or (done / elapsed if elapsed else 0.0)
        remaining = None if plan is None else max(0, plan.total - done - self._skipped.total())
        pause = self._gate.paused_until
        return Progress(
            read=self._intake.read - self._state.position,
            handled=self._handled,
            skipped=self._intake.skipped.total() + self._skipped.total(),
            failed=self._failed,
            in_flight=self._intake.in_flight,
            elapsed=elapsed,
            rate=rate,
            remaining=remaining,
            eta=None if remaining is None or not rate else remaining / rate,
            paused=0.0 if pause is None else pause - now,
        )


def _asked_to_wait(exc: Exception) -> float | None:
    wait = getattr(exc, "retry_after", None)
    if isinstance(wait, bool) or not isinstance(wait, (int, float)) or not math.isfinite(wait) or wait < 0:
        return None
    return float(wait)


def _told(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}"
    return text if len(text) <= _LONGEST_ERROR else text[:_LONGEST_ERROR] + "…"


def _caused(error: R, cause: BaseException) -> R:
    error.__cause__ = cause
    return error
