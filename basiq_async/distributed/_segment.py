"""One segment of a job: read its page, handle the messages, and record each step under the segment's lease."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from functools import partial

import attrs

from .._work.limits import limit
from ..errors import ReplayError
from ..models import Message
from ..replay import Record as KnownRecord
from ..replay.shared import SUBMITTED, Engine, FixedMessages, RetryTarget, as_where, message_of_entry, plain_id
from ._handing import HeldSegment, LeasedTarget, SegmentRecorder
from ._lease import clock
from ._pages import list_pages, read_page
from ._rate_limiter import SegmentRate, SharedRateLimiter
from ._record_types import Heartbeat, JobSpec, SegmentPage

_KNOWN = 60.0
"""Limit, in seconds, of one question to a target that is its own record."""
_PATIENCE = 10.0
"""Seconds to wait, at the end of a page, for another worker that holds a message in an inbox. Then the segment is
released, and tried again."""
_PAGE = 250
"""Maximum number of entries of the quarantine that one segment retries."""


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


@attrs.define(eq=False)
class Segment:
    """A claimed segment: it reads its page, records the next segment, and handles the messages.

    ``notify`` is called with the job's key and the name of the next segment, as soon as that is recorded.
    """

    held: HeldSegment
    job: ActiveJob
    notify: Callable[[str, str], Awaitable[object]]
    _engine: Engine | None = None

    def stop(self) -> None:
        """Begin no more messages. ``run`` returns when the messages under way are recorded."""
        self.held.stopping = True
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
        held = self.held
        if held.is_retry:
            page = await self._read_quarantine()
        else:
            page = await read_page(partial(list_pages, held.work.client, held.spec.source, held.list), held.claim)
        await self._record_page(page)
        done = set(held.claim.done)
        left = [message for message in page.messages if message.id not in done]
        if left and not await self._hand_out(left):
            return False
        while not await held.record.finish(*held.owner):
            await self._record_page(page)  # the store lost it
        return True

    async def _record_page(self, page: SegmentPage) -> None:
        held, asked_at = self.held, clock()
        read = len({*held.claim.done, *(message.id for message in page.messages)})
        following = await held.record.record_page(*held.owner, page, read=read, lease=held.lease.seconds)
        held.lease.prolong(asked_at)
        if following is not None:
            await self.notify(held.spec.key, following)

    async def _read_quarantine(self) -> SegmentPage:
        held, claim, upto = self.held, self.held.claim, self.held.claim.upto or 0
        found = await held.record.quarantined(held.spec.key, after=int(claim.cursor or 0), limit=_PAGE)
        # The page ends as it did for a former owner, even if entries are gone: the next segment has the rest.
        last = int(claim.edge[-1]) if claim.edge else min(found[-1].number if found else upto, upto)
        return SegmentPage(
            messages=[
                message_of_entry(attrs.evolve(each, job=held.entry_job)) for each in found if each.number <= last
            ],
            next_cursor=str(last) if last < upto else None,
            edge=[str(last)],
        )

    # --- handling ---

    async def _hand_out(self, messages: Sequence[Message]) -> bool:
        """Hand out what is selected, and record it. Return whether nothing is left."""
        held, work, most = self.held, self.held.work, None
        SUBMITTED.set(held.spec.submitted_at)
        where = as_where(None)
        if not held.is_retry:
            where, most = await work.select(held.spec.source, held.list.webhook_id), work.where.limit
        leased = LeasedTarget(held, await self._known(messages), most)
        self._engine = engine = Engine(
            FixedMessages(_one_page(messages)),
            target=RetryTarget(leased, work.client._seal("basiq fleet"), None) if held.is_retry else leased,
            recorder=SegmentRecorder(held, leased, self.job.apply),
            where=where,
            settings=attrs.evolve(work.settings, concurrency=min(work.settings.concurrency, len(messages))),
            limiter=SegmentRate(self.job.limiter),
            on_pause=self.job.pause,
            wait_for_others=partial(setattr, leased, "patience", _PATIENCE),
        )
        if held.stopping:
            engine.stop()
        if held.claim.paused:
            engine.pause(held.claim.paused)
        return (await engine.run()).finished

    async def _known(self, messages: Sequence[Message]) -> Collection[str]:
        """Return the ids of the messages that a target has which is its own record."""
        target = self.held.work.own_target
        if not isinstance(target, KnownRecord):
            return ()
        keys = {plain_id(message.raw): message.id for message in messages}
        async with limit(_KNOWN, ReplayError(f"the target did not say within {_KNOWN:g} s which messages it has")):
            return {keys[key] for key in await target.known(list(keys))}


async def _one_page(messages: Sequence[Message]) -> AsyncGenerator[Sequence[Message]]:
    yield messages
