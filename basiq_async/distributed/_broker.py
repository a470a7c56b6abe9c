"""The taskiq broker that carries notifications. A lost, late or doubled notification costs only time."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from taskiq import AsyncBroker, BrokerMessage, TaskiqEvents, TaskiqFormatter, TaskiqMessage, TaskiqState
from taskiq.receiver import Receiver
from taskiq_redis import ListQueueBroker

from .._redaction.text import printable
from ._record_types import is_notification

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

    def limit(state: TaskiqState) -> None:
        broker.formatter = _NotificationFormatter(broker, broker.formatter)

    broker.add_event_handler(TaskiqEvents.WORKER_STARTUP, limit)  # a user may have set another formatter by then
    broker.add_event_handler(TaskiqEvents.WORKER_STARTUP, start)
    broker.add_event_handler(TaskiqEvents.WORKER_SHUTDOWN, stop)
    logging.getLogger(Receiver.__module__).addFilter(_make_one_line)
    return broker.register_task(process, task_name=_TASK).kiq


class _NotificationFormatter(TaskiqFormatter):
    """Reads of a notification only the job's key and the segment's name: others may write to the broker too.

    taskiq obeys labels of a message, such as a timeout for the task, retries and the time to acknowledge it, and stores
    the result under the message's id. Messages of other tasks are read as by the broker's own formatter.
    """

    def __init__(self, broker: AsyncBroker, formatter: TaskiqFormatter) -> None:
        self._broker = broker
        self._formatter = formatter

    def dumps(self, message: TaskiqMessage) -> BrokerMessage:
        return self._formatter.dumps(message)

    def loads(self, message: bytes) -> TaskiqMessage:
        """Read a message. Raises ``ValueError`` for a notification that is not one of a fleet."""
        found = self._formatter.loads(message)
        if found.task_name != _TASK:
            return found
        if len(found.args) != 2 or not is_notification(*found.args):
            raise ValueError("a notification that is not one of a fleet is ignored")
        new_id = self._broker.id_generator()
        return TaskiqMessage(task_id=new_id, task_name=_TASK, labels={}, args=found.args, kwargs={})


def _make_one_line(record: logging.LogRecord) -> bool:
    """Make a record one printable line: taskiq logs the names of tasks, and others may write to the broker too."""
    record.msg, record.args, record.exc_info = printable(record.getMessage()[:1_000]), None, None
    return True
