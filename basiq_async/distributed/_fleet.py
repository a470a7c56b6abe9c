"""``Fleet``: jobs with a name and arguments, each a replay that taskiq's workers share."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .._redaction.credentials import SecretText
from .._redaction.text import printable
from .._redaction.tracebacks import hide_arguments
from .._signing.seal import Seal
from .._work.failures import failure_text
from .._work.limits import wait_for_event
from ..errors import ConfigurationError, ReplayError
from ..replay import Replay, Report, share
from ..replay.shared import OnProgress
from ..transports.auth import ApiKey

if TYPE_CHECKING:
    from taskiq import AsyncBroker, TaskiqState

logger = logging.getLogger("basiq_async.distributed")

JobFunction = Callable[..., AbstractAsyncContextManager[Replay]]
TASK = "basiq_async:page"
_VERSION = 1
_IDLE = 60.0
"""Seconds for which a worker keeps a job open without a page."""


class Fleet:
    """The jobs that the workers of a taskiq broker share.

    .. code-block:: python

        fleet = Fleet(broker)

        @fleet.job("refill")
        @asynccontextmanager
        async def refill(webhook_id: str) -> AsyncGenerator[Replay]:
            async with BasiqClient() as basiq, SQLiteInbox("job.db") as inbox:
                yield Replay(basiq, webhook_id, handler, inbox=inbox)

    broker: any broker of taskiq. Its own command runs the workers: ``taskiq worker jobs:broker``.
    api_key: what seals the name and the arguments of a job, together with its page; by default ``BASIQ_API_KEY``. It is
        the same in all processes. Nobody else can have a job opened, or opened with other arguments.

    Raises ``ConfigurationError``.
    """

    @hide_arguments
    def __init__(self, broker: AsyncBroker, *, api_key: str | SecretText | None = None) -> None:
        from taskiq import AsyncBroker, TaskiqEvents  # it brings pydantic: only for a fleet

        if not isinstance(broker, AsyncBroker):
            raise ConfigurationError("broker must be a broker of taskiq, such as ListQueueBroker(url)")
        if TASK in broker.local_task_registry:
            raise ConfigurationError("the broker has a fleet already: register all jobs with it")
        self._key = None if api_key is None else ApiKey(api_key)
        self._jobs: dict[str, JobFunction] = {}
        self._open: dict[str, _OpenJob] = {}

        async def work(task: str) -> None:
            await self._work(task)

        self._task = broker.register_task(work, task_name=TASK)
        broker.add_event_handler(TaskiqEvents.WORKER_SHUTDOWN, self._close)

    def __repr__(self) -> str:
        return f"Fleet(jobs={sorted(self._jobs)})"

    def job(self, name: str) -> Callable[[JobFunction], JobFunction]:
        """Register a job: an async context manager that yields a ``Replay``. A worker opens it once for all pages."""
        if not isinstance(name, str) or not name:
            raise ConfigurationError("a job needs a name")

        def register(function: JobFunction) -> JobFunction:
            if name in self._jobs:
                raise ConfigurationError(f"the fleet has a job {name!r} already")
            self._jobs[name] = function
            return function

        return register

    async def run(self, name: str, *args: Any, progress: OnProgress | None = None) -> Report:
        """Run a job together with the workers. See ``share``.

        ``args`` are passed to the job function, here and in each worker: values of JSON. After a crash, call it again.
        The broker must be started. Raises the errors of ``share`` and of the job function, and ``ConfigurationError``.
        """
        try:
            is_json = json.loads(json.dumps(args)) == list(args)
        except (TypeError, ValueError, RecursionError):
            is_json = False
        if not is_json:
            raise ConfigurationError("the arguments of a job must be values of JSON: text, numbers, lists, dicts, None")

        async def send(page: str) -> None:
            await self._task.kiq(self._seal.seal(_VERSION, name, args, page))

        async with self._opened(name, args) as replay:
            return await share(replay, send, progress)

    @cached_property
    def _seal(self) -> Seal:
        key = ApiKey(None) if self._key is None else self._key
        return Seal(key.reveal().encode(), "basiq fleet", "the task")

    @asynccontextmanager
    async def _opened(self, name: str, args: Any) -> AsyncIterator[Replay]:
        if name not in self._jobs:
            raise ConfigurationError(f"there is no job {name!r} here: deploy what registers it to all processes")
        job = self._jobs[name](*args)
        if not isinstance(job, AbstractAsyncContextManager):
            raise ConfigurationError(f"the job {name!r} is no async context manager: decorate it, @asynccontextmanager")
        async with job as replay:
            if not isinstance(replay, Replay):
                raise ConfigurationError(f"the job {name!r} must yield a Replay")
            yield replay

    # --- a worker ---

    async def _work(self, task: str) -> None:
        version, *fields = self._seal.open(task)
        if version != _VERSION:
            raise ConfigurationError(f"the task is of version {version}, which this release does not know")
        name, args, page = fields
        key = json.dumps([name, args])
        job = self._open.get(key)
        if job is None:
            job = self._open[key] = _OpenJob(self._opened(name, args), self._forget)
        async with job.used() as replay:
            await replay.work(page)

    def _forget(self, job: _OpenJob) -> None:
        self._open = {key: each for key, each in self._open.items() if each is not job}

    async def _close(self, state: TaskiqState) -> None:
        """Close the jobs that are open in this worker."""
        for job in list(self._open.values()):
            await job.aclose()


class _OpenJob:
    """A job that is open in a worker: one task opens and closes it, while others use it.

    ``forget`` is called when it is used no more.
    """

    def __init__(self, job: AbstractAsyncContextManager[Replay], forget: Callable[[_OpenJob], None]) -> None:
        loop = asyncio.get_running_loop()
        self._job, self._forget = job, forget
        self._replay: asyncio.Future[Replay] = loop.create_future()
        self._closing = asyncio.Event()
        self._users, self._used = 0, loop.time()
        self._task = loop.create_task(self._hold())

    @asynccontextmanager
    async def used(self) -> AsyncIterator[Replay]:
        """Return its replay, which is not closed meanwhile. Raises the error of the job function."""
        self._users += 1
        try:
            yield await asyncio.shield(self._replay)
        finally:
            self._users -= 1
            self._used = asyncio.get_running_loop().time()

    async def aclose(self) -> None:
        """Close it, and wait for that."""
        self._closing.set()
        await asyncio.wait([self._task])

    async def _hold(self) -> None:
        now = asyncio.get_running_loop().time
        try:
            async with self._job as replay:
                self._replay.set_result(replay)
                while not await wait_for_event(self._closing, _IDLE / 4):
                    if not self._users and now() - self._used >= _IDLE:
                        break
                self._forget(self)
        except BaseException as exc:
            self._forget(self)
            is_error = isinstance(exc, Exception)
            if not self._replay.done():
                self._replay.set_exception(exc if is_error else ReplayError("the worker ended before a job was open"))
            elif is_error:
                logger.error("a job could not be closed properly: %s", printable(failure_text(exc)))
            if not is_error:
                raise
