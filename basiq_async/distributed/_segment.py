"""One segment of a job: read its page, handle the messages, and record each step under the segment's lease."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import attrs

from ..errors import CheckpointError
from ..models import Message
from ..receiver import WebhookReceiver
from ..replay import DeadLetter, Report, Target, Where
from ..replay.protocol import Commit, State
from ..replay.shared import (
    SUBMITTED,
    DeadLedger,
    Engine,
    FixedMessages,
    HandledEvents,
    Predicate,
    as_message,
    as_target,
    choose,
    everything,
)
from ._pages import list_pages, read_page
from ._rate_limiter import SegmentRate, SharedRateLimiter
from ._record import Record
from ._record_types import (
    Heartbeat,
    JobSpec,
    LeaseLostError,
    ListSpec,
    Saving,
    SegmentClaim,
    SegmentPage,
    StoredDeadLetter,
    new_token,
    shorten,
)
from ._work import Work

logger = logging.getLogger("basiq_async.distributed")
_INBOX_TIMEOUT = 5.0
_PAGE = 250
"""Maximum number of dead letters that one segment retries."""
_CLOCK: int | None = getattr(time, "CLOCK_BOOTTIME", None)

clock: Callable[[], float] = time.monotonic if _CLOCK is None else partial(time.clock_gettime, _CLOCK)
"""Monotonic seconds; on Linux they also count the time that the machine is suspended."""


@attrs.define(eq=False)
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


@attrs.define(eq=False)
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


class Segment:
    """A claimed segment: it reads its page, records the next segment, and handles the messages.

    ``notify`` is called with the job's key and the name of the next segment, as soon as that is recorded.
    """

    def __init__(
        self,
        record: Record,
        job: ActiveJob,
        name: str,
        lease: Lease,
        claim: SegmentClaim,
        work: Work,
        notify: Callable[[str, str], Awaitable[object]],
    ) -> None:
        self.name = name
        self.lease = lease
        self._record = record
        self._job = job
        self._spec = job.spec
        self._claim = claim
        self._work = work
        self._notify = notify
        self._engine: Engine | None = None
        self._stopping = False
        self._seal = work.client._seal("basiq dead")
        self._retries = name.startswith("d")
        """Whether the segment retries dead letters, in place of messages from Basiq."""
        self._webhooks: dict[str, str] = {}
        """The webhook's id of each dead letter, by the message's id."""
        self._reasons: dict[str, str] = {}
        """Why messages were skipped, by their ids, until it is recorded."""
        self._recorded = list(claim.done)
        self._counts: Counter[str] = Counter()

    def stop(self) -> None:
        """Begin no more messages. ``run`` returns when the messages under way are recorded."""
        self._stopping = True
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
        spec = self._spec
        if self._retries:
            page = await self._read_dead_letters()
        else:
            page = await read_page(partial(list_pages, self._work.client, spec.source, self._list), self._claim)
        marks, fails = await self._choose(page.messages)
        page = attrs.evolve(page, marks=marks)
        quota = await self._record_page(page)
        done = set(self._claim.done)
        chosen = [message for message, each in zip(page.messages, marks, strict=True) if each != "0"][:quota]
        left = [message for message in chosen if message.id not in done]
        if left:
            report = await self._handle(left, self._work.where.predicate if fails else everything)
            if not report.finished:
                return False
        while not await self._record.finish(spec.key, self.name, self.lease.token):
            await self._record_page(page)  # the store lost it
        return True

    async def _record_page(self, page: SegmentPage) -> int:
        asked_at = clock()
        limit = None if self._retries else self._work.where.limit
        quota, following = await self._record.record_page(
            self._spec.key, self.name, self.lease.token, page, lease=self.lease.seconds, limit=limit
        )
        self.lease.prolong(asked_at)
        if following is not None:
            await self._notify(self._spec.key, following)
        return quota

    # --- reading ---

    async def _read_dead_letters(self) -> SegmentPage:
        claim = self._claim
        upto = claim.upto or 0
        found = await self._record.dead_letters(self._spec.key, after=int(claim.cursor or 0), limit=_PAGE)
        # The page ends as it did for a former owner, even if dead letters are gone: the next segment has the rest.
        last = int(claim.last) if claim.last else min(found[-1].dead_letter.number if found else upto, upto)
        messages, refused = [], []
        for stored in found:
            dead_letter = stored.dead_letter
            if dead_letter.number > last:
                break
            fault = self._seal.find_fault(stored.seal, *self._sealed(stored.webhook_id, dead_letter))
            if fault is None:
                messages.append(as_message(dead_letter))
                self._webhooks[dead_letter.id] = stored.webhook_id
            else:
                refused.append(dead_letter.id)
                logger.error(
                    "the dead letter %r of the job %r is refused: it %s", shorten(dead_letter.id), self._spec.key, fault
                )
        problem = (
            f"{len(refused)} dead letters are kept, and not tried again, {shorten(refused[0])!r} among them: their "
            "seal does not match. Another program wrote to Redis, or the API key has changed since they failed"
            if refused
            else ""
        )
        return SegmentPage(
            messages=messages, next_cursor=str(last) if last < upto else None, last=str(last), problem=problem
        )

    def _sealed(self, webhook_id: str, dead_letter: DeadLetter) -> Sequence[bytes]:
        """Return the parts of a dead letter that its seal covers: all fields that a retry uses."""
        message = json.dumps(dead_letter.message, sort_keys=True, separators=(",", ":"))
        parts = (self._spec.key, self._spec.name, webhook_id, dead_letter.id, message)
        return [part.encode("utf-8", "surrogatepass") for part in parts]

    def _to_store(self, dead_letter: DeadLetter) -> StoredDeadLetter:
        """Return a dead letter in the form that the record keeps."""
        webhook_id = self._webhook_of(dead_letter.id)
        return StoredDeadLetter(dead_letter, webhook_id, self._seal.seal(*self._sealed(webhook_id, dead_letter)))

    def _webhook_of(self, message_id: str) -> str:
        return self._webhooks[message_id] if self._retries else self._list.webhook_id

    @property
    def _list(self) -> ListSpec:
        """The list of which this segment is a page."""
        return self._spec.lists[int(self.name.partition(".")[0])]

    async def _handles(self) -> Callable[[str], bool] | None:
        """Return a test for the event types to handle; None for all. The event list has the types of all webhooks."""
        if self._spec.source == "messages" or self._retries:
            return None
        if isinstance(self._work.target, WebhookReceiver):
            return self._work.target.handles
        webhook = await self._work.client.webhooks.get(self._spec.lists[0].webhook_id)
        return frozenset(webhook.subscribed_events).__contains__

    async def _choose(self, messages: Sequence[Message]) -> tuple[str, bool]:
        """Return the marks of a page, and whether the predicate fails for a message: it is chosen, and fails again."""
        where, handles = self._work.where, await self._handles()
        if self._retries or (handles is None and where.predicate is everything and where.limit is None):
            return "1" * len(messages), False
        SUBMITTED.set(self._spec.submitted_at)
        will_skip = self._foresee_skips() if where.limit is not None else None
        marks, fails = "", False
        for message in messages:
            wanted, error = choose(where, message)
            fails = fails or error is not None
            if not wanted or not (error is not None or handles is None or handles(message.event_type_id or "")):
                marks += "0"
            else:
                marks += "2" if error is None and will_skip is not None and await will_skip(message) else "1"
        return marks, fails

    def _foresee_skips(self) -> Callable[[Message], Awaitable[bool]]:
        """Return a function that finds out whether the target will skip a message."""
        target, inbox, webhook_id = self._work.target, self._work.inbox, self._list.webhook_id
        receiver = target if isinstance(target, WebhookReceiver) else None
        if receiver is not None:
            inbox, webhook_id = receiver.inbox, receiver.webhook_id or ""
        known = None if inbox is None else HandledEvents(inbox, webhook_id or None, _INBOX_TIMEOUT)

        async def will_skip(message: Message) -> bool:
            if receiver is not None and not receiver.handles(message.event_type_id or ""):
                return True
            return known is not None and await known.has(message)

        return will_skip

    # --- handling ---

    async def _handle(self, messages: Sequence[Message], predicate: Predicate) -> Report:
        work, claim = self._work, self._claim
        # Each lease claims with its own token. With one token for the job, a suspended worker and its successor could
        # both hold a claim. A dead worker's claims end at about the same time as its segments.
        targets = {
            webhook_id: as_target(
                work.target,
                work.inbox,
                self.lease.token,
                webhook_id=webhook_id,
                inbox_lease=self.lease.seconds,
            )
            for webhook_id in {self._webhook_of(message.id) for message in messages}
        }
        target = LeasedTarget(targets, self._webhook_of, self.lease, self._reasons)
        width = min(work.settings.concurrency, len(messages))
        most = work.settings.most_spans
        ledger = DeadLedger(len(messages), most=most, record_tried=True) if self._retries else None
        self._engine = Engine(
            FixedMessages(messages),
            target=target,
            save=self._save,
            ledger=ledger,
            state=State(token=self.lease.token),
            where=Where(predicate),
            settings=attrs.evolve(work.settings, concurrency=width),
            limiter=SegmentRate(self._job.limiter),
            on_pause=self._job.pause,
        )
        if self._stopping:
            self._engine.stop()
        if claim.paused:
            self._engine.pause(claim.paused)
        return await self._engine.run(None, None)

    async def _save(self, commit: Commit) -> None:
        """Record the results of a commit. Its cursor is not used: the segment has its own."""
        ids, reasons = list(commit.done), self._reasons
        if not ids and not commit.dead:
            return
        counts = Counter(self._counts)
        counts["handled"] += commit.handled
        counts["failed"] += commit.failed
        if reasons:
            counts.update(f"skipped:{reasons[each]}" for each in ids if each in reasons)
        saving = Saving(
            counts=counts,
            ids=ids,
            before=len(self._recorded),
            dead_letters=[self._to_store(dead_letter) for dead_letter in commit.dead],
            revived=commit.revived,
            max_failures=self._work.settings.max_failures,
        )
        # The store may have lost earlier saves: then send all ids again.
        if not await self._send(saving) and not await self._send(
            attrs.evolve(saving, ids=[*self._recorded, *ids], before=None)
        ):
            raise CheckpointError(
                "the record refused to save the finished messages of this segment, though all were sent"
            )
        self._recorded += ids
        self._counts = counts
        if reasons:
            for each in ids:
                reasons.pop(each, None)

    async def _send(self, saving: Saving) -> bool:
        asked_at = clock()
        heartbeat = await self._record.save(
            self._spec.key, self.name, self.lease.token, saving, lease=self.lease.seconds
        )
        if heartbeat is None:
            return False
        self.lease.prolong(asked_at)
        self._job.apply(heartbeat)
        return True


@attrs.define(eq=False)
class LeasedTarget:
    """Delivers messages while the lease lasts, each to its webhook's target: an inbox has other keys for each webhook.

    It enters in ``reasons``, by a message's id, why the message was skipped.
    """

    _targets: Mapping[str, Target]
    _webhook_of: Callable[[str], str]
    _lease: Lease
    _reasons: dict[str, str]

    async def deliver(self, message: Message) -> str | None:
        """See ``Target``. Raises ``LeaseLostError`` once the lease may have run out."""
        if clock() >= self._lease.until:
            raise LeaseLostError("the lease of the segment ran out while this process was stopped or busy")
        reason = await self._targets[self._webhook_of(message.id)].deliver(message)
        if reason is not None:
            self._reasons[message.id] = reason
        return reason

    async def flush(self) -> None:
        """See ``Target``."""
        for target in self._targets.values():
            await target.flush()
