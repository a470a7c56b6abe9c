"""Replay the message history of a webhook into a target: what the record does not know is passed to the handler."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing

import attrs

from .._arguments import Duration, check_whole
from .._storage.exports import export_entries
from .._work.protocol import Inbox, InboxEntry
from .._work.tasks import run_cancel_once
from ..client import BasiqClient
from ..errors import ConfigurationError
from ..filters import Filter
from ..hooks import call_hook
from ..models import Message
from ._history import History
from ._job import Job
from ._pages import Pages
from ._quarantine import message_of_entry
from ._report import OnProgress, Plan, Report, make_plan
from ._service import accepted, count_at_service, count_held, count_quarantined, end_known_entries
from ._sources import FixedMessages, Source
from ._tally import OnError
from ._where import Predicate, Where
from .targets._adapters import AnyTarget
from .targets._base import HANDLED_BEFORE


class Replay:
    """Hands the messages of a webhook's history to a target: those that the record does not know.

    .. code-block:: python

        await Replay(basiq, webhook_id, receiver).run()                              # the receiver's inbox
        await Replay(basiq, webhook_id, handle, inbox=inbox).run()                   # shared with the live service
        await Replay(basiq, webhook_id, handle, inbox=SQLiteInbox("job.db")).run()   # an inbox of the job's own
        await Replay(basiq, webhook_id, JSONLinesTarget("history.jsonl")).run()      # the file is the record

    After a crash at any moment, run the same again: what was recorded is not repeated, and the rest is passed to the
    handler. ``docs/guarantees.md`` has each case, and what holds for which record.

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
    concurrency: maximum number of messages that are passed to the handler and not recorded yet; 32 by default.
    rate: maximum messages a second, evenly spaced; None for as fast as possible.
    on_error: for a message that the target does not accept: "quarantine" quarantines it in the inbox for
        ``retry_quarantined``, "skip" only counts it, and "stop" ends the job before it. A target that is its own record
        has no quarantine: there a message that fails is only counted, and each run tries it again.
    max_failures: the number of failures in a row that ends the job, in front of them; None for never.
    max_pause: maximum seconds to wait for a target that is down, or that asks for a pause with ``retry_after``. A
        longer outage or pause ends the job. In an outage, nothing is quarantined.
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
        self._job = Job(
            client,
            webhook_id,
            target,
            inbox=inbox,
            source=source,
            filter=filter,
            where=where,
            concurrency=concurrency,
            rate=rate,
            on_error=on_error,
            max_failures=max_failures,
            max_pause=max_pause,
            again=again,
        )
        self._history = History(self._job)
        self._pages = Pages(self._job, self._history)

    @property
    def running(self) -> bool:
        """Whether a run is under way."""
        return self._job.running

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
        job, handling, left, waiting = self._job, self._job.handling, 0, 0
        if handling.calls is not None:
            await job.admission.look(handling.calls)
            waiting, left = (await handling.calls.count_waiting()).count, await job.count_quarantined()
        source, _ = await self._history.open(counts_only=True)
        plan = await make_plan(source, job.where.limit, accepts_type=handling.accepts_type)
        return attrs.evolve(plan, quarantined=left, waiting=waiting)

    async def quarantined(self, *, after: InboxEntry | None = None, limit: int = 100) -> Sequence[InboxEntry]:
        """Return the webhook's oldest ``limit`` entries of the quarantine, or the next ones after ``after``."""
        check_whole("limit", limit, least=1)
        calls, job = self._job.handling.calls, self._job.handling.job
        return () if calls is None else await calls.first_quarantined(limit, job, after=after)

    async def drop_quarantined(self, ids: Iterable[str]) -> int:
        """Remove messages from the quarantine, by the ids of messages or events; they count as handled.

        Return the number removed. Raises ``InboxError`` also for a message that another worker is handling.
        """
        calls, wanted = self._job.handling.calls, _check_ids(ids)
        if calls is None:
            return 0
        await self._job.admission.look(calls)
        return await calls.drop_ids(wanted, self._job.handling.job)

    async def export_quarantined(self, path: str | os.PathLike[str]) -> int:
        """Write the webhook's entries of the quarantine to a new file, a line of JSON each. Return their number.

        They stay in the quarantine. Only the file's owner can read it. Raises ``ConfigurationError`` if the file
        exists, and ``ReplayError`` if it cannot be written.
        """
        calls, job = self._job.handling.calls, self._job.handling.job
        return await export_entries(None if calls is None else calls.read_quarantine(job), path)

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
        self._job.stop()

    # --- a run ---

    async def _run(self, progress: OnProgress | None, plan: Plan | None) -> Report:
        job, history, handling = self._job, self._history, self._job.handling
        async with job.one_run():
            source, note_resume_point = await history.open()
            report = await job.pass_to_handler(
                source, progress, plan, raw_items=source.raw_items, note_resume_point=note_resume_point
            )
            report = history.count_decided(report)
            await history.note_decided(source, report)
            await source.forget_details(filtered=job.filter is not None)
            if handling.again is not None:
                return count_held(report)
            known = report.skipped.get(HANDLED_BEFORE, 0) + (accepted(report) if handling.job else 0)
            left = count_quarantined(report) if handling.job else report
            if known and (found := await count_at_service(handling, left, known)) is not None:
                left = found
            if left != report and progress is not None:
                call_hook(progress, left)
            return left

    async def _retry(self, progress: OnProgress | None, ids: frozenset[str] | None) -> Report:
        handling, calls = self._job.handling, self._job.handling.calls
        if calls is None:
            raise ConfigurationError("a target that is its own record has no quarantine")
        async with self._job.one_run():
            await end_known_entries(handling)
            source = FixedMessages(_as_messages(calls.read_pages(handling.job, ids=ids)))
            report = await self._job.pass_to_handler(source, progress, retries=True)
            return count_quarantined(report) if handling.job else report


async def _as_messages(pages: AsyncGenerator[Sequence[InboxEntry]]) -> AsyncGenerator[Sequence[Message]]:
    async with aclosing(pages):
        async for page in pages:
            yield [message_of_entry(each) for each in page]


def _check_ids(ids: Iterable[str]) -> frozenset[str]:
    if isinstance(ids, (str, bytes)):
        raise ConfigurationError("ids must be a list of the ids of messages")
    return frozenset(ids)
