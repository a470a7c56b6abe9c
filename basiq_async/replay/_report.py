"""The plan, the progress and the report of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, date, datetime

import attrs

from .._wire.order import Order
from .._work.tasks import run_to_completion
from ..models import Message
from ._sources import MessageSource
from ._where import message_time
from .targets._base import HANDLED_BEFORE


@attrs.frozen(kw_only=True)
class Progress:
    """A run so far.

    read: the number of messages that this run read from the history.
    read_by_id: the number of messages that were read by their ids too, because the list does not tell what the
        selection needs.
    handled: the number of messages that the target accepted.
    skipped: the number of messages that did not have to be handled, by reason: ``handled-before`` (the record knows it:
        it was handled, or is in the quarantine), ``where`` (not selected), ``unknown`` (Basiq does not tell whether it
        is selected), ``no-handler`` (no handler is registered for its type), ``busy`` (another worker holds it and did
        not end), ``quarantined`` (the receiver quarantined it), ``expired`` (Basiq no longer has its payload),
        ``forgotten`` (the notes of this job that posts are gone, and nothing tells whether it was posted).
    failed: the number of messages that the target did not accept; with ``on_error="quarantine"`` they are quarantined.
    in_flight: the number of messages that are passed to the handler and not recorded yet.
    duration: in seconds.
    rate: messages a second, handled or failed: of the last ten seconds, and in a ``Report`` of the whole run.
    remaining, eta: the messages left, and the seconds they will last; None without a plan, because Basiq does not tell
        the length of a history. ``eta`` is None while nothing finishes, too.
    paused: the seconds left of a pause, which the target asked for, or which began because it is down; else 0.
    reason: why it pauses: the target's last error; None without a pause.
    down: the seconds for which the target has been down; else 0.
    pages_left: for a shared run, the number of pages on which other processes may still work.
    order: the order of the list, as far as its times show it. A list that is not ordered by time ("unknown") is read
        whole in each run.
    """

    read: int = 0
    read_by_id: int = 0
    handled: int = 0
    skipped: Mapping[str, int] = attrs.field(factory=dict)
    failed: int = 0
    in_flight: int = 0
    duration: float = 0.0
    rate: float = 0.0
    remaining: int | None = None
    eta: float | None = None
    paused: float = 0.0
    reason: str | None = None
    down: float = 0.0
    pages_left: int = 0
    order: Order = "unknown"


@attrs.frozen(kw_only=True)
class Report(Progress):
    """The result of one run: its progress at the end, and whether anything is left.

    finished: whether the history was read to its end, and each selected message is handled or quarantined. False if
        messages failed with ``on_error="skip"``, are held by another worker, wait for a deferred handler, or are
        ``unknown``, and if posted ones failed at the service.
    read_to_end: whether the history was read to its end.
    waiting: of the messages that were posted or handled before, as many may wait for a deferred handler of the service.
    at_service: for a target that posts: as many of the same are in the quarantine of the service's inbox.
    quarantined: for a shared run, as many entries the quarantine holds at its end.
    again: the name under which the messages were handled again; else None.
    """

    finished: bool
    read_to_end: bool = False
    waiting: int = 0
    at_service: int = 0
    quarantined: int = 0
    again: str | None = None


OnProgress = Callable[[Progress], None]


@attrs.frozen
class Plan:
    """What a run would do now.

    total: the number of messages that would be handed to the target.
    by_type: the same by event type; an empty text is for messages without a type.
    by_day: the same by the day (UTC) of the first attempt; None is for messages without an attempt.
    skipped: the number of messages that would be skipped, by reason (see ``Report``).
    first, last: the time of the earliest and of the latest message; None if no message has a time.
    quarantined: the number of entries of the webhook in the quarantine, for ``retry_quarantined``.
    waiting: the number of deferred deliveries of the webhook that wait to be handled: a run leaves them to it.
    order, read_by_id: see ``Report``.
    """

    total: int
    by_type: Mapping[str, int]
    by_day: Mapping[date | None, int]
    skipped: Mapping[str, int]
    first: datetime | None
    last: datetime | None
    quarantined: int = 0
    waiting: int = 0
    order: Order = "unknown"
    read_by_id: int = 0


async def make_plan(
    source: MessageSource, limit: int | None, *, accepts_type: Callable[[str], bool] | None = None
) -> Plan:
    """Read the source, and count its messages for a ``Plan``."""
    by_type: Counter[str] = Counter()
    by_day: Counter[date | None] = Counter()
    skipped: Counter[str] = Counter()
    first: datetime | None = None
    last: datetime | None = None
    total = 0
    try:
        async for message, error in _each(source):
            if error is None and accepts_type is not None and not accepts_type(message.event_type_id or ""):
                skipped["no-handler"] += 1
                continue
            total += 1
            time = None if error is not None else message_time(message)
            by_type[(message.event_type_id if error is None else None) or ""] += 1
            by_day[None if time is None else time.astimezone(UTC).date()] += 1
            if time is not None:
                first = time if first is None else min(first, time)
                last = time if last is None else max(last, time)
            if total == limit:
                break
    finally:
        await run_to_completion(source.aclose)
    skipped[HANDLED_BEFORE] += source.known_count
    skipped["where"] += source.unselected_count
    skipped["unknown"] += source.unknown_count
    skipped = +skipped  # without those that are 0
    return Plan(
        total, dict(by_type), dict(by_day), dict(skipped), first, last, order=source.order, read_by_id=source.read_by_id
    )


async def _each(source: MessageSource) -> AsyncIterator[tuple[Message, Exception | None]]:
    while (batch := await source.advance()) is not None:
        for place, message in enumerate(batch.items):
            yield message, batch.errors.get(place)
        batch.mark_done(len(batch.items))  # it keeps no item then
