"""Hand out the messages of a segment while its lease lasts, and record how each ended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar

import attrs

from ..errors import RecordError
from ..models import Message
from ..replay.shared import BUSY, HANDLED_BEFORE, BulkTarget, Finished, QuarantinedMessage, key_of, make_entry
from ._lease import Lease, clock
from ._record import Record
from ._record_types import (
    Heartbeat,
    JobEntry,
    JobSpec,
    LeaseLostError,
    ListSpec,
    Outcome,
    SegmentClaim,
    is_retry,
)
from ._work import Work

_TICKET = 0.05
_MOST_TICKETS = 100
"""How often a ticket of the job's limit is asked for, ``_TICKET`` seconds apart, until others settled theirs."""


@attrs.define(eq=False)
class HeldSegment:
    """A segment that this process has claimed."""

    record: Record
    spec: JobSpec
    name: str
    lease: Lease
    work: Work
    claim: SegmentClaim
    stopping: bool = False
    """Whether no more messages are begun."""

    @property
    def is_retry(self) -> bool:
        """Whether it retries entries of the quarantine, in place of messages from Basiq."""
        return is_retry(self.name)

    @property
    def list(self) -> ListSpec:
        """The list of which it is a page; the first one for the quarantine."""
        return self.spec.lists[0 if self.is_retry else int(self.name.partition(".")[0])]

    @property
    def owner(self) -> tuple[str, str, str]:
        """The job's key, the segment and the token, with which the record is asked."""
        return self.spec.key, self.name, self.lease.token

    @property
    def entry_job(self) -> str:
        """What the seal of an entry covers of the job."""
        return json.dumps([self.spec.key, self.spec.name])


@attrs.define(eq=False)
class LeasedTarget:
    """Delivers messages while the lease lasts, each to its webhook's target: an inbox has other keys for each webhook.

    known: the ids of messages that the target has already.
    limit: the job's limit, of which each message takes a ticket; None for no limit.
    tickets: the messages that have one.
    patience: seconds to wait for another worker that holds a message.
    """

    held: HeldSegment
    known: Collection[str] = ()
    limit: int | None = None
    tickets: set[str] = attrs.field(factory=set)
    patience: float = 0.0
    _targets: dict[str, Any] = attrs.field(factory=dict)

    async def deliver(self, message: Message) -> str | None:
        """See ``Target``. Raises ``LeaseLostError`` once the lease may have run out, or the job's limit is used up."""
        held = self.held
        if clock() >= held.lease.until:
            raise LeaseLostError("the lease of the segment ran out while this process was stopped or busy")
        if message.id in self.known:
            return HANDLED_BEFORE
        if self.limit is not None and not await self._take_ticket(message.id, self.limit):
            return BUSY
        entry = message.entry if isinstance(message, QuarantinedMessage) else None
        webhook_id = entry.webhook_id if isinstance(entry, JobEntry) else held.list.webhook_id
        if webhook_id not in self._targets:
            self._targets[webhook_id] = held.work.open_target(webhook_id, lease=held.lease.seconds)
        target = self._targets[webhook_id]
        if hasattr(target, "patience"):
            target.patience = self.patience
        reason: str | None = await target.deliver(message)
        return reason

    async def _take_ticket(self, id: str, limit: int) -> bool:
        for _ in range(_MOST_TICKETS):
            if id in self.tickets or self.held.stopping:
                break
            if await self.held.record.take_ticket(*self.held.owner, id, limit=limit):
                self.tickets.add(id)
            else:
                await asyncio.sleep(_TICKET)
        return id in self.tickets


@attrs.define(eq=False)
class SegmentRecorder:
    """Records the finished messages of a segment in the fleet's record. See ``Recorder``.

    apply: called with the job's state. log: what finished since the claim. recorded: how much of it is recorded.
    """

    held: HeldSegment
    target: LeasedTarget
    apply: Callable[[Heartbeat], object]
    log: list[Outcome] = attrs.field(factory=list)
    recorded: int = 0
    in_batches: ClassVar[bool] = True

    async def record(self, finished: Sequence[Finished]) -> None:
        """See ``Recorder``."""
        held, base = self.held, len(self.held.claim.done)
        if isinstance(target := held.work.own_target, BulkTarget):
            await target.flush()
        self.log[self.recorded :] = [self._outcome(each) for each in finished]
        while self.recorded < len(self.log):
            asked_at = clock()
            found = await held.record.save(
                *held.owner,
                self.log[self.recorded :],
                before=base + self.recorded,
                lease=held.lease.seconds,
                max_failures=held.work.max_failures,
                tickets=self.target.tickets,
            )
            if isinstance(found, Heartbeat):
                self.recorded = len(self.log)
                held.lease.prolong(asked_at)
                self.apply(found)
            else:  # an earlier call came through after all, or the store lost some
                self.recorded = found - base
                if not 0 <= self.recorded <= len(self.log):
                    raise RecordError(f"another program changed segment {held.name} of the job {held.spec.key!r}")

    def _outcome(self, finished: Finished) -> Outcome:
        id, reason = finished.message.id, finished.reason
        if finished.error is None:
            return Outcome(id, "handled" if reason is None else f"skipped:{reason}")
        entry = self._entry(finished.message, finished.error) if self.held.work.on_error != "skip" else None
        return Outcome(id, "failed", entry)

    def _entry(self, message: Message, error: str) -> JobEntry:
        held, client = self.held, self.held.work.client
        if isinstance(message, QuarantinedMessage) and isinstance(message.entry, JobEntry):
            failures = message.entry.failures + 1
            entry = attrs.evolve(message.entry, error=error, failures=failures, quarantined_at=client._now())
        else:
            webhook_id = held.list.webhook_id
            key = key_of(message, held.work.handling.webhook_id or webhook_id)
            fields = attrs.asdict(make_entry(message, key, error, now=client._now()), recurse=False)
            entry = JobEntry(**fields, job=held.entry_job, webhook_id=webhook_id)
        return attrs.evolve(entry, seal=client._seal("basiq fleet").seal(*entry.sealed_parts()))
