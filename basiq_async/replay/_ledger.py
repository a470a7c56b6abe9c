"""What is done and what is not, exactly, while messages are finished in any order. Pure."""

from __future__ import annotations

from collections import deque
from typing import Literal

import attrs

from ..models import Message
from .checkpoints._base import Advance, Commit, DeadLetter, State

Ending = Literal["handled", "failed", "skipped"]


class Span:
    """A stretch of the history: from a cursor to the next span's.

    ``open`` counts its messages that are begun and not done, ``ids`` are those that are done.
    """

    __slots__ = ("cursor", "ids", "last_id", "open", "position")

    def __init__(self, cursor: str | None, position: int, last_id: str | None) -> None:
        self.cursor = cursor
        self.position = position
        self.last_id = last_id
        self.open = 0
        self.ids: list[str] = []


class Ledger:
    """Cuts the history into spans, and says what is to be recorded.

    The recorded cursor stands at the beginning of the oldest span that has a message left to do; the ids of what
    is done after it are recorded beside it. So nothing counts as done that is not, and no cursor needs to be made
    for a single message. ``most`` is how many spans may be open, so that one slow message bounds the rest.
    """

    of_history = True
    """Whether the messages are the history's own, in its order."""

    def __init__(self, state: State, *, most: int) -> None:
        self._most = most
        self.earlier = set(state.done)
        """Ids that earlier runs recorded and this run has not met yet."""
        self._spans = deque([Span(state.cursor, state.position, state.last_id)])
        self._moved = False
        self._done: list[str] = []
        self._dead: list[DeadLetter] = []
        self._handled = self._failed = 0
        self.dead = state.dead
        """How many dead letters there are, once all is recorded."""
        self.unsaved = 0
        """How many messages are done and not recorded, skipped ones left out."""

    @property
    def full(self) -> bool:
        """Whether the oldest span has to be finished before a new one may begin."""
        return len(self._spans) >= self._most

    @property
    def dirty(self) -> bool:
        """Whether there is anything to record."""
        return self.unsaved > 0 or self._moved or self._is_front_done()

    @property
    def idle(self) -> bool:
        """Whether no message is begun and not done."""
        return not any(span.open for span in self._spans)

    def mark(self, cursor: str | None, position: int, last_id: str | None = None) -> None:
        """Begin a new span: the reader stands at ``cursor``, after ``position`` messages, the last ``last_id``."""
        self._spans.append(Span(cursor, position, last_id))

    def match(self, message_id: str) -> bool:
        """Return whether an earlier run has recorded this message as done."""
        if message_id not in self.earlier:
            return False
        self.earlier.discard(message_id)
        self._spans[-1].ids.append(message_id)
        return True

    def begin(self) -> Span:
        """Begin a message; pass the span on to ``done``."""
        span = self._spans[-1]
        span.open += 1
        return span

    def done(self, span: Span, message: Message, *, dead: DeadLetter | None = None, counts_as: Ending) -> None:
        """Finish a message, successfully or not."""
        span.open -= 1
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
        """Take all that is to be recorded by now. What is not recorded after all has to be put back."""
        while self._is_front_done():
            self._spans.popleft()
            self._moved = True
        front = self._spans[0]
        advance = Advance(front.cursor, front.position, self._done_after(), front.last_id) if self._moved else None
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
        """Take back a commit of ``unsaved`` messages that was not recorded: the next one holds it too."""
        self._done[:0] = commit.done
        self._dead[:0] = commit.dead
        self._handled += commit.handled
        self._failed += commit.failed
        self.unsaved += unsaved
        self._moved = self._moved or commit.advance is not None

    def forget_earlier(self) -> None:
        """Forget what earlier runs recorded and this one did not meet: read to its end, the history lacks it."""
        self.earlier.clear()

    def _is_front_done(self) -> bool:
        return len(self._spans) > 1 and not self._spans[0].open

    def _done_after(self) -> list[str]:
        return [*self.earlier, *(done for span in self._spans for done in span.ids)]


class DeadLedger(Ledger):
    """The same for dead letters that are tried again: those that are done now are removed.

    ``record_tried``: the ids of all that were tried are recorded as done as well.
    """

    of_history = False

    def __init__(self, dead: int, *, most: int, record_tried: bool = False) -> None:
        super().__init__(State(dead=dead), most=most)
        self._record_tried = record_tried
        self._revived: list[str] = []

    def done(self, span: Span, message: Message, *, dead: DeadLetter | None = None, counts_as: Ending) -> None:
        """Finish a dead letter that was tried again."""
        super().done(span, message, dead=dead, counts_as=counts_as)
        span.ids.clear()
        if dead is not None:
            self.dead -= 1  # it replaces the earlier one
        elif counts_as != "failed":
            self.dead -= 1
            self._revived.append(message.id)

    def take(self, *, ended: bool = False, interrupted: int = 0) -> Commit:
        """Take all that is to be recorded by now; the cursor of the history stays where it is."""
        commit = super().take(ended=ended, interrupted=interrupted)
        revived, self._revived = self._revived, []
        done = commit.done if self._record_tried else ()
        return attrs.evolve(commit, done=done, advance=None, failed=0, revived=revived)

    def put_back(self, commit: Commit, unsaved: int) -> None:
        """Take back a commit of ``unsaved`` dead letters that was not recorded: the next one holds it too."""
        super().put_back(commit, unsaved)
        self._revived[:0] = commit.revived
