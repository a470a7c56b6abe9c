"""Calls of an inbox, each within a time limit."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from .._concurrency.deadlines import Deadline, Deadlines
from ..errors import InboxError

T = TypeVar("T")


class InboxCalls:
    """Limits each call to ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self._limits = Deadlines(seconds)

    async def within_limit(self, call: Awaitable[T]) -> T:
        """Await one call. Raises ``InboxError`` where it takes too long; an inbox's own ``TimeoutError`` is left."""
        limit = Deadline(self._limits)
        try:
            with limit:
                return await call
        except TimeoutError as exc:
            if not limit.expired:
                raise
            raise InboxError(f"the inbox did not respond within {self._limits.seconds:g} s") from exc
