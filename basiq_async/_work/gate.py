"""Whether the webhooks of a receiver may use an inbox: asked before each use."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from datetime import datetime

from .inbox_calls import InboxCalls

_HOLDS = 60.0
"""Seconds for which a yes holds. After that it is asked anew, because the inbox may have been flushed or restored."""


class Gate:
    """Lets the webhooks of one receiver use its inbox, and founds one that is empty. See ``InboxCalls.admit``.

    webhook_ids: none for a receiver in memory without an id, which is asked nothing.
    live: returns since when the inbox has the live deliveries of whoever asks now; None for who has none.
    """

    def __init__(self, calls: InboxCalls, webhook_ids: Sequence[str], *, live: Callable[[], datetime | None]) -> None:
        self._calls = calls
        self._webhook_ids = webhook_ids
        self._live = live
        self._asked_at = self._live_at = -math.inf

    def is_open(self) -> bool:
        """Return whether the inbox said yes to live deliveries not long ago, so that it need not be asked."""
        return not self._webhook_ids or 0 <= asyncio.get_running_loop().time() - self._live_at < _HOLDS

    async def ask(self, *, live: bool = False) -> None:
        """Return if these webhooks may use the inbox. ``live``: for a delivery that Basiq sends.

        Raises ``ConfigurationError`` if it is that of other webhooks, and the errors of the inbox.
        """
        now = asyncio.get_running_loop().time()
        if self.is_open() or (not live and 0 <= now - self._asked_at < _HOLDS):
            return
        since = self._live() if live else None
        await self._calls.admit(self._webhook_ids, live=since)
        self._asked_at = now
        if since is not None:
            self._live_at = now

    async def look(self) -> None:
        """Do the same without a write, and without what was said before."""
        if self._webhook_ids:
            await self._calls.look(self._webhook_ids)
