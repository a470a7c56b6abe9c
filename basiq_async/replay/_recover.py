"""Recovering from an outage: the message history, then what never became a message."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import attrs

from ..client import BasiqClient
from ..errors import ConfigurationError, ReplayError
from ..filters import Filter
from ..receiver import Inbox, WebhookReceiver
from ._engine import OnError
from ._inactivity import Inactivity
from ._replay import Replay
from ._report import OnProgress, Report
from ._where import Predicate, Where
from .checkpoints._base import Checkpoint, keeps_both_sources
from .targets._base import Handler, SessionHandler, Target

__all__ = ["Recovery", "recover"]


@attrs.frozen
class Recovery:
    """What a recovery did.

    messages: the report on the message history.
    events: the report on the event list of the last 7 days. Its ``handled`` were never a message; its ``skipped``
        are those that a message, or a live delivery, had brought.
    out_of_reach: times in which the webhook was not active, and which began before the event list does. What happened
        then cannot be recovered from Basiq.
    """

    messages: Report
    events: Report
    out_of_reach: tuple[Inactivity, ...]

    @property
    def finished(self) -> bool:
        """Whether both sources were read to their ends, with no dead letters left and nothing out of reach."""
        return (
            self.messages.finished
            and self.events.finished
            and not (self.messages.dead or self.events.dead or self.out_of_reach)
        )


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
    concurrency: int = 32,
    rate: float | None = None,
    on_error: OnError = "dead-letter",
    progress: OnProgress | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Recovery:
    """Bring to a target everything that it missed: the webhook's messages, then the events that made none.

    .. code-block:: python

        checkpoints = SQLiteCheckpoint("recover.db"), SQLiteCheckpoint("recover-events.db")
        async with HttpTarget(URL, SECRET) as target:
            recovery = await recover(
                basiq, webhook_id, target, checkpoint=checkpoints[0], events_checkpoint=checkpoints[1]
            )

    The arguments are those of ``Replay``; ``filter`` is for the messages. The messages come first, since they have
    the ``webhook-id`` that Basiq sends with. An inbox skips what was handled. Pass one where the target is a function;
    a ``WebhookReceiver`` has its own, and so does the service behind an ``HttpTarget``. After an interruption, run the
    same again. ``SQLCheckpoint(engine)`` keeps both sources, so it is all that a service with a database needs; of
    several workers that recover at once, one works, and the others get a ``CheckpointInUseError``. Raises what
    ``Replay.run`` raises.
    """
    both = keeps_both_sources(checkpoint)
    if events_checkpoint is None and not both:
        raise ConfigurationError(
            "this checkpoint remembers one source: pass a second one as events_checkpoint, or SQLCheckpoint(engine), "
            "which keeps both"
        )
    if events_checkpoint is checkpoint and not both:
        raise ConfigurationError("checkpoint and events_checkpoint must be two: each remembers one source")
    if inbox is None and not isinstance(target, (WebhookReceiver, Target)):
        raise ConfigurationError("recover needs an inbox for a function: most events were messages too")
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
    first = await messages.run(progress)
    if not first.finished:
        unfinished = ReplayError("the message history was not read to its end: run the same again to go on")
        unfinished.report = first
        raise unfinished
    second = await events.run(progress)
    return Recovery(first, second, _out_of_reach(first.inactive, second.reach))


def _out_of_reach(periods: tuple[Inactivity, ...], reach: datetime | None) -> tuple[Inactivity, ...]:
    return tuple(each for each in periods if reach is not None and each.since < reach)
