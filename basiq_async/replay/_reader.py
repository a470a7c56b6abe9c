"""Hand out the messages of a source to the workers, one at a time, and no more than may be in flight."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import TypeAlias

from ..models import Message
from ._coverage import InactivityTracker
from ._ledger import Ledger, Span
from ._sources import MessageSource, UnreadableMessage
from ._where import Where, choose, everything

SPAN = 500
"""The number of messages between two cursors that can be recorded."""


WorkItem: TypeAlias = tuple[Message, Span, Exception | None]
"""A message to handle, its span, and the error if reading or selecting it failed already."""


class MessageReader:
    """Hands out messages to any number of workers.

    width: maximum number of messages that are handed out and not recorded yet.
    wanted: called when the ledger has something to record although no message was handled.
    """

    def __init__(
        self,
        source: MessageSource,
        ledger: Ledger,
        *,
        where: Where,
        width: int,
        wanted: Callable[[], None],
        position: int = 0,
        tracker: InactivityTracker | None = None,
    ) -> None:
        self._source = source
        self._ledger = ledger
        self._where = where
        self._selects = where.predicate is not everything
        self._wanted = wanted
        self._tracker = tracker
        self._left = where.limit
        self.limited = where.limit is not None
        """Whether ``decide`` must be called for each message that was handed out."""
        self._undecided = 0
        self._room = width
        self._width = width
        self.read = position
        """The number of messages of the history that were read, those of earlier runs included."""
        self._in_span = 0
        self._reader: asyncio.Task[object] | None = None
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._woken = False
        self.skipped: Counter[str] = Counter()
        self.ended = False
        """Whether no further message is handed out."""
        self.whole = False
        """Whether the history was read to its end."""
        self.handed_out = 0
        """The number of messages that were handed out."""
        self.error: Exception | None = None
        """The error that ended the reading, or None."""

    @property
    def in_flight(self) -> int:
        """The number of messages that are handed out and not recorded yet."""
        return self._width - self._room

    @property
    def short(self) -> bool:
        """Whether another message may be handed out, and no worker waits for one."""
        return self._room > 0 and self._reader is None and not self._waiting

    async def take(self) -> WorkItem | None:
        """Return the next message to handle; None at the end."""
        source = self._source
        while not self.ended:
            if self._reader is not None or self._room == 0 or (self._in_span >= SPAN and self._ledger.full):
                await self._wait()
                continue
            if self._left == 0:
                if self._undecided:
                    await self._wait()
                    continue
                self.stop()
                break
            if self._in_span >= SPAN:
                self.mark()
            message = source.take()
            if message is not None:
                item = self._hand_out(message)
                if item is not None:
                    return item
                continue
            self._reader = worker = asyncio.current_task()
            try:
                if not await source.advance():
                    self.whole = source.finished
                    self.stop()
            except asyncio.CancelledError:
                if worker is None or not self.ended or worker.uncancel() > 0:
                    raise  # otherwise ``stop`` cancelled it, because a page may take long
            except Exception as exc:
                self.error = exc
                self.stop()
            finally:
                self._reader = None
                self._wake()
        return None

    def _hand_out(self, message: Message) -> WorkItem | None:
        """Count a message that was read. Return None if it is not to be handled."""
        tracker, ledger = self._tracker, self._ledger
        self.read += 1
        self._in_span += 1
        if tracker is not None and type(message) is not UnreadableMessage:
            tracker.see(message)
        if ledger.earlier and ledger.match(message.id):
            self.skipped["recorded"] += 1
            return None
        error = None
        if self._selects or type(message) is UnreadableMessage:
            chosen, error = choose(self._where, message)
            if not chosen:
                self.skipped["where"] += 1
                return None
        self._room -= 1
        self.handed_out += 1
        if self._left is not None:
            self._left -= 1
            self._undecided += 1
        if self._waiting and self._room:
            self._wake()
        return message, ledger.begin(), error

    def mark(self) -> None:
        """Begin a new span at the reader's place."""
        self._ledger.mark(self._source.text(), self.read)
        self._in_span = 0
        if not self._ledger.unsaved and self._ledger.dirty:  # unsaved messages trigger their own commit
            self._wanted()

    def decide(self, *, counts: bool) -> None:
        """Tell the reader whether a message counts against the limit; a skipped one does not."""
        if self._left is not None:
            self._undecided -= 1
            if not counts:
                self._left += 1
            self._wake()

    def release(self, count: int) -> None:
        """Allow ``count`` more messages to be handed out, after as many were recorded."""
        self._room += count
        self._wake()

    def stop(self) -> None:
        """Hand out no more messages. A request for a page is cancelled."""
        if self.ended:
            return
        self.ended = True
        if self._reader is not None and self._reader is not asyncio.current_task():
            self._reader.cancel()
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def aclose(self) -> None:
        """Cancel the request for the page ahead."""
        await self._source.aclose()

    def _wake(self) -> None:
        """Wake one waiting worker, which wakes the next one if there are more messages to hand out.

        If all workers were woken, most of them would run for nothing, each time.
        """
        if not self._woken:
            while self._waiting:
                future = self._waiting.popleft()
                if not future.done():
                    self._woken = True
                    future.set_result(None)
                    return

    async def _wait(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            await future
        finally:
            self._woken = False
