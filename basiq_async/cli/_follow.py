"""Find the new messages of a history, as they appear."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, cast

from ..errors import APIError, TransportError
from ._output import note
from ._run import wait_patiently

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from .._wire.order import NewestItems
    from ..client import BasiqClient
    from ..models import Message

_FIRST_WAIT, _LONGEST_WAIT = 2.0, 30.0
_PAGE = 500
"""The most messages of a history that is listed as a whole by each ``poll``, while its order is not known."""
_KNOWN_IN_A_ROW = 50
"""This many known messages in a row end the search for new ones, because messages can be slightly out of order."""
_MOST_KNOWN = 10_000


async def new_messages(history: History) -> AsyncIterator[Message]:
    """Yield new messages forever. The pauses between requests grow while no message appears."""
    import asyncio

    wait = _FIRST_WAIT
    note("waiting for new messages; Ctrl-C ends")
    while True:
        await asyncio.sleep(wait)
        try:
            wait = min(_LONGEST_WAIT, wait * 1.5)
            async for message in history.poll():
                wait = _FIRST_WAIT
                yield message
        except (APIError, TransportError) as exc:
            wait = wait_patiently(exc, wait, _LONGEST_WAIT)


class History:
    """The messages of a webhook: ``begin`` reads the newest, then each ``poll`` yields the messages that came since.

    A list that begins with the newest message is read up to the known messages. A list that begins with the oldest
    message is read from its former end. A list that is too short to show its order is read as a whole.
    """

    def __init__(self, basiq: BasiqClient, webhook_id: str, filter: str | None = None) -> None:
        self._basiq = basiq
        self._webhook_id = webhook_id
        self._filter = filter
        self._known: dict[str, None] = {}
        self._cursor: str | None = None
        self._begins_with = "unknown"

    async def begin(
        self,
        most: int,
        *,
        wanted: Callable[[Message], bool] | None = None,
        on_read: Callable[[int], object] = lambda count: None,
    ) -> NewestItems[Message]:
        """Return the ``most`` newest messages; 0 for all. ``on_read`` is called with the number of messages read."""
        from .._wire.order import read_newest

        count = 0

        def read(message: Message) -> None:
            nonlocal count
            count += 1
            if count <= _PAGE:
                self._known[message.id] = None
            on_read(count)

        history = self._basiq.messages.list(self._webhook_id, filter=self._filter)
        async with aclosing(cast("AsyncGenerator[Message]", aiter(history))) as messages:
            found = await read_newest(messages, most, wanted=wanted, on_read=read)
        if not found.complete:
            self._begins_with = "newest"
        elif found.read > _PAGE:
            self._begins_with = "newest" if found.order == "newest-first" else "oldest"
            self._cursor = history.cursor
        return found

    async def poll(self) -> AsyncIterator[Message]:
        """Yield the messages that came since the last call, oldest first."""
        if self._begins_with == "oldest":
            history = self._basiq.messages.list(self._webhook_id, filter=self._filter, cursor=self._cursor, prefetch=0)
            try:
                async for message in history:
                    yield message
            finally:
                self._cursor = history.cursor or self._cursor
            return
        for message in await self._find_unknown():
            self._known[message.id] = None
            yield message
        while len(self._known) > _MOST_KNOWN:
            del self._known[next(iter(self._known))]

    async def _find_unknown(self) -> list[Message]:
        from .._wire.order import OrderDetector, item_time

        fresh: list[Message] = []
        in_a_row = count = 0
        detector = OrderDetector()
        history = self._basiq.messages.list(self._webhook_id, filter=self._filter, prefetch=0)
        async with aclosing(cast("AsyncGenerator[Message]", aiter(history))) as messages:
            async for message in messages:
                count += 1
                detector.see(item_time(message))
                in_a_row = in_a_row + 1 if message.id in self._known else 0
                if not in_a_row:
                    fresh.append(message)
                elif in_a_row > _KNOWN_IN_A_ROW and self._begins_with == "newest":
                    break
        if self._begins_with == "unknown" and count > _PAGE:
            self._begins_with = "newest" if detector.order == "newest-first" else "oldest"
            self._cursor = history.cursor
        newest_first = self._begins_with == "newest" or detector.order == "newest-first"
        return fresh[::-1] if newest_first else fresh
