"""Whether a receiver can handle deliveries, for a probe that strangers may reach."""

from __future__ import annotations

import asyncio
import logging
import math

from .._work.failures import reason_text
from .._work.inbox_calls import InboxCalls

logger = logging.getLogger("basiq_async.receiver")

_BETWEEN = 1.0
"""Seconds between two questions to an inbox. A flood of probes must not take the connections of deliveries."""


class Readiness:
    """Asks an inbox whether it can be used, once a second at most, however many ask and give up."""

    def __init__(self, calls: InboxCalls) -> None:
        self._calls = calls
        self._asking = asyncio.Lock()
        self._asked_at = -math.inf
        self._ready = False

    async def ask(self) -> bool:
        """Return whether the inbox could be used when it was last asked. Never raises."""
        time = asyncio.get_running_loop().time
        async with self._asking:
            if not 0 <= time() - self._asked_at < _BETWEEN:
                self._asked_at = time()  # before the question: one that is cancelled counts too
                self._ready = await self._check()
                self._asked_at = time()
            return self._ready

    async def _check(self) -> bool:
        try:
            await self._calls.check()
        except Exception as exc:
            text = reason_text(exc)
            logger.warning("the receiver is not ready: %s", text)
            return False
        return True
