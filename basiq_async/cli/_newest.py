"""The newest of a history, and what is new in it since, whichever way Basiq lists it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from .._order import NewestItems
    from ..client import BasiqClient
    from ..models import Message

_IN_A_TERMINAL = 50
_PAGE = 500
"""How many messages are listed again with each question where their order is not known."""
_KNOWN_IN_A_ROW = 50
"""So many known messages in a row end the search for new ones: one may be a little out of place."""
_MOST_KNOWN = 10_000


def most_of(limit: int | None, *, terminal: bool) -> int:
    """Return what ``--limit`` comes to: 0 for all."""
    if limit is None:
        return _IN_A_TERMINAL if terminal else 0
    return limit


class History:
    """The messages of a webhook: ``begin`` reads the newest, then each ``poll`` gives those that came since.

    A list that begins with the newest is read until what is known comes, one that begins with the oldest from where its
    end was. One that is too short to show its order is listed as a whole.
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
        """Return the ``most`` newest messages; 0 for all. ``on_read`` gets the number that was read so far."""
        from .._order import read_newest

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
        """Yield the messages that came since the last call, the oldest first."""
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
        from .._order import OrderDetector, item_time

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
