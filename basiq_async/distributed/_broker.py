"""The taskiq broker that carries notifications. A lost, late or doubled notification costs only time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from taskiq import AsyncBroker, AsyncTaskiqDecoratedTask, TaskiqEvents, TaskiqState
from taskiq_redis import ListQueueBroker

_TASK = "basiq_async.distributed:process_segment"


def make_broker(url: str, prefix: str) -> AsyncBroker:
    """Return a broker that keeps notifications in a Redis list.

    Without these settings an idle worker would end after the Redis client's timeout, and a worker that loses its
    connection to Redis would end at once.
    """
    return ListQueueBroker(
        url,
        queue_name=f"{prefix}:notifications",
        socket_timeout=None,
        socket_keepalive=True,
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.02), -1),
    )


class Notifications:
    """The one taskiq task of a fleet: process a segment of a job."""

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
        """Notify a worker of a segment."""
        await self._task.kiq(job, segment)
