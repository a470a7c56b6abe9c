"""Bulk replay: the history of a webhook through a target, exactly resumable."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import get_args

from ..client import BasiqClient
from ..errors import CheckpointError, ConfigurationError, PaginationError, ReplayError
from ..filters import Filter, filter_text
from ..models import Message
from ..pagination import Paginator
from ..receiver import Inbox, WebhookReceiver
from ._engine import Engine, OnError, Settings
from ._ledger import DeadLedger, Ledger
from ._plan import make_plan, reconcile
from ._reader import SPAN
from ._report import OnProgress, Plan, Reconciliation, Report
from ._where import Predicate, Where, as_where
from .checkpoints._memory import Checkpoint, DeadLetter, Job, State
from .targets._adapters import Handler, Target, as_target

__all__ = ["Replay"]

_MOST_AHEAD = 10_000
"""How many messages may be done beyond one that takes long: what is remembered of them bounds the memory."""


class Replay:
    """Puts the messages of a webhook's history through a target, and remembers how far it got.

        replay = Replay(basiq, webhook_id, handler, checkpoint=SQLiteCheckpoint("replay.db"))
        report = await replay.run()

    target: an async function that takes a ``Message``; a ``WebhookReceiver``, whose handlers and inbox are used
        without HTTP; an ``HttpTarget``; a ``JSONLinesTarget``; or any ``Target``.
    checkpoint: where the job stands. After a crash at any instant, run the same again: no message is lost, and at
        most ``concurrency`` of them reach the target a second time, none that an inbox of the target knows.
    filter: sent to Basiq, built with ``F`` or as plain text. It belongs to the job: a checkpoint goes with it.
    where: decided here, message by message: ``since(...) & failed_only()``, or any function from a ``Message`` to
        a bool. One that raises makes its message a failed one.
    concurrency: how many messages may be handed out and not be recorded, at once.
    rate: the most messages a second, evenly spaced; None for as fast as can be.
    inbox: what has been handled, shared with the receiving side: a message that it knows is skipped, and what is
        handled is entered. Not for a ``WebhookReceiver``, which has its own.
    on_error: what becomes of a message that the target does not take: "dead-letter" keeps it in the checkpoint for
        ``retry_dead``, "skip" counts it, "stop" ends the job in front of it.
    max_failures: so many failures in a row end the job, whatever ``on_error`` says; None for never.
    max_pause: the longest wait, in seconds, that a target may ask for with ``retry_after``; more ends the job.

    A ``ReplayError`` other than ``TargetError`` that a target raises ends the job. One object does one run at a
    time. Raises ``ConfigurationError``.
    """

    def __init__(
        self,
        client: BasiqClient,
        webhook_id: str,
        target: Target | WebhookReceiver | Handler,
        *,
        checkpoint: Checkpoint,
        filter: str | Filter | None = None,
        where: Where | Predicate | None = None,
        concurrency: int = 32,
        rate: float | None = None,
        inbox: Inbox | None = None,
        on_error: OnError = "dead-letter",
        max_failures: int | None = 1_000,
        max_pause: float = 3_600.0,
    ) -> None:
        if not isinstance(checkpoint, Checkpoint):
            raise ConfigurationError("checkpoint must be one, such as SQLiteCheckpoint(path) or MemoryCheckpoint()")
        if on_error not in get_args(OnError):
            raise ConfigurationError('on_error must be "dead-letter", "stop" or "skip"')
        self._client = client
        self._webhook_id = webhook_id
        self._target = target
        self._checkpoint = checkpoint
        self._filter = filter_text(filter)
        self._where = as_where(where)
        self._inbox = inbox
        self._settings = Settings(
            concurrency=_whole(concurrency, "concurrency"),
            rate=None if rate is None else _positive(rate, "rate"),
            on_error=on_error,
            max_failures=None if max_failures is None else _whole(max_failures, "max_failures"),
            max_pause=_positive(max_pause, "max_pause"),
        )
        # Looked over now: an argument that cannot be should not wait for the first run.
        as_target(target, inbox, "")
        self._list(None, prefetch=0)
        self._job = Job(webhook_id, self._filter or "")
        self._engine: Engine | None = None
        self._running = False
        self._stopping = False

    async def run(self, progress: OnProgress | None = None, *, plan: Plan | None = None) -> Report:
        """Go through the history, from where the checkpoint stands to its end.

        ``progress`` is called four times a second and at the end; with a ``plan`` it can tell what is left. Raises
        ``ReplayError`` where the job cannot start or go on (``.report`` tells how far it came), and whatever
        reading the history raises. Either way, and when it is cancelled, what was done is recorded first.
        """
        async with self._begun() as state:
            paginator = self._resumed(state)
            self._engine = Engine(
                aiter(paginator),
                lambda: paginator.cursor,
                target=as_target(self._target, self._inbox, state.token),
                checkpoint=self._checkpoint,
                ledger=Ledger(state, most=max(_MOST_AHEAD, 2 * self._settings.concurrency) // SPAN),
                state=state,
                where=self._where,
                settings=self._settings,
            )
            try:
                return await self._go(self._engine, progress, plan)
            except PaginationError as exc:
                if state.cursor is None or paginator.cursor != state.cursor:
                    raise
                raise ReplayError(
                    "Basiq's history does not have the message any more that the checkpoint's cursor stands behind: "
                    "begin anew with another checkpoint, and with an inbox, so that nothing is handled twice"
                ) from exc

    async def retry_dead(self, progress: OnProgress | None = None) -> Report:
        """Put the dead letters through the target again: those it takes are letters no more.

        The messages are those that the checkpoint has kept; Basiq is not asked. ``filter`` and ``where`` do not
        count here. Otherwise as ``run``, whose position it leaves alone.
        """
        async with self._begun() as state:
            settings = self._settings
            self._engine = Engine(
                _Letters(self._checkpoint),
                lambda: None,
                target=as_target(self._target, self._inbox, state.token),
                checkpoint=self._checkpoint,
                ledger=DeadLedger(state.dead, most=max(_MOST_AHEAD, 2 * settings.concurrency) // SPAN),
                state=state,
                where=as_where(None),
                settings=settings,
            )
            return await self._go(self._engine, progress, None)

    async def plan(self) -> Plan:
        """Count what ``run`` would do now. Reads the history, and touches neither target, inbox nor checkpoint."""
        state = await self._checkpoint.peek(self._job) or State()
        inbox = self._target.inbox if isinstance(self._target, WebhookReceiver) else self._inbox
        return await make_plan(self._resumed(state), state, self._where, inbox)

    async def reconcile(self, inbox: Inbox, *, ids: int = 1_000) -> Reconciliation:
        """Hold what Basiq says it delivered against what ``inbox`` has handled, over the whole history.

        ``filter`` and ``where`` choose what is looked at; the checkpoint does not. ``ids`` is how many ids of
        missing messages to give. To handle what is missing, run a replay with this inbox.
        """
        return await reconcile(self._list(None, prefetch=1), self._where, inbox, ids)

    async def dead_letters(self, *, after: int = 0, limit: int = 250) -> Sequence[DeadLetter]:
        """Up to ``limit`` of the messages that failed, oldest first, with numbers greater than ``after``."""
        if await self._checkpoint.peek(self._job) is None:
            return ()
        async with self._begun(concurrency=0):
            return await self._checkpoint.dead_letters(after=after, limit=limit)

    def stop(self) -> None:
        """Have the run that is under way begin no more messages, and return when those begun are recorded."""
        self._stopping = True
        if self._engine is not None:
            self._engine.stop()

    async def _go(self, engine: Engine, progress: OnProgress | None, plan: Plan | None) -> Report:
        if self._stopping:
            engine.stop()
        return await engine.run(progress, plan)

    @asynccontextmanager
    async def _begun(self, concurrency: int | None = None) -> AsyncIterator[State]:
        if self._running:
            raise ReplayError("this replay is running already: one object does one run at a time")
        self._running, self._stopping = True, False
        try:
            width = self._settings.concurrency if concurrency is None else concurrency
            state = await self._checkpoint.open(self._job, concurrency=width)
            try:
                yield state
            finally:
                await self._checkpoint.close()
        finally:
            self._running = False
            self._engine = None

    def _resumed(self, state: State) -> Paginator[Message]:
        try:
            return self._list(state.cursor, prefetch=1)
        except ConfigurationError as exc:
            raise CheckpointError(
                "the checkpoint's cursor cannot be read: it is damaged, or of another release; pass another checkpoint "
                "to begin anew"
            ) from exc

    def _list(self, cursor: str | None, prefetch: int) -> Paginator[Message]:
        return self._client.messages.list(self._webhook_id, filter=self._filter, cursor=cursor, prefetch=prefetch)


class _Letters:
    """The dead letters of a checkpoint as messages, page by page."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._page: list[DeadLetter] = []
        self._after = 0

    def __aiter__(self) -> AsyncIterator[Message]:
        return self

    async def __anext__(self) -> Message:
        if not self._page:
            self._page = list(reversed(await self._checkpoint.dead_letters(after=self._after)))
            if not self._page:
                raise StopAsyncIteration
        letter = self._page.pop()
        self._after = letter.number
        return Message(letter.id, letter.message)


def _whole(value: int, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{name} must be a whole number, at least 1")
    return value


def _positive(value: float, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ConfigurationError(f"{name} must be a number above 0")
    return float(value)
