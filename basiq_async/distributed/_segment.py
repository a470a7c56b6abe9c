"""One segment of a job: read its page, hand out the messages while its lease lasts, and record how each ended."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from functools import cached_property, partial
from typing import Any

import attrs

from .._work.limits import limit
from .._work.tasks import cancelling
from ..errors import RecordError, ReplayError
from ..models import Message
from ..replay import Record as KnownRecord
from ..replay.shared import (
    BUSY,
    HANDLED_BEFORE,
    SUBMITTED,
    BulkTarget,
    Engine,
    Finished,
    FixedMessages,
    QuarantinedMessage,
    RetryTarget,
    as_where,
    key_of,
    make_entry,
    message_of_entry,
    plain_id,
)
from ._pages import list_pages, read_page
from ._rate_limiter import SegmentRate, SharedRateLimiter
from ._record import Record
from ._record_types import (
    Heartbeat,
    JobEntry,
    JobSpec,
    LeaseLostError,
    ListSpec,
    Outcome,
    SegmentClaim,
    SegmentPage,
    is_retry,
    new_token,
)
from ._work import Work

_KNOWN = 60.0
"""Limit, in seconds, of one question to a target that is its own record."""
_PATIENCE = 10.0
"""Seconds to wait, at the end of a page, for another worker that holds a message in an inbox. Then the segment is
released, and tried again."""
_PAGE = 250
"""Maximum number of entries of the quarantine that one segment retries."""
_TICKET = 0.05
_MOST_TICKETS = 100
"""How often a ticket of the job's limit is asked for, ``_TICKET`` seconds apart, until others settled theirs."""
_CLOCK: int | None = getattr(time, "CLOCK_BOOTTIME", None)

clock: Callable[[], float] = time.monotonic if _CLOCK is None else partial(time.clock_gettime, _CLOCK)
"""Monotonic seconds; on Linux they also count the time that the machine is suspended."""


@attrs.define
class Lease:
    """A worker's lease on a segment, with a unique token.

    It is counted from the moment before each request to the store, so it never ends later here than in the store.
    """

    seconds: float
    token: str = attrs.field(factory=new_token)
    until: float = float("-inf")
    """Until this moment of ``clock``, no other worker can own the segment."""

    def prolong(self, asked_at: float) -> None:
        """Prolong the lease, as the store did for a request that was made at ``asked_at``."""
        self.until = max(self.until, asked_at + self.seconds)

    def end(self) -> None:
        """End the lease at once: the segment has another owner."""
        self.until = float("-inf")


@attrs.define
class ActiveJob:
    """A job that this process works on, with its running segments by the tokens of their leases.

    Names would not do: a process that was suspended for longer than a lease may claim a segment again while its former
    run of that segment has not ended.
    """

    spec: JobSpec
    limiter: SharedRateLimiter
    spread_pause: Callable[[float], object]
    """Has all other workers of the job pause for so many seconds."""
    segments: dict[str, Segment] = attrs.field(factory=dict)
    _paused_until: float = 0.0

    def apply(self, heartbeat: Heartbeat) -> None:
        """Stop or pause the segments as the record says."""
        for segment in self.segments.values():
            if heartbeat.state != "running":
                segment.stop()
            elif heartbeat.paused:
                segment.pause(heartbeat.paused)

    def pause(self, seconds: float) -> None:
        """Pause all segments, in this process and in others: a target asked for it."""
        if clock() + seconds > self._paused_until + 0.05:
            self._paused_until = clock() + seconds
            for segment in self.segments.values():
                segment.pause(seconds)
            self.spread_pause(seconds)


@attrs.define
class Segment:
    """A claimed segment: it reads its page, records the next segment, and handles the messages.

    ``notify`` is called with the job's key and the name of the next segment, as soon as that is recorded.
    """

    record: Record
    job: ActiveJob
    name: str
    lease: Lease
    work: Work
    claim: SegmentClaim
    notify: Callable[[str, str], Awaitable[object]]
    stopping: bool = False
    """Whether no more messages are begun."""
    _reading: asyncio.Task[SegmentPage] | None = None
    _engine: Engine | None = None

    @cached_property
    def is_retry(self) -> bool:
        """Whether it retries entries of the quarantine, in place of messages from Basiq."""
        return is_retry(self.name)

    @cached_property
    def list(self) -> ListSpec:
        """The list of which it is a page, and not one of the quarantine."""
        return self.job.spec.lists[int(self.name.partition(".")[0])]

    @property
    def owner(self) -> tuple[str, str, str]:
        """The job's key, the segment and the token, with which the record is asked."""
        return self.job.spec.key, self.name, self.lease.token

    @property
    def entry_job(self) -> str:
        """What the seal of an entry covers of the job."""
        return json.dumps([self.job.spec.key, self.job.spec.name])

    def stop(self) -> None:
        """Begin no more messages. ``run`` returns when the messages under way are recorded."""
        self.stopping = True
        if self._reading is not None:
            self._reading.cancel()  # a page may take long
        if self._engine is not None:
            self._engine.stop()

    def pause(self, seconds: float) -> None:
        """Begin no messages for so many seconds: the target asked another segment or worker for a pause."""
        if self._engine is not None:
            self._engine.pause(seconds)

    async def run(self) -> bool:
        """Read the page, record the next segment, and handle the page. Return whether the segment is finished.

        Raises ``LeaseLostError`` if another worker owns the segment by now, and any error of reading or handling.
        """
        if self.stopping:
            return False
        self._reading = asyncio.create_task(self._read())
        try:
            page = await self._reading
        except asyncio.CancelledError:
            if cancelling():
                raise
            return False
        await self._record_page(page)
        done = set(self.claim.done)
        left = [message for message in page.messages if message.id not in done]
        if left and not await self._hand_out(left):
            return False
        while not await self.record.finish(*self.owner):
            await self._record_page(page)  # the store lost it
        return True

    async def _read(self) -> SegmentPage:
        if self.is_retry:
            return await self._read_quarantine()
        return await read_page(partial(list_pages, self.work.client, self.job.spec.source, self.list), self.claim)

    async def _record_page(self, page: SegmentPage) -> None:
        asked_at = clock()
        read = len({*self.claim.done, *(message.id for message in page.messages)})
        following = await self.record.record_page(*self.owner, page, read=read, lease=self.lease.seconds)
        self.lease.prolong(asked_at)
        if following is not None:
            await self.notify(self.job.spec.key, following)

    async def _read_quarantine(self) -> SegmentPage:
        claim, upto = self.claim, self.claim.upto or 0
        found = await self.record.quarantined(self.job.spec.key, after=int(claim.cursor or 0), limit=_PAGE)
        # The page ends as it did for a former owner, even if entries are gone: the next segment has the rest.
        last = int(claim.edge[-1]) if claim.edge else min(found[-1].number if found else upto, upto)
        return SegmentPage(
            messages=[
                message_of_entry(attrs.evolve(each, job=self.entry_job)) for each in found if each.number <= last
            ],
            next_cursor=str(last) if last < upto else None,
            edge=[str(last)],
        )

    # --- handling ---

    async def _hand_out(self, messages: Sequence[Message]) -> bool:
        """Hand out what is selected, and record it. Return whether nothing is left."""
        work, own, most = self.work, self.work._own_target, None
        SUBMITTED.set(self.job.spec.submitted_at)
        where = as_where(None)
        if not self.is_retry:
            where, most = await work._select(self.job.spec.source, self.list.webhook_id), work.where.limit
        leased = LeasedTarget(self, await self._known(messages), most)
        self._engine = engine = Engine(
            FixedMessages(_one_page(messages)),
            target=RetryTarget(leased, work.client._seal("basiq fleet"), None) if self.is_retry else leased,
            recorder=SegmentRecorder(self, leased, own.flush if isinstance(own, BulkTarget) else None),
            where=where,
            settings=attrs.evolve(work.settings, concurrency=min(work.settings.concurrency, len(messages))),
            limiter=SegmentRate(self.job.limiter),
            on_pause=self.job.pause,
            wait_for_others=leased.wait_for_others,
        )
        if self.stopping:
            engine.stop()
        if self.claim.paused:
            engine.pause(self.claim.paused)
        return (await engine.run()).finished

    async def _known(self, messages: Sequence[Message]) -> Collection[str]:
        """Return the ids of the messages that a target has which is its own record."""
        target = self.work._own_target
        if not isinstance(target, KnownRecord):
            return ()
        keys = {plain_id(message.raw): message.id for message in messages}
        async with limit(_KNOWN, ReplayError(f"the target did not say within {_KNOWN:g} s which messages it has")):
            return {keys[key] for key in await target.known(list(keys))}


async def _one_page(messages: Sequence[Message]) -> AsyncGenerator[Sequence[Message]]:
    yield messages


@attrs.define
class LeasedTarget:
    """Delivers messages while the lease lasts, each to its webhook's target: an inbox has other keys for each webhook.

    known: the ids of messages that the target has already.
    limit: the job's limit, of which each message takes a ticket; None for no limit.
    tickets: the messages that have one.
    """

    segment: Segment
    known: Collection[str] = ()
    limit: int | None = None
    tickets: set[str] = attrs.field(factory=set)
    _targets: dict[str, Any] = attrs.field(factory=dict)

    async def deliver(self, message: Message) -> str | None:
        """See ``Target``. Raises ``LeaseLostError`` once the lease may have run out, or the job's limit is used up."""
        segment = self.segment
        if clock() >= segment.lease.until:
            raise LeaseLostError("the lease of the segment ran out while this process was stopped or busy")
        if message.id in self.known:
            return HANDLED_BEFORE
        if self.limit is not None and not await self._take_ticket(message.id, self.limit):
            return BUSY
        entry = message.entry if isinstance(message, QuarantinedMessage) else None
        webhook_id = entry.webhook_id if isinstance(entry, JobEntry) else segment.list.webhook_id
        if webhook_id not in self._targets:
            self._targets[webhook_id] = segment.work._open_target(webhook_id, lease=segment.lease.seconds)
        reason: str | None = await self._targets[webhook_id].deliver(message)
        return reason

    def wait_for_others(self) -> None:
        """Have a message wait from now on that another worker holds in an inbox."""
        for target in self._targets.values():
            if hasattr(target, "patience"):
                target.patience = _PATIENCE

    async def _take_ticket(self, id: str, limit: int) -> bool:
        for _ in range(_MOST_TICKETS):
            if id in self.tickets or self.segment.stopping:
                break
            if await self.segment.record.take_ticket(*self.segment.owner, id, limit=limit):
                self.tickets.add(id)
            else:
                await asyncio.sleep(_TICKET)
        return id in self.tickets


@attrs.define
class SegmentRecorder:
    """Records the finished messages of a segment in the fleet's record. See ``Recorder``.

    log: what finished since the claim. recorded: how much of it is recorded.
    """

    segment: Segment
    target: LeasedTarget
    flush: Callable[[], Awaitable[None]] | None
    log: list[Outcome] = attrs.field(factory=list)
    recorded: int = 0
    in_batches: bool = True

    async def record(self, finished: Sequence[Finished]) -> None:
        """See ``Recorder``."""
        segment, base = self.segment, len(self.segment.claim.done)
        if self.flush is not None:
            await self.flush()
        self.log[self.recorded :] = [self._outcome(each) for each in finished]
        while self.recorded < len(self.log):
            asked_at = clock()
            found = await segment.record.save(
                *segment.owner,
                self.log[self.recorded :],
                before=base + self.recorded,
                lease=segment.lease.seconds,
                max_failures=segment.work.max_failures,
                tickets=self.target.tickets,
            )
            if isinstance(found, Heartbeat):
                self.recorded = len(self.log)
                segment.lease.prolong(asked_at)
                segment.job.apply(found)
            else:  # an earlier call came through after all, or the store lost some
                self.recorded = found - base
                if not 0 <= self.recorded <= len(self.log):
                    raise RecordError(
                        f"another program changed segment {segment.name} of the job {segment.job.spec.key!r}"
                    )

    def _outcome(self, finished: Finished) -> Outcome:
        id, reason = finished.message.id, finished.reason
        if finished.error is None:
            return Outcome(id, "handled" if reason is None else f"skipped:{reason}")
        entry = self._entry(finished.message, finished.error) if self.segment.work.on_error != "skip" else None
        return Outcome(id, "failed", entry)

    def _entry(self, message: Message, error: str) -> JobEntry:
        segment, client = self.segment, self.segment.work.client
        if isinstance(message, QuarantinedMessage) and isinstance(message.entry, JobEntry):
            failures = message.entry.failures + 1
            entry = attrs.evolve(message.entry, error=error, failures=failures, quarantined_at=client._now())
        else:
            webhook_id = segment.list.webhook_id
            key = key_of(message, segment.work.handling.webhook_id or webhook_id)
            fields = attrs.asdict(make_entry(message, key, error, now=client._now()), recurse=False)
            entry = JobEntry(**fields, job=segment.entry_job, webhook_id=webhook_id)
        return attrs.evolve(entry, seal=client._seal("basiq fleet").seal(*entry.sealed_parts()))
