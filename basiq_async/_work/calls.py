"""Limit the calls of an inbox: each to a time, and all to the process that made the inbox's connections."""

from __future__ import annotations

import os
from collections.abc import Awaitable
from typing import TypeVar

from .._work.deadlines import Deadline, Deadlines
from ..errors import InboxError

T = TypeVar("T")


class InboxCalls:
    """Limits each call to ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self._limits = Deadlines(seconds)

    async def within_limit(self, call: Awaitable[T]) -> T:
        """Await one call. Raises ``InboxError`` if it takes too long; the inbox's own ``TimeoutError`` passes."""
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
    """Detects that the process was forked after the inbox was first used.

    A child inherits the parent's connections: a rollback that it sends would undo the parent's work.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._pid: int | None = None

    @property
    def inherited(self) -> bool:
        """Whether this process is a fork of the one that first used the inbox."""
        return self._pid not in (None, os.getpid())

    def check(self) -> None:
        """Note the first process that uses the inbox. Raises ``InboxError`` in a fork of it."""
        if self._pid is None:
            self._pid = os.getpid()
        elif self.inherited:
            raise InboxError(
                f"{self._what} was in use when this process forked, and its connections are the parent's: make the "
                "client or engine, and the inbox, after the fork, in each worker process"
            )
