"""One segment of a job: read its page, hand out the messages while its lease lasts, and record how each ended."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from functools import cached_property, partial
from typing import Any

import attrs

from .._work.limits import inbox_limit, limit
from .._work.tasks import cancelling
from ..errors import RecordError, ReplayError
from ..models import Message
from ..replay import Record
from ..replay.shared import (
    HANDLED_BEFORE,
    SUBMITTED,
    BulkTarget,
    Engine,
    Finished,
    FixedMessages,
    HandOut,
    QuarantinedMessage,
    RetryTarget,
    as_where,
    choose,
    key_of,
    make_entry,
    message_of_entry,
    plain_id,
)
from ._job import Notify
from ._job_store import JobStore
from ._pages import list_pages, read_page
from ._rate_limiter import SegmentRate, SharedRateLimiter
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

_CALL = 5.0
"""Limit, in seconds, of a call of an inbox."""
_KNOWN = 60.0
"""Limit, in seconds, of one question to a target that is its own record."""
_PATIENCE = 10.0
"""Seconds to wait, at the end of a page, for another worker that holds a message in an inbox. Then the segment is
released, and tried again."""
_PAGE = 250
"""Maximum number of entries of the quarantine that one segment retries."""
_CLOCK: int | None = getattr(time, "CLOCK_BOOTTIME", None)

clock: Callable[[], float] = time.monotonic if _CLOCK is None else partial(time.clock_gettime, _CLOCK)
"""Monotonic seconds; on Linux they also count the time that the machine is suspended."""


@attrs.define
class Lease:
    """A worker's lease on a segment, with a unique token.

    It is counted from the moment before each request to the store, so it never ends later here than in the store.

    until: before this moment of ``clock``, no other worker can own the segment.
    """

    seconds: float
    token: str = attrs.field(factory=new_token)
    until: float = float("-inf")

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

    spread_pause: records that the target asked for a pause of so many seconds. All segments of the job hear of it by
        the next heartbeat.
    """

    spec: JobSpec
    limiter: SharedRateLimiter
    spread_pause: Callable[[float], Any]
    segments: dict[str, Segment] = attrs.field(factory=dict)

    def apply(self, heartbeat: Heartbeat) -> None:
        """Stop or pause the segments as the record says."""
        for segment in self.segments.values():
            if heartbeat.state != "running":
                segment.stop()
            elif heartbeat.paused:
                segment.pause(heartbeat.paused)


@attrs.define
class Segment:
    """A claimed segment: it reads its page, records the next segment, and handles the messages.

    It is a ``Target``, which delivers each message while the lease lasts, to the target of the message's webhook: an
    inbox has other keys for each webhook. And it is the ``Recorder`` of what finished.

    notify: called with the job's key and the name of the next segment, in a list, as soon as that is recorded.
    stopping: whether no more messages are begun.
    known: the ids of the messages that the target has already. targets, handlings: those of each webhook.
    log: what finished since the claim. The first ``recorded`` of it are recorded.
    """

    in_batches = True
    _store: JobStore
    job: ActiveJob
    name: str
    lease: Lease
    work: Work
    claim: SegmentClaim
    notify: Notify
    stopping: bool = False
    _reading: asyncio.Task[SegmentPage] | None = None
    _engine: Engine | None = None
    _known: Collection[str] = ()
    _targets: dict[str, Any] = attrs.field(factory=dict)
    _handlings: dict[str, HandOut] = attrs.field(factory=dict)
    _log: list[Outcome] = attrs.field(factory=list)
    _recorded: int = 0

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
        self._reading = asyncio.create_task(self._read_quarantine() if is_retry(self.name) else self._read_list())
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
        await self._finish(page)
        return True

    async def _finish(self, page: SegmentPage) -> None:
        counts, left = self.work._asks_service, None
        while (ended := await self._store.finish(*self.owner, counts=counts, left=left)) != "finished":
            if ended == "unread":
                await self._record_page(page)  # the store lost it
            else:
                left = await self.work._count_at_service(self.job.spec)

    async def _read_list(self) -> SegmentPage:
        return await read_page(partial(list_pages, self.work.client, self.job.spec.source, self.list), self.claim)

    async def _record_page(self, page: SegmentPage) -> None:
        asked_at = clock()
        read = len({*self.claim.done, *(message.id for message in page.messages)})
        following = await self._store.record_page(*self.owner, page, read=read, lease=self.lease.seconds)
        self.lease.prolong(asked_at)
        if following is not None:
            await self.notify(self.job.spec.key, [following])

    async def _read_quarantine(self) -> SegmentPage:
        claim, upto = self.claim, self.claim.upto or 0
        found = await self._store.quarantined(self.job.spec.key, after=int(claim.cursor or 0), limit=_PAGE)
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
        work, where = self.work, as_where(None)
        SUBMITTED.set(self.job.spec.submitted_at)
        if not is_retry(self.name):
            where = await work._select(self.job.spec.source, self.list.webhook_id)
        await self._open_targets(messages)
        await self._ask_what_is_known(messages)
        self._engine = engine = Engine(
            FixedMessages(_one_page(messages), partial(choose, where)),
            target=RetryTarget(self, work.client._seal("basiq fleet"), None) if is_retry(self.name) else self,
            recorder=self,
            settings=attrs.evolve(work.settings, concurrency=min(work.settings.concurrency, len(messages))),
            limiter=SegmentRate(self.job.limiter),
            on_pause=self.job.spread_pause,
            allow_extra_seconds=self._allow_extra_seconds,
        )
        if self.stopping:
            engine.stop()
        if self.claim.paused:
            engine.pause(self.claim.paused)
        return (await engine.run()).finished

    async def _ask_what_is_known(self, messages: Sequence[Message]) -> None:
        """Ask which messages a target that is its own record has, or a service knows to which they are posted."""
        target = self.work._own_target
        if isinstance(target, Record):
            keys = {plain_id(message.raw): message.id for message in messages}
            slow = ReplayError(f"the target did not say within {_KNOWN:g} s which messages it has")
            async with limit(_KNOWN, slow):
                self._known = {keys[key] for key in await target.known(list(keys))}
        for webhook_id, handling in self._handlings.items():
            if self.work._asks_service:
                own = [message for message in messages if self._webhook_of(message) == webhook_id]
                keys = {key_of(message, handling.webhook_id): message.id for message in own}
                async with inbox_limit(_CALL):
                    self._known = {*self._known, *(keys[key] for key in await handling.known(list(keys)))}

    async def deliver(self, message: Message) -> str | None:
        """See ``Target``. Raises ``LeaseLostError`` once the lease may have run out."""
        if clock() >= self.lease.until:
            raise LeaseLostError("the lease of the segment ran out while this process was stopped or busy")
        if message.id in self._known:
            return HANDLED_BEFORE
        webhook_id = self._webhook_of(message)
        target = self._targets.get(webhook_id) or await self._open_target(webhook_id)
        reason: str | None = await target.deliver(message)
        return reason

    def _webhook_of(self, message: Message) -> str:
        entry = message.entry if isinstance(message, QuarantinedMessage) else None
        return entry.webhook_id if isinstance(entry, JobEntry) else self.list.webhook_id

    async def _open_targets(self, messages: Sequence[Message]) -> None:
        for webhook_id in {self._webhook_of(message) for message in messages}:
            await self._open_target(webhook_id)

    async def _open_target(self, webhook_id: str) -> Any:
        handling = await self.work._choose_hand_out(webhook_id, self.job.spec.identity)
        self._handlings[webhook_id] = handling
        return self._targets.setdefault(webhook_id, handling.open(timeout=_CALL, lease=self.lease.seconds))

    def _allow_extra_seconds(self) -> None:
        """Have a message wait from now on that another worker holds in an inbox."""
        for target in self._targets.values():
            if hasattr(target, "patience"):
                target.patience = _PATIENCE

    async def record(self, finished: Sequence[Finished]) -> None:
        """See ``Recorder``."""
        base, own = len(self.claim.done), self.work._own_target
        if isinstance(own, BulkTarget):
            await own.flush()
        self._log[self._recorded :] = [self._outcome(each) for each in finished]
        while self._recorded < len(self._log):
            asked_at = clock()
            found = await self._store.save(
                *self.owner,
                self._log[self._recorded :],
                before=base + self._recorded,
                lease=self.lease.seconds,
                max_failures=self.work.max_failures,
            )
            if isinstance(found, Heartbeat):
                self._recorded = len(self._log)
                self.lease.prolong(asked_at)
                self.job.apply(found)
            else:  # an earlier call came through after all, or the store lost some
                self._recorded = found - base
                if not 0 <= self._recorded <= len(self._log):
                    raise RecordError(f"another program changed segment {self.name} of the job {self.job.spec.key!r}")

    def _outcome(self, finished: Finished) -> Outcome:
        id, reason = finished.message.id, finished.reason
        if finished.error is None:
            return Outcome(id, "handled" if reason is None else f"skipped:{reason}")
        entry = self._entry(finished.message, finished.error) if self.work.on_error != "skip" else None
        return Outcome(id, "failed", entry)

    def _entry(self, message: Message, error: str) -> JobEntry:
        client = self.work.client
        if isinstance(message, QuarantinedMessage) and isinstance(message.entry, JobEntry):
            failures = message.entry.failures + 1
            entry = attrs.evolve(message.entry, error=error, failures=failures, quarantined_at=client._api.now())
        else:
            webhook_id = self.list.webhook_id
            key = key_of(message, self._handlings[webhook_id].webhook_id)
            fields = attrs.asdict(make_entry(message, key, error, now=client._api.now()), recurse=False)
            entry = JobEntry(**fields, job=self.entry_job, webhook_id=webhook_id)
        return attrs.evolve(entry, seal=client._seal("basiq fleet").seal(*entry.sealed_parts()))


async def _one_page(messages: Sequence[Message]) -> AsyncGenerator[Sequence[Message]]:
    yield messages
