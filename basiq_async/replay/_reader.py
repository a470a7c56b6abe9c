"""Hand out the messages of a source to the workers, one at a time, and no more than may be in flight."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import TypeAlias

from .._wire.order import Order
from ..models import Message
from ._ledger import Ledger, Span
from ._notes import MOST_ATTEMPTS, InactivityTracker
from ._sources import MessageSource, UnreadableMessage
from ._where import Where, everything

SPAN = 500
"""The number of messages between two cursors that can be recorded."""


WorkItem: TypeAlias = tuple[Message, Span, Exception | None]
"""A message to handle, its span, and the error if reading or selecting it failed already."""


class MessageReader:
    """Hands out messages to any number of workers.

    A worker gets its message without a switch of tasks while the page has one, and another may be handed out.

    width: the most messages that may be handed out and not recorded yet.
    wanted: called when the ledger has something to record although no message was handled.
    last_id: the id of the last message before the source's place.
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
        last_id: str | None = None,
        tracker: InactivityTracker | None = None,
    ) -> None:
        self._source = source
        self._ready, self._advance = source.stepper()
        self._ledger = ledger
        self._where = None if where.predicate is everything else where.predicate
        self._wanted = wanted
        self._tracker = tracker
        self._left = where.limit
        self.limited = where.limit is not None
        """Whether ``decide`` must be called for each message that was handed out."""
        self._undecided = 0
        self._room = width
        self._width = width
        self._read = position
        self._last_id = last_id
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

    @property
    def order(self) -> Order:
        """The order of the source, as far as it is known."""
        return self._source.order

    @property
    def read(self) -> int:
        """The number of messages of the history that were read, those of earlier runs included."""
        return self._read

    def take_ready(self) -> WorkItem | None:
        """Return the next message if it is available at once; None if ``take`` must be called."""
        if self.ended or self._reader is not None or self._room == 0 or self._in_span >= SPAN or self._left is not None:
            return None
        message = self._ready()
        return None if message is None else self._hand_out(message)

    async def take(self, worker: asyncio.Task[object]) -> WorkItem | None:
        """Return the next message to handle; None at the end. ``worker`` is the calling task."""
        ledger = self._ledger
        while not self.ended:
            if self._reader is not None or self._room == 0 or (self._in_span >= SPAN and ledger.full):
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
            self._reader = worker
            try:
                message = await self._advance()
            except StopAsyncIteration:
                if self._begin_next_pass():
                    continue
                break
            except asyncio.CancelledError:
                if self.ended and worker.uncancel() == 0:
                    break  # ``stop`` cancelled it, because a page may take long
                raise
            except Exception as exc:
                if await self._recover(exc, worker):
                    continue
                break
            finally:
                self._reader = None
            item = self._hand_out(message)
            if item is not None:
                return item
        return None

    def _hand_out(self, message: Message) -> WorkItem | None:
        """Count a message that was read. Return None if it is not to be handled."""
        tracker, ledger = self._tracker, self._ledger
        self._read += 1
        self._in_span += 1
        self._last_id = message.id
        if tracker is not None and (tracker.alert or len(message.raw.get("attempts") or ()) >= MOST_ATTEMPTS):
            tracker.see(message)
        if ledger.earlier and self._is_recorded(message):
            return None
        error = None
        if type(message) is UnreadableMessage:
            error = message.error
        elif self._where is not None:
            try:
                if not self._where(message):
                    self.skipped["where"] += 1
                    return None
            except Exception as exc:
                error = exc
        self._room -= 1
        self.handed_out += 1
        if self._left is not None:
            self._left -= 1
            self._undecided += 1
        if self._waiting and self._room:
            self._wake()
        return message, ledger.begin(), error

    def _begin_next_pass(self) -> bool:
        """Begin the source's next pass. If there is none, end the reading and return False."""
        try:
            if self._source.next_pass():
                self._ready, self._advance = self._source.stepper()
                self._in_span = SPAN  # a span is a stretch of one pass
                return True
            self.whole = True
        except Exception as exc:
            self.error = exc
        self.stop()
        return False

    async def _recover(self, error: Exception, worker: asyncio.Task[object]) -> bool:
        """Let the source find its place again after ``error``. If it cannot, end the reading and return False."""
        try:
            if await self._source.recover(error):
                self._ready, self._advance = self._source.stepper()
                self._in_span = SPAN
                return True
        except asyncio.CancelledError:
            if self.ended and worker.uncancel() == 0:
                return False
            raise
        except Exception as exc:
            error = exc
        self.error = error
        self.stop()
        return False

    def _is_recorded(self, message: Message) -> bool:
        if not self._ledger.match(message.id):
            return False
        self.skipped["recorded"] += 1
        return True

    def mark(self) -> None:
        """Begin a new span at the reader's place."""
        self._ledger.mark(self._source.cursor, self._read, self._last_id)
        self._in_span = 0
        if not self._ledger.unsaved and self._ledger.dirty:  # what is unsaved has its commit begun without this
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
