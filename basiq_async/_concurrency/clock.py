"""What a client waits by: the event loop, or the clock of its transport."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Protocol, TypeVar, cast

T = TypeVar("T")


class Clock(Protocol):
    """A clock to wait by. A transport that has one as ``waits`` has its client go by that one."""

    def time(self) -> float:
        """Seconds since some moment."""
        ...

    def now(self) -> datetime:
        """Return the time of day on this clock."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return when that many seconds have passed on this clock."""
        ...

    async def limit(self, work: Awaitable[T], seconds: float) -> T:
        """Await ``work``. Raises TimeoutError where it waits for longer than that on this clock."""
        ...


class LoopClock:
    """The event loop's clock."""

    def time(self) -> float:
        return asyncio.get_running_loop().time()

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def limit(self, work: Awaitable[T], seconds: float) -> T:
        async with asyncio.timeout(seconds):
            return await work


def clock_of(transport: object) -> Clock | None:
    """The clock of a transport; None where the loop's is meant."""
    return cast("Clock | None", getattr(transport, "waits", None))
