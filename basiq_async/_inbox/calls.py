"""Two limits of the calls of an inbox: a time, and the one process that made its connections."""

from __future__ import annotations

import os
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


CLOSED = "is closed: close the receiver before its inbox, as `async with inbox, receiver` does"
"""The error text of an inbox that is used after it was closed."""


class OneProcess:
    """Notices that the process was forked since the inbox was first used.

    A child has the parent's connections: what it sends on one of them, a rollback say, happens to the parent's work.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._pid: int | None = None

    @property
    def inherited(self) -> bool:
        """Whether this is a child, and a parent has used the inbox."""
        return self._pid not in (None, os.getpid())

    def check(self) -> None:
        """Note the process. Raises ``InboxError`` in a child of the one that was noted."""
        if self._pid is None:
            self._pid = os.getpid()
        elif self.inherited:
            raise InboxError(
                f"{self._what} was in use when this process forked, and its connections are the parent's: make the "
                "client or engine, and the inbox, after the fork, in each worker process"
            )
