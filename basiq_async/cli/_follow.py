"""Find the new messages of a history, as they appear."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ..errors import APIError, TransportError
from ._output import note
from ._run import wait_patiently

if TYPE_CHECKING:
    from .._wire.order import NewestItems
    from ..client import BasiqClient
    from ..models import Message
    from ..pagination import Paginator

_FIRST_WAIT, _LONGEST_WAIT = 2.0, 30.0


async def new_messages(history: History) -> AsyncIterator[Message]:
    """Yield new messages forever. The pauses between requests grow while no message appears."""
    import asyncio

    wait = _FIRST_WAIT
    note("waiting for new messages; Ctrl-C ends")
    while True:
        await asyncio.sleep(wait)
        try:
            wait = min(_LONGEST_WAIT, wait * 1.5)
            for message in await history.poll():
                wait = _FIRST_WAIT
                yield message
        except (APIError, TransportError) as exc:
            wait = wait_patiently(exc, wait, _LONGEST_WAIT)


_LONG_AGO = datetime.min.replace(tzinfo=UTC)


class History:
    """The messages of a webhook: ``begin`` reads the newest, then each ``poll`` yields those that came since.

    Both read the list through a replay's ``Feed``, which knows the messages that were read before.
    """

    def __init__(self, basiq: BasiqClient, webhook_id: str, filter: str | None = None) -> None:
        self._basiq = basiq
        self._webhook_id = webhook_id
        self._filter = filter
        self._place: str | None = None

    async def begin(
        self,
        most: int | None,
        *,
        wanted: Callable[[Message], bool] | None = None,
        on_read: Callable[[int], object] = lambda count: None,
    ) -> NewestItems[Message]:
        """Return the ``most`` newest messages; None for all. ``on_read`` is called with the number of messages read."""
        from .._wire.order import read_newest
        from ..replay.shared import TOP, WINDOW, Feed, Part, Place

        ids: list[str] = []
        count = 0

        def read(message: Message) -> None:
            nonlocal count
            count += 1
            if count <= WINDOW:
                ids.append(message.id)
            on_read(count)

        feed: Feed[Message] = Feed(self._list())
        found = await read_newest(feed, most, wanted=wanted, on_read=read)
        if found.complete:
            self._place = feed.text()
        else:
            # What follows these messages counts as known: 64 steps show that the list begins with the newest.
            while (message := feed.take()) is not None:
                read(message)
            known = Part(top=ids[:TOP], last=dict.fromkeys(ids))
            self._place = Place(base=known, whole=True, steps=[0, 64, 0, 64], grows="top", page=len(ids)).write()
        await feed.aclose()
        return found

    def _list(self) -> Paginator[Message]:
        return self._basiq.messages.list(self._webhook_id, filter=self._filter, prefetch=0)

    async def poll(self) -> Sequence[Message]:
        """Return the messages that came since the last call, oldest first."""
        from ..replay import message_time
        from ..replay.shared import Feed

        feed: Feed[Message] = Feed(self._list(), self._place)
        try:
            fresh = [message async for message in feed]
        finally:
            await feed.aclose()
        self._place = feed.text()
        return sorted(fresh, key=lambda message: message_time(message) or _LONG_AGO)
