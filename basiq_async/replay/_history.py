"""What a job reads of the history: which list, what of it is selected, and what earlier runs decided."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import attrs

from .._work.places import MOST_RESUME_POINTS, Places, job_places
from ..models import Message
from ..services.details import Details
from ._job import Job
from ._memory import DECIDED, FORGOTTEN, Memory, MemoryKind, note_name, read_periods
from ._reading import Reading
from ._report import Report
from ._sources import (
    Source,
    UnreadableMessage,
    as_object,
    convert_events,
    event_key,
    message_id_of,
    message_key,
    open_events,
    placeholder_for,
    plain_id,
)
from ._where import choose, is_steady

logger = logging.getLogger("basiq_async.replay")


class History:
    """Both lists of a webhook, as a job reads them.

    memory: what earlier runs decided; None for a job that is its own record, and for one that handles again.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self.memory: Memory | None = None

    async def open(self, *, counts_only: bool = False) -> tuple[Reading[Message], Callable[[str], Any] | None]:
        """Return what to read, and the function that notes a resume point for the next run, if there can be one."""
        job, handling = self._job, self._job.handling
        receiver, wanted = handling.receiver, None
        is_new = handling.calls is not None and job.admission.is_new
        await self.read_memory(job.source)
        if job.source == "events" and receiver is None:
            webhook = await job.client.webhooks.get(job.webhook_id)
            wanted = frozenset(webhook.subscribed_events) or None  # one that names no types gets all
            if self.memory is not None and wanted is not None:
                self.memory.wants = wanted.__contains__
        resume_point = selection = note_resume_point = None
        if is_steady(job.where) and not counts_only:
            jobs = filter(None, (handling.job, handling.again))
            name = f"reading {json.dumps([job.source, job.webhook_id, *jobs])}"
            types = None if wanted is None else sorted(wanted)
            patterns = None if receiver is None else sorted(receiver.patterns)
            selection = json.dumps([job.source, job.filter, types, patterns, job.where.description])
            record = handling.record
            places = Places(
                lambda note: job.ask(record.note, note), record.set_note, "reading", MOST_RESUME_POINTS, job.api.now
            )
            whose = f"{name} {job.filter or ''}"  # of several, the one that was not used for longest loses its place
            resume_point = None if is_new else (await places.read(whose)).text
            note_resume_point = partial(places.write, owner=whose)
        events = job.source == "events"
        key_of: Callable[[Any], str] | None
        key_of = event_key if events else message_key
        if handling.inbox is None:  # it knows plain ids
            key_of = _event_id if events else None
        accepts_type = (handling.accepts_type if wanted is None else wanted.__contains__) or (lambda _: True)
        convert = convert_events(job.webhook_id, accepts_type) if events else None
        options = {"convert": convert, "resume_point": resume_point, "selection": selection}
        raw_items = job.file is not None and job.takes_pages and not counts_only and not events
        return self.read(job.source, key_of, **options, raw_items=raw_items), note_resume_point

    def read(self, source: Source, key_of: Callable[[Any], str] | None, **options: Any) -> Reading[Message]:
        """Return a reading of one of the two lists."""
        job = self._job
        listing: Any
        if source == "events":
            listing = open_events(job.client, job.filter)
        else:
            listing = job.client.messages.list(job.webhook_id, filter=job.filter, on_unreadable=placeholder_for)
        selects = None if options.get("raw_items") else self._choose
        if (memory := self.memory) is not None:
            former = options.get("on_page")
            options["on_page"] = memory.see if former is None else _both(memory.see, former)
        is_judged = not job.selects_everything or (memory is not None and memory.may_be_decided)
        if source == "messages" and selects is not None and is_judged and "details" not in options:
            options = {"details": self.make_details(), "judge": self._judge_listed, **options}
        return Reading(listing, known=job.known, key_of=key_of, now=job.api.now, choose=selects, **options)

    # --- what is selected ---

    def _choose(self, message: Message) -> tuple[bool | None, Exception | None]:
        """Return what ``choose`` does; but what has no handler is not asked for: the target says so."""
        memory = self.memory
        found: bool | None = True
        error: Exception | None = None
        if memory is not None and memory.is_decided(message):
            memory.skipped += 1
            return False, None
        if not self._job.selects_everything or isinstance(message, UnreadableMessage):
            found, error = choose(self._job.where, message)
            if found is None and not self.has_handler(message):
                found = True
        if found and memory is not None and memory.gone_before is not None and memory.is_forgotten(message):
            memory.forgotten += 1
            return None, None
        return found, error

    def judge(self, message: Message, *, early: bool) -> bool | None:
        """Return whether a message is selected; None if it does not tell. ``early``: see ``choose``."""
        found, _ = choose(self._job.where, message, early=early)
        return found if found is not None or self.has_handler(message) else True

    def _judge_listed(self, message: Message) -> bool | None:
        """Return whether a message is selected and was not decided before; None if the list does not tell."""
        found = self._job.selects_everything or self.judge(message, early=True)
        return self.memory.judge(message) if found and self.memory is not None and self.memory.may_be_decided else found

    def has_handler(self, message: Message) -> bool:
        """Return whether the target has a handler for a message."""
        accepts_type = self._job.handling.accepts_type
        return accepts_type is None or accepts_type(message.event_type_id or "")

    def make_details(self) -> Details:
        """Return what reads messages by their ids. An inbox remembers what they told; a file is no place for that."""
        job, record = self._job, self._job.handling.record
        if job.handling.inbox is None:
            return Details(job.api, job.webhook_id)

        async def set_note(name: str, text: str) -> None:
            await job.ask(record.set_note, name, text)

        return Details(
            job.api,
            job.webhook_id,
            note=lambda name: job.ask(record.note, name),
            set_note=set_note,
            is_noting=job.under_way > 0,
        )

    # --- what earlier runs decided ---

    async def read_memory(self, kind: MemoryKind, *, applies: bool = True) -> None:
        """Read what earlier runs decided. ``applies``: whether the run leaves that out."""
        job, handling, calls = self._job, self._job.handling, self._job.handling.calls
        self.memory = None
        if calls is None or handling.again is not None:
            return
        noted = job.admission.noted.webhooks.get(job.webhook_id)
        live_since = None if noted is None or handling.job else noted.since
        set_note: Callable[[str], Awaitable[object]]
        text = gone_before = None
        if handling.job is None:
            name = note_name(job.webhook_id)
            set_note = partial(calls.set_note, name)
            text = None if job.admission.is_new else await job.ask(calls.inbox.note, name)
        else:
            places, whose = (
                job_places(calls, job.api.now),
                {"owner": f"{handling.job} {job.webhook_id}", "part": "decided"},
            )
            set_note = partial(places.write, **whose)
            if not job.admission.is_new:
                found = await job.ask(partial(places.read, **whose))
                text, gone_before = found.text, found.gone_before
        periods = read_periods(text)
        gone = periods.pop(FORGOTTEN, {}).get("")
        gone_before = gone_before if gone is None else gone[1]
        known_since = await job.ask(calls.inbox.known_since) if periods or live_since or gone_before else None
        self.memory = Memory(
            set_note, kind, periods, known_since, live_since, gone_before, handling.accepts_type, applies
        )

    def count_decided(self, report: Report) -> Report:
        """Return a report that counts apart what was left out because it was decided before, or may have been."""
        if (memory := self.memory) is None or not (memory.skipped or memory.forgotten):
            return report
        count, forgotten = memory.skipped, memory.forgotten
        memory.skipped = memory.forgotten = 0
        if count:
            logger.info("%d messages are older than the inbox remembers, and were decided by earlier runs", count)
        if forgotten:
            logger.warning(
                "%d messages were left out: the inbox remembers no longer than since %s, and the notes of this job may "
                "be gone, so that nothing tells whether it posted them. Select what is later, or pass another inbox",
                forgotten,
                memory.known_since,
            )
        words = {"where": -count, DECIDED: count, "unknown": -forgotten, FORGOTTEN: forgotten}
        skipped = {**report.skipped, **{word: report.skipped.get(word, 0) + more for word, more in words.items()}}
        return attrs.evolve(report, skipped={word: number for word, number in skipped.items() if number})

    async def note_decided(self, source: Reading[Message], report: Report) -> None:
        """Note up to when all was decided, if this run left nothing and selected everything."""
        job = self._job
        selects = job.filter is not None or not job.selects_everything or job.where.limit is not None
        if self.memory is not None and report.finished and not selects and source.began is not None:
            await self.memory.note(None, source.began)


OnPage = Callable[[Sequence[Any], Sequence[datetime | None]], object]


def _both(first: OnPage, second: OnPage) -> OnPage:
    def see(items: Sequence[Any], times: Sequence[datetime | None]) -> None:
        first(items, times)
        second(items, times)

    return see


def _event_id(item: Any) -> str:
    return message_id_of(plain_id(as_object(item)))
