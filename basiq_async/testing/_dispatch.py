"""Deliveries in the background, for as long as a server runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from .clock import SystemClock

if TYPE_CHECKING:
    from ._courier import Courier
    from ._endpoints import Endpoint
    from .fake import FakeBasiq

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
        if not task.cancelled():
            task.result()


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
    due = courier.next_due()
    if due is None or not isinstance(fake.clock, SystemClock):
        return None
    return max((due - fake.clock()).total_seconds() / fake.clock.speed, 0.0)
