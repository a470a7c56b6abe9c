"""Share a replay with other processes: send its pages to them, work from the end towards them, and run once more.

Nothing depends on what became of a page that was sent. The last run is an ordinary one, and its report is the verdict.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing

import attrs

from .._callables import is_async
from .._redaction.text import amount, printable
from .._work.failures import failure_text
from .._work.limits import limit
from .._work.tasks import run_cancel_once
from ..errors import ConfigurationError, ReplayError
from ..hooks import call_hook
from ._replay import Replay
from ._report import OnProgress, Progress, Report
from ._tally import RECENT_SECONDS, messages_per_second, seconds_left
from .targets._base import HANDLED_BEFORE

logger = logging.getLogger("basiq_async.replay")

Send = Callable[[str], Awaitable[object]]
_SAMPLES = 16
"""The number of messages of a page by which it is seen how far it is."""
_SEND_WITHIN = 30.0
_LOOK_EVERY = 1.0
_MOMENTS = int(RECENT_SECONDS / _LOOK_EVERY) + 2
_LOOKING = 20
"""Looking takes a twentieth of the time, at most."""
_LOG_EVERY = 30.0
_QUIET = 30.0
"""Seconds without a message handled after which pages are sent again: the queue may have lost them."""
_LONGEST_QUIET = 300.0
_KEYS = 500


async def share(replay: Replay, send: Send, progress: OnProgress | None = None) -> Report:
    """Run a replay together with other processes: each passes the pages that it gets to the ``work`` of its replay.

    replay: made in each process in the same way, with an inbox that all of them reach.
    send: an async function that puts a page into any queue, within 30 s. A page may be lost, doubled or late.
    progress: called about once a second. Without it, a line is logged every 30 s.

    This sends all pages, works from the last one backwards until it meets the workers, and then makes an ordinary run,
    which also records what failed. While no message is handled by others, what is left is sent again from time to time.
    After a crash at any moment, call it again. The report counts what all processes handled; ``quarantined`` is what
    the quarantine holds at the end. Raises the errors of ``Replay.run``, and ``ReplayError`` if the first page cannot
    be sent.
    """
    if not callable(send) or not is_async(send):
        raise ConfigurationError("send must be an async function that accepts the text of a page")
    return await run_cancel_once(_Sharing(replay, send, progress).run())


@attrs.define(eq=False)
class _SentPage:
    """A page that was sent. ``unknown``: those of its ``samples`` keys that the inbox does not know yet."""

    text: str
    count: int
    unknown: Sequence[str]
    samples: int

    @property
    def left(self) -> int:
        """How many of its messages are left, by the sample."""
        return -(-self.count * len(self.unknown) // self.samples)


class _Sharing:
    def __init__(self, replay: Replay, send: Send, progress: OnProgress | None) -> None:
        self._replay, self._job, self._pages = replay, replay._job, replay._pages
        self._send, self._progress = send, progress
        self._time = asyncio.get_running_loop().time
        self._began = self._logged = self._time()
        self._finished = deque([(self._began, 0)], maxlen=_MOMENTS)
        """Moments, each with the number of messages that were handled until then."""
        self._sent: list[_SentPage] = []
        """The pages that are to be worked on, in the order of the list."""
        self._here: _SentPage | None = None
        """The page that is worked on here."""
        self._is_listed = False
        self._read = self._unknown = self._left_behind = 0
        """How many messages were listed, how many of them the inbox did not know, and how many of those are left on
        pages that were worked on here: they failed, or another worker holds them."""
        self._handled_before_run = 0

    async def run(self) -> Report:
        await self._pages.begin()
        self._job.under_way += 1
        try:
            quarantined = await self._job.count_quarantined()
            await self._share()
            self._handled_before_run = self._handled
            try:
                report = await self._replay.run(self._show_run)
            except ReplayError as exc:
                if exc.report is not None:
                    exc.report = await self._merge(exc.report, quarantined, at_end=False)
                raise
            report = await self._merge(report, quarantined, at_end=True)
            if self._progress is not None:
                call_hook(self._progress, report)
            return report
        finally:
            self._job.under_way -= 1

    async def _share(self) -> None:
        """Send all pages, and work on them from the last one backwards: there it meets the workers."""
        watching = asyncio.create_task(self._watch())
        try:
            await self._send_all()
            while self._sent:
                page = self._here = self._sent.pop()
                await self._look([page])
                if page.unknown:
                    await self._pages.work(page.text)
                    await self._look([page])
                self._left_behind += page.left
                self._here = None
        finally:
            watching.cancel()
            await asyncio.wait([watching])

    async def _send_all(self) -> None:
        async with aclosing(self._pages.listed()) as pages:
            async for page in pages:
                self._read += page.count + page.known
                self._unknown += page.count
                self._left_behind += page.count - len(page.keys)  # they fail at once
                if page.keys:
                    sample = page.keys[:: -(-len(page.keys) // _SAMPLES)]
                    self._sent.append(_SentPage(page.text, len(page.keys), sample, len(sample)))
                    await self._send_page(page.text, must=len(self._sent) == 1)
        self._is_listed = True

    async def _send_page(self, text: str, *, must: bool = False) -> None:
        try:
            async with limit(_SEND_WITHIN, ReplayError(f"the queue did not take it within {_SEND_WITHIN:g} s")):
                await self._send(text)
        except Exception as exc:
            why = printable(failure_text(exc))
            if must:
                raise ReplayError(f"the first page could not be sent: {why}") from exc
            logger.warning("a page could not be sent, and is tried again, or worked on here: %s", why)

    # --- how far it is ---

    async def _watch(self) -> None:
        """Look how far the pages are, say so, and send what is left again while nothing is handled."""
        quiet, moved = _QUIET, self._time()
        while True:
            began = self._time()
            left = [page for page in self._sent if page.unknown]
            try:
                before = sum(len(page.unknown) for page in left)
                await self._look([*left, *([] if self._here is None else [self._here])])
                if sum(len(page.unknown) for page in left) < before:
                    moved = self._time()
                elif left and self._time() - moved >= quiet:
                    pages = amount(len(left), "page is", "pages are")
                    logger.warning("no other process handled a message for %.0f s: %s sent again", quiet, pages)
                    for page in left:
                        await self._send_page(page.text)
                    quiet, moved = min(2 * quiet, _LONGEST_QUIET), self._time()
            except Exception as exc:
                logger.warning("how far the pages are cannot be seen: %s", printable(failure_text(exc)))
            self._tell(self._progress_now())
            await asyncio.sleep(max(_LOOK_EVERY, _LOOKING * (self._time() - began)))

    async def _look(self, pages: Sequence[_SentPage]) -> None:
        """Ask the inbox how far pages are."""
        keys = [key for page in pages for key in page.unknown]
        known: set[str] = set()
        for place in range(0, len(keys), _KEYS):
            known.update(await self._job.known(keys[place : place + _KEYS]))
        for page in pages:
            page.unknown = [key for key in page.unknown if key not in known]

    @property
    def _handled(self) -> int:
        """How many messages were handled by all processes since they were listed, by the samples."""
        here = 0 if self._here is None else self._here.left
        return self._unknown - self._left_behind - here - sum(page.left for page in self._sent)

    def _progress_now(self) -> Progress:
        handled, now = self._handled, self._time()
        rate = messages_per_second(self._finished, now_seconds=now, began_seconds=self._began, finished=handled)
        self._finished.append((now, handled))
        remaining = self._unknown - handled if self._is_listed else None
        return Progress(
            read=self._read,
            handled=handled,
            skipped={HANDLED_BEFORE: self._read - self._unknown},
            duration=now - self._began,
            rate=rate,
            remaining=remaining,
            eta=seconds_left(remaining, rate),
            pages_left=sum(bool(page.unknown) for page in self._sent),
        )

    def _show_run(self, now: Progress) -> None:
        """Show the progress of the last run, as part of the whole. Its report is not that of the whole."""
        if not isinstance(now, Report):
            self._tell(attrs.evolve(now, handled=now.handled + self._handled_before_run))

    def _tell(self, now: Progress) -> None:
        if self._progress is not None:
            call_hook(self._progress, now)
        elif self._time() - self._logged >= _LOG_EVERY:
            self._logged = self._time()
            handled = amount(now.handled, "message", "messages")
            pages, left = amount(now.pages_left, "page", "pages"), "" if now.eta is None else f", {now.eta:.0f} s left"
            logger.info("%s handled, %.0f a second, something left on %s%s", handled, now.rate, pages, left)

    async def _merge(self, last: Report, quarantined_before: int, *, at_end: bool) -> Report:
        """Return the report of the last run, with what was handled, or quarantined by a receiver, before it.

        The samples show what was handled at least; a run that came to its end has shown what was left.
        """
        found = await self._job.count_quarantined()
        quarantined = max(0, found - quarantined_before - last.failed)
        unknown = (
            last.handled
            + last.failed
            + sum(
                count for reason, count in last.skipped.items() if reason not in (HANDLED_BEFORE, "where", "no-handler")
            )
        )
        handled = max(self._handled_before_run, self._unknown - unknown if at_end else 0, quarantined) - quarantined
        skipped = dict(last.skipped)
        skipped[HANDLED_BEFORE] = max(0, skipped.get(HANDLED_BEFORE, 0) - handled - quarantined)
        duration = self._time() - self._began
        return attrs.evolve(
            last,
            handled=last.handled + handled,
            skipped={reason: count for reason, count in skipped.items() if count},
            failed=last.failed + quarantined,
            duration=duration,
            rate=(last.handled + handled) / duration if duration > 0 else 0.0,
            quarantined=found,
        )
