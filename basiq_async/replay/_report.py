"""What a run would do, does and has done, and what an inbox lacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime

import attrs

from .._concurrency.tasks import run_to_completion
from .._inbox.calls import InboxCalls
from .._inbox.keys import Scope
from .._wire.order import Order
from ..models import Message
from ..receiver import Inbox
from ._notes import Inactivity, InactivityTracker
from ._sources import MessageSource, walk
from ._where import Where, message_time
from .checkpoints._base import State

_MOST_SHOWN = 3


@attrs.frozen
class Report:
    """What one run did.

    handled: messages that the target took.
    skipped: messages that were not handled because they need not be, counted by the reason: ``where`` (not chosen),
        ``recorded`` (done by an earlier run), ``handled-before`` (an inbox knows it), ``no-handler`` (a receiver has
        none for its type).
    failed: messages that the target did not take; with ``on_error="dead-letter"`` they are dead letters now.
    repeated: how many of the handled ones, at most, an earlier run had handled too, and was killed before it could
        record them. 0 where all earlier runs ended in order.
    duration: seconds.
    cursor: where the next run resumes, as the checkpoint keeps it; None at the beginning.
    position: how many messages of the history have been read and done with.
    finished: whether the history was read to its end and nothing in it is left to do.
    dead: how many dead letters the checkpoint has, those of earlier runs as well.
    handled_in_all: messages that the target took in all the runs of this checkpoint.
    inactive: when the webhook was not active, as far as the messages of all runs show it. What happened then made no
        message: see ``recover``.
    reach: of a replay of the event list: the list has no events from before this moment.
    order: in which order Basiq lists them, as far as their times show it. A list in no order of time, "unknown", is
        read whole in each run; one that is too short to tell is not.
    """

    handled: int
    skipped: Mapping[str, int]
    failed: int
    repeated: int
    duration: float
    cursor: str | None
    position: int
    finished: bool
    dead: int = 0
    handled_in_all: int = 0
    inactive: tuple[Inactivity, ...] = ()
    reach: datetime | None = None
    order: Order = "unknown"

    @property
    def rate(self) -> float:
        """Messages a second, handled or failed."""
        return (self.handled + self.failed) / self.duration if self.duration > 0 else 0.0


@attrs.frozen
class Progress:
    """Where a run stands.

    ``read`` counts the messages that were read from the history in this run, ``in_flight`` those that are handed
    out and not recorded. ``elapsed`` is in seconds, ``rate`` in messages a second (handled or failed, lately).
    ``remaining`` and ``eta`` (seconds) are there where the run was given a plan: Basiq does not tell how long a
    history is. ``paused`` is how many seconds are left of a pause, which the target asked for, or which it needs
    because it is down; 0 without a pause. ``down`` is for how many seconds the target has been down. ``dead`` is how
    many dead letters the checkpoint has, ``commits`` how often this run has recorded its state. ``order``: see
    ``Report``.
    """

    read: int
    handled: int
    skipped: int
    failed: int
    in_flight: int
    elapsed: float
    rate: float
    remaining: int | None = None
    eta: float | None = None
    paused: float = 0.0
    down: float = 0.0
    dead: int = 0
    commits: int = 0
    order: Order = "unknown"


OnProgress = Callable[[Progress], None]


@attrs.frozen
class Plan:
    """What a run would do, now.

    Each message counts. Of two messages for one event, a run with an inbox hands the first to the target, and skips the
    second as handled before.

    total: messages that would be handed to the target.
    by_type: the same by type of event, empty text for those that have none.
    by_day: the same by the day (UTC) of their first attempt, None for those that have none.
    skipped: messages that would not be, by why (see ``Report``).
    first, last: the time of the earliest and the latest, where they have one.
    position: how many messages earlier runs are done with; the plan is for what comes after them.
    dead: dead letters that wait for ``retry_dead``.
    inactive, reach, order: see ``Report``.
    """

    total: int
    by_type: Mapping[str, int]
    by_day: Mapping[date | None, int]
    skipped: Mapping[str, int]
    first: datetime | None
    last: datetime | None
    position: int
    dead: int
    inactive: tuple[Inactivity, ...] = ()
    reach: datetime | None = None
    order: Order = "unknown"


def _shorten(ids: tuple[str, ...]) -> str:
    shown = ", ".join(map(repr, ids[:_MOST_SHOWN]))
    return f"({shown}, … {len(ids)} in all)" if len(ids) > _MOST_SHOWN else f"({shown})"


@attrs.frozen
class Reconciliation:
    """What Basiq says it delivered, compared with what an inbox has handled.

    checked: messages that were looked at.
    delivered: those of them that Basiq says were delivered.
    missing: those of the delivered ones that the inbox never handled.
    missing_by_type: the same by type of event.
    missing_ids: the ids of the first of them, as many as were asked for.
    undelivered: messages that Basiq says were not delivered, and that the inbox never handled either.
    """

    checked: int
    delivered: int
    missing: int
    missing_by_type: Mapping[str, int]
    missing_ids: tuple[str, ...] = attrs.field(repr=_shorten)
    undelivered: int


async def make_plan(
    source: MessageSource,
    state: State,
    where: Where,
    inbox: Inbox | None,
    webhook_id: str,
    *,
    tracker: InactivityTracker,
    handles: Callable[[str], bool] | None = None,
    reach: datetime | None = None,
    inbox_timeout: float,
) -> Plan:
    """Go through the history after the checkpoint, and count."""
    by_type: Counter[str] = Counter()
    by_day: Counter[date | None] = Counter()
    skipped: Counter[str] = Counter()
    first: datetime | None = None
    last: datetime | None = None
    total = 0
    known = None if inbox is None else _HandledEvents(inbox, webhook_id, inbox_timeout)
    try:
        async for message in walk(source):
            tracker.see(message)
            if message.id in state.done:
                skipped["recorded"] += 1
                continue
            if not _is_selected(where, message):
                skipped["where"] += 1
                continue
            if handles is not None and not handles(message.event_type_id or ""):
                skipped["no-handler"] += 1
                continue
            if known is not None and await known.has(message):
                skipped["handled-before"] += 1
                continue
            total += 1
            time = message_time(message)
            by_type[message.event_type_id or ""] += 1
            by_day[None if time is None else time.astimezone(UTC).date()] += 1
            if time is not None:
                first = time if first is None else min(first, time)
                last = time if last is None else max(last, time)
            if total == where.limit:
                break
    finally:
        await run_to_completion(source.aclose)
    return Plan(
        total,
        dict(by_type),
        dict(by_day),
        dict(skipped),
        first,
        last,
        state.position,
        state.dead,
        tracker.periods(),
        reach,
        source.order,
    )


async def reconcile(
    source: MessageSource,
    where: Where,
    inbox: Inbox,
    ids: int,
    webhook_id: str,
    *,
    handles: Callable[[str], bool] | None = None,
    inbox_timeout: float,
) -> Reconciliation:
    """Go through the history, and ask the inbox for each message that there is a handler for."""
    checked = delivered = undelivered = 0
    missing: Counter[str] = Counter()
    missing_ids: list[str] = []
    known = _HandledEvents(inbox, webhook_id, inbox_timeout)
    try:
        async for message in walk(source):
            if not _is_selected(where, message) or (handles is not None and not handles(message.event_type_id or "")):
                continue
            checked += 1
            delivered += message.delivered
            if not await known.has(message):
                if message.delivered:
                    missing[message.event_type_id or ""] += 1
                    if len(missing_ids) < ids:
                        missing_ids.append(message.id)
                else:
                    undelivered += 1
            if checked == where.limit:
                break
    finally:
        await run_to_completion(source.aclose)
    return Reconciliation(checked, delivered, missing.total(), dict(missing), tuple(missing_ids), undelivered)


def _is_selected(where: Where, message: Message) -> bool:
    try:
        return where(message)
    except Exception:
        return True  # it will be handed out, as a failed one


class _HandledEvents:
    """What an inbox has handled of a webhook."""

    def __init__(self, inbox: Inbox, webhook_id: str, timeout: float) -> None:
        self._inbox = inbox
        self._scope = Scope(inbox, webhook_id)
        self._calls = InboxCalls(timeout)

    async def has(self, message: Message) -> bool:
        """Whether it has handled the message's event."""
        return await self._calls.within_limit(self._has(message))

    async def _has(self, message: Message) -> bool:
        await self._scope.find(record=False)
        return await self._inbox.seen(self._scope.key(message.event_type_id, message.event_id, message.id))
