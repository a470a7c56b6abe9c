"""From the source to the workers: one message at a time, no more than may be in flight, pages held to two."""

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
"""How many messages are read from one cursor that can be recorded to the next."""


WorkItem: TypeAlias = tuple[Message, Span, Exception | None]
"""A message to be handled, its span, and the error where reading or selecting it failed already."""


class MessageReader:
    """Hands out messages to any number of workers.

    ``width`` is how many messages may be handed out and not recorded. A worker that asks gets its message without
    a switch of tasks as long as there is one on the page, and room for it. ``wanted`` is called when the ledger
    has something to record though no message was handled. ``last_id`` is the last message before the source's place.
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
        """Whether each message that was handed out has to be decided on."""
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
        """How many messages were handed out."""
        self.error: Exception | None = None
        """What reading failed with."""

    @property
    def in_flight(self) -> int:
        """How many messages are handed out and not recorded."""
        return self._width - self._room

    @property
    def short(self) -> bool:
        """Whether there is room for a message, and no worker that asks for one."""
        return self._room > 0 and self._reader is None and not self._waiting

    @property
    def order(self) -> Order:
        """In which order the source comes, as far as it is known."""
        return self._source.order

    @property
    def read(self) -> int:
        """How many messages of the history come before the reader."""
        return self._read

    def take_ready(self) -> WorkItem | None:
        """Return the next message where that needs no waiting; None where ``take`` has to be asked."""
        if self.ended or self._reader is not None or self._room == 0 or self._in_span >= SPAN or self._left is not None:
            return None
        message = self._ready()
        return None if message is None else self._hand_out(message)

    async def take(self, worker: asyncio.Task[object]) -> WorkItem | None:
        """Return the next message to handle; None at the end. ``worker`` is the task that asks."""
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
                    break  # ``stop`` cancelled it, to give up a page that takes long
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
        """Count a message that was read; return None where it is not to be handled."""
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
        """Return whether the source continues; otherwise the reading ends."""
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
        """Return whether the source found its place again; otherwise the reading ends."""
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
        """Begin a new span where the reader stands."""
        self._ledger.mark(self._source.cursor, self._read, self._last_id)
        self._in_span = 0
        if not self._ledger.unsaved and self._ledger.dirty:  # what is unsaved has its commit begun without this
            self._wanted()

    def decide(self, *, counts: bool) -> None:
        """Count a message against the limit, or do not: the target had no use for it. Only where it is ``limited``."""
        if self._left is not None:
            self._undecided -= 1
            if not counts:
                self._left += 1
            self._wake()

    def release(self, count: int) -> None:
        """``count`` messages are recorded: as many others may be handed out."""
        self._room += count
        self._wake()

    def stop(self) -> None:
        """Hand out no more. A page that is being asked for is given up."""
        if self.ended:
            return
        self.ended = True
        if self._reader is not None and self._reader is not asyncio.current_task():
            self._reader.cancel()
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def aclose(self) -> None:
        """Give up the page that was asked for ahead."""
        await self._source.aclose()

    def _wake(self) -> None:
        """Wake one waiting worker, which wakes the next one if there is more to hand out.

        If all of them were woken, most of them would run for nothing, each time.
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
