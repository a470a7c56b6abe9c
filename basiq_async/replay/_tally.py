"""What a run counts, how it ends, and the resume point that it notes: the same for messages and for whole pages."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Literal, Protocol

import attrs

from .._redaction.text import amount, printable, shorten
from .._work.failures import failure_text, reason_text
from .._work.limits import limit
from .._work.tasks import run_to_completion
from ..errors import BasiqError, ReplayError
from ..hooks import call_hook
from ..models import Message
from ._report import OnProgress, Plan, Progress, Report
from ._sources import MessageSource, Source
from ._throttle import LONGEST_ERROR, RateLimiter, Throttle, ending_error, ends_run
from .targets._base import BUSY, HANDLED_BEFORE, Target

logger = logging.getLogger("basiq_async.replay")

OnError = Literal["quarantine", "stop", "skip"]

RECENT_SECONDS = 10.0
"""A rate is that of so many seconds until now. It is zero while nothing finishes, whatever was before."""
REPORT_EVERY = 0.25
_NOTE_EVERY = 5.0
"""Seconds between two resume points."""


@attrs.frozen(kw_only=True)
class RunSettings:
    """The settings of a run. ``rate`` is in messages a second; ``max_pause`` and the timeouts are in seconds.

    ``limit``: maximum number of messages to pass to the handler; None for all. ``tries_once``: whether a message that
    fails is not tried again, and no outage is waited for; a pause that the target asks for is.
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


def make_throttle(
    target: Target,
    settings: RunSettings,
    *,
    width: int | None = None,
) -> Throttle:
    """Return what hands messages to a target within a run's settings."""
    return Throttle(
        target,
        None if settings.rate is None else RateLimiter(settings.rate),
        width=settings.concurrency if width is None else width,
        max_pause=settings.max_pause,
        timeout=settings.target_timeout,
        once=settings.tries_once,
    )


class Observer(Protocol):
    """Watches the runs of a replay, for example to record spans and metrics."""

    def wrap(self, target: Target) -> Target:
        """Return a target that wraps this one."""
        ...

    def begin(self, source: Source) -> None:
        """Called when a run begins, with the list that it reads."""
        ...

    def on_progress(self, progress: Progress, /) -> None:
        """Called with the progress of the run."""
        ...


class Tally:
    """Counts what became of a run's messages.

    open: the number of messages under way, or handled and not recorded yet.
    given_up: the number of those that failed and are neither handled nor quarantined.
    """

    def __init__(self, source: MessageSource, throttle: Throttle, settings: RunSettings) -> None:
        self.source, self._throttle, self._settings = source, throttle, settings
        self.handled = self.failed = self.in_a_row = self.given_up = self.open = 0
        self.skipped: Counter[str] = Counter()
        self.error: Exception | None = None
        self._time = asyncio.get_running_loop().time
        self._began = 0.0
        self._samples: deque[tuple[float, int]] = deque(maxlen=int(RECENT_SECONDS / REPORT_EVERY) + 1)
        """Times of the event loop, each with the number of messages that were handled or failed until then."""

    def count_failure(self, message: Message, error: Exception) -> tuple[str | None, Exception | None]:
        """Count a failed message. Return the text of its error, and what ends the run, if anything.

        Without a text, the error is not the message's.
        """
        if ends_run(error):
            return None, error
        text = failure_text(error, longest=LONGEST_ERROR)
        logger.warning("message %r failed: %s", shorten(message.id), printable(text))
        self.failed += 1
        self.in_a_row += 1
        most = self._settings.max_failures
        if self._settings.on_error == "stop":
            stop = f"message {shorten(message.id)!r} failed, and the replay stopped before it: {text}"
            return text, ending_error(stop, error)
        if most is not None and self.in_a_row >= most:
            what = amount(self.in_a_row, "message", "messages in a row")
            stop = f"{what} failed, the last one with {text}. The replay stopped in front"
            return text, ending_error(f"{stop} of that: fix the target, then run the same again", error)
        return text, None

    async def run(
        self,
        work: Callable[[], Awaitable[None]],
        end: Callable[[], Awaitable[bool]],
        progress: OnProgress | None,
        plan: Plan | None,
    ) -> Report:
        """Do the work of a run, end it, and return its report. Raises the error that ended it.

        ``end`` is awaited whatever happens. It returns whether all pages were taken.
        """
        self._began = self._time()
        self._samples.append((self._began, 0))
        reporting = None if progress is None else asyncio.create_task(self._report_progress(progress, plan))
        at_end = False

        async def finish() -> None:
            nonlocal at_end
            if reporting is not None:
                reporting.cancel()
                await asyncio.wait((reporting,))
            at_end = await end()

        try:
            await work()
        finally:
            await run_to_completion(finish)
            report = self._report(plan, at_end=at_end)
            if progress is not None:
                call_hook(progress, report)
        if self.error is not None:
            if isinstance(self.error, ReplayError):
                self.error.report = report
            else:
                after = amount(report.handled, "message", "messages")
                self.error.add_note(f"the replay stopped after {after}; run it again to continue")
            raise self.error
        return report

    def _report(self, plan: Plan | None, *, at_end: bool) -> Report:
        progress = self._progress(plan)
        read = at_end and self.source.finished
        finished = read and not self.open and self.error is None
        return Report(
            **attrs.asdict(progress, recurse=False, filter=attrs.filters.exclude("rate")),
            rate=(self.handled + self.failed) / progress.duration if progress.duration > 0 else 0.0,
            read_to_end=read,
            finished=finished and not self.given_up and not self.skipped[BUSY] and not self.source.unknown_count,
        )

    async def _report_progress(self, progress: OnProgress, plan: Plan | None) -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY)
            call_hook(progress, self._progress(plan))
            self._samples.append((self._time(), self.handled + self.failed))

    def _progress(self, plan: Plan | None) -> Progress:
        now, done = self._time(), self.handled + self.failed
        rate = messages_per_second(self._samples, now_seconds=now, began_seconds=self._began, finished=done)
        skipped = self.skipped.copy()
        skipped[HANDLED_BEFORE] += self.source.known_count
        skipped["where"] += self.source.unselected_count
        skipped["unknown"] += self.source.unknown_count
        passed = self.skipped.total() - self.skipped["no-handler"]
        remaining = None if plan is None else max(0, plan.total - done - passed)
        pause, since = self._throttle.breaker.open_until, self._throttle.since
        return Progress(
            read=self.source.read_count,
            read_by_id=self.source.read_by_id,
            handled=self.handled,
            skipped={reason: count for reason, count in skipped.items() if count},
            failed=self.failed,
            in_flight=self.open,
            duration=now - self._began,
            rate=rate,
            remaining=remaining,
            eta=seconds_left(remaining, rate),
            paused=0.0 if pause is None else pause - now,
            reason=None if pause is None else self._throttle.reason,
            down=0.0 if since is None else now - since,
            order=self.source.order,
        )


class ResumePointNotes:
    """Notes the source's resume point from time to time. Without it, the next run makes more requests."""

    def __init__(self, source: MessageSource, keep: Callable[[str], Awaitable[Any]] | None, seconds: float) -> None:
        self._source, self._keep, self._seconds = source, keep, seconds
        self._time = asyncio.get_running_loop().time
        self._noted: str | None = None
        self._due = self._time() + _NOTE_EVERY

    @property
    def is_due(self) -> bool:
        """Whether the last resume point is some seconds old."""
        return self._time() >= self._due

    async def note(self) -> None:
        """Keep the present resume point. A failure is logged."""
        self._due = self._time() + _NOTE_EVERY
        resume_point = None if self._keep is None else self._source.resume_point()
        if self._keep is None or resume_point is None or resume_point == self._noted:
            return
        try:
            async with limit(self._seconds, ReplayError("the record did not respond")):
                await self._keep(resume_point)
            self._noted = resume_point
        except Exception as exc:
            logger.warning(
                "the place in the list could not be noted, so the next run reads more of it: %s", reason_text(exc)
            )


async def record_within(seconds: float, call: Callable[[], Awaitable[None]]) -> Exception | None:
    """Make a call that records what is finished. Return the error that ends the run, if it fails."""
    slow = ReplayError(
        f"the finished messages could not be recorded within {seconds:g} s: fix the record, then run the same again"
    )
    try:
        async with limit(seconds, slow):
            await call()
    except Exception as exc:
        text = f"the finished messages could not be recorded: {failure_text(exc)}"
        return exc if isinstance(exc, BasiqError) else ending_error(text, exc)
    return None


def messages_per_second(
    samples: Iterable[tuple[float, int]], *, now_seconds: float, began_seconds: float, finished: int
) -> float:
    """Return the messages that were finished in a second, on the average of the last ten seconds.

    samples: earlier moments, each with the number of messages that were finished then.
    now_seconds, began_seconds: now, and when the work began, by the clock of the samples.
    finished: the number of messages that are finished now.
    """
    earlier = [count for at_seconds, count in samples if at_seconds >= now_seconds - RECENT_SECONDS]
    lasted_seconds = min(RECENT_SECONDS, now_seconds - began_seconds)
    return (finished - min(earlier)) / lasted_seconds if earlier and lasted_seconds > 0 else 0.0


def seconds_left(remaining: int | None, per_second: float) -> float | None:
    """Return how long ``remaining`` messages will take. None if their number is unknown, or nothing finishes now."""
    if remaining is None or (remaining and per_second <= 0):
        return None
    return remaining / per_second if remaining else 0.0
