"""The plan, progress and report of a replay, and the reconciliation of an inbox."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime

import attrs

from .._wire.order import Order
from ._inactivity import Inactivity

_MOST_SHOWN = 3


def _shorten(ids: tuple[str, ...]) -> str:
    shown = ", ".join(map(repr, ids[:_MOST_SHOWN]))
    return f"({shown}, … {len(ids)} in all)" if len(ids) > _MOST_SHOWN else f"({shown})"


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
