"""Recover from an outage: replay the message history, then the events that made no message, and report what is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from datetime import datetime
from functools import partial

import attrs

from .._arguments import Duration
from .._work.clock import TimeSource
from .._work.quarantine import read_quarantine
from ..client import BasiqClient
from ..errors import ConfigurationError, ReplayError
from ..filters import Filter
from ..models import Message, Webhook
from ..receiver import Inbox, WebhookReceiver
from ..services.diagnosis import Problem, Recovered, find_out_of_reach, find_status_problem
from ._coverage import Coverage, Inactivity
from ._dead_letters import read_all
from ._engine import OnError
from ._missed import DELIVERED, InboxKnowledge, MissedEvents, MissedMessages, event_of
from ._place import Place, read_place
from ._replay import Replay
from ._report import OnProgress, Report
from ._sources import EVENT_PREFIX
from ._where import Predicate, Where
from .checkpoints._base import Checkpoint, DeadLetter, ReplayJob, State, keeps_both_sources
from .targets._base import Handler, SessionHandler, Target
from .targets._http import HttpTarget

_TIMEOUT = 5.0


async def recover(
    client: BasiqClient,
    webhook_id: str,
    target: Target | WebhookReceiver | Handler | SessionHandler,
    *,
    checkpoint: Checkpoint,
    events_checkpoint: Checkpoint | None = None,
    inbox: Inbox | None = None,
    filter: str | Filter | None = None,
    where: Where | Predicate | None = None,
    everything: bool = False,
    all_types: bool = False,
    acknowledged: datetime | None = None,
    concurrency: int | None = None,
    rate: float | None = None,
    on_error: OnError = "dead-letter",
    max_pause: Duration = 3_600.0,
    progress: OnProgress | None = None,
    instrument: Callable[[Replay], object] | None = None,
    clock: TimeSource | None = None,
) -> Recovery:
    """Hand to a target everything that it missed: the webhook's messages, then the events that made no message.

    .. code-block:: python

        first, second = SQLiteCheckpoint("recover.db"), SQLiteCheckpoint("recover-events.db")
        async with HttpTarget(URL, SECRET) as target, SQLiteInbox("recover-inbox.db") as inbox:
            recovery = await recover(
                basiq, webhook_id, target, inbox=inbox, checkpoint=first, events_checkpoint=second
            )
        print(recovery.finished, recovery.problems)

    The messages come first, because they have the ``webhook-id`` of Basiq's deliveries. An inbox says which events were
    handled. A ``WebhookReceiver`` has its own inbox. For a function, pass the inbox of the live service; for an
    ``HttpTarget``, an inbox that is kept beside the checkpoints. If another worker is handling an event, the recovery
    waits for it. After an interruption, run the same again. ``SQLCheckpoint(engine)`` keeps both sources, so a service
    with a database needs only that. If several workers recover at once, one works, and the others get a
    ``CheckpointInUseError``. ``filter`` applies to the messages only; the other arguments are those of ``Replay``.

    everything: whether to handle also messages that Basiq says it delivered when the inbox could not record them:
        before the inbox was first used, or longer ago than it remembers, and always with an ``HttpTarget``. By default
        they are not handled, and count as ``left_alone``. To change it to True, pass new checkpoints.
    all_types: whether to take events of all types from the event list, as far as the receiver has handlers for them.
        By default only those of the types that the webhook is subscribed to are taken.
    acknowledged: periods that are out of reach before this moment, by Basiq's clock, are known, and do not count as
        unfinished. The checkpoint keeps it, for later recoveries and for ``webhooks.diagnose``.
    instrument: called with each of the two replays before it runs, such as ``basiq_async.otel.instrument``.

    Raises the errors of ``Replay.run``.
    """
    both = keeps_both_sources(checkpoint)
    if events_checkpoint is None and not both:
        raise ConfigurationError(
            "this checkpoint keeps one source: pass a second one as events_checkpoint, or SQLCheckpoint(engine), which "
            "keeps both"
        )
    if events_checkpoint is checkpoint and not both:
        raise ConfigurationError("checkpoint and events_checkpoint must be different: each keeps one source")
    if isinstance(target, WebhookReceiver):
        known_in, id_in_keys = target.inbox, target.webhook_id
    elif inbox is not None:
        known_in, id_in_keys = inbox, webhook_id
    else:
        raise ConfigurationError(
            "recover needs an inbox, because most events were messages too: pass the live service's inbox for a "
            "function, and an inbox beside the checkpoints for an HttpTarget"
        )
    if acknowledged is not None and acknowledged.tzinfo is None:
        raise ConfigurationError("acknowledged must be a datetime with a time zone, such as datetime.now(UTC)")
    make = partial(
        Replay,
        client,
        webhook_id,
        target,
        where=where,
        inbox=inbox,
        concurrency=concurrency,
        rate=rate,
        on_error=on_error,
        max_pause=max_pause,
        clock=clock,
    )
    messages = make(checkpoint=checkpoint, filter=filter)
    events = make(checkpoint=checkpoint if events_checkpoint is None else events_checkpoint, source="events")
    messages._acknowledged, events._all_types = acknowledged, all_types
    for replay in (messages, events):
        if instrument is not None:
            instrument(replay)
    webhook = await client.webhooks.get(webhook_id)  # Basiq's clock is known from here on
    if find_status_problem(webhook, None) is None:
        messages._seen_active = (clock or client._now)().replace(microsecond=0)
    shared = not isinstance(target, HttpTarget)
    knowledge = InboxKnowledge(known_in, id_in_keys, shared=shared, timeout=_TIMEOUT, now=clock or client._now)
    if not everything:
        messages._wrap = lambda inner: MissedMessages(inner, knowledge)
    first = await messages.run(progress)
    if not first.finished:
        unfinished = ReplayError("the message history was not read to its end: run the same again to continue")
        unfinished.report = first
        raise unfinished
    # Events from now on become messages, unless the webhook is not active.
    was_active = find_status_problem(await client.webhooks.get(webhook_id), None) is None
    failed = {event_of(Message(dead_letter.id, dead_letter.message)) async for dead_letter in read_all(messages)}
    events._wrap = lambda inner: MissedEvents(inner, None if everything else knowledge, failed)
    second = await events.run(progress)
    return await Circumstances(
        client=client,
        webhook_id=webhook_id,
        messages=messages,
        events=events,
        quarantine=(known_in, id_in_keys),
    ).assess(first, second, was_active=was_active)


async def recovered_by(
    webhook_id: str, checkpoint: Checkpoint, events_checkpoint: Checkpoint | None = None
) -> Recovered:
    """Return what the runs with these checkpoints have recorded, for ``webhooks.diagnose``.

    The runs can be those of ``recover`` or of a ``Replay``. It only reads the checkpoints. Combine several results by
    ``|``. Raises ``CheckpointError``, also for checkpoints of a run with a ``where`` or a ``filter``, because that did
    not recover everything.
    """
    found = _recorded(await checkpoint.peek(ReplayJob(webhook_id)) or State(), of_events=False)
    if events_checkpoint is None and keeps_both_sources(checkpoint):
        events_checkpoint = checkpoint
    if events_checkpoint is not None:
        events = await events_checkpoint.peek(ReplayJob(webhook_id, source="events"))
        found |= _recorded(events or State(), of_events=True)
    return found


def _recorded(state: State, *, of_events: bool) -> Recovered:
    place = Place() if state.cursor is None else read_place(state.cursor)
    coverage = Coverage.read(state.notes)
    read, ids = place.read, place.ids()
    done = frozenset(each.removeprefix(EVENT_PREFIX) for each in state.done) if of_events else state.done
    return Recovered(
        messages=() if of_events else read,
        events=read if of_events else (),
        message_ids=frozenset() if of_events else ids | done,
        event_ids=ids | done if of_events else frozenset(),
        dead_letters=state.dead,
        given_up=coverage.given_up,
        inactive=tuple((each.since, each.until) for each in coverage.inactive),
        acknowledged=coverage.acknowledged,
    )


@attrs.define
class Recovery:
    """The result of a recovery, and what is left.

    messages: the report on the message history. ``skipped["delivered"]`` is the number of messages that were left
        alone: Basiq says that it delivered them before the inbox's records begin.
    events: the report on the event list of the last 7 days. ``handled`` counts events that were never a message;
        ``skipped`` counts events that were handled as a message or a live delivery.
    out_of_reach: periods in which the webhook was not active, and whose events left the event list before a run read
        them. These events cannot be recovered from Basiq.
    webhook: the webhook, read after the recovery.
    was_active: whether the webhook was active when the event list was read, so that new events became messages.
    quarantined: the number of deliveries of this webhook in the quarantine of the inbox.
    given_up: the number of messages, in all runs, that failed and were not kept, because of ``on_error="skip"``.
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
        """Whether nothing is left of the messages and events that ``where`` and ``filter`` select.

        That is so if both sources were read to their ends, the webhook is active, and there are no quarantined
        deliveries, no dead letters, no messages given up, and no periods out of reach. ``problems`` says what is left.
        """
        return not self.problems

    @property
    def left_alone(self) -> int:
        """The number of delivered messages that this run left alone. ``everything=True`` handles them, with new
        checkpoints.
        """
        return self.messages.skipped.get(DELIVERED, 0)

    @property
    def dead(self) -> int:
        """The number of dead letters in both checkpoints."""
        return self.messages.dead + self.events.dead

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The problems that are left, each with its remedy."""
        return tuple(self._find_problems())

    async def dead_letters(self) -> Sequence[DeadLetter]:
        """Return the dead letters of both checkpoints, first those of the messages."""
        return [dead_letter for replay in self._replays async for dead_letter in read_all(replay)]

    async def retry_dead(self, progress: OnProgress | None = None, *, ids: Iterable[str] | None = None) -> Report:
        """Hand the dead letters, or those with these ids, to the target again. Return the report of both sources.

        This recovery then says what is left. Raises the errors of ``Replay.retry_dead``.
        """
        wanted = None if ids is None else frozenset(ids)
        first, second = [await replay.retry_dead(progress, ids=wanted) for replay in self._replays]
        await self._assess(first.dead, second.dead)
        return _add(first, second)

    async def drop_dead(self, ids: Iterable[str]) -> int:
        """Remove the dead letters with these ids for good, and return the number removed.

        This recovery then says what is left.
        """
        wanted = frozenset(ids)
        dropped = sum([await replay.drop_dead(wanted) for replay in self._replays])
        await self._assess(*[len([each async for each in read_all(one)]) for one in self._replays])
        return dropped

    @property
    def _replays(self) -> tuple[Replay, Replay]:
        return self._circumstances.messages, self._circumstances.events

    async def _assess(self, dead_messages: int, dead_events: int) -> None:
        found = await self._circumstances.assess(
            attrs.evolve(self.messages, dead=dead_messages),
            attrs.evolve(self.events, dead=dead_events),
            was_active=self.was_active,
        )
        for field in attrs.fields(Recovery):
            setattr(self, field.name, getattr(found, field.name))

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
            yield Problem("dead-letters", f"{self.dead:,} dead letters are kept: fix their handler, then retry them")
        if self.quarantined:
            yield Problem(
                "quarantined",
                f"{self.quarantined:,} deliveries failed too often, and are in the quarantine: fix their handler, then "
                "retry them",
            )
        if self.given_up:
            yield Problem("given-up", f'{self.given_up:,} messages failed, and on_error="skip" did not keep them')
        for period in self.out_of_reach:
            yield Problem("out-of-reach", period.describe_loss())


def _add(first: Report, second: Report) -> Report:
    names = ("handled", "failed", "repeated", "duration", "position", "dead", "handled_in_all")
    return attrs.evolve(
        first,
        skipped=Counter(first.skipped) + Counter(second.skipped),
        cursor=None,
        finished=first.finished and second.finished,
        **{name: getattr(first, name) + getattr(second, name) for name in names},
    )


@attrs.frozen(kw_only=True)
class Circumstances:
    """The client, the replays and the quarantine of a recovery, by which it finds what is left."""

    client: BasiqClient
    webhook_id: str
    messages: Replay
    events: Replay
    quarantine: tuple[Inbox, str | None]
    """The inbox that holds it, and the webhook's id in its keys."""

    async def assess(self, messages: Report, events: Report, *, was_active: bool) -> Recovery:
        """Return the recovery with these reports. ``was_active``: see ``Recovery``."""
        webhook = await self.client.webhooks.get(self.webhook_id)
        reach, known = events.reach, self.messages._coverage.acknowledged
        periods = [(each.since, each.until) for each in messages.inactive]
        lost = () if reach is None else find_out_of_reach(periods, self.events._read, reach, known)
        return Recovery(
            messages=messages,
            events=events,
            out_of_reach=tuple(Inactivity(begin, end) for begin, end in lost),
            webhook=webhook,
            was_active=was_active,
            quarantined=await self._count_quarantined(),
            given_up=self.messages._coverage.given_up + self.events._coverage.given_up,
            circumstances=self,
        )

    async def _count_quarantined(self) -> int:
        inbox, webhook_id = self.quarantine
        found = read_quarantine(inbox, webhook_id, timeout=self.messages._inbox_timeout)
        async with aclosing(found):
            return len([delivery.key async for delivery in found])
