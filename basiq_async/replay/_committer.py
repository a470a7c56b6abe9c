"""Group commits: what was done is made durable together, and only then is there room for more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ..errors import BasiqError, ReplayError
from ._ledger import Ledger
from .checkpoints._memory import Advance, Checkpoint, Commit

__all__ = ["Committer"]

_LINGER = 0.003
"""Seconds that a message which is done waits for others, so that one write to the disk serves several."""
_QUICK = 8
"""How many more have to be done within that time for it to be worth waiting as long again."""


class Committer:
    """Records what the ledger has, one commit after the other.

    ``flush`` makes durable what the target has taken, before it is recorded as done. ``recorded`` is told how
    many messages of the unsaved ones are recorded. A commit begins when ``enough`` messages are done, or a short
    while after the first of them, unless many others followed.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        ledger: Ledger,
        *,
        flush: Callable[[], Awaitable[None]],
        recorded: Callable[[int], None],
        failed: Callable[[Exception], None],
        enough: int,
    ) -> None:
        self._checkpoint = checkpoint
        self._ledger = ledger
        self._flush = flush
        self._recorded = recorded
        self._failed = failed
        self.enough = enough
        self._wanted = asyncio.Event()
        self._finishing = False
        self._timer: asyncio.TimerHandle | None = None
        self.broken = False
        """Whether a commit failed: nothing after it may be recorded."""
        self.running = False
        self.advanced: Advance | None = None
        """The cursor that was recorded last."""

    def begin(self) -> bool:
        """Begin a commit, if none is under way; gives whether the caller should let it."""
        if self.running or self._wanted.is_set():
            return False
        self.now()
        return True

    def soon(self) -> None:
        """Commit in a moment."""
        if self._timer is None and not self.broken:
            self._timer = asyncio.get_running_loop().call_later(_LINGER, self._look, self._ledger.unsaved)

    def _look(self, unsaved: int) -> None:
        self._timer = None
        if self._ledger.unsaved >= unsaved + _QUICK:
            self.soon()
        else:
            self.now()

    def now(self) -> None:
        """Commit as soon as may be."""
        self._cancel_timer()
        self._wanted.set()

    async def run(self) -> None:
        """Commit whenever it is wanted, until it fails, or is to finish."""
        while not self.broken and not self._finishing:
            await self._wanted.wait()
            self._wanted.clear()
            self._cancel_timer()
            if self._ledger.dirty:
                await self.commit(self._ledger.take)
            if self._ledger.unsaved >= self.enough:
                self.now()
            elif self._ledger.unsaved:
                self.soon()

    def finish(self) -> None:
        """Let ``run`` return."""
        self._finishing = True
        self.now()

    async def commit(self, take: Callable[[], Commit]) -> None:
        """One commit. A failure ends the job: it is told, not raised."""
        count = self._ledger.unsaved
        self.running = True
        try:
            commit = take()
            await self._flush()
            await self._checkpoint.save(commit)
        except Exception as exc:
            self.broken = True
            self._cancel_timer()
            self._failed(exc if isinstance(exc, BasiqError) else _foreign(exc))
        else:
            self.advanced = commit.advance or self.advanced
            self._recorded(count)
        finally:
            self.running = False

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _foreign(exc: Exception) -> ReplayError:
    error = ReplayError(f"what was done could not be made durable: {type(exc).__name__}: {exc}")
    error.__cause__ = exc
    return error
