"""Deliveries in the background, for as long as a server runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from ._clock import ManualClock, SystemClock

if TYPE_CHECKING:
    from ._deliveries import Courier
    from ._endpoints import Endpoint
    from ._fake import FakeBasiq

AT_ONCE = 32
POLL = 1.0


@asynccontextmanager
async def dispatching(fake: FakeBasiq, elsewhere: Endpoint, base_url: str) -> AsyncGenerator[None]:
    """Make the deliveries of a fake as they fall due, those without a route through ``elsewhere``."""
    courier = fake._courier
    news = asyncio.Event()
    before = courier.elsewhere, courier.base, courier.wake
    courier.elsewhere, courier.base, courier.wake = elsewhere, base_url, news.set
    news.set()
    task = asyncio.create_task(_dispatch(courier, fake, news), name="basiq-async fake deliveries")
    try:
        yield
    finally:
        courier.elsewhere, courier.base, courier.wake = before
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error


async def _dispatch(courier: Courier, fake: FakeBasiq, news: asyncio.Event) -> None:
    free = asyncio.Semaphore(AT_ONCE)
    async with asyncio.TaskGroup() as group:
        while True:
            while (job := courier.take_due(fake.clock())) is not None:
                await free.acquire()
                attempt = group.create_task(courier.attempt(job))
                attempt.add_done_callback(lambda _: free.release())
            news.clear()
            try:
                async with asyncio.timeout(_wait(courier, fake)):
                    await news.wait()
            except TimeoutError:
                pass


def _wait(courier: Courier, fake: FakeBasiq) -> float | None:
    """Seconds until the next delivery is due; None where only news can change anything."""
    due, clock = courier.next_due(), fake.clock
    if due is None or isinstance(clock, ManualClock):
        return None
    if isinstance(clock, SystemClock):
        return max((due - clock()).total_seconds() / clock.speed, 0.0)
    return POLL  # a clock of the caller's, which may go at any pace
