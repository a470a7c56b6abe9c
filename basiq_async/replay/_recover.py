"""Recovering from an outage: the message history, then what never became a message."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from .._inbox.keys import Scope
from ..client import BasiqClient
from ..errors import ConfigurationError, ReplayError
from ..filters import Filter
from ..models import Message
from ..receiver import Inbox, WebhookReceiver
from ..services.diagnosis import Recovered, find_status_problem
from ._engine import OnError
from ._notes import Notes
from ._recovery import Circumstances, Recovery, read_letters
from ._replay import Replay
from ._report import OnProgress
from ._where import Predicate, Where
from .checkpoints._base import Checkpoint, Job, State, keeps_both_sources
from .targets._base import Handler, SessionHandler, Target
from .targets._http import HttpTarget
from .targets._missed import InboxKnowledge, MissedEvents, MissedMessages, event_of


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
    acknowledged: datetime | None = None,
    concurrency: int = 32,
    rate: float | None = None,
    on_error: OnError = "dead-letter",
    progress: OnProgress | None = None,
    instrument: Callable[[Replay], object] | None = None,
    clock: Callable[[], datetime] | None = None,
) -> Recovery:
    """Bring to a target everything that it missed: the webhook's messages, then the events that made none.

    .. code-block:: python

        first, second = SQLiteCheckpoint("recover.db"), SQLiteCheckpoint("recover-events.db")
        async with HttpTarget(URL, SECRET) as target, SQLiteInbox("recover-inbox.db") as inbox:
            recovery = await recover(
                basiq, webhook_id, target, inbox=inbox, checkpoint=first, events_checkpoint=second
            )
        print(recovery.finished, recovery.problems)

    The messages come first, since they have the ``webhook-id`` that Basiq sends with. An inbox says what was handled:
    a ``WebhookReceiver`` has its own; for a function pass the one of the live service; for an ``HttpTarget`` one that
    is kept beside the checkpoints. What another worker is handling is waited for. After an interruption, run the same
    again. ``SQLCheckpoint(engine)`` keeps both sources, so it is all that a service with a database needs; of
    several workers that recover at once, one works, and the others get a ``CheckpointInUseError``. ``filter`` is for
    the messages, the other arguments are those of ``Replay``.

    everything: what Basiq says it delivered is left alone where no inbox can say whether it was handled: before the
        inbox began, or longer ago than it remembers, and always with an ``HttpTarget``. It counts as ``left_alone``.
        True handles it as well, with new checkpoints.
    acknowledged: what is out of reach before this moment is known, and does not keep the recovery from being finished.
    instrument: called with each of the two replays before it runs, such as ``basiq_async.otel.instrument``.

    Raises what ``Replay.run`` raises.
    """
    both = keeps_both_sources(checkpoint)
    if events_checkpoint is None and not both:
        raise ConfigurationError(
            "this checkpoint remembers one source: pass a second one as events_checkpoint, or SQLCheckpoint(engine), "
            "which keeps both"
        )
    if events_checkpoint is checkpoint and not both:
        raise ConfigurationError("checkpoint and events_checkpoint must be two: each remembers one source")
    if inbox is None and not isinstance(target, WebhookReceiver):
        raise ConfigurationError(
            "recover needs an inbox, since most events were messages too: the live service's for a function, one "
            "beside the checkpoints for an HttpTarget"
        )
    if acknowledged is not None and acknowledged.tzinfo is None:
        raise ConfigurationError("acknowledged must be a datetime with a time zone, such as datetime.now(UTC)")
    messages = Replay(
        client,
        webhook_id,
        target,
        checkpoint=checkpoint,
        filter=filter,
        where=where,
        inbox=inbox,
        concurrency=concurrency,
        rate=rate,
        on_error=on_error,
        clock=clock,
    )
    events = Replay(
        client,
        webhook_id,
        target,
        checkpoint=checkpoint if events_checkpoint is None else events_checkpoint,
        source="events",
        where=where,
        inbox=inbox,
        concurrency=concurrency,
        rate=rate,
        on_error=on_error,
        clock=clock,
    )
    for replay in (messages, events):
        if instrument is not None:
            instrument(replay)
    await client.webhooks.get(webhook_id)  # Basiq's clock is known from here on
    knowledge = None if everything else _knowledge_of(target, inbox, webhook_id, clock or client._now)
    if knowledge is not None:
        messages._wrap = lambda inner: MissedMessages(inner, knowledge)
    first = await messages.run(progress)
    if not first.finished:
        unfinished = ReplayError("the message history was not read to its end: run the same again to continue")
        unfinished.report = first
        raise unfinished
    # What happens from now on becomes a message, unless the webhook is not active.
    was_active = find_status_problem(await client.webhooks.get(webhook_id), None) is None
    failed = {event_of(Message(letter.id, letter.message)) async for letter in read_letters(messages)}
    events._wrap = lambda inner: MissedEvents(inner, knowledge, failed)
    second = await events.run(progress)
    return await Circumstances(
        client=client,
        webhook_id=webhook_id,
        messages=messages,
        events=events,
        quarantine=target if isinstance(target, WebhookReceiver) else _require(inbox),
        acknowledged=acknowledged,
    ).assess(first, second, was_active=was_active)


async def recovered_by(
    webhook_id: str, checkpoint: Checkpoint, events_checkpoint: Checkpoint | None = None
) -> Recovered:
    """Return what the recoveries with these checkpoints have brought, for ``webhooks.diagnose``.

    Begins no run. Raises ``CheckpointError`` also for checkpoints of a recovery with a ``where`` or a ``filter``: it
    does not say that all was brought.
    """
    messages = await checkpoint.peek(Job(webhook_id)) or State()
    events = await (events_checkpoint or checkpoint).peek(Job(webhook_id, source="events")) or State()
    return Recovered(
        Notes.read(messages.notes).read_until, Notes.read(events.notes).covered, messages.dead + events.dead
    )


def _knowledge_of(target: object, inbox: Inbox | None, webhook_id: str, now: Callable[[], datetime]) -> InboxKnowledge:
    if isinstance(target, WebhookReceiver):
        return InboxKnowledge(target.inbox, target._scope, shared=True, timeout=_TIMEOUT, now=now)
    known = _require(inbox)
    shared = not isinstance(target, HttpTarget)
    return InboxKnowledge(known, Scope(known, webhook_id), shared=shared, timeout=_TIMEOUT, now=now)


def _require(inbox: Inbox | None) -> Inbox:
    assert inbox is not None  # noqa: S101  # recover has looked
    return inbox


_TIMEOUT = 5.0
