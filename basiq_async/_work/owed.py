"""The ends of attempts that an inbox could not record: told to it again, until it takes them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from .limits import inbox_limit
from .tasks import TaskOwner

EVERY = 2.0
"""Seconds between two tries."""
_LAST = 1.0
"""Seconds for each call at the end."""
_MOST = 1_000


class Owed:
    """Calls that end claims, and that failed: made again every two seconds, until all have succeeded.

    A claim whose response was lost, or that could not be released, would else look to the next worker as if its process
    had been killed. The newest thousand are kept. ``seconds`` limits each call.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._calls: OrderedDict[tuple[str, str], Callable[[], Awaitable[object]]] = OrderedDict()
        self._tasks = TaskOwner()
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, key: str, token: str, call: Callable[[], Awaitable[object]]) -> None:
        """Make a call again, in place of an earlier one about the same claim."""
        self._calls[key, token] = call
        if len(self._calls) > _MOST:
            self._calls.popitem(last=False)
        if self._timer is None or self._loop is not asyncio.get_running_loop():  # of a loop that was closed
            self._set_timer()

    async def aclose(self) -> None:
        """Try once more, and no more after that."""
        if self._timer is not None:
            self._timer.cancel()
        await self._tasks.aclose()
        await self._try(min(self._seconds, _LAST))

    def _set_timer(self) -> None:
        self._timer = None
        if self._calls and not self._tasks.closed:
            self._loop = asyncio.get_running_loop()
            self._timer = self._loop.call_later(EVERY, lambda: self._tasks.spawn(self._try_again()))

    async def _try_again(self) -> None:
        await self._try(self._seconds)
        self._set_timer()

    async def _try(self, seconds: float) -> None:
        for claim, call in list(self._calls.items()):
            try:
                async with inbox_limit(seconds):
                    await call()
            except Exception:  # it was logged when it failed first
                return
            if self._calls.get(claim) is call:
                del self._calls[claim]
