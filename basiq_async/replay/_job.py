"""What a replay and a recovery both are: a target with its record, of which one run at a time passes messages on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar, TypeVarTuple, cast, get_args

import attrs

from .._arguments import Duration, check_positive, check_seconds, check_whole
from .._redaction.text import printable
from .._work.deaths import Deaths
from .._work.failures import is_outage, reason_text
from .._work.keys import check_repeat_name
from .._work.limits import inbox_is_slow, limit, wait_for_event
from .._work.noted import refuse_others
from .._work.protocol import Inbox, TransactionalInbox
from .._work.tasks import run_to_completion
from ..client import BasiqClient
from ..errors import ConfigurationError, ReplayError
from ..filters import Filter, filter_text
from ..hooks import chain_hooks
from ._admission import Admission
from ._engine import Engine
from ._quarantine import QuarantineWriter, RetryTarget
from ._report import OnProgress, Plan, Report
from ._service import check_repeat
from ._sources import MessageSource, Source
from ._tally import Observer, OnError, RunSettings, make_throttle
from ._throttle import FIRST_PAUSE, LONGEST_PAUSE, Throttle
from ._where import Predicate, Where, as_where, selects_everything
from ._writer import PageWriter
from .targets._adapters import CALL, AnyTarget, ReceiverTarget, choose_handling
from .targets._base import BulkTarget, Target
from .targets._json_lines import JSONLinesTarget
from .targets._repeating import Repeating
from .targets._shared import PATIENCE, Shared

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")
logger = logging.getLogger("basiq_async.replay")


class Job:
    """Passes the messages of a webhook to a target. The arguments are those of ``Replay``, and are checked here.

    handling: how its messages are handled, and the record. ``admission``: whose inbox that is.
    under_way: how many runs and pages are. Meanwhile the record is waited for while it is away.
    """

    def __init__(
        self,
        client: BasiqClient,
        webhook_id: str,
        target: AnyTarget,
        *,
        inbox: Inbox | None = None,
        source: Source = "messages",
        filter: str | Filter | None = None,
        where: Where | Predicate | None = None,
        concurrency: int = 32,
        rate: float | None = None,
        on_error: OnError = "quarantine",
        max_failures: int | None = 1_000,
        max_pause: Duration = 3_600.0,
        again: str | None = None,
    ) -> None:
        if on_error not in get_args(OnError):
            raise ConfigurationError('on_error must be "quarantine", "stop" or "skip"')
        if source not in get_args(Source):
            raise ConfigurationError('source must be "messages" or "events"')
        if max_failures is not None:
            check_whole("max_failures", max_failures, least=1, or_else="or None for never")
        self.client = client
        self.api = client._api
        self.webhook_id = webhook_id
        self.handling = choose_handling(target, inbox)
        if again is not None:
            check_repeat_name(again)
            check_repeat(self.handling, webhook_id, again, selects=where is not None or filter is not None)
            self.handling = attrs.evolve(self.handling, again=again)
        self.file = target if isinstance(target, JSONLinesTarget) else None
        receiver = self.handling.receiver
        if receiver is not None and receiver.webhook_ids:
            refuse_others(receiver.webhook_ids, webhook_id)
        self.source: Source = source
        self.filter = filter_text(filter)
        self.where = as_where(where)
        self.selects_everything = selects_everything(self.where)
        if on_error == "quarantine" and self.handling.inbox is None:
            on_error = "skip"
        self.settings = RunSettings(
            concurrency=check_whole("concurrency", concurrency, least=1),
            rate=None if rate is None else check_positive("rate", rate),
            on_error=on_error,
            max_failures=max_failures,
            max_pause=check_seconds("max_pause", max_pause),
        )
        client.messages.list(webhook_id)  # checks the argument now, not at the first run
        receiver = self.handling.receiver
        self._dispatcher = None if receiver is None else receiver._dispatcher
        self.admission = Admission(client, self.api.account, webhook_id, self.handling)
        self.observer: Observer | None = None
        self.running = False
        self.under_way = 0
        self._engine: Engine | PageWriter | None = None
        self._listeners: list[OnProgress] = []
        self._stopping = asyncio.Event()

    # --- a run ---

    @asynccontextmanager
    async def one_run(self, check: Callable[[], Awaitable[None]] | None = None) -> AsyncIterator[None]:
        """Allow one run of this object at a time, and one writer of a file.

        ``check`` is awaited before anything is noted.
        """
        if self.running:
            raise ReplayError("this replay is running already: one object does one run at a time")
        self.running, self._stopping = True, asyncio.Event()
        self.under_way += 1
        try:
            async with AsyncExitStack() as stack:
                await self.begin_secrets()
                if self.file is not None:
                    stack.push_async_callback(run_to_completion, partial(self._limit_file, self.file.aclose, "end"))
                    await self._limit_file(self.file._begin_run, "begin")
                if self.handling.calls is not None:
                    await self.admission.look(self.handling.calls)
                    if check is not None:
                        await check()
                yield
        finally:
            self.running = self.admission.may_found = False
            self.under_way -= 1
            self._engine = None

    def stop(self) -> None:
        """Let the present run begin no more messages. It returns when the messages under way are recorded."""
        self._stopping.set()
        if self._engine is not None:
            self._engine.stop()

    async def begin_secrets(self) -> None:
        """Let a receiver read its secrets, as it does before its first delivery."""
        if self.handling.receiver is not None:
            await self.handling.receiver._secrets.begin()

    async def _limit_file(self, call: Callable[[], Any], what: str) -> None:
        seconds = self.settings.record_timeout
        async with limit(seconds, ReplayError(f"the target did not {what} its run within {seconds:g} s")):
            await call()

    # --- what is passed to the handler ---

    async def pass_to_handler(
        self,
        source: MessageSource,
        progress: OnProgress | None,
        plan: Plan | None = None,
        *,
        kind: Source | None = None,
        raw_items: bool = False,
        retries: bool = False,
        note_resume_point: Callable[[str], Any] | None = None,
    ) -> Report:
        """Hand the messages of a source to the target. ``kind``: the list that it is, if that is not the job's.

        ``raw_items``: it has items as Basiq sent them. ``retries``: its messages are in the quarantine.
        ``note_resume_point`` keeps a resume point of the source for the next run.
        """
        handling, settings = self.handling, self._settings_of(retries=retries)
        self.admission.may_found = True
        opened = target = handling.open(quarantined=retries)
        inner = opened.inner if isinstance(opened, Repeating) else opened
        if retries:
            target = RetryTarget(target, handling.receiver)
        progress = self.chain_listeners(progress)
        if self.observer is not None:
            target = self.observer.wrap(target)
            self.observer.begin(kind or self.source)
            progress = chain_hooks(progress, self.observer.on_progress)
        engine: Engine | PageWriter
        if handling.inbox is None:
            written = cast(BulkTarget, handling.value)
            engine = PageWriter(
                source,
                target=target,
                written=written,
                settings=settings,
                raw_items=raw_items,
                note_resume_point=note_resume_point,
            )
        else:
            # A receiver records itself what it tries again.
            calls = None if retries and handling.receiver is not None else handling.calls
            writer = QuarantineWriter(calls, handling.key_of, self.api.now)

            def begin_end(alone: bool) -> float:
                if isinstance(inner, (Shared, ReceiverTarget)):
                    inner.patience, inner.alone = PATIENCE, alone
                return 0.0 if alone else PATIENCE

            engine = Engine(
                source,
                target=target,
                quarantine=writer.write,
                settings=settings,
                note_resume_point=note_resume_point,
                begin_end=begin_end,
            )
        self._engine = engine
        if self._stopping.is_set():
            engine.stop()
        try:
            # Without a transaction, the claim of a process that was killed is its trace.
            async with self.noting_deaths(inner) if isinstance(handling.inbox, TransactionalInbox) else nullcontext():
                return attrs.evolve(await engine.run(progress, plan), again=handling.again)
        finally:
            if isinstance(inner, Shared):
                await inner.aclose()

    @asynccontextmanager
    async def noting_deaths(self, target: object) -> AsyncIterator[None]:
        """Note that this process passes messages on; a handler with a session leaves traces if one was killed."""
        calls, inner = self.handling.calls, target.inner if isinstance(target, Repeating) else target
        deaths = None if calls is None or not isinstance(calls.inbox, TransactionalInbox) else Deaths(calls)
        try:
            if deaths is not None and await deaths.begin(job=True):
                for each in (self._dispatcher, inner if isinstance(inner, Shared) else None):
                    if each is not None:
                        each.leave_traces()
            yield
        finally:
            if deaths is not None:
                await deaths.end()

    def make_throttle(self, target: Target) -> Throttle:
        """Return what hands messages of pages to the target, which was opened."""
        settings = self._settings_of(retries=False)
        if self.observer is not None:
            target = self.observer.wrap(target)
            self.observer.begin(self.source)
        return make_throttle(target, settings)

    def _settings_of(self, *, retries: bool) -> RunSettings:
        dispatcher, settings = self._dispatcher, self.settings
        if dispatcher is not None:  # it has limits of its own, and one of them may be longer
            longest = dispatcher.longest_timeout
            settings = attrs.evolve(settings, target_timeout=max(settings.target_timeout, longest))
        limit = None if retries else self.where.limit
        return attrs.evolve(settings, limit=limit, tries_once=retries)

    # --- who watches ---

    def observe(self, observer: Observer) -> None:
        """Let an observer wrap the target of each run, and call it with the progress."""
        if self.observer is not None:
            raise ConfigurationError("this replay is instrumented already")
        self.observer = observer

    def listen(self, listener: OnProgress) -> Callable[[], None]:
        """Call ``listener`` with the progress of each run. Return a function that removes the listener."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def chain_listeners(self, progress: OnProgress | None) -> OnProgress | None:
        """Return what calls ``progress``, and each listener."""
        for listener in self._listeners:
            progress = chain_hooks(progress, listener)
        return progress

    @property
    def takes_pages(self) -> bool:
        """Whether a file takes pages as Basiq sent them: nothing has to look at each message."""
        if self.file is None or not self.selects_everything or self.settings.rate is not None:
            return False
        return self.observer is None or self.observer.wrap(self.file) is self.file

    # --- the record ---

    def known(self, keys: Sequence[str]) -> Awaitable[Collection[str]]:
        """Return which keys of a page are not passed to the handler."""
        return self.ask(self._known, keys)

    async def _known(self, keys: Sequence[str]) -> Collection[str]:
        if self.handling.calls is not None:
            await self.admission.found(self.handling.calls)
        return await self.handling.known(keys)

    async def count_quarantined(self) -> int:
        """Return how many entries of the job, or of its service, are in the quarantine; 0 without an inbox."""
        calls = self.handling.calls
        return 0 if calls is None else await calls.count_quarantined(self.handling.job)

    async def ask(self, call: Callable[[*Arguments], Awaitable[T]], *arguments: *Arguments, limited: bool = True) -> T:
        """Call the record. A run waits while it is away, at most ``max_pause`` seconds, as it does for a claim.

        ``limited``: whether each call has a time limit, and not those that it makes.
        """
        seconds: float | None = None
        slow: Callable[[float], Exception] = inbox_is_slow
        if limited:
            seconds = CALL
            if self.handling.inbox is None:  # such a record may have to read all that it has
                seconds, slow = self.settings.record_timeout, _record_is_slow
        loop, pause = asyncio.get_running_loop(), FIRST_PAUSE
        until = loop.time() + self.settings.max_pause
        while True:
            try:
                async with limit(seconds, partial(slow, seconds or 0.0)):
                    return await call(*arguments)
            except Exception as exc:
                left = until - loop.time()
                if not self.under_way or left <= 0 or not is_outage(exc):
                    raise
                logger.warning(
                    "the record does not respond (%s): the replay asks it again", printable(reason_text(exc))
                )
                if await wait_for_event(self._stopping, min(pause, left)):
                    raise
            pause = min(2 * pause, LONGEST_PAUSE)


def _record_is_slow(seconds: float) -> Exception:
    return ReplayError(f"the target's record did not respond within {seconds:g} s")
