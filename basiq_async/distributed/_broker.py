"""The taskiq broker that carries notifications. A lost, late or doubled notification costs only time."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from taskiq import AsyncBroker, TaskiqEvents, TaskiqState
from taskiq.receiver import Receiver
from taskiq_redis import ListQueueBroker

from .._redaction.text import printable

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


def connect(
    broker: AsyncBroker,
    process_segment: Callable[[str, str], Awaitable[None]],
    *,
    start: Callable[[TaskiqState], Awaitable[None]],
    stop: Callable[[TaskiqState], Awaitable[None]],
) -> Callable[[str, str], Awaitable[object]]:
    """Have the broker carry notifications to ``process_segment``. Return the function that sends one.

    ``start`` and ``stop`` are called in each worker process.
    """

    async def process(job: str, segment: str) -> None:
        await process_segment(job, segment)

    broker.add_event_handler(TaskiqEvents.WORKER_STARTUP, start)
    broker.add_event_handler(TaskiqEvents.WORKER_SHUTDOWN, stop)
    logging.getLogger(Receiver.__module__).addFilter(_make_one_line)
    return broker.register_task(process, task_name=_TASK).kiq


def _make_one_line(record: logging.LogRecord) -> bool:
    """Make a record one printable line: taskiq logs the names of tasks, and others may write to the broker too."""
    record.msg, record.args, record.exc_info = printable(record.getMessage()[:1_000]), None, None
    return True
