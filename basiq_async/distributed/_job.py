"""``Job``: follow a job of a fleet from any process, and pause, resume or cancel it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence

from .._arguments import Duration, check_seconds, check_whole
from .._storage.exports import export_entries
from .._work.limits import limit
from .._work.protocol import StoredDelivery
from ..errors import ConfigurationError, ReplayError
from ..replay import Report
from ._job_store import JobStore
from ._record_types import JobEntry, JobProgress, StateChange, new_token

_PAGE = 250
Notify = Callable[[str, Sequence[str]], Awaitable[object]]
"""Sends notifications of segments of the job with a key, in their order."""


class Job:
    """A job of a fleet. Any number of ``Job`` objects, in any process, may refer to the same job.

    All methods raise ``RecordError`` if the fleet's store does not respond, and most raise ``ReplayError`` if the
    job was forgotten.
    """

    def __init__(self, store: JobStore, key: str, notify: Notify) -> None:
        self.key = key
        self._store = store
        self._notify = notify

    def __repr__(self) -> str:
        return f"Job({self.key!r})"

    async def progress(self) -> JobProgress:
        """Return the current progress."""
        progress = await self._store.progress(self.key)
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
        async with limit(None if timeout is None else check_seconds("timeout", timeout, from_zero=True)):
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

    async def pause(self, reason: str = "") -> None:
        """Pause the job: all workers finish and record the messages under way, and begin no more."""
        await self._set_state("pause", reason)

    async def resume(self) -> None:
        """Continue after a pause, a failure or a cancellation. A pause that the target asked for lasts to its end."""
        await self._set_state("resume", "")

    async def cancel(self, reason: str = "") -> None:
        """Cancel the job. Workers finish and record the messages under way; ``resume`` continues from there."""
        await self._set_state("cancel", reason)

    async def quarantined(self, *, after: StoredDelivery | None = None, limit: int = 100) -> Sequence[StoredDelivery]:
        """Return the first ``limit`` entries of the job's quarantine, or the next ones after ``after``."""
        check_whole("limit", limit, least=1)
        if after is not None and not isinstance(after, JobEntry):
            raise ConfigurationError("after must be an entry that quarantined() of this job has returned")
        return await self._store.quarantined(self.key, after=0 if after is None else after.number, limit=limit)

    async def export_quarantined(self, path: str | os.PathLike[str]) -> int:
        """Write each entry of the job's quarantine as a line of JSON to a new file, and return their number.

        They stay in the quarantine. Only the file's owner can read the file. Raises ``ConfigurationError`` if the file
        exists, and ``ReplayError`` if it cannot be written.
        """
        await self.progress()  # raises for a job that is gone
        return await export_entries(self._read_quarantine(), path)

    async def drop_quarantined(self, ids: Iterable[str]) -> int:
        """Remove the messages with these ids from the quarantine for good, and return the number removed."""
        return await self._store.drop_quarantined(self.key, list(ids))

    async def retry_quarantined(self) -> None:
        """Have the workers retry all messages that are in the job's quarantine now. ``wait`` for the end.

        What is handled leaves the quarantine, and what fails stays. A message that is queued for a retry already is
        retried once, so this can be called again after an error.
        """
        segment = await self._store.retry_quarantined(self.key, new_token())
        if segment is None:
            raise self._gone()
        if segment:
            await self._notify(self.key, [segment])

    async def forget(self) -> None:
        """Remove the job with its counts and its quarantine. Raises ``ReplayError`` while it is running."""
        await self._store.forget(self.key)

    async def _read_quarantine(self) -> AsyncGenerator[StoredDelivery]:
        after: StoredDelivery | None = None
        while page := await self.quarantined(after=after, limit=_PAGE):
            for after in page:
                yield after

    async def _set_state(self, action: StateChange, reason: str) -> None:
        state, segments = await self._store.set_state(self.key, action, reason)
        if state == "gone":
            raise self._gone()
        await self._notify(self.key, segments)

    def _gone(self) -> ReplayError:
        return ReplayError(f"there is no job {self.key!r}: it was never submitted here, or was forgotten")


def _report(progress: JobProgress) -> Report:
    return Report(
        read=progress.read,
        handled=progress.handled,
        skipped=progress.skipped,
        failed=progress.failed,
        duration=progress.elapsed,
        rate=progress.rate,
        finished=progress.state == "finished" and not (progress._given_up or progress.waiting or progress.at_service),
        waiting=progress.waiting,
        at_service=progress.at_service,
    )
