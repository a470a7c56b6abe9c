"""``Work``: the client, the target and the settings with which a worker handles a job."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import get_args

from .._arguments import Duration, check_seconds, check_whole
from ..client import BasiqClient
from ..errors import ConfigurationError
from ..receiver import Inbox, WebhookReceiver
from ..replay import Target, Where
from ..replay.shared import Handler, OnError, Predicate, RunSettings, SessionHandler, as_target, as_where


class Work:
    """The part of a replay that lives in a worker process. The arguments are those of ``Replay``.

    ``concurrency`` counts for each segment: a process with ``--segments 2`` handles twice as many messages at once. If
    it is killed, at most that many are handled a second time. Raises ``ConfigurationError``.
    """

    def __init__(
        self,
        client: BasiqClient,
        target: Target | WebhookReceiver | Handler | SessionHandler,
        *,
        where: Where | Predicate | None = None,
        concurrency: int = 32,
        inbox: Inbox | None = None,
        on_error: OnError = "dead-letter",
        max_failures: int | None = 1_000,
        max_pause: Duration = 3_600.0,
    ) -> None:
        if on_error not in get_args(OnError):
            raise ConfigurationError('on_error must be "dead-letter", "stop" or "skip"')
        as_target(target, inbox, "")
        self.client = client
        self.target = target
        self.where = as_where(where)
        self.inbox = inbox
        self.settings = RunSettings(
            concurrency=check_whole("concurrency", concurrency, least=1),
            rate=None,
            on_error=on_error,
            max_failures=None if max_failures is None else check_whole("max_failures", max_failures, least=1),
            max_pause=check_seconds("max_pause", max_pause),
        )


JobFunction = Callable[[], AbstractAsyncContextManager[Work]]


class WorkCache:
    """Opens each job function of this process once, and keeps the ``Work`` that it yields."""

    def __init__(self) -> None:
        self._works: dict[str, asyncio.Future[Work]] = {}
        self._holders: list[asyncio.Task[None]] = []
        self._closing = asyncio.Event()

    async def get(self, name: str, function: JobFunction) -> Work:
        """Return the work of a job function. Open the function if it is not open yet, or failed to open."""
        known = self._works.get(name)
        if known is None or (known.done() and known.exception() is not None):
            known = self._works[name] = asyncio.get_running_loop().create_future()
            self._holders.append(asyncio.create_task(self._hold(name, function, known)))
        return await asyncio.shield(known)

    async def aclose(self) -> None:
        """Close all open job functions."""
        self._closing.set()
        if self._holders:
            await asyncio.wait(self._holders)

    async def _hold(self, name: str, function: JobFunction, opened: asyncio.Future[Work]) -> None:
        # One task enters and leaves the context manager, because anyio scopes, for example, are bound to their task.
        try:
            async with function() as work:
                if not isinstance(work, Work):
                    raise ConfigurationError(f"the job function {name!r} must yield a Work, not {type(work).__name__}")
                opened.set_result(work)
                await self._closing.wait()
        except Exception as exc:
            if opened.done():
                raise
            opened.set_exception(exc)
            opened.exception()
