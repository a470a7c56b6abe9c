"""What a recovery has done, and what is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime

import attrs

from .._inbox.keys import Scope
from ..client import BasiqClient
from ..errors import InboxError
from ..models import Webhook
from ..receiver import Inbox, QuarantinedDelivery, WebhookReceiver
from ..services.diagnosis import Problem, find_status_problem
from ._inactivity import Inactivity
from ._notes import Notes, find_out_of_reach
from ._replay import Replay
from ._report import OnProgress, Report
from .checkpoints._base import DeadLetter
from .targets._missed import DELIVERED

_PAGE = 100


@attrs.frozen(kw_only=True)
class Circumstances:
    """What a recovery works with: where it looks for what is left."""

    client: BasiqClient
    webhook_id: str
    messages: Replay
    events: Replay
    quarantine: Inbox | WebhookReceiver
    acknowledged: datetime | None

    async def assess(self, messages: Report, events: Report, *, was_active: bool) -> Recovery:
        """Return what is left after these reports. ``was_active`` is of before the event list was read."""
        webhook = await self.client.webhooks.get(self.webhook_id)
        found: tuple[Notes, Notes] = self.messages._notes, self.events._notes
        reach = events.reach
        lost = () if reach is None else find_out_of_reach(messages.inactive, found[1].covered, reach, self.acknowledged)
        return Recovery(
            messages=messages,
            events=events,
            out_of_reach=lost,
            webhook=webhook,
            was_active=was_active,
            quarantined=await self._count_quarantined(),
            given_up=found[0].given_up + found[1].given_up,
            circumstances=self,
        )

    async def _count_quarantined(self) -> int:
        count = 0
        async for _ in self._letters():
            count += 1
        return count

    async def _letters(self) -> AsyncIterator[QuarantinedDelivery]:
        after: QuarantinedDelivery | None = None
        scope = Scope(self.quarantine, self.webhook_id) if isinstance(self.quarantine, Inbox) else None
        while True:
            try:
                async with asyncio.timeout(self.messages._inbox_timeout):
                    if scope is not None:
                        await scope.find()
                    page = await self.quarantine.quarantined(after=after, limit=_PAGE)
            except TimeoutError as exc:
                raise InboxError("the inbox did not say in time what is in its quarantine") from exc
            for letter in page:
                ids = letter.event_type_id, letter.event_id, letter.delivery_id
                if scope is None or scope.key(*ids) == letter.key:  # else it is another webhook's
                    yield letter
            if len(page) < _PAGE:
                return
            after = page[-1]


@attrs.frozen
class Recovery:
    """What a recovery did, and what is left.

    messages: the report on the message history. Its ``skipped["delivered"]`` were left alone: Basiq says that they were
        delivered, at a time of which the inbox knows nothing.
    events: the report on the event list of the last 7 days. Its ``handled`` were never a message; its ``skipped``
        are those that a message, or a live delivery, had brought.
    out_of_reach: times in which the webhook was not active, and whose events no run has read before the list lost
        them. What happened then cannot be recovered from Basiq.
    webhook: the webhook, as it is after the recovery.
    was_active: whether it was active when the event list was read: what happened then became messages.
    quarantined: deliveries of this webhook in the quarantine of the inbox.
    given_up: messages that failed and were not kept, because of ``on_error="skip"``, in all runs.
    """

    messages: Report
    events: Report
    out_of_reach: tuple[Inactivity, ...]
    webhook: Webhook
    was_active: bool
    quarantined: int
    given_up: int
    _circumstances: Circumstances = attrs.field(alias="circumstances", repr=False, eq=False)

    @property
    def finished(self) -> bool:
        """Whether nothing is left, as far as the ``where`` and ``filter`` of the recovery reach.

        Both sources were read to their ends, the webhook is active, nothing is in the quarantine or a dead letter,
        nothing was given up, and nothing is out of reach. ``problems`` says what is left, where it is not.
        """
        return not self.problems

    @property
    def left_alone(self) -> int:
        """How many delivered messages this run left alone; ``everything=True`` with new checkpoints handles them."""
        return self.messages.skipped.get(DELIVERED, 0)

    @property
    def dead(self) -> int:
        """How many dead letters both checkpoints have."""
        return self.messages.dead + self.events.dead

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is left, and what helps."""
        return tuple(self._find_problems())

    async def dead_letters(self) -> Sequence[DeadLetter]:
        """Return the dead letters of both checkpoints, those of the messages first."""
        return [letter for replay in self._replays async for letter in read_letters(replay)]

    async def retry_dead(self, progress: OnProgress | None = None, *, ids: Iterable[str] | None = None) -> Recovery:
        """Put the dead letters, or those with these ids, through the target again; return what is left now.

        Raises what ``Replay.retry_dead`` raises.
        """
        wanted = None if ids is None else frozenset(ids)
        dead = [(await replay.retry_dead(progress, ids=wanted)).dead for replay in self._replays]
        return await self._assess(dead)

    async def drop_dead(self, ids: Iterable[str]) -> Recovery:
        """Remove the dead letters with these ids for good; return what is left now."""
        wanted = frozenset(ids)
        for replay in self._replays:
            await replay.drop_dead(wanted)
        return await self._assess([len([each async for each in read_letters(one)]) for one in self._replays])

    @property
    def _replays(self) -> tuple[Replay, Replay]:
        return self._circumstances.messages, self._circumstances.events

    async def _assess(self, dead: Sequence[int]) -> Recovery:
        messages, events = (
            attrs.evolve(report, dead=left) for report, left in zip((self.messages, self.events), dead, strict=True)
        )
        return await self._circumstances.assess(messages, events, was_active=self.was_active)

    def _find_problems(self) -> Iterable[Problem]:
        status = find_status_problem(self.webhook, None)
        if status is not None:
            yield status
        elif not self.was_active:
            yield Problem("unread", "the webhook was not active when the event list was read: run the same again")
        for report, name in ((self.messages, "message history"), (self.events, "event list")):
            if not report.finished:
                yield Problem("unread", f"the {name} was not read to its end: run the same again to continue")
        if self.dead:
            yield Problem("dead-letters", f"{self.dead:,} failed, and are kept: mend their handler, then retry them")
        if self.quarantined:
            yield Problem(
                "quarantined",
                f"{self.quarantined:,} deliveries failed again and again, and are in the quarantine: mend their "
                "handler, then retry them",
            )
        if self.given_up:
            yield Problem("given-up", f"{self.given_up:,} failed, and were not kept, as on_error says")
        for period in self.out_of_reach:
            yield Problem("out-of-reach", period.describe_loss())


async def read_letters(replay: Replay) -> AsyncIterator[DeadLetter]:
    after = 0
    while page := await replay.dead_letters(after=after):
        for letter in page:
            yield letter
        after = page[-1].number
