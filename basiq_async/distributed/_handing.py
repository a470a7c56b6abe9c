"""Hand out the messages of a segment while its lease lasts, and record how each ended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection, Sequence
from typing import Any

import attrs

from ..errors import RecordError
from ..models import Message
from ..replay.shared import BUSY, HANDLED_BEFORE, BulkTarget, Finished, QuarantinedMessage, key_of, make_entry
from ._lease import Lease, clock
from ._record import Record
from ._record_types import Heartbeat, JobEntry, JobSpec, LeaseLostError, ListSpec, Outcome
from ._work import Work

_TICKET = 0.05
_MOST_TICKETS = 100
"""How often a ticket of the job's limit is asked for, ``_TICKET`` seconds apart, until others settled theirs."""


@attrs.frozen(eq=False)
class HeldSegment:
    """A segment that this process has claimed."""

    record: Record
    spec: JobSpec
    name: str
    lease: Lease
    work: Work

    @property
    def is_retry(self) -> bool:
        """Whether it retries entries of the quarantine, in place of messages from Basiq."""
        return self.name.startswith("q")

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

    def webhook_of(self, message: Message) -> str:
        """Return the webhook's id of a message."""
        entry = message.entry if isinstance(message, QuarantinedMessage) else None
        return entry.webhook_id if isinstance(entry, JobEntry) else self.list.webhook_id


class LeasedTarget:
    """Delivers messages while the lease lasts, each to its webhook's target: an inbox has other keys for each webhook.

    known: the ids of messages that the target has already.
    limit: the job's limit, of which each message takes a ticket; None for no limit.
    """

    def __init__(self, held: HeldSegment, known: Collection[str], limit: int | None) -> None:
        self._held = held
        self._known = known
        self._limit = limit
        self._targets: dict[str, Any] = {}
        self.tickets: set[str] = set()
        """The messages that have a ticket."""
        self.patience = 0.0
        """Seconds to wait for another worker that holds a message."""
        self.stopping = False

    async def deliver(self, message: Message) -> str | None:
        """See ``Target``. Raises ``LeaseLostError`` once the lease may have run out, or the job's limit is used up."""
        held = self._held
        if clock() >= held.lease.until:
            raise LeaseLostError("the lease of the segment ran out while this process was stopped or busy")
        if message.id in self._known:
            return HANDLED_BEFORE
        if self._limit is not None and not await self._take_ticket(message.id, self._limit):
            return BUSY
        webhook_id = held.webhook_of(message)
        if webhook_id not in self._targets:
            self._targets[webhook_id] = held.work.open_target(webhook_id, lease=held.lease.seconds)
        target = self._targets[webhook_id]
        if hasattr(target, "patience"):
            target.patience = self.patience
        reason: str | None = await target.deliver(message)
        return reason

    async def _take_ticket(self, id: str, limit: int) -> bool:
        for _ in range(_MOST_TICKETS):
            if id in self.tickets:
                return True
            if self.stopping:
                break
            if await self._held.record.take_ticket(*self._held.owner, id, limit=limit):
                self.tickets.add(id)
            else:
                await asyncio.sleep(_TICKET)
        return id in self.tickets


class SegmentRecorder:
    """Records the finished messages of a segment in the fleet's record. See ``Recorder``.

    recorded: the number of messages that former owners recorded. apply: called with the job's state.
    """

    in_batches = True

    def __init__(
        self, held: HeldSegment, recorded: int, tickets: Collection[str], apply: Callable[[Heartbeat], object]
    ) -> None:
        self._held = held
        self._base = recorded
        self._tickets = tickets
        self._apply = apply
        self._seal = held.work.client._seal("basiq fleet")
        self._log: list[Outcome] = []
        """What finished since the claim; the first ``_recorded`` of it are recorded."""
        self._recorded = 0

    async def record(self, finished: Sequence[Finished]) -> None:
        """See ``Recorder``."""
        held = self._held
        if isinstance(target := held.work.own_target, BulkTarget):
            await target.flush()
        self._log[self._recorded :] = [self._outcome(each) for each in finished]
        while self._recorded < len(self._log):
            asked_at = clock()
            found = await held.record.save(
                *held.owner,
                self._log[self._recorded :],
                before=self._base + self._recorded,
                lease=held.lease.seconds,
                max_failures=held.work.max_failures,
            )
            if isinstance(found, Heartbeat):
                self._recorded = len(self._log)
                held.lease.prolong(asked_at)
                self._apply(found)
            else:  # an earlier call came through after all, or the store lost some
                self._recorded = found - self._base
                if not 0 <= self._recorded <= len(self._log):
                    raise RecordError(f"another program changed segment {held.name} of the job {held.spec.key!r}")

    def _outcome(self, finished: Finished) -> Outcome:
        message, is_retry = finished.message, self._held.is_retry
        ticket = message.id in self._tickets
        if finished.error is None:
            reason = finished.reason
            gone = is_retry and reason in (None, HANDLED_BEFORE)
            return Outcome(message.id, "handled" if reason is None else f"skipped:{reason}", None, gone, ticket=ticket)
        if self._held.work.on_error == "skip":
            return Outcome(message.id, "failed", is_given_up=not is_retry, ticket=ticket)
        return Outcome(message.id, "failed", self._entry(message, finished.error), ticket=ticket)

    def _entry(self, message: Message, error: str) -> JobEntry:
        held, now = self._held, self._held.work.client._now()
        if isinstance(message, QuarantinedMessage) and isinstance(message.entry, JobEntry):
            failures = message.entry.failures + 1
            entry = attrs.evolve(message.entry, error=error, failures=failures, quarantined_at=now)
        else:
            webhook_id = held.list.webhook_id
            key = key_of(message, held.work.handling.webhook_id or webhook_id)
            fields = attrs.asdict(make_entry(message, key, error, now=now), recurse=False)
            entry = JobEntry(**fields, job=held.entry_job, webhook_id=webhook_id)
        return attrs.evolve(entry, seal=self._seal.seal(*entry.sealed_parts()))
