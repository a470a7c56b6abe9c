"""Bulk replay: the history of a webhook through a target, exactly resumable."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import get_args

from .._arguments import check_positive, check_whole
from .._tasks import run_apart, see_through
from ..client import BasiqClient
from ..errors import ConfigurationError, ReplayError
from ..filters import Filter, filter_text
from ..models import Message
from ..pagination import Paginator
from ..receiver import Inbox, WebhookReceiver
from ._engine import Engine, OnError, Settings
from ._ledger import DeadLedger, Ledger
from ._plan import make_plan, reconcile
from ._report import OnProgress, Plan, Reconciliation, Report
from ._sources import DeadLetters, History, MessageSource, stand_in
from ._where import Predicate, Where, as_where
from .checkpoints._base import Checkpoint, DeadLetter, Job, State
from .targets._adapters import as_target
from .targets._base import Handler, RunScoped, SessionHandler, Target

__all__ = ["Replay"]


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
        handled is entered. Not for a ``WebhookReceiver``, which has its own. With one that has transactions, such as
        ``SQLInbox``, the target may be a function of the message and the session: its effect commits together with
        the entry.
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
        target: Target | WebhookReceiver | Handler | SessionHandler,
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
        target_timeout: float = 300.0,
        inbox_timeout: float = 5.0,
        checkpoint_timeout: float = 60.0,
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
            concurrency=check_whole("concurrency", concurrency, least=1),
            rate=None if rate is None else check_positive("rate", rate),
            on_error=on_error,
            max_failures=None
            if max_failures is None
            else check_whole("max_failures", max_failures, least=1, or_else="or None for never"),
            max_pause=check_positive("max_pause", max_pause),
            target_timeout=check_positive("target_timeout", target_timeout),
            checkpoint_timeout=check_positive("checkpoint_timeout", checkpoint_timeout),
        )
        self._inbox_timeout = check_positive("inbox_timeout", inbox_timeout)
        # Looked over now: an argument that cannot be should not wait for the first run.
        as_target(target, inbox)
        self._list()
        self._job = Job(webhook_id, self._filter or "")
        self._engine: Engine | None = None
        self._running = False
        self._stopping = False

    async def run(self, progress: OnProgress | None = None, *, plan: Plan | None = None) -> Report:
        """Go through the history, from where the checkpoint stands to its end.

        ``progress`` is called four times a second and at the end; with a ``plan`` it can tell what is left. Raises
        ``ReplayError`` where the job cannot start or go on (``.report`` says how far it came), and whatever
        reading the history raises. Before it raises, or when it is cancelled, what is done is recorded.
        """
        return await run_apart(self._run(progress, plan))

    async def retry_dead(self, progress: OnProgress | None = None) -> Report:
        """Put the dead letters through the target again, and remove those that it takes.

        The messages are those that the checkpoint has kept; Basiq is not asked. ``filter`` and ``where`` do not
        apply here. Otherwise as ``run``, whose position it leaves alone.
        """
        return await run_apart(self._retry_dead(progress))

    async def _run(self, progress: OnProgress | None, plan: Plan | None) -> Report:
        async with self._session() as state:
            engine = self._make_engine(History(self._list, state), state, self._where)
            return await self._go(engine, progress, plan)

    async def _retry_dead(self, progress: OnProgress | None) -> Report:
        async with self._session() as state:
            ledger = DeadLedger(state.dead, most=self._settings.most_segments)
            engine = self._make_engine(DeadLetters(self._checkpoint), state, as_where(None), ledger)
            return await self._go(engine, progress, None)

    def _make_engine(self, source: MessageSource, state: State, where: Where, ledger: Ledger | None = None) -> Engine:
        target = as_target(
            self._target, self._inbox, state.token, webhook_id=self._webhook_id, inbox_timeout=self._inbox_timeout
        )
        return Engine(
            source,
            target=target,
            checkpoint=self._checkpoint,
            state=state,
            where=where,
            settings=self._settings,
            ledger=ledger,
        )

    async def plan(self) -> Plan:
        """Count what ``run`` would do now. Reads the history; touches neither target, inbox nor checkpoint."""
        state = await self._checkpoint.peek(self._job) or State()
        inbox = self._target.inbox if isinstance(self._target, WebhookReceiver) else self._inbox
        return await make_plan(History(self._list, state), state, self._where, inbox, self._webhook_id)

    async def reconcile(self, inbox: Inbox, *, ids: int = 1_000) -> Reconciliation:
        """Hold what Basiq says it delivered against what ``inbox`` has handled, over the whole history.

        ``filter`` and ``where`` choose what is looked at; the checkpoint does not. ``ids`` is how many ids of
        missing messages to give. To handle what is missing, run a replay with this inbox.
        """
        return await reconcile(self._list(), self._where, inbox, ids, self._webhook_id)

    async def dead_letters(self, *, after: int = 0, limit: int = 250) -> Sequence[DeadLetter]:
        """Return up to ``limit`` of the messages that failed, oldest first, with numbers greater than ``after``."""
        if await self._checkpoint.peek(self._job) is None:
            return ()
        async with self._session(concurrency=0):
            return await self._checkpoint.dead_letters(after=after, limit=limit)

    def stop(self) -> None:
        """Have the run that is under way begin no more messages, and return when those begun are recorded."""
        self._stopping = True
        if self._engine is not None:
            self._engine.stop()

    async def _go(self, engine: Engine, progress: OnProgress | None, plan: Plan | None) -> Report:
        self._engine = engine
        if self._stopping:
            engine.stop()
        try:
            return await engine.run(progress, plan)
        finally:
            if isinstance(self._target, RunScoped):
                await see_through(self._target.end_run)

    @asynccontextmanager
    async def _session(self, concurrency: int | None = None) -> AsyncIterator[State]:
        if self._running:
            raise ReplayError("this replay is running already: one object does one run at a time")
        self._running, self._stopping = True, False
        try:
            width = self._settings.concurrency if concurrency is None else concurrency
            state = await self._checkpoint.open(self._job, concurrency=width)
            try:
                yield state
            finally:
                await see_through(self._checkpoint.aclose)
        finally:
            self._running = False
            self._engine = None

    def _list(self, cursor: str | None = None, after: str | None = None) -> Paginator[Message]:
        return self._client.messages.list(
            self._webhook_id, filter=self._filter, cursor=cursor, after=after, on_unreadable=stand_in
        )
