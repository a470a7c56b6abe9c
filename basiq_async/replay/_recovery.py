"""Recover from an outage: replay the message history, then the events that made no message, and report what is left."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial

import attrs

from .._arguments import Duration
from .._work.clock import TimeSource
from .._work.keys import left_key
from .._work.limits import inbox_limit
from .._work.quarantine import count_quarantined
from ..client import BasiqClient
from ..errors import ConfigurationError, ReplayError
from ..filters import Filter
from ..models import Message, Webhook
from ..receiver import Inbox, WebhookReceiver
from ..services.diagnosis import Problem, Recovered, find_out_of_reach, find_status_problem
from ._coverage import Coverage, Inactivity
from ._dead_letters import read_all
from ._engine import OnError
from ._keys import EVENT_PREFIX
from ._place import Place, read_text
from ._replay import Replay
from ._report import HandledEvents, OnProgress, Report
from ._where import Predicate, Where
from .checkpoints._base import Checkpoint, DeadLetter, ReplayJob, State, keeps_both_sources
from .targets._base import Handler, SessionHandler, Target
from .targets._deduplicated import HANDLED_BEFORE
from .targets._http import HttpTarget

_TIMEOUT = 5.0
_DELIVERED = "delivered"
"""The reason to skip a message that Basiq says it delivered before the inbox's records begin."""
_FAILED_BEFORE = "failed-before"
_SKEW = timedelta(minutes=5)
"""Maximum difference between Basiq's clock and this machine's."""
_LISTED = timedelta(days=8)
"""If a message's first attempt is older than this, its event has left the event list."""


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
    missed = _Missed(known_in, id_in_keys, shared=shared, now=clock or client._now)
    if not everything:
        messages._wrap = lambda inner: _Skipping(inner, missed.skip_message)
    first = await messages.run(progress)
    if not first.finished:
        unfinished = ReplayError("the message history was not read to its end: run the same again to continue")
        unfinished.report = first
        raise unfinished
    # Events from now on become messages, unless the webhook is not active.
    was_active = find_status_problem(await client.webhooks.get(webhook_id), None) is None
    failed = {_event_of(Message(dead_letter.id, dead_letter.message)) async for dead_letter in read_all(messages)}
    events._wrap = lambda inner: _Skipping(inner, partial(missed.skip_event, failed, everything=everything))
    second = await events.run(progress)
    recovery = Recovery(
        messages=first,
        events=second,
        out_of_reach=(),
        webhook=webhook,
        was_active=was_active,
        quarantined=0,
        given_up=0,
        replays=(messages, events),
        count_quarantined=partial(count_quarantined, known_in, id_in_keys, timeout=messages._inbox_timeout),
    )
    await recovery._assess(first.dead, second.dead)
    return recovery


def _event_of(message: Message) -> tuple[str | None, str]:
    """Return the event type and the id that identify a message's event, in both sources."""
    return message.event_type_id, message.event_id or message.id


class _Missed(HandledEvents):
    """Says which messages and events a recovery skips, because they were not missed. It asks the inbox.

    shared: whether the live service records its handled events in this inbox. Otherwise the inbox is the recovery's
        own, and has no live deliveries.
    now: returns the time.
    """

    def __init__(self, inbox: Inbox, webhook_id: str | None, *, shared: bool, now: Callable[[], datetime]) -> None:
        super().__init__(inbox, webhook_id, _TIMEOUT)
        self._shared = shared
        self._now = now
        self._since: datetime | None = None

    async def skip_message(self, message: Message) -> str | None:
        """Return the reason to skip a message: Basiq delivered it before the inbox's records begin."""
        if not message.delivered or await self._would_know(message):
            return None
        if await self.has(message):
            return HANDLED_BEFORE
        first = message.first_attempt
        if first is None or first.timestamp is None or first.timestamp > self._now() - _LISTED:
            async with inbox_limit(_TIMEOUT):  # so that its event in the event list is skipped too
                await self._inbox.complete(left_key(self._key(message)), uuid.uuid4().hex)
        return _DELIVERED

    async def skip_event(
        self, failed: Collection[tuple[str | None, str]], message: Message, *, everything: bool
    ) -> str | None:
        """Return the reason to skip an event: its message was left alone, or is one of the dead letters ``failed``."""
        if _event_of(message) in failed:  # it is not tried and kept a second time
            return _FAILED_BEFORE
        if everything:
            return None
        async with inbox_limit(_TIMEOUT):
            return _DELIVERED if await self._inbox.seen(left_key(self._key(message))) else None

    async def _would_know(self, message: Message) -> bool:
        """Return whether the inbox would know that the live service handled a delivered message."""
        if not self._shared:
            return False
        if self._since is None:
            async with inbox_limit(_TIMEOUT):
                self._since = await self._inbox.known_since()
        times = [each.timestamp for each in message.attempts if each.succeeded and each.timestamp is not None]
        return bool(times) and max(times) >= self._since + _SKEW


class _Skipping:
    """A target that skips the messages for which ``skip`` returns a reason."""

    def __init__(self, inner: Target, skip: Callable[[Message], Awaitable[str | None]]) -> None:
        self._inner = inner
        self._skip = skip

    async def deliver(self, message: Message) -> str | None:
        """See ``Target``."""
        return await self._skip(message) or await self._inner.deliver(message)

    async def flush(self) -> None:
        """See ``Target``."""
        await self._inner.flush()


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
    place = Place() if state.cursor is None else read_text(state.cursor, Place, "place in the list")
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
    _replays: tuple[Replay, Replay] = attrs.field(repr=False, eq=False, alias="replays")
    _count_quarantined: Callable[[], Awaitable[int]] = attrs.field(repr=False, eq=False, alias="count_quarantined")

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
        return self.messages.skipped.get(_DELIVERED, 0)

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

    async def _assess(self, dead_messages: int, dead_events: int) -> None:
        """Find out what is left, with so many dead letters."""
        messages, events = self._replays
        webhook = await messages._client.webhooks.get(messages.job.webhook_id)
        self.quarantined, self.webhook = await self._count_quarantined(), webhook
        self.messages = attrs.evolve(self.messages, dead=dead_messages)
        self.events = attrs.evolve(self.events, dead=dead_events)
        self.given_up = messages._coverage.given_up + events._coverage.given_up
        reach, known = self.events.reach, messages._coverage.acknowledged
        periods = [(each.since, each.until) for each in self.messages.inactive]
        lost = () if reach is None else find_out_of_reach(periods, events._read, reach, known)
        self.out_of_reach = tuple(Inactivity(begin, end) for begin, end in lost)

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
