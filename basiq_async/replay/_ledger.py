"""Keep account of the finished and unfinished messages, which may finish in any order, and record them together."""

from __future__ import annotations

from collections import deque
from typing import Literal

import attrs

from ..models import Message
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
