"""A target that is handed events again, whatever the inbox knows of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing

from ..._work.inbox_calls import InboxCalls
from ..._work.keys import inbox_key
from ...models import Message
from ._base import Target
from ._shared import new_token


class Repeating:
    """Leaves out what waits or is in the quarantine, which its own attempts end, and passes on all other messages.

    What the inbox did not know at all is then recorded as handled too, so that no recovery brings it once more.
    """

    def __init__(self, inner: Target, calls: InboxCalls) -> None:
        self.inner = inner
        self._calls = calls
        self._held: Mapping[str, str] | None = None
        self._reading = asyncio.Lock()

    async def deliver(self, message: Message) -> str | None:
        """See ``Target``. The words are ``waiting`` and ``quarantined`` for what is left out."""
        key = inbox_key(message.event_id, message.id)
        async with self._reading:
            if self._held is None:
                self._held = await self._read_held()
        if (word := self._held.get(key)) is not None:
            return word
        word = await self.inner.deliver(message)
        if word is None and not await self._calls.known([key]):
            await self._calls.complete(key, new_token())
        return word

    async def _read_held(self) -> Mapping[str, str]:
        held: dict[str, str] = {}
        for word, entries in (("waiting", self._calls.read_waiting()), ("quarantined", self._calls.read_quarantine())):
            async with aclosing(entries) as found:
                held.update({entry.key: word async for entry in found})
        return held
