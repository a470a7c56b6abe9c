"""``Fleet``: register job functions, submit jobs, and start workers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from types import FrameType
from typing import TYPE_CHECKING, Self, get_args

from .._arguments import Duration, check_positive, check_seconds, check_whole
from .._redaction.tracebacks import UnshownText
from .._work.limits import limit
from ..errors import ConfigurationError, ReplayError
from ..filters import Filter, filter_text
from ..replay import Plan
from ._job import Job
from ._job_store import JobStore
from ._record_types import LONGEST_KEY, LONGEST_NAME, JobSpec, ListSpec, Source, describe
from ._work import JobFunction
from ._worker import Worker

if TYPE_CHECKING:
    from taskiq import AsyncBroker, TaskiqState


logger = logging.getLogger("basiq_async.distributed")

_NOTIFY = 5.0
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))
"""The signals that end a worker. Windows has no SIGHUP."""


class Fleet:
    """Replays over any number of worker processes, coordinated by a Redis server.

    .. code-block:: python

        fleet = Fleet("redis://redis:6379/0", lease=30)

        @fleet.job("refill")
        @asynccontextmanager
        async def refill() -> AsyncIterator[Work]:
            async with BasiqClient() as basiq, HttpTarget(URL, SECRET) as target:
                yield Work(basiq, target)

    url: the Redis server that keeps the record of all jobs. It must not evict keys, and should write an append-only
        file.
    lease: how many seconds a silent worker keeps a segment. With a shorter lease, another worker takes over sooner.
    broker: any taskiq broker, to carry notifications in place of a list in the same Redis.
    prefix: the beginning of all key names. Several fleets can share a server under different prefixes.
    notify: an async function that sends a job's key and a segment's name to a worker, in place of a broker. The
        receiving process passes both to ``process_segment`` of a ``worker()``.

    Use it as ``async with fleet`` to submit and watch jobs; workers are started with ``basiq-async worker``. Needs
    the extra ``distributed``. Raises ``ConfigurationError``.
    """

    def __init__(
        self,
        url: str,
        *,
        lease: Duration = 30.0,
        broker: AsyncBroker | None = None,
        prefix: str = "basiq",
        notify: Callable[[str, str], Awaitable[None]] | None = None,
    ) -> None:
        if isinstance(url, str):
            url = UnshownText(url)  # it may hold a password, and error reporters show local variables
        lease = check_seconds("lease", lease)
        if not 1 <= lease <= 3_600:
            raise ConfigurationError("lease must be a number of seconds from 1 to 3600")
        if not isinstance(prefix, str) or not prefix or not set(prefix).isdisjoint("{} \t\r\n"):
            raise ConfigurationError("prefix must be text without spaces and braces")
        if notify is not None and broker is not None:
            raise ConfigurationError("pass broker or notify, not both: one of them carries the notifications")
        from ._broker import connect, make_broker  # taskiq brings pydantic: only for a fleet

        self.lease = float(lease)
        self._store = JobStore(url, prefix=prefix)
        self._broker = broker if broker is not None or notify is not None else make_broker(url, prefix)
        self._functions: dict[str, JobFunction] = {}
        if notify is not None:
            self._send: Callable[[str, str], Awaitable[object]] = notify
        elif self._broker is not None:
            self._send = connect(self._broker, self._process_segment, start=self._start, stop=self._stop)
        self._worker: Worker | None = None
        self._opened = contextlib.AsyncExitStack()

    def __repr__(self) -> str:
        return f"Fleet(lease={self.lease:g}, jobs={sorted(self._functions)})"

    @property
    def broker(self) -> AsyncBroker:
        """The taskiq broker that carries the notifications, for taskiq's own commands."""
        if self._broker is None:
            raise ConfigurationError(
                "this fleet has no broker: its notifications are carried by the function passed as notify"
            )
        return self._broker

    def job(self, name: str) -> Callable[[JobFunction], JobFunction]:
        """Register a job function: an async context manager that yields a ``Work``, opened once in each process."""
        if not isinstance(name, str) or not name.strip() or len(name) > LONGEST_NAME:
            raise ConfigurationError(f"a job function needs a name of at most {LONGEST_NAME} characters")
        if name in self._functions:
            raise ConfigurationError(f"the fleet has a job function {name!r} already")

        def register(function: JobFunction) -> JobFunction:
            if not callable(function):
                raise ConfigurationError(
                    "a job function is an async context manager: put @asynccontextmanager below @fleet.job"
                )
            self._functions[name] = function
            return function

        return register

    async def submit(
        self,
        name: str,
        webhook_id: str | Sequence[str],
        *,
        key: str,
        identity: str | None = None,
        filter: str | Filter | Sequence[str | Filter] | None = None,
        source: Source = "messages",
        rate: float | None = None,
        plan: Plan | None = None,
        max_quarantined: int = 100_000,
    ) -> Job:
        """Submit a job, or continue the job with this ``key``.

        webhook_id: the id of one webhook, or several ids: a list of messages each.
        identity: the identity of these webhooks in the inbox of the ``Work``, as for ``Replay``.
        filter: as for ``Replay``. Several are one list each, and are read at the same time. They must be disjoint, and
            together cover all messages that you want: use ranges such as ``[a, b)`` and ``[b, c)``. One list yields
            about 500 messages for each round trip to Basiq.
        source: "events" reads the event list of the last 7 days in place of the messages, as ``Replay`` does.
        rate: maximum messages a second, over all workers. For a known key, it replaces the job's rate.
        plan: the result of ``Replay.plan()`` over the same messages. Progress then also reports the remaining ones.
        max_quarantined: the number of messages in the job's quarantine at which the job is paused. Each occupies about
            1.8 KB in Redis.

        With a known key, a failed or cancelled job is resumed, and a paused job stays paused. Raises ``ReplayError`` if
        the job of this key has another job function, other lists or another source.
        """
        if name not in self._functions:
            raise ConfigurationError(f"there is no job function {name!r}: the fleet has {sorted(self._functions)}")
        lists = _list_specs(webhook_id, filter, source)
        if not isinstance(key, str) or not key.strip() or len(key) > LONGEST_KEY or not set(key).isdisjoint("{}\r\n"):
            raise ConfigurationError(f"key must be text of at most {LONGEST_KEY} characters, without braces")
        await self._store.connection.check()
        spec = JobSpec(
            key=key,
            name=name,
            lists=lists,
            source=source,
            rate=None if rate is None else check_positive("rate", rate, "of messages a second"),
            submitted_at=datetime.now(UTC),
            lease=self.lease,
            most_quarantined=check_whole("max_quarantined", max_quarantined, least=1),
            total=None if plan is None else plan.total,
            identity=identity,
        )
        state, segments = await self._store.create(spec)
        await self._notify(key, segments)
        job = self._job(key)
        if state in ("failed", "cancelled"):
            await job.resume()
        return job

    async def get(self, key: str) -> Job:
        """Return the job of a key. Raises ``ReplayError`` for an unknown key."""
        if await self._store.spec(key) is None:
            raise ReplayError(f"there is no job {key!r}: jobs() returns the jobs of the fleet")
        return self._job(key)

    async def jobs(self) -> Sequence[Job]:
        """Return all jobs that were submitted and not forgotten."""
        return [self._job(key) for key in await self._store.keys() if await self._store.spec(key) is not None]

    async def __aenter__(self) -> Self:
        if self._broker is not None:
            await self._broker.startup()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Close the connections to Redis and to the broker."""
        try:
            if self._broker is not None:
                await self._broker.shutdown()
        finally:
            await self._store.connection.aclose()

    def _job(self, key: str) -> Job:
        return Job(self._store, key, self._notify)

    async def _notify(self, key: str, segments: Sequence[str]) -> None:
        """Send a notification of each segment, and stop at the first that cannot be sent: workers find the rest."""
        for segment in segments:
            try:
                async with limit(_NOTIFY):
                    await self._send(key, segment)
            except Exception as exc:  # a broker may raise anything
                logger.warning("segment %s of the job %r was not notified of: %s", segment, key, describe(exc))
                return

    # --- in a worker process ---

    def worker(self) -> Worker:
        """Return a worker for notifications that are not carried by taskiq. Open it with ``async with``.

        For each notification, ``await worker.process_segment(job, segment)``. The number of concurrent calls is the
        number of segments that this process handles at once. While the worker is open, it renews leases and notifies
        of abandoned segments. Each job function is opened once. ``worker.stop()`` lets running segments finish the
        messages that are under way.
        """
        return Worker(self._store, self._functions, self._notify, lease=self.lease)

    async def _process_segment(self, key: str, segment: str) -> None:
        if self._worker is not None:
            await self._worker.process_segment(key, segment)

    async def _start(self, state: TaskiqState) -> None:
        self._worker = worker = self.worker()
        _on_signals(worker.stop)
        await self._opened.enter_async_context(worker)

    async def _stop(self, state: TaskiqState) -> None:
        await self._opened.aclose()
        await self._store.connection.aclose()


def _on_signals(stop: Callable[[], None]) -> None:
    """On each of ``SIGNALS``, call ``stop`` and then taskiq's own handler."""
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        earlier = signal.getsignal(number)
        if not callable(earlier):
            continue

        def handle(received: int, frame: FrameType | None, *, earlier: Callable[..., object] = earlier) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(stop)
            earlier(received, frame)

        signal.signal(number, handle)


def _list_specs(
    webhook_id: str | Sequence[str], filter: str | Filter | Sequence[str | Filter] | None, source: Source
) -> tuple[ListSpec, ...]:
    if source not in get_args(Source):
        raise ConfigurationError('source must be "messages" or "events"')
    webhooks = [webhook_id] if isinstance(webhook_id, str) else list(webhook_id)
    if not webhooks or not all(isinstance(each, str) and each.strip() for each in webhooks):
        raise ConfigurationError("webhook_id must be the id of a webhook, or a list of them")
    filters = list(filter) if isinstance(filter, Sequence) and not isinstance(filter, str) else [filter]
    texts = [filter_text(each) or "" for each in filters]
    if not texts or (len(texts) > 1 and not all(texts)):
        raise ConfigurationError("filter must be a filter, or a list of at least one, none of them empty")
    lists = tuple(ListSpec(webhook, text) for webhook in webhooks for text in texts)
    if len(set(lists)) < len(lists):
        raise ConfigurationError("the same webhook or filter is there twice: messages of it would be handled twice")
    if source == "events" and len(lists) > 1:
        raise ConfigurationError('source="events" is one list, of all webhooks: pass one webhook_id')
    return lists
