"""``Work``: the client, the target and the settings with which a worker handles a job."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import cast, get_args

import attrs

from .._arguments import Duration, check_seconds, check_whole
from .._work.owners import identity_in, read_owners, refuse_others
from .._work.quarantine import count_quarantined
from .._work.waiting import count_waiting
from ..client import BasiqClient
from ..errors import ConfigurationError, ReplayError
from ..receiver import Inbox
from ..replay import HttpTarget, Where
from ..replay.shared import (
    AnyTarget,
    HandOut,
    OnError,
    Predicate,
    RunSettings,
    Source,
    as_where,
    check_place,
    choose_hand_out,
)
from ._record_types import JobSpec, LeftAtService

_CALL = 5.0
"""Limit, in seconds, of a call of an inbox."""
_RECORDING = 300.0
"""Limit, in seconds, of one recording: the fleet's store is asked for a minute each time."""


class Work:
    """The part of a replay that lives in a worker process. The arguments are those of ``Replay``.

    inbox: the inbox of the live service, so that both share the work: each message is claimed in it. A receiver has its
        own. Without an inbox, the fleet's record in Redis decides alone, in batches.
    concurrency: counts for each segment: a process with ``--segments 2`` handles twice as many messages at once. If it
        is killed, at most that many are handled a second time.
    where: may differ from worker to worker, as in a deployment: whichever worker comes to a message decides. Not
        ``limit()``, which is for one run.

    Raises ``ConfigurationError``.
    """

    def __init__(
        self,
        client: BasiqClient,
        target: AnyTarget,
        *,
        inbox: Inbox | None = None,
        where: Where | Predicate | None = None,
        concurrency: int = 32,
        on_error: OnError = "quarantine",
        max_failures: int | None = 1_000,
        max_pause: Duration = 3_600.0,
    ) -> None:
        if on_error not in get_args(OnError):
            raise ConfigurationError('on_error must be "quarantine", "stop" or "skip"')
        if max_failures is not None:
            check_whole("max_failures", max_failures, least=1, or_else="or None for never")
        self.client = client
        self.handling = choose_hand_out(target, inbox, is_recorded=True)
        self._own_target: object = self.handling.value if self.handling.inbox is None else None
        """The target, if no inbox records what it handled; else None."""
        self._checked = set[str]()
        """The webhooks of which the place of the target was checked."""
        self.where = as_where(where)
        if self.where.limit is not None:
            raise ConfigurationError("limit() is for one run of a Replay: a fleet's job has no limit")
        self.on_error = on_error
        self.max_failures = max_failures
        self.settings = RunSettings(
            concurrency=check_whole("concurrency", concurrency, least=1),
            rate=None,
            on_error="stop" if on_error == "stop" else "quarantine",  # what is skipped is counted as well
            max_failures=None,  # it is the job's
            max_pause=check_seconds("max_pause", max_pause),
            record_timeout=_RECORDING,
        )

    async def _select(self, source: Source, webhook_id: str) -> Where:
        """Return what selects the messages of a list. The event list has the types of all webhooks."""
        if source == "messages":
            return self.where
        accepts_type = self.handling.accepts_type
        if accepts_type is None:
            webhook = await self.client.webhooks.get(webhook_id)
            accepts_type = frozenset(webhook.subscribed_events).__contains__
        return Where(lambda message: accepts_type(message.event_type_id or "")) & self.where

    async def _choose_hand_out(self, webhook_id: str, identity: str | None) -> HandOut:
        """Return how the messages of a webhook are handled: under the identity that is noted in the inbox, or is given.

        Raises ``ConfigurationError`` for a receiver of other webhooks, and for an endpoint at another place than the
        service whose inbox it is.
        """
        handling = self.handling
        if handling.receiver is not None and handling.receiver.webhook_ids:
            refuse_others(handling.receiver.webhook_ids, webhook_id, "receiver")
        if handling.receiver is not None or handling.inbox is None:
            return attrs.evolve(handling, webhook_id=handling.webhook_id or webhook_id)
        owners = await read_owners(handling.inbox, timeout=_CALL)
        if isinstance(handling.value, HttpTarget) and webhook_id not in self._checked:
            await check_place(self.client, owners, webhook_id, handling.value)
            self._checked.add(webhook_id)
        return handling.of(identity_in(owners, webhook_id, identity))

    @property
    def _asks_service(self) -> bool:
        """Whether the target posts, and an inbox says what the service has handled."""
        return self.handling.posts and self.handling.inbox is not None

    async def _count_at_service(self, spec: JobSpec) -> LeftAtService:
        """Count what waits and what failed in the inbox, of the services whose events a job posts."""
        inbox, waiting, failed = cast(Inbox, self.handling.inbox), 0, 0
        found = [await self._choose_hand_out(each, spec.identity) for each in {one.webhook_id for one in spec.lists}]
        for identity in {each.identity for each in found}:
            waiting += (await count_waiting(inbox, identity, timeout=_CALL)).count
            failed += await count_quarantined(inbox, identity, timeout=_CALL)
        return LeftAtService(waiting, failed)


JobFunction = Callable[[], AbstractAsyncContextManager[Work]]


@attrs.define
class WorkCache:
    """Opens each job function of this process once, and keeps the ``Work`` that it yields.

    ``ended`` is called with the name and the error of a job function that ended by itself. It is opened again then.
    """

    _ended: Callable[[str, Exception], object]
    _works: dict[str, tuple[asyncio.Future[Work], asyncio.Task[None]]] = attrs.field(factory=dict)
    _closing: asyncio.Event = attrs.field(factory=asyncio.Event)

    async def get(self, name: str, function: JobFunction) -> Work:
        """Return the work of a job function. Open the function if it is not open yet, or failed to open."""
        if name not in self._works:
            opened: asyncio.Future[Work] = asyncio.get_running_loop().create_future()
            self._works[name] = opened, asyncio.create_task(self._hold(name, function, opened))
        return await asyncio.shield(self._works[name][0])

    def stop(self) -> None:
        """Cancel the job functions that are not open yet: that may last."""
        for opened, holder in self._works.values():
            if not opened.done():
                holder.cancel()

    async def aclose(self) -> None:
        """Close all open job functions."""
        self._closing.set()
        if holders := [holder for _, holder in self._works.values()]:
            await asyncio.wait(holders)

    async def _hold(self, name: str, function: JobFunction, opened: asyncio.Future[Work]) -> None:
        # One task enters and leaves the context manager, because anyio scopes, for example, are bound to their task.
        error: Exception = ReplayError("it was cancelled from within")  # as by a task group, or the worker stops
        await asyncio.sleep(0)  # an eager task would run before ``get`` has kept it
        try:
            async with function() as work:
                if not isinstance(work, Work):
                    raise ConfigurationError(f"the job function {name!r} must yield a Work, not {type(work).__name__}")
                opened.set_result(work)
                await self._closing.wait()
            return
        except Exception as exc:
            error = exc
        except asyncio.CancelledError:
            pass
        del self._works[name]
        if opened.done():
            self._ended(name, error)
        else:
            opened.set_exception(error)
            opened.exception()
