"""Group commits: record finished messages together, and only then let others be handed out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import attrs

from ..errors import BasiqError, CheckpointError, ReplayError
from ._coverage import InactivityTracker
from ._ledger import Ledger
from .checkpoints._base import Advance, Commit


class Committer:
    """Records the changes in the ledger with ``save``, one commit after the other, as soon as there is one.

    What finishes while a commit is under way is in the next one, so slower saves record more messages each.

    save: records a commit.
    flush: makes the target's accepted messages durable, before they are recorded as done.
    recorded: called with the number of messages that were recorded.
    failed: called with the error of a commit.
    timeout: the time limit, in seconds, for the flush and the save together.
    is_last: returns whether every message of the run is finished: the owner's last commit records the rest.
    tracker: has the notes to keep beside the cursor.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        save: Callable[[Commit], Awaitable[None]],
        flush: Callable[[], Awaitable[None]],
        recorded: Callable[[int], None],
        failed: Callable[[Exception], None],
        timeout: float,
        is_last: Callable[[], bool],
        tracker: InactivityTracker | None = None,
    ) -> None:
        self._save = save
        self._ledger = ledger
        self._flush = flush
        self._recorded = recorded
        self._failed = failed
        self._timeout = timeout
        self._is_last = is_last
        self._tracker = tracker
        self._noted: str | None = None
        self._wanted = asyncio.Event()
        self._finishing = False
        self.broken = False
        """Whether a commit failed, or its result is unknown. Then nothing more may be recorded."""
        self.advanced: Advance | None = None
        """The last recorded change of the cursor."""

    def wake(self) -> None:
        """Commit what the ledger has, as soon as no commit is under way."""
        self._wanted.set()

    async def run(self) -> None:
        """Commit whenever a commit is due, until one fails or ``finish`` is called.

        The owner ends it with ``finish`` and does not cancel it, so that a commit under way is completed. The owner
        then calls ``commit`` to record the rest.
        """
        while not self.broken:
            await self._wanted.wait()
            await asyncio.sleep(0)  # the workers that can go on have their turn, so that one commit records them all
            self._wanted.clear()
            if self._finishing or self._is_last():
                break
            if self._ledger.dirty:
                await self.commit()

    def finish(self) -> None:
        """Let ``run`` return."""
        self._finishing = True
        self.wake()

    async def commit(self, *, ended: bool = False, interrupted: int = 0) -> None:
        """Commit once. A failure is passed to ``failed``, not raised, and ends the job.

        If it is cancelled before the save, the changes go back into the ledger. If it is cancelled during the save, the
        result is unknown, so nothing more may be recorded.
        """
        count = self._ledger.unsaved
        commit = self._ledger.take(ended=ended, interrupted=interrupted)
        notes = None if self._tracker is None else self._tracker.notes
        if notes != self._noted:
            commit = attrs.evolve(commit, notes=notes)
        saving = False
        try:
            async with asyncio.timeout(self._timeout):
                await self._flush()
                saving = True
                await self._save(commit)
        except asyncio.CancelledError:
            self.broken = saving
            if not saving:
                self._ledger.put_back(commit, count)
            raise
        except Exception as exc:
            self.broken = True
            self._failed(_explain(exc, saving, self._timeout))
        else:
            self.advanced = commit.advance or self.advanced
            self._noted = notes
            self._recorded(count)


def _explain(exc: Exception, saving: bool, timeout: float) -> BasiqError:
    error: ReplayError
    if isinstance(exc, BasiqError):
        return exc
    if isinstance(exc, TimeoutError):
        kind, what = (CheckpointError, "the checkpoint") if saving else (ReplayError, "the target's flush")
        error = kind(f"{what} did not finish within {timeout:g} s: fix it, then run the same again to continue")
    else:
        error = ReplayError(f"the finished messages could not be recorded: {type(exc).__name__}: {exc}")
    error.__cause__ = exc
    return error
