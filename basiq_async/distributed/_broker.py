"""A taskiq broker carries notifications. One that is lost, late or doubled costs time only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from taskiq import AsyncBroker, AsyncTaskiqDecoratedTask, TaskiqEvents, TaskiqState
from taskiq_redis import ListQueueBroker

_TASK = "basiq_async.distributed:process_segment"


def make_broker(url: str, prefix: str) -> AsyncBroker:
    """A list in Redis. Without these settings an idle worker ends after the client's time limit, and one whose
    server is away ends at once.
    """
    return ListQueueBroker(
        url,
        queue_name=f"{prefix}:notifications",
        socket_timeout=None,
        socket_keepalive=True,
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.02), -1),
    )


class Notifications:
    """The one task of a fleet: look at this segment of that job."""

    def __init__(
        self,
        broker: AsyncBroker,
        process_segment: Callable[[str, str], Awaitable[None]],
        *,
        start: Callable[[], Awaitable[None]],
        stop: Callable[[], Awaitable[None]],
    ) -> None:
        async def process(job: str, segment: str) -> None:
            await process_segment(job, segment)

        async def begin(state: TaskiqState) -> None:
            await start()

        async def end(state: TaskiqState) -> None:
            await stop()

        self._task: AsyncTaskiqDecoratedTask[[str, str], object] = broker.register_task(process, task_name=_TASK)
        broker.add_event_handler(TaskiqEvents.WORKER_STARTUP, begin)
        broker.add_event_handler(TaskiqEvents.WORKER_SHUTDOWN, end)

    async def send(self, job: str, segment: str) -> None:
        """Send word to some worker."""
        await self._task.kiq(job, segment)
