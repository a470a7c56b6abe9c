"""``--ui``: serve a page during a replay, and after it while dead letters remain."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack

import attrs

from ..errors import ReplayError
from ..replay import Progress, Replay, Report, serve_page
from ._output import note
from ._run import on_signals

Settle = Callable[[Report, bool], Awaitable[Report]]
"""Called between the end of a run and its report. With True, it waits for a signal if dead letters remain."""


class PagedReplay(Replay):
    """A replay that counts the dead letters that are retried or dropped on its page after the run."""

    _handled = _dropped = 0
    _counting = False

    async def retry_dead(
        self, progress: Callable[[Progress], None] | None = None, *, ids: Iterable[str] | None = None
    ) -> Report:
        """See ``Replay``."""
        try:
            report = await super().retry_dead(progress, ids=ids)
        except ReplayError as exc:
            if exc.report is not None:
                self._count(exc.report)
            raise
        self._count(report)
        return report

    async def drop_dead(self, ids: Iterable[str]) -> int:
        """See ``Replay``."""
        count = await super().drop_dead(ids)
        self._dropped += count
        return count

    def count_from_now(self) -> None:
        """Start counting. The report of the run has everything before."""
        self._handled, self._dropped, self._counting = 0, 0, True

    async def add_to(self, report: Report) -> Report:
        """Return the report of the run, with the retries and drops since added to it."""
        left = after = 0
        while page := await self.dead_letters(after=after):
            left += len(page)
            after = page[-1].number
        if self._handled or self._dropped:
            note(f"on the page: {self._handled:,} handled, {self._dropped:,} dropped")
        return attrs.evolve(
            report,
            handled=report.handled + self._handled,
            handled_in_all=report.handled_in_all + self._handled,
            failed=max(0, report.failed - self._handled - self._dropped),
            dead=left,
        )

    def _count(self, report: Report) -> None:
        if self._counting:
            self._handled += report.handled + sum(report.skipped.values())


async def run_with_page(job: PagedReplay, run: Callable[[Settle], Awaitable[int]]) -> int:
    """Run a job while its page is served. Return the exit code.

    If messages failed, the page stays until a signal, so that they can be retried and dropped there. The report
    includes that work, which is recorded before the report is shown.
    """
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serve_page(job))
        note(f"the page is at {url}", url=url)

        async def settle(report: Report, stay: bool) -> Report:
            job.count_from_now()
            if stay and report.dead:
                note(f"messages failed: retry or drop them at {url}; Ctrl-C ends", url=url)
                stop = asyncio.Event()
                with on_signals(lambda _: stop.set()):
                    await stop.wait()
            await stack.aclose()
            return await job.add_to(report)

        return await run(settle)
