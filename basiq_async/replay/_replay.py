"""Replay the message history of a webhook into a target: what the record does not know is handed out."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Any, TypeVar, TypeVarTuple, cast, get_args

import attrs

from .._arguments import Duration, check_positive, check_seconds, check_whole
from .._redaction.text import printable
from .._storage.exports import export_entries
from .._work.failures import is_outage, reason_text
from .._work.inbox_calls import InboxCalls
from .._work.keys import check_repeat_name
from .._work.limits import inbox_is_slow, limit, wait_for_event
from .._work.noted import Noted, refuse_others
from .._work.protocol import Inbox, StoredDelivery
from .._work.tasks import run_cancel_once, run_to_completion
from ..client import BasiqClient
from ..errors import ConfigurationError, ReplayError
from ..filters import Filter, filter_text
from ..hooks import call_hook, chain_hooks
from ..models import Message
from ..receiver import MemoryInbox
from ..services.details import Details
from ._engine import Engine
from ._hints import ListHints
from ._memory import DECIDED, Kind, Memory, read_memory
from ._pages import PageJob, Pages
from ._reading import Reading
from ._records import QuarantineRecorder, RetryTarget, message_of_entry
from ._report import OnProgress, Plan, Report, make_plan
from ._service import (
    accepted,
    check_place,
    check_repeat,
    count_at_service,
    count_held,
    count_set_aside,
    end_known_entries,
)
from ._sources import (
    FixedMessages,
    MessageSource,
    Source,
    as_object,
    convert_events,
    event_key,
    message_id_of,
    message_key,
    open_events,
    placeholder_for,
    plain_id,
)
from ._tally import Observer, OnError, RunSettings, make_attempts
from ._throttle import FIRST_PAUSE, LONGEST_PAUSE, Attempts
from ._where import Predicate, Where, as_where, choose, everything
from ._writer import PageWriter
from .targets._adapters import CALL, AnyTarget, ReceiverTarget, choose_hand_out
from .targets._base import HANDLED_BEFORE, BulkTarget
from .targets._http import HttpTarget
from .targets._json_lines import JSONLinesTarget
from .targets._repeating import Repeating
from .targets._shared import PATIENCE, Shared

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")
logger = logging.getLogger("basiq_async.replay")


class Replay:
    """Hands the messages of a webhook's history to a target: those that the record does not know.

    .. code-block:: python

        await Replay(basiq, webhook_id, receiver).run()                              # the receiver's inbox
        await Replay(basiq, webhook_id, handle, inbox=inbox).run()                   # shared with the live service
        await Replay(basiq, webhook_id, handle, inbox=SQLiteInbox("job.db")).run()   # an inbox of the job's own
        await Replay(basiq, webhook_id, JSONLinesTarget("history.jsonl")).run()      # the file is the record

    After a crash at any moment, run the same again: what was recorded is not repeated, and the rest is handed out.
    ``docs/guarantees.md`` has each case, and what holds for which record.

    target: an async function that accepts a ``Message``; a ``WebhookReceiver``, whose handlers and inbox are used
        without HTTP; an ``HttpTarget``; a ``JSONLinesTarget``; or any ``Target``.
    inbox: the record of what was handled. It is needed unless the target has one, or is its own record. Each message is
        claimed and recorded in it, as a live delivery is: runs and the live service share the work. With ``SQLInbox``,
        or another inbox with transactions, the target may be a function of the message and the session: its writes
        commit together with the inbox's entry.
    source: "messages" reads the message history. "events" reads the event list of the last 7 days, which also has the
        events that happened while the webhook was not active. It selects the types that the receiver has handlers
        for, or that the webhook is subscribed to. A message and its event have the same key in an inbox.
    filter: sent to Basiq, built with ``F`` or as plain text.
    where: selects messages after they are read: ``since(...) & failed_only()``, or any function from a ``Message`` to
        a bool. If it raises, its message counts as failed.
    concurrency: maximum number of messages that are handed out and not recorded yet; 32 by default.
    rate: maximum messages a second, evenly spaced; None for as fast as possible.
    on_error: for a message that the target does not accept: "quarantine" sets it aside in the inbox for
        ``retry_quarantined``, "skip" only counts it, and "stop" ends the job before it. A target that is its own record
        has no quarantine: there a message that fails is only counted, and each run tries it again.
    max_failures: the number of failures in a row that ends the job, in front of them; None for never.
    max_pause: maximum seconds to wait for a target that is down, or that asks for a pause with ``retry_after``. A
        longer outage or pause ends the job. In an outage, nothing is set aside.
    again: a name, such as "bug-1234", under which the selected messages are handled again, whatever the inbox knows of
        them: once for each name, also if the run is killed and run again. The name is in ``delivery.key`` and in the
        report. What waits for a deferred handler, or is in the quarantine, is left there, and counted. It needs a
        ``where`` or a ``filter``: ``where=lambda message: True`` selects everything. Not for an ``HttpTarget``.

    If a target raises a ``ReplayError`` other than ``TargetError``, the job ends. One object does one run at a time.
    Raises ``ConfigurationError`` for invalid arguments.
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
        self._client = client
        self._webhook_id = webhook_id
        self._handling = choose_hand_out(target, inbox)
        if again is not None:
            check_repeat_name(again)
            check_repeat(self._handling, webhook_id, again, selects=where is not None or filter is not None)
            self._handling = attrs.evolve(self._handling, again=again)
        self._file = target if isinstance(target, JSONLinesTarget) else None
        receiver = self._handling.receiver
        if receiver is not None and receiver.webhook_ids:
            refuse_others(receiver.webhook_ids, webhook_id)
        self._source: Source = source
        self._filter = filter_text(filter)
        self._where = as_where(where)
        if on_error == "quarantine" and self._handling.inbox is None:
            on_error = "skip"
        self._settings = RunSettings(
            concurrency=check_whole("concurrency", concurrency, least=1),
            rate=None if rate is None else check_positive("rate", rate),
            on_error=on_error,
            max_failures=max_failures,
            max_pause=check_seconds("max_pause", max_pause),
        )
        client.messages.list(webhook_id)  # checks the argument now, not at the first run
        self._engine: Engine | PageWriter | None = None
        self._observer: Observer | None = None
        self._listeners: list[OnProgress] = []
        self._running = False
        self._noted = Noted()
        """What the inbox has noted about itself, as the present run has found it."""
        self._names: dict[str, str | None] = {}
        """The names of webhooks that Basiq has shown."""
        self._may_found = False
        """Whether the run hands out, and has not noted its webhook yet."""
        self._is_of_service = False
        """Whether the target posts, and the inbox is that of the service: its notes are about the service."""
        self._memory: Memory | None = None
        """What earlier runs decided; None for a job that is its own record, and for one that handles again."""
        self._stopping = asyncio.Event()
        self._pages = self._make_pages()

    @property
    def running(self) -> bool:
        """Whether a run is under way."""
        return self._running

    async def run(self, progress: OnProgress | None = None, *, plan: Plan | None = None) -> Report:
        """Hand the messages of the source that the record does not know to the target.

        ``progress`` is called four times a second, and at the end with the report. With a ``plan``, it also has the
        remaining messages and time. Raises ``JobInUseError`` if another run has the file, ``ReplayError`` if the job
        cannot start or continue (``.report`` says how far it got), and the errors of reading the source and of the
        inbox. Finished messages are recorded before it raises, and when it is cancelled.
        """
        return await run_cancel_once(self._run(progress, plan))

    async def retry_quarantined(
        self, progress: OnProgress | None = None, *, ids: Iterable[str] | None = None
    ) -> Report:
        """Hand the webhook's quarantined messages, or those with these ids of messages or events, to the target again.

        They come from the inbox, not from Basiq; ``filter`` and ``where`` do not apply. What is handled leaves the
        quarantine, and what fails stays. ``skipped`` of the report says why others were not handled: ``no-handler``,
        ``handled-before`` (meanwhile) or ``busy``. Otherwise it works as ``run``.
        """
        return await run_cancel_once(self._retry(progress, None if ids is None else _check_ids(ids)))

    async def plan(self) -> Plan:
        """Count what ``run`` would do now. It reads the source, and changes neither target nor record."""
        calls, left, waiting = self._handling.calls, 0, 0
        if calls is not None:
            await self._look_at_inbox(calls)
            left, waiting = await calls.count_quarantined(self._handling.job), (await calls.count_waiting()).count
        source, _ = await self._open_source(counts_only=True)
        plan = await make_plan(source, self._where.limit, accepts_type=self._handling.accepts_type)
        return attrs.evolve(plan, quarantined=left, waiting=waiting)

    async def quarantined(self, *, after: StoredDelivery | None = None, limit: int = 100) -> Sequence[StoredDelivery]:
        """Return the webhook's oldest ``limit`` entries of the quarantine, or the next ones after ``after``."""
        check_whole("limit", limit, least=1)
        calls = self._handling.calls
        return () if calls is None else await calls.first_quarantined(limit, self._handling.job, after=after)

    async def drop_quarantined(self, ids: Iterable[str]) -> int:
        """Remove messages from the quarantine, by the ids of messages or events; they count as handled.

        Return the number removed. Raises ``InboxError`` also for a message that another worker is handling.
        """
        calls, wanted = self._handling.calls, _check_ids(ids)
        if calls is None:
            return 0
        await self._look_at_inbox(calls)
        return await calls.drop_ids(wanted, self._handling.job)

    async def export_quarantined(self, path: str | os.PathLike[str]) -> int:
        """Write the webhook's entries of the quarantine to a new file, a line of JSON each. Return their number.

        They stay in the quarantine. Only the file's owner can read it. Raises ``ConfigurationError`` if the file
        exists, and ``ReplayError`` if it cannot be written.
        """
        calls = self._handling.calls
        return await export_entries(None if calls is None else calls.read_quarantine(self._handling.job), path)

    async def pages(self) -> AsyncIterator[str]:
        """Iterate over the pages of the history on which anything is left, each a text for ``work``.

        A text holds a place in the list and the moment, and no message. It is sealed with a key that is derived from
        the API key. Raises ``ConfigurationError`` for a target that is its own record, for a ``MemoryInbox``, and for a
        ``where`` with a ``limit``; and the errors of reading the source and of the inbox.
        """
        async with aclosing(self._pages.listed()) as pages:
            async for page in pages:
                if page.keys:
                    yield page.text

    async def work(self, page: str) -> None:
        """Hand the messages of a page that the inbox does not know to the target: in any process, any number of times.

        What it handles is recorded. Left to the next run is what fails, what another worker holds, and what was under
        way when a process was killed; a page is left after 100 failures in a row. Calls that are under way at once
        share the ``concurrency``, the rate, and the pauses. Raises ``ConfigurationError`` for a text that another API
        key or replay has made, and the errors that end a run.
        """
        await run_cancel_once(self._pages.work(page))

    def stop(self) -> None:
        """Let the present run begin no more messages. It returns when the messages under way are recorded."""
        self._stopping.set()
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

    def _chain_listeners(self, progress: OnProgress | None) -> OnProgress | None:
        for listener in self._listeners:
            progress = chain_hooks(progress, listener)
        return progress

    # --- a run ---

    async def _run(self, progress: OnProgress | None, plan: Plan | None) -> Report:
        async with self._one_run():
            source, note_hint = await self._open_source()
            report = self._count_decided(await self._hand_out(source, progress, plan, note_hint=note_hint))
            await self._note_decided(source, report)
            await source.forget_details(filtered=self._filter is not None)
            if self._handling.again is not None:
                return count_held(report)
            known = report.skipped.get(HANDLED_BEFORE, 0) + (accepted(report) if self._handling.job else 0)
            left = count_set_aside(report) if self._handling.job else report
            if known and (found := await count_at_service(self._handling, left, known)) is not None:
                left = found
            if left != report and progress is not None:
                call_hook(progress, left)
            return left

    async def _retry(self, progress: OnProgress | None, ids: frozenset[str] | None) -> Report:
        calls = self._handling.calls
        if calls is None:
            raise ConfigurationError("a target that is its own record has no quarantine")
        async with self._one_run():
            await end_known_entries(self._handling)
            source = FixedMessages(_as_messages(calls.read_pages(self._handling.job, ids=ids)))
            report = await self._hand_out(source, progress, retries=True)
            return count_set_aside(report) if self._handling.job else report

    async def _hand_out(
        self,
        source: MessageSource,
        progress: OnProgress | None,
        plan: Plan | None = None,
        *,
        kind: Source | None = None,
        retries: bool = False,
        note_hint: Callable[[str], Any] | None = None,
    ) -> Report:
        handling, settings = self._handling, self._settings_of(retries=retries)
        self._may_found = True
        opened = target = handling.open(quarantined=retries)
        if retries:
            target = RetryTarget(target, handling.receiver)
        progress = self._chain_listeners(progress)
        if self._observer is not None:
            target = self._observer.wrap(target)
            self._observer.begin(kind or self._source)
            progress = chain_hooks(progress, self._observer.on_progress)
        engine: Engine | PageWriter
        if handling.inbox is None:
            written, raw_items = cast(BulkTarget, handling.value), self._raw_items
            engine = PageWriter(
                source, target=target, written=written, settings=settings, raw_items=raw_items, note_hint=note_hint
            )
        else:
            # A receiver records itself what it tries again.
            calls = None if retries and handling.receiver is not None else handling.calls
            recorder = QuarantineRecorder(calls, handling.key_of, self._client._api.now)

            def begin_end(alone: bool) -> float:
                inner = opened.inner if isinstance(opened, Repeating) else opened
                if isinstance(inner, (Shared, ReceiverTarget)):
                    inner.patience, inner.alone = PATIENCE, alone
                return 0.0 if alone else PATIENCE

            engine = Engine(
                source,
                target=target,
                recorder=recorder,
                settings=settings,
                note_hint=note_hint,
                begin_end=begin_end,
            )
        self._engine = engine
        if self._stopping.is_set():
            engine.stop()
        return attrs.evolve(await engine.run(progress, plan), again=handling.again)

    def _settings_of(self, *, retries: bool) -> RunSettings:
        receiver, settings = self._handling.receiver, self._settings
        if receiver is not None:  # it has limits of its own, and one of them may be longer
            longest = receiver._dispatcher.longest_timeout
            settings = attrs.evolve(settings, target_timeout=max(settings.target_timeout, longest))
        limit = None if retries else self._where.limit
        return attrs.evolve(settings, limit=limit, tries_once=retries)

    # --- pages that several processes share ---

    def _make_pages(self) -> Pages:
        target = self._handling.value
        job = [target._job] if isinstance(target, HttpTarget) else []
        job += [] if self._handling.again is None else ["again", self._handling.again]
        return Pages(
            PageJob(
                seal=self._client._seal("basiq page", "the page"),
                name=json.dumps([self._source, self._webhook_id, self._filter, *job]),
                concurrency=self._settings.concurrency,
                begin=lambda: self._patiently(self._begin_page),
                read=self._read_for_page,
                known=lambda keys: self._ask(self._known, keys),
                accepts_type=self._handling.accepts_type,
                make_attempts=self._make_attempts,
            )
        )

    async def _begin_page(self) -> None:
        if self._handling.inbox is None:
            raise ConfigurationError(
                "the target is its own record, which one process writes. Reading the list is the limit there, so run() "
                "in one process is as fast; several lists, such as one for each filter, are several runs"
            )
        if type(self._handling.inbox) is MemoryInbox:
            raise ConfigurationError("no other process can see a MemoryInbox: pass an inbox that all of them reach")
        if self._where.limit is not None:
            raise ConfigurationError("limit() counts the messages of one run: it cannot be shared")
        if self._handling.receiver is not None:
            await self._handling.receiver._secrets.begin()
        await self._look_at_inbox(cast(InboxCalls, self._handling.calls))
        self._may_found = True

    async def _read_for_page(self) -> Reading[Message]:
        return (await self._open_source(counts_only=True))[0]

    def _make_attempts(self) -> Attempts:
        target, settings = self._handling.open(), self._settings_of(retries=False)
        if self._observer is not None:
            target = self._observer.wrap(target)
            self._observer.begin(self._source)
        return make_attempts(target, settings)

    async def _count_quarantined(self) -> int:
        return await cast(InboxCalls, self._handling.calls).count_quarantined(self._handling.job)

    @asynccontextmanager
    async def _one_run(self, check: Callable[[], Awaitable[None]] | None = None) -> AsyncIterator[None]:
        """Allow one run of this object at a time, and one writer of a file.

        ``check`` is awaited before anything is noted.
        """
        if self._running:
            raise ReplayError("this replay is running already: one object does one run at a time")
        self._running, self._stopping = True, asyncio.Event()
        try:
            handling = self._handling
            async with AsyncExitStack() as stack:
                if handling.receiver is not None:
                    await handling.receiver._secrets.begin()
                if self._file is not None:
                    stack.push_async_callback(run_to_completion, partial(self._limit_file, self._file.aclose, "end"))
                    await self._limit_file(self._file._begin_run, "begin")
                if handling.calls is not None:
                    await self._look_at_inbox(handling.calls)
                    if check is not None:
                        await check()
                yield
        finally:
            self._running = self._may_found = False
            self._engine = None

    async def _look_at_inbox(self, calls: InboxCalls) -> None:
        """Raise ``ConfigurationError`` for an inbox of others, and for that of a service which would not get the posts.

        The keys of posts may be those of several webhooks.
        """
        target, own = self._handling.value, self._own_webhooks
        if isinstance(target, HttpTarget):
            self._noted = await calls.noted()
            self._is_of_service = await check_place(self._client, self._noted, self._webhook_id, target)
        elif own:
            self._noted = await calls.look(own)

    async def _found(self, calls: InboxCalls) -> None:
        """Note the webhook in an empty inbox, and join those of the receiver's list: Basiq has shown its messages.

        Whether the inbox has live deliveries, only a receiver says.
        """
        own, account = self._own_webhooks, self._client._api.account
        if self._handling.job is not None:
            await calls.note_job(self._handling.job)
            own = () if self._noted.webhooks else own
        if own and not (self._noted.is_of(account) and all(each in self._noted.webhooks for each in own)):
            self._noted = await calls.admit(own, names=self._names, account=account)

    async def _known(self, keys: Sequence[str]) -> Collection[str]:
        """Return those of the keys of a page that need not be handed out. Before the first page is, see ``_found``."""
        if self._may_found and self._handling.calls is not None:
            await self._found(self._handling.calls)
            self._may_found = False
        return await self._handling.known(keys)

    @property
    def _own_webhooks(self) -> Sequence[str]:
        """The webhooks of the service; none for a receiver in memory without an id."""
        receiver = self._handling.receiver
        return [self._webhook_id] if receiver is None else receiver.webhook_ids

    async def _limit_file(self, call: Callable[[], Any], what: str) -> None:
        seconds = self._settings.record_timeout
        async with limit(seconds, ReplayError(f"the target did not {what} its run within {seconds:g} s")):
            await call()

    # --- what is read ---

    @property
    def _raw_items(self) -> bool:
        """Whether a run hands pages to the target as Basiq sent them: nothing has to look at each message."""
        plain = self._observer is None and self._settings.rate is None and self._source == "messages"
        return plain and self._where._predicate is everything and self._file is not None

    async def _open_source(self, *, counts_only: bool = False) -> tuple[Reading[Message], Callable[[str], Any] | None]:
        """Return what to read, and the function that notes a hint for the next run, if there can be one."""
        handling, record = self._handling, self._handling.record
        receiver, wanted = handling.receiver, None
        await self._read_memory(self._source)
        if self._source == "events" and receiver is None:
            webhook = await self._client.webhooks.get(self._webhook_id)
            wanted = frozenset(webhook.subscribed_events)
            if self._memory is not None:
                self._memory.wants = wanted.__contains__
        hint = selection = note_hint = None
        if self._where._steady and not counts_only:
            job = [each for each in (handling.job, handling.again) if each]
            name = f"reading {json.dumps([self._source, self._webhook_id, *job])}"
            types = None if wanted is None else sorted(wanted)
            patterns = None if receiver is None else sorted(receiver.patterns)
            selection = json.dumps([self._source, self._filter, types, patterns, self._where.description])
            hints = ListHints(record, name, self._filter, self._ask)
            hint, note_hint = await hints.read(), hints.keep
        events = self._source == "events"
        key_of: Callable[[Any], str] | None
        key_of = event_key if events else message_key
        if handling.inbox is None:  # it knows plain ids
            key_of = _event_id if events else None
        accepts_type = (handling.accepts_type if wanted is None else wanted.__contains__) or (lambda _: True)
        convert = convert_events(self._webhook_id, accepts_type) if events else None
        options = {"convert": convert, "hint": hint, "selection": selection}
        raw_items = self._raw_items and not counts_only
        return self._read(self._source, key_of, **options, raw_items=raw_items), note_hint

    def _read(self, source: Source, key_of: Callable[[Any], str] | None, **options: Any) -> Reading[Message]:
        """Return a reading of one of the two lists."""
        listing: Any
        if source == "events":
            listing = open_events(self._client, self._filter)
        else:
            listing = self._client.messages.list(self._webhook_id, filter=self._filter, on_unreadable=placeholder_for)
        selects = None if options.get("raw_items") else self._choose
        if (memory := self._memory) is not None:
            options["on_page"] = _both(memory.see, options.get("on_page"))
        if source == "messages" and selects is not None and self._where._predicate is not everything:
            options = {"details": self._make_details(), "judge": partial(self._judge, early=True), **options}
        return Reading(
            listing,
            known=lambda keys: self._ask(self._known, keys),
            key_of=key_of,
            now=self._client._api.now,
            choose=selects,
            **options,
        )

    def _choose(self, message: Message) -> tuple[bool | None, Exception | None]:
        """Return what ``choose`` does; but what has no handler is not asked for: the target says so."""
        if self._memory is not None and self._memory.is_decided(message):
            self._memory.skipped += 1
            return False, None
        found, error = choose(self._where, message)
        return found if found is not None or self._has_handler(message) else True, error

    def _judge(self, message: Message, *, early: bool) -> bool | None:
        found, _ = choose(self._where, message, early=early)
        return found if found is not None or self._has_handler(message) else True

    async def _read_memory(self, kind: Kind, *, applies: bool = True) -> None:
        """Read what earlier runs decided. ``applies``: whether the run leaves that out."""
        handling, noted = self._handling, self._noted.webhooks.get(self._webhook_id)
        self._memory = None
        if handling.calls is not None and handling.again is None:
            self._memory = await read_memory(
                handling.calls,
                self._webhook_id,
                kind=kind,
                job=handling.job,
                live_since=None if noted is None or handling.job else noted.since,
                accepts_type=handling.accepts_type,
                ask=self._ask,
            )
            self._memory.applies = applies

    def _count_decided(self, report: Report) -> Report:
        """Count apart what was left out because it was decided before."""
        if self._memory is None or not (count := self._memory.skipped):
            return report
        self._memory.skipped = 0
        logger.info("%d messages are older than the inbox remembers, and were decided by earlier runs", count)
        skipped = {**report.skipped, "where": report.skipped.get("where", 0) - count, DECIDED: count}
        return attrs.evolve(report, skipped={word: number for word, number in skipped.items() if number})

    async def _note_decided(self, source: Reading[Message], report: Report) -> None:
        """Note up to when all was decided, if this run left nothing and selected everything."""
        selects = self._filter is not None or self._where._predicate is not everything or self._where.limit is not None
        if self._memory is not None and report.finished and not selects and source.began is not None:
            await self._memory.note(None, source.began)

    def _has_handler(self, message: Message) -> bool:
        accepts_type = self._handling.accepts_type
        return accepts_type is None or accepts_type(message.event_type_id or "")

    def _make_details(self) -> Details:
        """Return what reads messages by their ids. An inbox remembers what they told; a file is no place for that."""
        if self._handling.inbox is None:
            return Details(self._client._api, self._webhook_id)
        record = self._handling.record

        async def set_note(name: str, text: str) -> None:
            await self._ask(record.set_note, name, text)

        return Details(
            self._client._api,
            self._webhook_id,
            note=lambda name: self._ask(record.note, name),
            set_note=set_note,
            is_noting=self._running or self._pages.calls > 0,
        )

    async def _ask(self, call: Callable[[*Arguments], Awaitable[T]], *arguments: *Arguments) -> T:
        """Call the record. A run waits while it is away, at most ``max_pause`` seconds, as it does for a claim."""
        seconds, slow = CALL, cast(Callable[[float], Exception], inbox_is_slow)
        if self._handling.inbox is None:  # such a record may have to read all that it has
            seconds, slow = self._settings.record_timeout, _record_is_slow

        async def ask() -> T:
            async with limit(seconds, partial(slow, seconds)):
                return await call(*arguments)

        return await self._patiently(ask)

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        loop, pause = asyncio.get_running_loop(), FIRST_PAUSE
        until = loop.time() + self._settings.max_pause
        while True:
            try:
                return await call()
            except Exception as exc:
                left = until - loop.time()
                if not (self._running or self._pages.calls) or left <= 0 or not is_outage(exc):
                    raise
                logger.warning(
                    "the record does not respond (%s): the replay asks it again", printable(reason_text(exc))
                )
                if await wait_for_event(self._stopping, min(pause, left)):
                    raise
            pause = min(2 * pause, LONGEST_PAUSE)


OnPage = Callable[[Sequence[Any], Sequence[datetime | None]], object]


def _both(first: OnPage, second: OnPage | None) -> OnPage:
    def see(items: Sequence[Any], times: Sequence[datetime | None]) -> None:
        first(items, times)
        if second is not None:
            second(items, times)

    return see


def _record_is_slow(seconds: float) -> Exception:
    return ReplayError(f"the target's record did not respond within {seconds:g} s")


def _event_id(item: Any) -> str:
    return message_id_of(plain_id(as_object(item)))


async def _as_messages(pages: AsyncGenerator[Sequence[StoredDelivery]]) -> AsyncGenerator[Sequence[Message]]:
    async with aclosing(pages):
        async for page in pages:
            yield [message_of_entry(each) for each in page]


def _check_ids(ids: Iterable[str]) -> frozenset[str]:
    if isinstance(ids, (str, bytes)):
        raise ConfigurationError("ids must be a list of the ids of messages")
    return frozenset(ids)
