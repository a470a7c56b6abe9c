"""The pages of a history, for any number of processes: each is a sealed text, and the inbox decides what is handled.

A page names a place in a list, and holds no message. Whoever works on it reads that page of the list, and passes to the
handler what the inbox does not know; each message is claimed by itself. So pages may be lost, doubled and worked on in
any order. Only successes are recorded: a last ordinary run passes what is left to the handler, and says what its
failures mean.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from functools import cached_property

import attrs

from .._redaction.text import printable, shorten
from .._wire.paging import is_lost
from .._work.failures import failure_text
from .._work.tasks import run_to_completion
from ..errors import APIError, ConfigurationError
from ..models import Message
from ..receiver import MemoryInbox
from ._history import History
from ._job import Job
from ._reading import Reading
from ._sources import Batch
from ._throttle import LONGEST_ERROR, Throttle, ends_run
from ._where import SUBMITTED
from .targets._base import ALONE, BUSY, STOPPED, Target

logger = logging.getLogger("basiq_async.replay")

_VERSION = 1
_MOST_FAILURES = 100
"""A page is left after so many failures in a row."""


@attrs.frozen
class PageToDo:
    """A page as it was listed. ``keys``: of the messages to pass to the handler, which the inbox did not know then.

    count: how many these are, with those that will fail at once. ``known``: how many the inbox knew.
    """

    text: str
    keys: Sequence[str]
    count: int
    known: int


class Pages:
    """Lists the pages of a replay, and works on them. Any number of calls may be under way at once.

    All pages of a process share one rate, one pause, and the places for ``concurrency`` messages.
    """

    def __init__(self, job: Job, history: History) -> None:
        handling = job.handling
        jobs = [each for each in (handling.job, handling.again and "again", handling.again) if each]
        self._job, self._history = job, history
        self._seal = job.client._seal("basiq page", "the page")
        self._name = json.dumps([job.source, job.webhook_id, job.filter, *jobs])
        """Of the list, and of what is done with it: pages of another one are refused."""
        self._places = asyncio.Semaphore(job.settings.concurrency)
        self._throttle: Throttle | None = None
        self._passing = 0
        """How many pages are passed to the handler now."""
        self._notes_deaths = AsyncExitStack()
        self._begins = asyncio.Lock()

    async def begin(self) -> None:
        """Check the inbox, as a run does before it reads. Raises ``ConfigurationError`` for a replay without pages."""
        await self._job.ask(self._begin, limited=False)

    async def _begin(self) -> None:
        job, calls = self._job, self._job.handling.calls
        if calls is None:
            raise ConfigurationError(
                "the target is its own record, which one process writes. Reading the list is the limit there, so run() "
                "in one process is as fast; several lists, such as one for each filter, are several runs"
            )
        if type(calls.inbox) is MemoryInbox:
            raise ConfigurationError("no other process can see a MemoryInbox: pass an inbox that all of them reach")
        if job.where.limit is not None:
            raise ConfigurationError("limit() counts the messages of one run: it cannot be shared")
        await job.begin_secrets()
        await job.admission.look(calls)
        job.admission.may_found = True

    async def _read(self) -> Reading[Message]:
        return (await self._history.open(counts_only=True))[0]

    async def listed(self) -> AsyncGenerator[PageToDo]:
        """Yield each page of the list, in its order. It ends early at a link that has expired."""
        moment = datetime.now(UTC)
        async with self._begun(), aclosing(await self._read()) as reading:
            url: str | None = reading.start
            seen: set[int] = set()
            while url is not None:
                known = reading.known_count
                try:
                    with _counted_from(moment):
                        page, batch = await reading.read_page(url, seen, ahead=True)
                except APIError as exc:
                    if not is_lost(exc) or url == reading.start:
                        raise
                    logger.info("a page of the list was refused: the last run reads the rest (%s)", exc)
                    return
                keys, link = [key for key, _ in self._to_do(batch)], reading.relative(url)
                text = self._seal.seal(_VERSION, self._name, link, moment.isoformat())
                count = len(keys) + len(batch.errors)
                yield PageToDo(text, keys, count, reading.known_count - known)
                if page.error is not None:
                    raise page.error
                seen.add(hash(url))
                url = page.next_url

    async def work(self, text: str) -> None:
        """Pass what the inbox does not know of a page to the handler. See ``Replay.work``."""
        link, moment = self._open(text)
        async with self._begun():
            async with aclosing(await self._read()) as reading:
                reading.note_no_details()
                try:
                    with _counted_from(moment):
                        _, batch = await reading.read_page(reading.absolute(link))
                except APIError as exc:
                    if not is_lost(exc):
                        raise
                    logger.info("a page was refused, and is left to the last run (%s)", exc)
                    return
                todo = self._to_do(batch)
            if not todo:
                return
            await self._pass_to_handler([message for _, message in todo])

    async def _pass_to_handler(self, messages: Sequence[Message]) -> None:
        """Pass all at once to the handler, as many as there are places. What another worker holds is left to it.

        Left is also what was under way when a process was killed: the last run passes it to the handler alone.
        """
        throttle = self._throttle = self._throttle or self._job.make_throttle(self._target)
        in_a_row, errors = 0, list[Exception]()

        async def deliver(message: Message) -> None:
            nonlocal in_a_row
            try:
                end = await throttle.deliver(message)
            finally:
                self._places.release()
            if not isinstance(end, Exception):
                in_a_row = in_a_row if end in (BUSY, ALONE, STOPPED) else 0
            elif ends_run(end):
                errors.append(end)
            else:
                in_a_row += 1
                why = printable(failure_text(end, longest=LONGEST_ERROR))
                logger.warning("message %r failed, and is left to the last run: %s", shorten(message.id), why)

        async with self._noting_deaths(), asyncio.TaskGroup() as group:
            for message in messages:
                await self._places.acquire()
                if errors or in_a_row >= _MOST_FAILURES:
                    self._places.release()
                    break
                group.create_task(deliver(message))
        if errors:
            raise errors[0]
        if in_a_row >= _MOST_FAILURES:
            logger.warning("%d messages in a row failed: the page is left to the last run", in_a_row)

    @asynccontextmanager
    async def _noting_deaths(self) -> AsyncIterator[None]:
        """Do what a run does, once for all pages that are under way."""
        async with self._begins:
            if not self._passing:
                await self._notes_deaths.enter_async_context(self._job.noting_deaths(self._target))
            self._passing += 1
        try:
            yield
        finally:
            await run_to_completion(self._leave)

    async def _leave(self) -> None:
        async with self._begins:
            self._passing -= 1
            if not self._passing:
                await self._notes_deaths.aclose()

    @cached_property
    def _target(self) -> Target:
        return self._job.handling.open()

    def _to_do(self, batch: Batch[Message]) -> list[tuple[str, Message]]:
        """Return what a page has for the handler, by key: not what fails at once, and what has no handler."""
        accepts, errors = self._job.handling.accepts_type, batch.errors
        return [
            (key, message)
            for place, (key, message) in enumerate(zip(batch.keys, batch.items, strict=True))
            if place not in errors and (accepts is None or accepts(message.event_type_id or ""))
        ]

    def _open(self, text: str) -> tuple[str, datetime]:
        """Return the link and the moment of a page. Raises ``ConfigurationError``."""
        version, *fields = self._seal.open(text)
        if version != _VERSION:
            raise ConfigurationError(f"the page is of version {version}, which this release does not know")
        name, link, moment = fields
        if name != self._name:
            raise ConfigurationError("the page is of another replay: another webhook, source, filter or endpoint")
        return link, datetime.fromisoformat(moment)

    @asynccontextmanager
    async def _begun(self) -> AsyncIterator[None]:
        self._job.under_way += 1
        try:
            await self.begin()
            yield
        finally:
            self._job.under_way -= 1


@contextmanager
def _counted_from(moment: datetime) -> Iterator[None]:
    """Count a ``timedelta`` of a selection back from this moment: it is that of the job, for all its workers."""
    token = SUBMITTED.set(moment)
    try:
        yield
    finally:
        SUBMITTED.reset(token)
