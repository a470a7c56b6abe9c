"""One segment of a job: its page is run through the engine, and the record has to agree to each step."""

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
from ..replay import Commit, DeadLetter, Report, State, Target, Where
from ..replay.engine import (
    SUBMITTED,
    DeadLedger,
    Engine,
    FixedMessages,
    Function,
    Handler,
    UnreadableMessage,
    as_message,
    as_target,
    as_where,
    everything,
)
from ._pages import KnownPage, SegmentPage, read_page
from ._rate_limiter import SegmentRate
from ._work import Work
from .record import (
    Heartbeat,
    JobSpec,
    LeaseLostError,
    ListSpec,
    PageMark,
    Record,
    Saving,
    SegmentClaim,
    StoredDeadLetter,
    new_token,
)

logger = logging.getLogger("basiq_async.distributed")
_PAGE = 250
"""How many dead letters one segment tries again."""
_RAN_OUT = "the lease of the segment ran out while this process was stopped or busy"
_CLOCK: int | None = getattr(time, "CLOCK_BOOTTIME", None)

clock: Callable[[], float] = time.monotonic if _CLOCK is None else partial(time.clock_gettime, _CLOCK)
"""Seconds, counted through a suspended machine as well where the system can."""


class Lease:
    """One claim of a segment, with a token of its own.

    It counts from before the request that took or prolonged it, so it never ends later than the store believes.
    """

    __slots__ = ("seconds", "token", "until")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.token = new_token()
        self.until = float("-inf")
        """Before this moment, by ``clock``, nobody else can have taken the segment."""

    def prolong(self, asked_at: float) -> None:
        """Note that the store prolonged it, in response to a request made at ``asked_at``."""
        self.until = max(self.until, asked_at + self.seconds)

    def end(self) -> None:
        """Note that the segment has another owner."""
        self.until = float("-inf")


class Segment:
    """A claimed segment: it reads its page, records the next segment, and handles the messages.

    ``notify`` is called with the next segment as soon as that is recorded, ``on_heartbeat`` each time the record says
    how the job stands, ``on_pause`` with the length of each pause that the target asks for.
    """

    def __init__(
        self,
        record: Record,
        spec: JobSpec,
        name: str,
        lease: Lease,
        claim: SegmentClaim,
        work: Work,
        *,
        limiter: SegmentRate,
        notify: Callable[[str], Awaitable[None]],
        on_heartbeat: Callable[[Heartbeat], None],
        on_pause: Callable[[float], None],
    ) -> None:
        self.name = name
        self.lease = lease
        self._record = record
        self._spec = spec
        self._claim = claim
        self._work = work
        self._limiter = limiter
        self._notify = notify
        self._on_heartbeat = on_heartbeat
        self._on_pause = on_pause
        self._engine: Engine | None = None
        self._stopping = False
        self._seal = work.client._seal("basiq letter")
        self._retries = name.startswith("d")
        """Whether it tries dead letters again."""
        self._webhooks: dict[str, str] = {}
        """Of which webhook each dead letter's message is."""
        self._reasons: dict[str, str] = {}
        """Why messages were skipped, by id, as long as that is not recorded."""
        self._recorded = list(claim.done)
        self._counts: Counter[str] = Counter()

    def stop(self) -> None:
        """Begin no more messages; ``run`` returns when those under way are recorded."""
        self._stopping = True
        if self._engine is not None:
            self._engine.stop()

    def pause(self, seconds: float) -> None:
        """Leave the target alone for so long, because another worker was asked to."""
        if self._engine is not None:
            self._engine.pause(seconds)

    async def run(self) -> bool:
        """Read the page, record the next segment, and handle the page. Returns whether it is finished.

        Raises ``LeaseLostError`` where it belongs to another worker by now, and whatever reading or handling raises.
        """
        page = await self._read()
        chosen, errors = self._choose(page.messages, await self._handles())
        mark = PageMark(last=page.last, chosen=chosen, next_cursor=page.next_cursor, problem=page.problem)
        quota = await self._record_page(mark)
        done = set(self._claim.done)
        selected = [message for message, wanted in zip(page.messages, chosen, strict=True) if wanted][:quota]
        left = [message for message in selected if message.id not in done]
        if left:
            report = await self._handle(left, errors)
            if not report.finished:
                return False
        while not await self._record.finish(self._spec.key, self.name, self.lease.token):
            await self._record_page(mark)  # the store lost it
        return True

    async def _record_page(self, mark: PageMark) -> int:
        asked_at = clock()
        limit = None if self._retries else self._work.where.limit
        recorded = await self._record.record_page(
            self._spec.key, self.name, self.lease.token, mark, lease=self.lease.seconds, limit=limit
        )
        self.lease.prolong(asked_at)
        if recorded.following is not None:
            await self._notify(recorded.following)
        return recorded.quota

    # --- reading ---

    async def _read(self) -> SegmentPage:
        if self._retries:
            return await self._read_dead_letters()
        claim = self._claim
        # Read before, by a former owner: what has been added since is not part of this job.
        known = None if claim.count is None else KnownPage(claim.count, claim.last)
        page = await read_page(self._work.client, self._spec.source, self._list, claim.cursor, claim.after, known)
        if known is None:
            return page
        if known.count == 0:
            return SegmentPage((), page.next_cursor)
        if len(page.messages) < known.count or page.messages[-1].id != known.last:
            raise CheckpointError(
                f"the page of segment {self.name} has changed since it was read first: {claim.count} messages up to "
                f"{claim.last!r} were there. Begin another job, with an inbox, so that nothing is handled "
                "twice"
            )
        return page

    async def _read_dead_letters(self) -> SegmentPage:
        claim = self._claim
        upto = claim.upto or 0
        found = await self._record.dead_letters(self._spec.key, after=int(claim.cursor or 0), limit=_PAGE)
        # A former owner's page ends where it ended, though some of it are gone: what follows is another segment's.
        last = int(claim.last) if claim.last else min(found[-1].dead_letter.number if found else upto, upto)
        messages, refused = [], []
        for stored in found:
            letter = stored.dead_letter
            if letter.number > last:
                break
            fault = self._seal.find_fault(stored.seal, *self._sealed(stored.webhook_id, letter))
            if fault is None:
                messages.append(as_message(letter))
                self._webhooks[letter.id] = stored.webhook_id
            else:
                refused.append(letter.id)
                logger.error("the dead letter %r of the job %r is refused: it %s", letter.id, self._spec.key, fault)
        problem = (
            f"{len(refused)} dead letters are kept, and not tried again, {refused[0]!r} among them: the seal on them "
            "does not fit. Somebody else wrote to Redis, or the API key is another one than when they failed"
            if refused
            else ""
        )
        return SegmentPage(messages, str(last) if last < upto else None, last=str(last), problem=problem)

    def _sealed(self, webhook_id: str, letter: DeadLetter) -> Sequence[bytes]:
        """What a seal on a dead letter covers: all that decides what a worker does with it."""
        message = json.dumps(letter.message, sort_keys=True, separators=(",", ":"))
        parts = (self._spec.key, self._spec.name, webhook_id, letter.id, message)
        return [part.encode("utf-8", "surrogatepass") for part in parts]

    def _to_store(self, letter: DeadLetter) -> StoredDeadLetter:
        """A dead letter as the record keeps it."""
        webhook_id = self._webhooks[letter.id] if self._retries else self._list.webhook_id
        return StoredDeadLetter(letter, webhook_id, self._seal.seal(*self._sealed(webhook_id, letter)))

    @property
    def _list(self) -> ListSpec:
        """The list that the segment is a page of."""
        return self._spec.lists[int(self.name.partition(".")[0])]

    async def _handles(self) -> Callable[[str], bool] | None:
        """Which types of events are wanted: the event list has those of all webhooks. None for all."""
        if self._spec.source == "messages" or self._retries:
            return None
        if isinstance(self._work.target, WebhookReceiver):
            return self._work.target.handles
        webhook = await self._work.client.webhooks.get(self._spec.lists[0].webhook_id)
        return frozenset(webhook.subscribed_events).__contains__

    def _choose(
        self, messages: Sequence[Message], handles: Callable[[str], bool] | None
    ) -> tuple[list[bool], dict[str, Exception]]:
        """Which messages are to be handled; one that the predicate fails at is, and fails."""
        where = as_where(None) if self._retries else self._work.where
        if handles is None and where.predicate is everything:
            return [True] * len(messages), {}
        SUBMITTED.set(self._spec.submitted_at)
        chosen: list[bool] = []
        errors: dict[str, Exception] = {}
        for message in messages:
            try:
                chosen.append(
                    isinstance(message, UnreadableMessage)
                    or ((handles is None or handles(message.event_type_id or "")) and bool(where(message)))
                )
            except Exception as exc:
                chosen.append(True)
                errors[message.id] = exc
        return chosen, errors

    # --- handling ---

    async def _handle(self, messages: Sequence[Message], errors: dict[str, Exception]) -> Report:
        work, claim = self._work, self._claim
        # A token for each lease: with one for the job, a worker that was stopped and its successor would both hold a
        # claim. A dead worker's claims end about when its segments do.
        inner = {
            webhook_id: as_target(
                work.target,
                work.inbox,
                self.lease.token,
                webhook_id=webhook_id,
                inbox_lease=self.lease.seconds,
            )
            for webhook_id in (set(self._webhooks.values()) if self._retries else {self._list.webhook_id})
        }
        target = lease_target(_as_one(inner, self._webhooks), self.lease, self._reasons)
        width = min(work.settings.concurrency, len(messages))
        most = work.settings.most_spans
        ledger = DeadLedger(len(messages), most=most, record_tried=True) if self._retries else None
        self._engine = Engine(
            FixedMessages(messages),
            target=target,
            save=self._save,
            ledger=ledger,
            state=State(token=self.lease.token),
            where=_raising(errors) if errors else as_where(None),
            settings=attrs.evolve(work.settings, concurrency=width),
            limiter=self._limiter,
            on_pause=self._on_pause,
        )
        if self._stopping:
            self._engine.stop()
        if claim.paused:
            self._engine.pause(claim.paused)
        return await self._engine.run(None, None)

    async def _save(self, commit: Commit) -> None:
        """Record what was done; the cursor of a commit is of no use here."""
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
            dead_letters=[self._to_store(letter) for letter in commit.dead],
            revived=commit.revived,
            max_failures=self._work.settings.max_failures,
        )
        # The store may have lost some of what was recorded before.
        if not await self._send(saving) and not await self._send(
            attrs.evolve(saving, ids=[*self._recorded, *ids], before=None)
        ):
            raise CheckpointError("the record accepts neither a part of what was done nor all of it")
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
        self._on_heartbeat(heartbeat)
        return True


def _as_one(targets: Mapping[str, Target], webhooks: Mapping[str, str]) -> Target:
    """One target of those that each know the messages of one webhook. ``webhooks`` says which message is whose."""
    return next(iter(targets.values())) if len(targets) == 1 else _ByWebhook(targets, webhooks)


class _ByWebhook:
    """Dead letters of several webhooks: an inbox knows the event of each by a key of its own."""

    def __init__(self, targets: Mapping[str, Target], webhooks: Mapping[str, str]) -> None:
        self._targets = targets
        self._webhooks = webhooks

    async def deliver(self, message: Message) -> str | None:
        """See ``Target``."""
        return await self._targets[self._webhooks[message.id]].deliver(message)

    async def flush(self) -> None:
        """See ``Target``."""
        for target in self._targets.values():
            await target.flush()


def _raising(errors: dict[str, Exception]) -> Where:
    def predicate(message: Message) -> bool:
        if message.id in errors:
            raise errors[message.id]
        return True

    return Where(predicate)


def lease_target(inner: Target, lease: Lease, reasons: dict[str, str]) -> Target:
    """A target that is given nothing once the lease may have run out.

    Why messages were skipped is entered in ``reasons``, by their ids.
    """
    if type(inner) is not Function:
        return _Leased(inner, lease, reasons)
    function: Handler = inner.function

    async def handle(message: Message) -> None:
        if clock() >= lease.until:
            raise LeaseLostError(_RAN_OUT)
        await function(message)

    return Function(handle)  # which an engine calls without a coroutine between


class _Leased:
    def __init__(self, inner: Target, lease: Lease, reasons: dict[str, str]) -> None:
        self._deliver = inner.deliver
        self.flush = inner.flush
        self._lease = lease
        self._reasons = reasons

    async def deliver(self, message: Message) -> str | None:
        """See ``Target``."""
        if clock() >= self._lease.until:
            raise LeaseLostError(_RAN_OUT)
        reason = await self._deliver(message)
        if reason is not None:
            self._reasons[message.id] = reason
        return reason
