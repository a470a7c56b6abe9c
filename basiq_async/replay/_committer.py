"""Group commits: record finished messages together, and only then let others be handed out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import attrs

from ..errors import BasiqError, CheckpointError, ReplayError
from ._ledger import Ledger
from .checkpoints._base import Advance, Commit

_LINGER = 0.003
"""Seconds that a finished message waits for others, so that one write to the disk records several."""
_WORTH_WAITING = 8
"""Linger again if at least this many messages finished meanwhile."""


class Committer:
    """Records the changes in the ledger with ``save``, one commit after the other.

    save: records a commit.
    flush: makes the target's accepted messages durable, before they are recorded as done.
    recorded: called with the number of messages that were recorded.
    failed: called with the error of a commit.
    enough: the number of finished messages at which a commit begins. With fewer, it begins shortly after the first.
    timeout: the time limit, in seconds, for the flush and the save together.
    notes: returns the notes to keep beside the cursor.
    noted: the notes that were recorded last.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        save: Callable[[Commit], Awaitable[None]],
        flush: Callable[[], Awaitable[None]],
        recorded: Callable[[int], None],
        failed: Callable[[Exception], None],
        enough: int,
        timeout: float,
        notes: Callable[[], str] | None = None,
        noted: str = "",
    ) -> None:
        self._save = save
        self._ledger = ledger
        self._flush = flush
        self._recorded = recorded
        self._failed = failed
        self.enough = enough
        self._timeout = timeout
        self._notes = notes
        self._noted = noted
        self._wanted = asyncio.Event()
        self._finishing = False
        self._timer: asyncio.TimerHandle | None = None
        self.broken = False
        """Whether a commit failed, or its result is unknown. Then nothing more may be recorded."""
        self.running = False
        self.advanced: Advance | None = None
        """The last recorded change of the cursor."""

    def begin(self) -> bool:
        """Begin a commit unless one is under way. Return whether it began; then the caller should yield to it."""
        if self.running or self._wanted.is_set():
            return False
        self.now()
        return True

    def soon(self) -> None:
        """Commit after ``_LINGER`` seconds."""
        if self._timer is None and not self.broken:
            self._timer = asyncio.get_running_loop().call_later(_LINGER, self._look, self._ledger.unsaved)

    def _look(self, unsaved: int) -> None:
        self._timer = None
        if self._ledger.unsaved >= unsaved + _WORTH_WAITING:
            self.soon()
        else:
            self.now()

    def now(self) -> None:
        """Commit as soon as possible."""
        self._wanted.set()

    async def run(self) -> None:
        """Commit whenever a commit is due, until one fails or ``finish`` is called.

        The owner ends it with ``finish`` and does not cancel it, so that a commit under way is completed. The owner
        then calls ``commit`` to record the rest.
        """
        while not self.broken and not self._finishing:
            await self._wanted.wait()
            self._wanted.clear()
            if self._finishing:
                break
            self._cancel_timer()
            if self._ledger.dirty:
                await self.commit()
            if self._ledger.unsaved >= self.enough:
                self.now()
            elif self._ledger.unsaved:
                self.soon()
        self._cancel_timer()

    def finish(self) -> None:
        """Let ``run`` return."""
        self._finishing = True
        self.now()

    async def commit(self, *, ended: bool = False, interrupted: int = 0) -> None:
        """Commit once. A failure is passed to ``failed``, not raised, and ends the job.

        If it is cancelled before the save, the changes go back into the ledger. If it is cancelled during the save, the
        result is unknown, so nothing more may be recorded.
        """
        count = self._ledger.unsaved
        self.running = True
        commit = self._ledger.take(ended=ended, interrupted=interrupted)
        if self._notes is not None and (notes := self._notes()) != self._noted:
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
            if commit.notes is not None:
                self._noted = commit.notes
            self._recorded(count)
        finally:
            self.running = False
            if self.broken:
                self._cancel_timer()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


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
