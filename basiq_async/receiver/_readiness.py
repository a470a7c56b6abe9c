"""Whether a receiver can handle deliveries, for a probe that strangers may reach."""

from __future__ import annotations

import asyncio
import logging
import math

from .._work.failures import reason_text
from .._work.gate import Gate
from .._work.inbox_calls import InboxCalls
from ._secrets import Secrets

logger = logging.getLogger("basiq_async.receiver")

_BETWEEN = 1.0
"""Seconds between two questions to an inbox. A flood of probes must not take the connections of deliveries."""


class Readiness:
    """Asks whether deliveries can be handled, once a second at most, however many ask and give up."""

    def __init__(self, calls: InboxCalls, gate: Gate, secrets: Secrets) -> None:
        self._calls = calls
        self._gate = gate
        self._secrets = secrets
        self._asking = asyncio.Lock()
        self._asked_at = -math.inf
        self._ready = False

    async def ask(self) -> bool:
        """Return what was so when it was last asked: there is a secret, and the inbox admits and can be written."""
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
            await self._gate.look()
            await self._secrets.begin()
        except Exception as exc:
            text = reason_text(exc)
            logger.warning("the receiver is not ready: %s", text)
            return False
        if not self._secrets.keys:
            logger.warning("the receiver is not ready: it has no signing secret, so it refuses each delivery")
            return False
        return True
