"""``Job``: follow a job of a fleet from any process, and pause, resume or cancel it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

from .._arguments import Duration, check_seconds
from ..errors import ReplayError
from ..replay import DeadLetter, Report
from ..replay.shared import export_dead
from ._record import Record
from ._record_types import JobProgress, StateChange, new_token

_PAGE = 250


class Job:
    """A job of a fleet. Any number of ``Job`` objects, in any process, may refer to the same job.

    All methods raise ``CheckpointError`` if the fleet's store does not respond, and most raise ``ReplayError`` if the
    job was forgotten.
    """

    def __init__(self, record: Record, key: str, notify: Callable[[str, str], Awaitable[object]]) -> None:
        self.key = key
        self._record = record
        self._notify = notify

    def __repr__(self) -> str:
        return f"Job({self.key!r})"

    async def progress(self) -> JobProgress:
        """Return the current progress."""
        progress = await self._record.progress(self.key)
        if progress is None:
            raise self._gone()
        return progress

    async def watch(self, *, every: Duration = 0.5) -> AsyncIterator[JobProgress]:
        """Yield the progress each ``every`` seconds, until the job has ended."""
        every = check_seconds("every", every)
        while True:
            progress = await self.progress()
            yield progress
            if progress.ended:
                return
            await asyncio.sleep(every)

    async def wait(self, *, timeout: Duration | None = None) -> Report:
        """Wait until the job has ended, and return its report. For a cancelled job, ``report.finished`` is False.

        A paused job has not ended. Raises ``ReplayError`` with the reason and ``.report`` if the job failed, and
        ``TimeoutError`` after ``timeout`` seconds.
        """
        async with asyncio.timeout(None if timeout is None else check_seconds("timeout", timeout, from_zero=True)):
            delay = 0.02
            while not (progress := await self.progress()).ended:
                await asyncio.sleep(delay)
                delay = min(2 * delay, 0.5)
        report = _report(progress)
        if progress.state == "failed":
            error = ReplayError(f"the job {self.key!r} stopped: {progress.reason}")
            error.report = report
            raise error
        return report

    async def report(self) -> Report:
        """Return a report of the job so far."""
        return _report(await self.progress())

    async def pause(self, reason: str = "") -> None:
        """Pause the job: all workers finish and record the messages under way, and begin no more."""
        await self._set_state("pause", reason)

    async def resume(self) -> None:
        """Continue after a pause, a failure or a cancellation. A pause that the target asked for lasts to its end."""
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
        await self.progress()  # raises for a job that is gone
        return await export_dead(self, path)

    async def drop_dead(self, ids: Iterable[str]) -> int:
        """Remove the dead letters with these ids for good, and return the number removed."""
        return await self._record.drop_dead(self.key, list(ids))

    async def retry_dead(self) -> Report:
        """Have the workers retry all dead letters that the job has now. ``wait`` for the end.

        Returns the report until now, in which ``dead`` is the number of dead letters to retry. A dead letter that is
        already queued for a retry is retried once, so this can be called again after an error.
        """
        report = await self.report()
        segment = await self._record.revive(self.key, new_token())
        if segment is not None:
            await self._notify(self.key, segment)
        return report

    async def forget(self) -> None:
        """Remove the job with its counts and dead letters. Raises ``ReplayError`` while it is running."""
        await self._record.forget(self.key)

    async def _set_state(self, action: StateChange, reason: str) -> None:
        state, segments = await self._record.set_state(self.key, action, reason)
        if state == "gone":
            raise self._gone()
        await notify_all(self._notify, self.key, segments)

    def _gone(self) -> ReplayError:
        return ReplayError(f"there is no job {self.key!r}: it was never submitted here, or was forgotten")


async def notify_all(notify: Callable[[str, str], Awaitable[object]], key: str, segments: Sequence[str]) -> None:
    """Send a notification for each segment. Stop at the first that cannot be sent: workers find the rest themselves."""
    for segment in segments:
        if await notify(key, segment) is False:
            return


def _report(progress: JobProgress) -> Report:
    return Report(
        handled=progress.handled,
        skipped=progress.skipped,
        failed=progress.failed,
        repeated=min(progress.interrupted, progress.handled),
        duration=progress.elapsed,
        rate=progress.rate,
        position=progress.read,
        finished=progress.state == "finished" and not progress.cut,
        dead=progress.dead,
        handled_in_all=progress.handled,
    )
