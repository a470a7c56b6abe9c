"""Replay the message history of a webhook into a target, resumable at the exact message."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from functools import partial
from typing import get_args

import attrs

from .._arguments import Duration, check_positive, check_seconds, check_whole
from .._work.clock import TimeSource
from .._work.limits import limit
from .._work.tasks import run_cancel_once, run_to_completion
from ..client import BasiqClient
from ..errors import CheckpointError, ConfigurationError, ReplayError
from ..filters import Filter, filter_text
from ..hooks import chain_hooks
from ..models import Message
from ..pagination import Paginator
from ..receiver import Inbox, WebhookReceiver
from ..services.diagnosis import Stretch
from ._coverage import Coverage, InactivityTracker
from ._dead_letters import export_dead, open_dead, read_all
from ._engine import Engine, Observer, OnError, RunSettings
from ._feed import Feed
from ._ledger import DeadLedger, Ledger
from ._report import OnProgress, Plan, Reconciliation, Report, make_plan, reconcile
from ._sources import (
    REACH,
    Lists,
    MessageSource,
    convert_events,
    open_events,
    placeholder_for,
    read_filters,
    read_texts,
)
from ._where import Predicate, Where, as_where
from .checkpoints._base import Checkpoint, Commit, DeadLetter, ReplayJob, Source, State
from .targets._adapters import as_target
from .targets._base import Handler, RunScoped, SessionHandler, Target
from .targets._json_lines import FILE_CONCURRENCY, JSONLinesTarget


class Replay:
    """Hands the messages of a webhook's history to a target, and records its progress in a checkpoint.

    .. code-block:: python

        replay = Replay(basiq, webhook_id, handler, checkpoint=SQLiteCheckpoint("replay.db"))
        report = await replay.run()

    target: an async function that accepts a ``Message``; a ``WebhookReceiver``, whose handlers and inbox are used
        without HTTP; an ``HttpTarget``; a ``JSONLinesTarget``; or any ``Target``.
    checkpoint: records the progress of the job. After a crash at any moment, run the same again: no message is lost.
        At most ``concurrency`` messages reach the target a second time, and none that the inbox recorded as handled.
    source: "messages" reads the message history. "events" reads the event list of the last 7 days, which also has the
        events that happened while the webhook was not active. It selects the types that the receiver has handlers
        for, or that the webhook is subscribed to. A message and its event have the same key in an inbox.
    filter: sent to Basiq, built with ``F`` or as plain text.
    filters: several filters, such as one for each day. Their lists are read at once, as one job. They must not
        overlap: a message that two of them select is handled twice, unless there is an inbox.
    where: selects messages after they are read: ``since(...) & failed_only()``, or any function from a ``Message`` to
        a bool. If it raises, its message counts as failed.
    concurrency: maximum number of messages that are handed out and not recorded yet. By default 32, and 1,024 for a
        ``JSONLinesTarget``.
    rate: maximum messages a second, evenly spaced; None for as fast as possible.
    inbox: remembers the handled events, shared with the receiver of the webhook. A message that it recorded as handled
        is skipped, and each handled message is recorded in it. A ``WebhookReceiver`` has its own. With ``SQLInbox``, or
        another inbox with transactions, the target may be a function of the message and the session: its writes
        commit together with the inbox's entry.
    on_error: for a message that the target does not accept: "dead-letter" keeps it in the checkpoint for
        ``retry_dead``, "skip" only counts it, and "stop" ends the job before it.
    max_failures: the number of failures in a row that ends the job, with any ``on_error``; None for never.
    max_pause: maximum seconds to wait for a target that is down, or that asks for a pause with ``retry_after``. A
        longer outage or pause ends the job. An outage makes no dead letters.
    target_timeout, inbox_timeout, checkpoint_timeout: the limits, in seconds, for one message, for each call of the
        inbox, and for each call of the checkpoint; the last also for the target's ``flush``,
        ``begin_run`` and ``end_run``.
    clock: returns the time from which the event list's 7 days are counted back. None is for the client's clock; for a
        client of a fake in this process, that is the fake's.

    The webhook, source, filter and ``where`` define the job: a checkpoint of another job raises ``CheckpointError``.
    If a target raises a ``ReplayError`` other than ``TargetError``, the job ends. One object does one run at a
    time. Raises ``ConfigurationError`` for invalid arguments.
    """

    def __init__(
        self,
        client: BasiqClient,
        webhook_id: str,
        target: Target | WebhookReceiver | Handler | SessionHandler,
        *,
        checkpoint: Checkpoint,
        source: Source = "messages",
        filter: str | Filter | None = None,
        filters: Sequence[str | Filter] | None = None,
        where: Where | Predicate | None = None,
        concurrency: int | None = None,
        rate: float | None = None,
        inbox: Inbox | None = None,
        on_error: OnError = "dead-letter",
        max_failures: int | None = 1_000,
        max_pause: Duration = 3_600.0,
        target_timeout: Duration = 300.0,
        inbox_timeout: Duration = 5.0,
        checkpoint_timeout: Duration = 60.0,
        clock: TimeSource | None = None,
    ) -> None:
        if not isinstance(checkpoint, Checkpoint):
            raise ConfigurationError(
                "checkpoint must be a checkpoint, such as SQLiteCheckpoint(path) or MemoryCheckpoint()"
            )
        if on_error not in get_args(OnError):
            raise ConfigurationError('on_error must be "dead-letter", "stop" or "skip"')
        if source not in get_args(Source):
            raise ConfigurationError('source must be "messages" or "events"')
        to_file = isinstance(target, JSONLinesTarget)
        if concurrency is None:
            concurrency = FILE_CONCURRENCY if to_file else 32
        target_limit = check_seconds("target_timeout", target_timeout)
        if max_failures is not None:
            check_whole("max_failures", max_failures, least=1, or_else="or None for never")
        self._client = client
        self._webhook_id = webhook_id
        self._target = target
        self._checkpoint = checkpoint
        self._source = source
        self._filter = filter_text(filter)
        self._filters = read_filters(filters, filter, source)
        self._where = as_where(where)
        self._inbox = inbox
        self._settings = RunSettings(
            concurrency=check_whole("concurrency", concurrency, least=1),
            rate=None if rate is None else check_positive("rate", rate),
            on_error=on_error,
            max_failures=max_failures,
            max_pause=check_seconds("max_pause", max_pause),
            target_timeout=None if to_file and inbox is None else target_limit,
            checkpoint_timeout=check_seconds("checkpoint_timeout", checkpoint_timeout),
        )
        self._clock = client._now if clock is None else clock
        self._inbox_timeout = check_seconds("inbox_timeout", inbox_timeout)
        # Called to check the arguments now, not at the first run.
        as_target(target, inbox)
        self._list(self._filter)
        sent = self._filter or "" if self._filters is None else json.dumps(self._filters)
        self._job = ReplayJob(webhook_id, sent, source, self._where.description)
        self._engine: Engine | None = None
        self._observer: Observer | None = None
        self._wrap: Callable[[Target], Target] | None = None
        """A recovery's wrapper for the target."""
        self._listeners: list[OnProgress] = []
        self._reading = asyncio.Lock()
        self._running = False
        self._stopping = False
        self._coverage = Coverage()
        """What the last run left in the checkpoint."""
        self._read: tuple[Stretch, ...] = ()
        """The times of which all messages or events were read, by the last run or an earlier one."""
        self._seen_active: datetime | None = None
        """When a recovery found the webhook active, by Basiq's clock."""
        self._acknowledged: datetime | None = None
        """A recovery's argument of this name."""
        self._all_types: bool | None = None
        """For the event list: whether to take all types, or only those that the webhook is subscribed to.

        None is for those that the receiver has handlers for; without one, for those that the webhook is subscribed to.
        """

    @property
    def job(self) -> ReplayJob:
        """The job that the checkpoint belongs to. Another job needs another checkpoint."""
        return self._job

    @property
    def running(self) -> bool:
        """Whether a run is under way."""
        return self._running

    async def run(self, progress: OnProgress | None = None, *, plan: Plan | None = None) -> Report:
        """Hand the messages of the source to the target, from the checkpoint's place to the end.

        ``progress`` is called four times a second and at the end. With a ``plan``, it also has the remaining messages
        and time. Raises ``ReplayError`` if the job cannot start or continue (``.report`` says how far it got), and the
        errors of reading the source. Finished messages are recorded before it raises, and when it is cancelled.
        """
        return await run_cancel_once(self._run(progress, plan))

    async def retry_dead(self, progress: OnProgress | None = None, *, ids: Iterable[str] | None = None) -> Report:
        """Hand the dead letters, or those with these ids, to the target again, and remove those that succeed.

        The messages come from the checkpoint, not from Basiq. ``filter`` and ``where`` do not apply. Otherwise it works
        as ``run``, and does not change its place in the history.
        """
        return await run_cancel_once(self._retry_dead(progress, None if ids is None else frozenset(ids)))

    async def plan(self) -> Plan:
        """Count what ``run`` would do now. It reads the source, and changes neither target, inbox nor checkpoint."""
        state = await self._peek() or State()
        inbox = self._target.inbox if isinstance(self._target, WebhookReceiver) else self._inbox
        tracker = InactivityTracker()
        return await make_plan(
            await self._open_source(state, tracker),
            state,
            self._where,
            inbox,
            self._id_in_keys(inbox),
            tracker=tracker,
            handles=self._handles,
            reach=self._reach(),
            inbox_timeout=self._inbox_timeout,
        )

    async def reconcile(self, inbox: Inbox, *, ids: int = 1_000) -> Reconciliation:
        """Compare the messages that Basiq says it delivered with the events that ``inbox`` recorded as handled.

        It reads the whole message history: ``filter`` and ``where`` select messages, the checkpoint does not. If the
        target is a ``WebhookReceiver``, types without a handler are left out. ``ids`` is the maximum number of
        missing messages' ids to return. To handle the missing messages, run a replay with this inbox.
        """
        history: Feed[Message] = Feed(self._list(self._filter))
        return await reconcile(
            history,
            self._where,
            inbox,
            ids,
            self._id_in_keys(inbox),
            handles=self._handles,
            inbox_timeout=self._inbox_timeout,
        )

    async def dead_letters(self, *, after: int = 0, limit: int = 250) -> Sequence[DeadLetter]:
        """Return up to ``limit`` dead letters with numbers greater than ``after``, oldest first."""
        if not self._running:
            if await self._peek() is None:
                return ()
            async with self._reading:  # a run that begins meanwhile waits for it
                if not self._running:
                    await self._open(0)
                    try:
                        return await self._read_dead(after, limit)
                    finally:
                        await run_to_completion(self._close)
        return await self._read_dead(after, limit)

    async def export_dead(self, path: str | os.PathLike[str]) -> int:
        """Write the dead letters to a new file, a line of JSON each, and return their number.

        They stay in the checkpoint. Only the file's owner can read it. Raises ``ConfigurationError`` if the file
        exists, and ``ReplayError`` if it cannot be written.
        """
        if await self._peek() is None:
            return await export_dead(None, path)
        async with self._own_checkpoint(0):
            return await export_dead(self, path)

    async def drop_dead(self, ids: Iterable[str]) -> int:
        """Remove the dead letters with these ids for good, and return the number removed."""
        if isinstance(ids, str):
            raise ConfigurationError("ids must be a list of the ids of dead letters")
        if await self._peek() is None:
            return 0
        async with self._own_checkpoint(0):
            wanted = frozenset(ids)
            found = [dead_letter.id async for dead_letter in read_all(self) if dead_letter.id in wanted]
            if found:
                async with self._limit():
                    await self._checkpoint.save(Commit(revived=found))
            return len(found)

    def stop(self) -> None:
        """Let the present run begin no more messages. It returns when the messages under way are recorded."""
        self._stopping = True
        if self._engine is not None:
            self._engine.stop()

    def _observe(self, observer: Observer) -> None:
        """Let an observer wrap the target of each run, and call it with the progress."""
        if self._observer is not None:
            raise ConfigurationError("this replay is instrumented already")
        self._observer = observer

    def _listen(self, listener: OnProgress) -> Callable[[], None]:
        """Call ``listener`` with the progress of each run. Return a function that removes the listener."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    # --- a run ---

    async def _run(self, progress: OnProgress | None, plan: Plan | None) -> Report:
        async with self._own_checkpoint(self._settings.concurrency) as state:
            reach = self._reach()
            tracker = InactivityTracker(Coverage.read(state.notes), now=self._clock(), acknowledged=self._acknowledged)
            if self._seen_active is not None:
                tracker.note([self._seen_active])
            await tracker.look_again(self._client, self._webhook_id)
            source = await self._open_source(state, tracker)
            ledger = Ledger(state, most=self._settings.most_spans)
            try:
                report = await self._hand_out(source, state, self._where, ledger, progress, plan, tracker)
            except ReplayError as exc:
                if exc.report is not None:
                    exc.report = attrs.evolve(exc.report, inactive=tracker.periods(), reach=reach)
                raise
            self._coverage, self._read = tracker.coverage(), source.read
            return attrs.evolve(report, inactive=self._coverage.inactive, reach=reach)

    async def _retry_dead(self, progress: OnProgress | None, ids: frozenset[str] | None) -> Report:
        async with self._own_checkpoint(self._settings.concurrency) as state:
            ledger = DeadLedger(state.dead, most=self._settings.most_spans)
            return await self._hand_out(open_dead(self, ids), state, as_where(None), ledger, progress)

    async def _hand_out(
        self,
        source: MessageSource,
        state: State,
        where: Where,
        ledger: Ledger,
        progress: OnProgress | None,
        plan: Plan | None = None,
        tracker: InactivityTracker | None = None,
    ) -> Report:
        target = as_target(
            self._target, self._inbox, state.token, webhook_id=self._webhook_id, inbox_timeout=self._inbox_timeout
        )
        if self._wrap is not None:
            target = self._wrap(target)
        for listener in self._listeners:
            progress = chain_hooks(progress, listener)
        if self._observer is not None:
            target = self._observer.wrap(target)
            self._observer.begin()
            progress = chain_hooks(progress, self._observer.on_progress)
        self._engine = engine = Engine(
            source,
            target=target,
            save=self._checkpoint.save,  # the engine has one time limit for it and the target's flush
            state=state,
            where=where,
            settings=self._settings,
            ledger=ledger,
            tracker=tracker,
        )
        if self._stopping:
            engine.stop()
        if not isinstance(self._target, RunScoped):
            return await engine.run(progress, plan)
        try:
            await self._limit_target(self._target.begin_run, "begin")
            return await engine.run(progress, plan)
        finally:
            await run_to_completion(partial(self._limit_target, self._target.end_run, "end"))

    async def _limit_target(self, call: Callable[[], Awaitable[None]], what: str) -> None:
        seconds = self._settings.checkpoint_timeout
        async with limit(seconds, ReplayError(f"the target did not {what} its run within {seconds:g} s")):
            await call()

    # --- the checkpoint ---

    def _limit(self) -> AbstractAsyncContextManager[None]:
        seconds = self._settings.checkpoint_timeout
        slow = f"the checkpoint did not finish within {seconds:g} s: fix it, then run the same again to continue"
        return limit(seconds, CheckpointError(slow))

    async def _peek(self) -> State | None:
        async with self._limit():
            return await self._checkpoint.peek(self._job)

    async def _open(self, concurrency: int) -> State:
        async with self._limit():
            return await self._checkpoint.open(self._job, concurrency=concurrency)

    async def _read_dead(self, after: int, most: int) -> Sequence[DeadLetter]:
        async with self._limit():
            return await self._checkpoint.dead_letters(after=after, limit=most)

    async def _close(self) -> None:
        async with self._limit():
            await self._checkpoint.aclose()

    @asynccontextmanager
    async def _own_checkpoint(self, concurrency: int) -> AsyncIterator[State]:
        """Open the checkpoint, as long as nothing else of this object changes it."""
        async with self._reading:
            if self._running:
                raise ReplayError("this replay is running already: one object does one run at a time")
            self._running, self._stopping = True, False
        try:
            state = await self._open(concurrency)
            try:
                yield state
            finally:
                await run_to_completion(self._close)
        finally:
            self._running = False
            self._engine = None

    # --- what is read ---

    async def _open_source(self, state: State, tracker: InactivityTracker) -> MessageSource:
        if self._source == "events":
            wanted = self._handles
            if self._all_types is False or (wanted is None and not self._all_types):
                webhook = await self._client.webhooks.get(self._webhook_id)
                wanted = frozenset(webhook.subscribed_events).__contains__
            return Feed(
                open_events(self._client, self._filter),
                state.cursor,
                convert=convert_events(self._webhook_id, wanted or (lambda event_type: True)),
                now=self._clock,
                reach=REACH,
            )
        if self._filters is None:
            return Feed(self._list(self._filter), state.cursor, now=self._clock, note_times=tracker.note)
        texts = zip(self._filters, read_texts(state.cursor, len(self._filters)), strict=True)
        return Lists([Feed(self._list(each), text, note_times=tracker.note) for each, text in texts])

    def _id_in_keys(self, inbox: Inbox | None) -> str | None:
        """Return the webhook's id in the keys of an inbox: a receiver with a ``MemoryInbox`` may have none."""
        receiver = self._target
        return (
            receiver.webhook_id
            if isinstance(receiver, WebhookReceiver) and inbox is receiver.inbox
            else self._webhook_id
        )

    def _list(self, filter: str | None) -> Paginator[Message]:
        return self._client.messages.list(self._webhook_id, filter=filter, on_unreadable=placeholder_for)

    @property
    def _handles(self) -> Callable[[str], bool] | None:
        return self._target.handles if isinstance(self._target, WebhookReceiver) else None

    def _reach(self) -> datetime | None:
        return (self._clock() - REACH).replace(microsecond=0) if self._source == "events" else None
