"""What is done and what is not, exactly, while messages are finished in any order. Pure."""

from __future__ import annotations

from collections import deque
from typing import Literal

import attrs

from ..models import Message
from .checkpoints._memory import Advance, Commit, DeadLetter, State

__all__ = ["DeadLedger", "Ending", "Ledger", "Span"]

Ending = Literal["handled", "failed", "skipped"]


class Span:
    """A stretch of the history: from a cursor to the next span's.

    ``open`` counts its messages that are begun and not done, ``ids`` are those that are done.
    """

    __slots__ = ("cursor", "ids", "open", "position")

    def __init__(self, cursor: str | None, position: int) -> None:
        self.cursor = cursor
        self.position = position
        self.open = 0
        self.ids: list[str] = []


class Ledger:
    """Cuts the history into spans, and gives out what is to be recorded.

    The recorded cursor stands at the beginning of the oldest span that has a message left to do; the ids of what
    is done behind it are recorded beside it. Thus nothing is taken for done that is not, and no cursor needs to be
    made for a single message. ``most`` is how many spans may be open, so that one slow message bounds the rest.
    """

    def __init__(self, state: State, *, most: int) -> None:
        self._most = most
        self.earlier = set(state.done)
        """Recorded by earlier runs, and not met in this one so far."""
        self._spans = deque([Span(state.cursor, state.position)])
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
        return self.unsaved > 0 or self._front_done()

    @property
    def idle(self) -> bool:
        """Whether no message is begun and not done."""
        return not any(span.open for span in self._spans)

    def mark(self, cursor: str | None, position: int) -> None:
        """The reader stands at ``cursor``, with ``position`` messages before it: a new span begins."""
        self._spans.append(Span(cursor, position))

    def met(self, message_id: str) -> bool:
        """Whether an earlier run has recorded this message as done."""
        if message_id not in self.earlier:
            return False
        self.earlier.discard(message_id)
        self._spans[-1].ids.append(message_id)
        return True

    def begin(self) -> Span:
        """A message is begun; give the span back with ``done``."""
        span = self._spans[-1]
        span.open += 1
        return span

    def done(self, span: Span, message: Message, *, dead: DeadLetter | None = None, counts_as: Ending) -> None:
        """A message is done, well or not."""
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

    def take(self, *, ended: bool = False) -> Commit:
        """All that is to be recorded by now."""
        moved = False
        while self._front_done():
            self._spans.popleft()
            moved = True
        front = self._spans[0]
        commit = Commit(
            done=() if moved else self._done,
            advance=Advance(front.cursor, front.position, self._behind()) if moved else None,
            handled=self._handled,
            failed=self._failed,
            dead=self._dead,
            ended=ended,
        )
        self._done, self._dead = [], []
        self._handled = self._failed = self.unsaved = 0
        return commit

    def forget_earlier(self) -> None:
        """The history was read to its end: what earlier runs have recorded and was not met is in it no more."""
        self.earlier.clear()

    def _front_done(self) -> bool:
        return len(self._spans) > 1 and not self._spans[0].open

    def _behind(self) -> list[str]:
        return [*self.earlier, *(done for span in self._spans for done in span.ids)]


class DeadLedger(Ledger):
    """The same for dead letters that are tried again: those that are done now are letters no more."""

    def __init__(self, letters: int, *, most: int) -> None:
        super().__init__(State(dead=letters), most=most)
        self._revived: list[str] = []

    def done(self, span: Span, message: Message, *, dead: DeadLetter | None = None, counts_as: Ending) -> None:
        """A letter was tried again."""
        super().done(span, message, dead=dead, counts_as=counts_as)
        span.ids.clear()
        if dead is not None:
            self.dead -= 1  # it takes the place of the one that it was
        elif counts_as != "failed":
            self.dead -= 1
            self._revived.append(message.id)

    def take(self, *, ended: bool = False) -> Commit:
        """All that is to be recorded by now; the cursor of the history stays where it is."""
        commit = super().take(ended=ended)
        revived, self._revived = self._revived, []
        return attrs.evolve(commit, done=(), advance=None, failed=0, revived=revived)
