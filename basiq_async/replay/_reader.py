"""From the history to the workers: one message at a time, no more than may be in flight, pages held to two."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

from ..models import Message
from ._ledger import Ledger, Span
from ._where import Where, everything

__all__ = ["SPAN", "Intake", "Ticket"]

SPAN = 250
"""How many messages are read from one cursor that can be recorded to the next."""


class Ticket(NamedTuple):
    """A message to be handled. ``error`` is there where choosing it failed already."""

    message: Message
    span: Span
    error: Exception | None


class Intake:
    """Hands out messages to any number of workers.

    ``width`` is how many messages may be handed out and not recorded. A worker that asks gets its message without
    a switch of tasks as long as there is one on the page, and room for it. ``wanted`` is called when the ledger
    has something to record though no message was handled.
    """

    def __init__(
        self,
        items: AsyncIterator[Message],
        cursor: Callable[[], str | None],
        ledger: Ledger,
        *,
        where: Where,
        width: int,
        wanted: Callable[[], None],
        position: int = 0,
    ) -> None:
        self._items = items
        self._following = items.__anext__
        self._cursor = cursor
        self._ledger = ledger
        self._where = None if where.predicate is everything else where.predicate
        self._wanted = wanted
        self._left = where.limit
        self._room = width
        self._width = width
        self._read = position
        self._in_span = 0
        self._reader: asyncio.Task[object] | None = None
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._woken = False
        self.skipped: Counter[str] = Counter()
        self.ended = False
        """Whether no further message is handed out."""
        self.whole = False
        """Whether the history was read to its end."""
        self.error: Exception | None = None
        """What reading failed with."""

    @property
    def in_flight(self) -> int:
        """How many messages are handed out and not recorded."""
        return self._width - self._room

    @property
    def read(self) -> int:
        """How many messages of the history stand before the reader."""
        return self._read

    async def take(self, worker: asyncio.Task[object]) -> Ticket | None:
        """The next message to handle; None where there is none any more. ``worker`` is the task that asks."""
        ledger = self._ledger
        while not self.ended:
            if self._reader is not None or self._room == 0 or (self._in_span >= SPAN and ledger.full):
                await self._wait()
                continue
            if self._left == 0:
                self.stop()
                break
            if self._in_span >= SPAN:
                self.mark()
            self._reader = worker
            try:
                message = await self._following()
            except StopAsyncIteration:
                self.whole = True
                self.stop()
                break
            except asyncio.CancelledError:
                if self.ended and worker.uncancel() == 0:
                    break  # it was stop() that cancelled, to be rid of a page that takes long
                raise
            except Exception as exc:
                self.error = exc
                self.stop()
                break
            finally:
                self._reader = None
            self._read += 1
            self._in_span += 1
            if ledger.earlier and self._is_recorded(message):
                continue
            error = None
            if self._where is not None:
                try:
                    if not self._where(message):
                        self.skipped["where"] += 1
                        continue
                except Exception as exc:
                    error = exc
            self._room -= 1
            if self._left is not None:
                self._left -= 1
            if self._waiting and self._room:
                self._wake()
            return Ticket(message, ledger.begin(), error)
        return None

    def _is_recorded(self, message: Message) -> bool:
        if not self._ledger.met(message.id):
            return False
        self.skipped["recorded"] += 1
        return True

    def mark(self) -> None:
        """Let a new span begin where the reader stands."""
        self._ledger.mark(self._cursor(), self._read)
        self._in_span = 0
        if self._ledger.dirty:
            self._wanted()

    def release(self, count: int) -> None:
        """So many messages are recorded: as many others may be handed out."""
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
        aclose = getattr(self._items, "aclose", None)
        if aclose is not None:
            await aclose()

    def _wake(self) -> None:
        """Wake one who waits; it wakes the next one if there is more to hand out.

        To wake all of them would have most of them run for nothing, each time.
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
