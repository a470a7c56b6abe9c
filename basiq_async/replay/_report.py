"""The plan, the progress and the report of a run, and the comparison of a history with an inbox."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime

import attrs

from .._wire.order import Order
from .._work.keys import inbox_key
from .._work.limits import inbox_limit
from .._work.tasks import run_to_completion
from ..models import Message
from ..receiver import Inbox
from ._coverage import Inactivity, InactivityTracker
from ._sources import MessageSource, UnreadableMessage, each_message
from ._where import Where, choose, message_time
from .checkpoints._base import State

_MOST_SHOWN = 3


@attrs.frozen(kw_only=True)
class Progress:
    """A run so far.

    read: the number of messages that this run read from the history.
    handled: the number of messages that the target accepted.
    skipped: the number of messages that did not have to be handled, by reason: ``where`` (not selected), ``recorded``
        (done by an earlier run), ``handled-before`` (the inbox recorded it as handled), ``no-handler`` (no handler
        is registered for its type).
    failed: the number of messages that the target did not accept; with ``on_error="dead-letter"`` they are dead letters
        now.
    in_flight: the number of messages that are handed out and not recorded yet.
    duration: in seconds.
    rate: messages a second, handled or failed: of the last ten seconds, and in a ``Report`` of the whole run.
    remaining, eta: the messages left, and the seconds they will last; None without a plan, because Basiq does not tell
        the length of a history. ``eta`` is None while nothing finishes, too.
    paused: the seconds left of a pause, which the target asked for, or which began because it is down; else 0.
    down: the seconds for which the target has been down; else 0.
    dead: the number of dead letters in the checkpoint, those of earlier runs included.
    commits: the number of times that this run has recorded its state.
    order: the order of the list, as far as its times show it. A list that is not ordered by time ("unknown") is read
        whole in each run.
    """

    read: int = 0
    handled: int = 0
    skipped: Mapping[str, int] = attrs.field(factory=dict)
    failed: int = 0
    in_flight: int = 0
    duration: float = 0.0
    rate: float = 0.0
    remaining: int | None = None
    eta: float | None = None
    paused: float = 0.0
    down: float = 0.0
    dead: int = 0
    commits: int = 0
    order: Order = "unknown"


@attrs.frozen(kw_only=True)
class Report(Progress):
    """The result of one run: its progress at the end, and what follows from it.

    repeated: maximum number of handled messages that an earlier run had handled too, because it was killed before
        it could record them. 0 if all earlier runs ended properly.
    cursor: the place where the next run resumes, as the checkpoint keeps it; None at the beginning.
    position: the number of messages of the history that are finished.
    finished: whether the history was read to its end, and all its messages are finished.
    handled_in_all: the number of messages that the target accepted in all runs of this checkpoint.
    inactive: the periods in which the webhook was not active, as far as the messages of all runs show them. Events of
        these periods made no messages: see ``recover``.
    reach: for a replay of the event list, the moment where the list begins.
    may_repeat: whether messages may have been handled again, because nothing that was recorded is listed any more, or
        because messages may have slipped away while an earlier run read them.
    """

    finished: bool
    position: int
    repeated: int = 0
    cursor: str | None = attrs.field(default=None, repr=False)
    handled_in_all: int = 0
    inactive: tuple[Inactivity, ...] = ()
    reach: datetime | None = None
    may_repeat: bool = False


OnProgress = Callable[[Progress], None]


@attrs.frozen
class Plan:
    """What a run would do now.

    Two messages for one event count twice, although a run with an inbox would skip the second as handled before.

    total: the number of messages that would be handed to the target.
    by_type: the same by event type; an empty text is for messages without a type.
    by_day: the same by the day (UTC) of the first attempt; None is for messages without an attempt.
    skipped: the number of messages that would be skipped, by reason (see ``Report``).
    first, last: the time of the earliest and of the latest message; None if no message has a time.
    position: the number of messages that earlier runs have finished. The plan is for the messages after them.
    dead: the number of dead letters, for ``retry_dead``.
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
    """A comparison of the messages that Basiq says it delivered with the events that an inbox recorded as handled.

    checked: the number of messages that were compared.
    delivered: the number of them that Basiq says it delivered.
    missing: the number of delivered messages that the inbox did not record as handled.
    missing_by_type: the same by event type.
    missing_ids: the ids of the missing messages, up to the number that was asked for.
    undelivered: the number of messages that Basiq says it did not deliver, and that the inbox does not have either.
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
    webhook_id: str | None,
    *,
    tracker: InactivityTracker,
    handles: Callable[[str], bool] | None = None,
    reach: datetime | None = None,
    inbox_timeout: float,
) -> Plan:
    """Read the source after the checkpoint's place, and count its messages for a ``Plan``."""
    by_type: Counter[str] = Counter()
    by_day: Counter[date | None] = Counter()
    skipped: Counter[str] = Counter()
    first: datetime | None = None
    last: datetime | None = None
    total = 0
    known = None if inbox is None else HandledEvents(inbox, webhook_id, inbox_timeout)
    try:
        async for message in each_message(source):
            if not isinstance(message, UnreadableMessage):
                tracker.see(message)
            if message.id in state.done:
                skipped["recorded"] += 1
                continue
            chosen, error = choose(where, message)
            if not chosen:
                skipped["where"] += 1
                continue
            if error is None and handles is not None and not handles(message.event_type_id or ""):
                skipped["no-handler"] += 1
                continue
            if error is None and known is not None and await known.has(message):
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
    webhook_id: str | None,
    *,
    handles: Callable[[str], bool] | None = None,
    inbox_timeout: float,
) -> Reconciliation:
    """Read the history, and ask the inbox about each selected message that has a handler."""
    checked = delivered = undelivered = 0
    missing: Counter[str] = Counter()
    missing_ids: list[str] = []
    known = HandledEvents(inbox, webhook_id, inbox_timeout)
    try:
        async for message in each_message(source):
            chosen, error = choose(where, message)
            if not chosen or (error is None and handles is not None and not handles(message.event_type_id or "")):
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


class HandledEvents:
    """Asks an inbox which events of a webhook it recorded as handled."""

    def __init__(self, inbox: Inbox, webhook_id: str | None, timeout: float) -> None:
        self._inbox = inbox
        self._webhook_id = webhook_id
        self._timeout = timeout

    async def has(self, message: Message) -> bool:
        """Return whether the inbox recorded the message's event as handled."""
        async with inbox_limit(self._timeout):
            return bool(await self._inbox.known([self._key(message)]))

    def _key(self, message: Message) -> str:
        return inbox_key(message.event_type_id, message.event_id, message.id, self._webhook_id)
