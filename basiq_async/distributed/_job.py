"""``Job``: follow a job of a fleet from any process, and pause, resume or cancel it."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

import attrs

from ..errors import ReplayError
from ..replay import DeadLetter, Report
from ..replay.engine import export_dead
from ._record import Record
from ._record_types import JobState, StateChange, Status, new_token

_RATE_OVER = 10
_PAGE = 250


@attrs.frozen(kw_only=True)
class Progress:
    """The progress of a job.

    state: running, paused, finished, failed or cancelled; ``reason`` says why the job is paused, failed or cancelled.
    problem: the last problem that did not stop the job.
    read: messages read from the lists. ``lag`` of them are not handled, failed or skipped yet.
    handled, failed, skipped: as in ``Report``. ``dead`` is the number of dead letters that the job keeps now.
    rate: recent messages a second. elapsed: seconds from the submission until now, or until the job ended.
    remaining, eta: the remaining messages and seconds; None if the job was submitted without a plan.
    workers: worker processes seen within the last lease. segments: open segments, ``held`` of them owned by a worker.
    takeovers: how often a worker took over a segment whose owner had died or was stopped.
    paused: remaining seconds of a pause that the target asked for.
    """

    state: JobState
    reason: str
    problem: str
    read: int
    handled: int
    failed: int
    skipped: Mapping[str, int]
    dead: int
    lag: int
    rate: float
    elapsed: float
    remaining: int | None
    eta: float | None
    workers: int
    segments: int
    held: int
    takeovers: int
    paused: float

    @property
    def ended(self) -> bool:
        """Whether the state is finished, failed or cancelled."""
        return self.state in ("finished", "failed", "cancelled")


class Job:
    """A job of a fleet. Any number of ``Job`` objects, in any process, may refer to the same job.

    All methods raise ``CheckpointError`` if the fleet's store does not respond, and most raise ``ReplayError`` if the
    job was forgotten.
    """

    def __init__(self, record: Record, key: str, notify: Callable[[str, str], Awaitable[object]]) -> None:
        self.key = key
        self._record = record
        self._notify = notify
        self._samples: deque[tuple[float, int]] = deque(maxlen=_RATE_OVER)

    def __repr__(self) -> str:
        return f"Job({self.key!r})"

    async def progress(self) -> Progress:
        """Return the current progress."""
        status = await self._status()
        done = status.handled + status.failed
        now = time.monotonic()
        then, before = self._samples[0] if self._samples else (now - status.elapsed, 0)
        self._samples.append((now, done))
        rate = (done - before) / (now - then) if now > then and status.state == "running" else 0.0
        accounted = done + sum(status.skipped.values())
        total = status.spec.total
        remaining = None if total is None else max(0, total - done)
        return Progress(
            state=status.state,
            reason=status.reason,
            problem=status.problem,
            read=status.read,
            handled=status.handled,
            failed=status.failed,
            skipped=status.skipped,
            dead=status.dead,
            lag=max(0, status.read - accounted),
            rate=rate,
            elapsed=status.elapsed,
            remaining=remaining,
            eta=remaining / rate if remaining is not None and rate else None,
            workers=status.workers,
            segments=status.open,
            held=status.held,
            takeovers=status.takeovers,
            paused=status.paused,
        )

    async def watch(self, *, every: float = 0.5) -> AsyncIterator[Progress]:
        """Yield the progress each ``every`` seconds, until the job has ended."""
        while True:
            progress = await self.progress()
            yield progress
            if progress.ended:
                return
            await asyncio.sleep(every)

    async def wait(self, *, timeout: float | None = None) -> Report:
        """Wait until the job has ended, and return its report. For a cancelled job, ``report.finished`` is False.

        A paused job has not ended. Raises ``ReplayError`` with the reason and ``.report`` if the job failed, and
        ``TimeoutError`` after ``timeout`` seconds.
        """
        async with asyncio.timeout(timeout):
            delay = 0.02
            while (status := await self._status()).state in ("running", "paused"):
                await asyncio.sleep(delay)
                delay = min(2 * delay, 0.5)
        report = _report(status)
        if status.state == "failed":
            error = ReplayError(f"the job {self.key!r} stopped: {status.reason}")
            error.report = report
            raise error
        return report

    async def report(self) -> Report:
        """Return a report of the job so far."""
        return _report(await self._status())

    async def pause(self, reason: str = "") -> None:
        """Pause the job: all workers finish and record the messages under way, and begin no more."""
        await self._set_state("pause", reason)

    async def resume(self) -> None:
        """Continue after a pause, a failure or a cancellation."""
        await self._set_state("resume", "")

    async def cancel(self, reason: str = "") -> None:
        """Cancel the job. Workers finish and record the messages under way; ``resume`` continues from there."""
        await self._set_state("cancel", reason)

    async def dead_letters(self, *, after: int = 0, limit: int = _PAGE) -> Sequence[DeadLetter]:
        """Return up to ``limit`` dead letters with numbers greater than ``after``, oldest first."""
        return [each.dead_letter for each in await self._record.dead_letters(self.key, after=after, limit=limit)]

    async def export_dead(self, path: str | os.PathLike[str]) -> int:
        """Write each dead letter as a line of JSON to a new file, and return their number.

        The job keeps them. Only the file's owner can read the file. Raises ``ConfigurationError`` if the file exists,
        and ``ReplayError`` if it cannot be written.
        """
        await self._status()  # raises for a job that is gone
        return await export_dead(self, path)

    async def drop_dead(self, ids: Sequence[str]) -> int:
        """Remove dead letters for good, and return how many were removed."""
        return await self._record.drop_dead(self.key, list(ids))

    async def retry_dead(self) -> int:
        """Have the workers retry all dead letters that the job has now, and return their number. ``wait`` for the end.

        A dead letter that is already queued for a retry is retried once, so this can be called again after an error.
        """
        revival = await self._record.revive(self.key, new_token())
        if revival is None:
            await self._status()  # raises for a job that is gone
            return 0
        await self._notify(self.key, revival.segment)
        return revival.dead_letters

    async def forget(self) -> None:
        """Remove the job with its counts and dead letters. Raises ``ReplayError`` while it is running."""
        await self._record.forget(self.key)

    async def _set_state(self, action: StateChange, reason: str) -> None:
        state, segments = await self._record.set_state(self.key, action, reason)
        if state == "gone":
            raise self._gone()
        await notify_all(self._notify, self.key, segments)

    async def _status(self) -> Status:
        status = await self._record.status(self.key)
        if status is None:
            raise self._gone()
        return status

    def _gone(self) -> ReplayError:
        return ReplayError(f"there is no job {self.key!r}: it was never submitted here, or was forgotten")


async def notify_all(notify: Callable[[str, str], Awaitable[object]], key: str, segments: Sequence[str]) -> None:
    """Send a notification for each segment. Stop at the first that cannot be sent: workers find the rest themselves."""
    for segment in segments:
        if await notify(key, segment) is False:
            return


def _report(status: Status) -> Report:
    return Report(
        handled=status.handled,
        skipped=status.skipped,
        failed=status.failed,
        repeated=min(status.interrupted, status.handled),
        duration=status.elapsed,
        cursor=None,
        position=status.read,
        finished=status.state == "finished" and not status.cut,
        dead=status.dead,
        handled_in_all=status.handled,
    )
