"""Deliveries in the background, for as long as a server runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from .._concurrency.tasks import wait_uncancelled
from ..errors import ConfigurationError
from .fake._clock import ManualClock, SystemClock
from .fake._deliveries import Deliveries, Job, Outlet

if TYPE_CHECKING:
    from .fake._endpoints import Endpoint
    from .fake._fake import FakeBasiq

logger = logging.getLogger("basiq_async.testing")
AT_ONCE = 32
POLL = 1.0


@asynccontextmanager
async def dispatching(fake: FakeBasiq, endpoint: Endpoint, base_url: str) -> AsyncGenerator[None]:
    """Make the deliveries of a fake and its states as they fall due, those without a route through ``endpoint``.

    Attempts that are under way at the end are given back: the next server, or ``advance``, makes them again. Raises
    the first ConfigurationError of what was routed to and is not a receiver.
    """
    dispatchers = _Dispatchers(endpoint, base_url)
    for each in (fake, *fake.states.values()):
        dispatchers.start(each)
    stop = fake.watch_states(dispatchers.start, dispatchers.stop)
    try:
        yield
    finally:
        stop()
        await dispatchers.aclose()
    if dispatchers.wrong:
        raise dispatchers.wrong[0]


class _Dispatchers:
    """The tasks that deliver, one for each state."""

    def __init__(self, endpoint: Endpoint, base_url: str) -> None:
        self._endpoint = endpoint
        self._base_url = base_url
        self._running: dict[FakeBasiq, tuple[Outlet, asyncio.Task[None]]] = {}
        self._ending: list[asyncio.Task[None]] = []
        self.wrong: list[ConfigurationError] = []

    def start(self, fake: FakeBasiq) -> None:
        news = asyncio.Event()
        outlet = Outlet(self._endpoint, self._base_url, news.set)
        fake._deliveries.open(outlet)
        work = _dispatch(fake, outlet, news, self.wrong)
        self._running[fake] = (outlet, asyncio.create_task(work, name="basiq-async fake deliveries"))

    def stop(self, fake: FakeBasiq) -> None:
        outlet, task = self._running.pop(fake)
        fake._deliveries.close(outlet)
        task.cancel()
        self._ending = [each for each in self._ending if not (each.done() and each.cancelled())] + [task]

    async def aclose(self) -> None:
        """Cancel the tasks and see them end, however often this is cancelled meanwhile."""
        for fake in tuple(self._running):
            self.stop(fake)
        cancelled: asyncio.CancelledError | None = None
        failures: list[BaseException] = []
        for task in self._ending:
            cancelled = await wait_uncancelled(task) or cancelled
            if not task.cancelled() and (failure := task.exception()) is not None:
                failures.append(failure)
        if cancelled is not None:
            raise cancelled
        if failures:
            raise failures[0]


async def _dispatch(fake: FakeBasiq, outlet: Outlet, news: asyncio.Event, wrong: list[ConfigurationError]) -> None:
    deliveries = fake._deliveries
    free = asyncio.Semaphore(AT_ONCE)

    async def attempt(job: Job) -> None:
        try:
            await deliveries.attempt(job, outlet)
        except ConfigurationError as error:
            logger.error("the receiver routed to %s is none: %s", job.webhook.url, error)
            wrong.append(error)

    def end(job: Job) -> None:
        free.release()
        deliveries.end(job)  # also of a task that was cancelled before it began

    async with asyncio.TaskGroup() as group:
        while True:
            news.clear()
            while deliveries.is_due():
                await free.acquire()
                # Another may have taken it while this waited.
                job = deliveries.take_due() if deliveries.is_due() else None
                if job is None:
                    free.release()
                    break
                group.create_task(attempt(job)).add_done_callback(lambda _, job=job: end(job))  # type: ignore[misc]
            try:
                async with asyncio.timeout(_wait(deliveries, fake)):
                    await news.wait()
            except TimeoutError:
                pass


def _wait(deliveries: Deliveries, fake: FakeBasiq) -> float | None:
    """Seconds until the next delivery is due; None where only news can change anything."""
    due, clock = deliveries.next_due(), fake.clock
    if due is None or deliveries.is_advancing or isinstance(clock, ManualClock):
        return None
    if isinstance(clock, SystemClock):
        return max((due - clock()).total_seconds() / clock.speed, 0.0)
    return POLL  # a clock of the caller's, which may go at any pace
