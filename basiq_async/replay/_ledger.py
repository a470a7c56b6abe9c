"""Keep account of the finished and unfinished messages, which may finish in any order, and record them together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Literal

import attrs

from ..errors import BasiqError, CheckpointError, ReplayError
from ..models import Message
from ._coverage import InactivityTracker
from .checkpoints._base import Advance, Commit, DeadLetter, State

Ending = Literal["handled", "failed", "skipped"]


class Span:
    """A part of the history, from its cursor to the next span's.

    ``open`` is the number of its messages that are begun and not finished. ``ids`` are those of its finished messages.
    """

    __slots__ = ("cursor", "ids", "open", "position")

    def __init__(self, cursor: str | None, position: int) -> None:
        self.cursor = cursor
        self.position = position
        self.open = 0
        self.ids: list[str] = []


class Ledger:
    """Divides the history into spans, and collects the changes to record.

    The recorded cursor is the beginning of the oldest span with an unfinished message. The ids of messages that are
    finished after it are recorded beside it. So the record is exact, without a cursor for each message. ``most`` is the
    number of spans that may be open, so that a slow message limits how far the others get ahead.
    """

    of_history = True
    """Whether the messages come from the history, not from the dead letters."""

    def __init__(self, state: State, *, most: int) -> None:
        self._most = most
        self.earlier = set(state.done)
        """Ids of messages that earlier runs recorded as done, and that this run has not read yet."""
        self._spans = deque([Span(state.cursor, state.position)])
        self._moved = False
        self._done: list[str] = []
        self._dead: list[DeadLetter] = []
        self._handled = self._failed = 0
        self.dead = state.dead
        """The number of dead letters after everything is recorded."""
        self._open = 0
        """The number of messages that are begun and not finished."""
        self.unsaved = 0
        """The number of messages that are finished and not recorded yet."""

    @property
    def full(self) -> bool:
        """Whether the oldest span must be finished before a new one may begin."""
        return len(self._spans) >= self._most

    @property
    def dirty(self) -> bool:
        """Whether there is anything to record."""
        return self.unsaved > 0 or self._moved or self._is_front_done()

    @property
    def idle(self) -> bool:
        """Whether every message that was begun is finished."""
        return not self._open

    def mark(self, cursor: str | None, position: int) -> None:
        """Begin a new span at ``cursor``, after ``position`` messages."""
        self._spans.append(Span(cursor, position))

    def match(self, message_id: str) -> bool:
        """Return whether an earlier run has recorded this message as done."""
        if message_id not in self.earlier:
            return False
        self.earlier.discard(message_id)
        self._spans[-1].ids.append(message_id)
        return True

    def begin(self) -> Span:
        """Begin a message, and return its span, for ``done``."""
        span = self._spans[-1]
        span.open += 1
        self._open += 1
        return span

    def done(self, span: Span, message: Message, *, dead: DeadLetter | None = None, counts_as: Ending) -> None:
        """Count a message as finished, successfully or not."""
        span.open -= 1
        self._open -= 1
        span.ids.append(message.id)
        self._done.append(message.id)
        self.unsaved += 1
        if counts_as == "handled":
            self._handled += 1
        elif counts_as == "failed":
            self._failed += 1
        if dead is not None:
            self._dead.append(dead)
            self.dead += 1

    def take(self, *, ended: bool = False, interrupted: int = 0) -> Commit:
        """Return the changes to record now. If recording fails, pass them to ``put_back``."""
        while self._is_front_done():
            self._spans.popleft()
            self._moved = True
        front = self._spans[0]
        advance = Advance(front.cursor, front.position, self._done_after()) if self._moved else None
        commit = Commit(
            done=self._done,
            advance=advance,
            handled=self._handled,
            failed=self._failed,
            dead=self._dead,
            ended=ended,
            interrupted=interrupted,
        )
        self._done, self._dead = [], []
        self._handled = self._failed = self.unsaved = 0
        self._moved = False
        return commit

    def put_back(self, commit: Commit, unsaved: int) -> None:
        """Put back a commit of ``unsaved`` messages that was not recorded, so that the next one contains it."""
        self._done[:0] = commit.done
        self._dead[:0] = commit.dead
        self._handled += commit.handled
        self._failed += commit.failed
        self.unsaved += unsaved
        self._moved = self._moved or commit.advance is not None

    def forget_earlier(self) -> None:
        """At the end of the history, forget the ids of earlier runs that this run did not read: they are not listed."""
        self.earlier.clear()

    def _is_front_done(self) -> bool:
        return len(self._spans) > 1 and not self._spans[0].open

    def _done_after(self) -> list[str]:
        return [*self.earlier, *(done for span in self._spans for done in span.ids)]


class DeadLedger(Ledger):
    """A ledger for dead letters that are retried: those that succeed are removed.

    ``record_tried``: also record the ids of all retried dead letters as done.
    """

    of_history = False

    def __init__(self, dead: int, *, most: int, record_tried: bool = False) -> None:
        super().__init__(State(dead=dead), most=most)
        self._record_tried = record_tried
        self._revived: list[str] = []

    def done(self, span: Span, message: Message, *, dead: DeadLetter | None = None, counts_as: Ending) -> None:
        """Count a retried dead letter as finished, successfully or not."""
        super().done(span, message, dead=dead, counts_as=counts_as)
        span.ids.clear()
        if dead is not None:
            self.dead -= 1  # it replaces the earlier one
        elif counts_as != "failed":
            self.dead -= 1
            self._revived.append(message.id)

    def take(self, *, ended: bool = False, interrupted: int = 0) -> Commit:
        """Return the changes to record now. They do not move the cursor of the history."""
        commit = super().take(ended=ended, interrupted=interrupted)
        revived, self._revived = self._revived, []
        done = commit.done if self._record_tried else ()
        return attrs.evolve(commit, done=done, advance=None, failed=0, revived=revived)

    def put_back(self, commit: Commit, unsaved: int) -> None:
        """Put back a commit of ``unsaved`` dead letters that was not recorded, so that the next one contains it."""
        super().put_back(commit, unsaved)
        self._revived[:0] = commit.revived


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
