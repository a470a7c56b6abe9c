"""Follow a history: read its newest messages, then, again and again, those that came since."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from .._wire.order import NewestItems, is_past, item_time, read_newest
from .._wire.paging import raw_id
from .._work.ids import Ids, digest_of
from .._work.limits import wait_for_event
from ..errors import APIError, TransportError
from ..replay.shared import Reading
from ._run import wait_patiently

if TYPE_CHECKING:
    from ..client import BasiqClient
    from ..models import Message
    from ..pagination import Paginator

_FIRST_WAIT, _LONGEST_WAIT = 2.0, 30.0
_GROWTH = 1.5
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


async def follow_up(
    poll: Callable[[], Awaitable[int]],
    *,
    first: float | None = None,
    longest: float = _LONGEST_WAIT,
    stop: asyncio.Event | None = None,
) -> None:
    """Call ``poll``, which returns how many messages were new, until ``stop`` is set.

    While none are new, and while Basiq cannot be asked, the pauses between the calls grow from ``first`` to
    ``longest`` seconds.
    """
    first, stop = first or _FIRST_WAIT, stop or asyncio.Event()
    wait = first
    while not stop.is_set():
        try:
            wait = first if await poll() else min(longest, wait * _GROWTH)
        except (APIError, TransportError) as exc:
            wait = wait_patiently(exc, wait, longest)
        await wait_for_event(stop, wait * random.uniform(0.9, 1.0))


class History:
    """The messages of a webhook: ``begin`` reads the newest, then each ``poll`` returns those that came since."""

    def __init__(self, basiq: BasiqClient, webhook_id: str, filter: str | None = None) -> None:
        self._basiq, self._webhook_id, self._filter = basiq, webhook_id, filter
        self._ids = Ids()
        self._since: datetime | None = None
        """Messages from before are old, also those that were not read; None if all were read."""
        self._hint: str | None = None

    async def begin(
        self,
        most: int | None,
        *,
        wanted: Callable[[Message], bool] | None = None,
        on_read: Callable[[int], object] = lambda count: None,
    ) -> NewestItems[Message]:
        """Return the ``most`` newest messages; None for all. ``on_read`` is called with the number of messages read."""
        count = 0

        def read(message: Message) -> None:
            nonlocal count
            count += 1
            self._add([message.id])
            on_read(count)

        found = await read_newest(self._list(), most, wanted=wanted, on_read=read)
        if not found.complete:  # the list begins with the newest, and more were read than are returned
            self._since = min((time for each in found.items if (time := item_time(each)) is not None), default=None)
        return found

    def _list(self) -> Paginator[Message]:
        return self._basiq.messages.list(self._webhook_id, filter=self._filter, prefetch=0)

    async def poll(self) -> Sequence[Message]:
        """Return the messages that came since the last call, oldest first."""
        reading: Reading[Message] = Reading(
            self._list(),
            known=self._known,
            key_of=lambda item: raw_id(item) or "",
            convert=self._select,
            hint=self._hint,
            selection="follow",
            is_enough=partial(is_past, since=self._since),
            now=self._basiq._now,
        )
        fresh: list[Message] = []
        try:
            while (batch := await reading.advance()) is not None:
                fresh += batch.items
                batch.finish(len(batch.items))
        finally:
            await reading.aclose()
        self._add([each.id for each in fresh])
        self._hint = reading.hint() or self._hint
        return sorted(fresh, key=lambda message: item_time(message) or _LONG_AGO)

    def _add(self, ids: Sequence[str]) -> None:
        digests = list(dict.fromkeys(map(digest_of, ids)))
        known = self._ids.known(digests)
        self._ids.extend(each for each, there in zip(digests, known, strict=True) if not there)

    async def _known(self, keys: Sequence[str]) -> Sequence[str]:
        known = self._ids.known([digest_of(key) for key in keys])
        return [key for key, there in zip(keys, known, strict=True) if there]

    def _select(self, message: Message) -> Message | None:
        time = item_time(message)
        return None if self._since is not None and time is not None and time < self._since else message
