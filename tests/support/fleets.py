"""A fleet in one process: its workers share a queue of notifications instead of a broker, and a record in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs

from basiq_async import BasiqClient, InMemoryTransport, Message, RetryPolicy, Transport
from basiq_async.distributed import Fleet, Job, JobProgress, Work, Worker
from basiq_async.distributed._job_store import JobStore  # private: a fleet's own is as patient as all are
from basiq_async.distributed._segment import Segment  # private: what its workers run
from basiq_async.replay import Report
from basiq_async.testing import FakeBasiq, Quirks
from tests.support.histories import Recorder
from tests.support.real_time import PATIENCE


@attrs.define(eq=False)
class Crew:
    """A fleet, its workers, and the history that they read."""

    fleet: Fleet
    fake: FakeBasiq
    webhook_id: str
    client: BasiqClient
    recorder: Recorder
    """The target, if it is one."""
    workers: list[Worker] = attrs.field(factory=list)
    notifications: list[tuple[str, str]] = attrs.field(factory=list)
    lost: Callable[[int], int] = lambda number: 1
    """How often the nth notification arrives."""
    _queue: asyncio.Queue[tuple[str, str]] = attrs.field(factory=asyncio.Queue)
    _tasks: list[asyncio.Task[None]] = attrs.field(factory=list)

    async def notify(self, key: str, segments: Sequence[str]) -> None:
        for segment in segments:
            self.notifications.append((key, segment))
            for _ in range(self.lost(len(self.notifications))):
                self._queue.put_nowait((key, segment))

    @property
    def segments(self) -> Sequence[Segment]:
        """The segments that its workers run."""
        return [each for worker in self.workers for job in worker._active.values() for each in job.segments.values()]

    async def start(self, count: int = 1, *, segments: int = 2) -> list[Worker]:
        """Start ``count`` workers, each with its own connection to Redis."""
        started = []
        for _ in range(count):
            record = JobStore(self.url, patience=self.patience)
            worker = Worker(record, self.fleet._functions, self.notify, lease=self.fleet.lease)
            worker.name += f":{len(self.workers)}"
            self.workers.append(worker)
            started.append(worker)
            await worker.__aenter__()
            self._tasks += [asyncio.create_task(self._serve(worker)) for _ in range(segments)]
        return started

    url: str = ""
    patience: float = 20.0

    async def _serve(self, worker: Worker) -> None:
        while True:
            await worker.process_segment(*await self._queue.get())

    async def aclose(self) -> None:
        for worker in self.workers:
            worker.stop()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for task in self._tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        for worker in self.workers:
            await worker.__aexit__()
            await worker._store.connection.aclose()

    async def submit(self, name: str = "work", *, key: str = "job", **arguments: Any) -> Job:
        return await self.fleet.submit(name, arguments.pop("webhook_id", self.webhook_id), key=key, **arguments)

    async def run(self, name: str = "work", **arguments: Any) -> Report:
        job = await self.submit(name, **arguments)
        return await job.wait(timeout=PATIENCE)

    async def ids(self) -> list[str]:
        return [message.id async for message in self.client.messages.list(self.webhook_id)]


@asynccontextmanager
async def crew(
    url: str,
    target: Any = None,
    *,
    messages: int = 60,
    page_size: int = 10,
    failed: float = 0.0,
    lease: float = 1.0,
    workers: int = 2,
    segments: int = 2,
    opened: Callable[[], Awaitable[None]] | None = None,
    quirks: Quirks | None = None,
    transport: Callable[[FakeBasiq], Transport] = InMemoryTransport,
    **work: Any,
) -> AsyncIterator[Crew]:
    """Yield a crew whose job function ``work`` hands messages to ``target``."""
    fake = FakeBasiq(page_size=page_size, quirks=quirks)
    webhook_id = fake.seed_messages(messages, failed=failed)
    retry = RetryPolicy(max_retries=0)
    async with BasiqClient(fake.DEFAULT_API_KEY, transport=transport(fake), retry=retry) as client:
        fleet = Fleet(url, lease=lease)
        target = Recorder() if target is None else target
        made = Crew(fleet, fake, webhook_id, client, target, url=url)
        fleet._notify = made.notify  # type: ignore[method-assign]

        @fleet.job("work")
        @asynccontextmanager
        async def function() -> AsyncIterator[Work]:
            if opened is not None:
                await opened()
            yield Work(client, target, **work)

        async with fleet:
            try:
                await made.start(workers, segments=segments)
                yield made
            finally:
                await made.aclose()


class Holding(Recorder):
    """A target that holds each message until ``free`` is set. ``began`` is set by the first."""

    def __init__(self) -> None:
        super().__init__(self._hold)
        self.began, self.free = asyncio.Event(), asyncio.Event()

    async def _hold(self, message: Message) -> None:
        self.began.set()
        await self.free.wait()


async def progress_when(job: Job, condition: Callable[[JobProgress], object]) -> JobProgress:
    """Return the first progress of a job for which a condition holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition(progress := await job.progress()):
            await asyncio.sleep(0.01)
    return progress


__all__ = ["Crew", "Holding", "JobStore", "crew", "progress_when"]
