"""What earlier runs decided: an inbox forgets what it handled, and a history shows some of it for longer.

A message that is older than what the inbox remembers, and of a time that a run has decided, is not passed to the
handler again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

import attrs

from .._wire.codec import event_type_of
from .._wire.order import item_time
from .._work.failures import failure_text
from ..models import Message
from ..services.coverage import TIME_TO_APPEAR
from ._sources import EventMessage, UnreadableMessage, type_of

logger = logging.getLogger("basiq_async.replay")
DECIDED = "decided-before"
"""The reason to skip a message that is older than the inbox remembers, and that an earlier run decided."""
FORGOTTEN = "forgotten"
"""The reason to skip one of a time of which a job's note has gone: nothing tells whether an earlier run decided it."""
MemoryKind = Literal["recovery", "recovered events", "messages", "events"]
_MOST_TYPES = 100
"""Of each list: Basiq has 15 today, and a note has at most 64 kB."""
_SKEW = timedelta(minutes=5)
Period = tuple[datetime | None, datetime]
"""From when, or from ever, and up to when the messages of an event type were decided, by Basiq's clock."""


@attrs.define(eq=False)
class Memory:
    """What the runs of a job decided, up to when, and what this run sees. It is a note in the inbox.

    set_note: stores the note. ``kind``: "recovery", or the list that a replay reads.
    known_since: since when the inbox surely knows what was handled; None if no run has decided anything older.
    live_since: since when the inbox had live deliveries of the webhook; None if it has none.
    gone_before: the moment before which a note of the job may have gone; None if none has.
    """

    _set_note: Callable[[str], Awaitable[object]]
    _kind: MemoryKind
    _periods: dict[str, dict[str, Period]]
    known_since: datetime | None
    live_since: datetime | None
    gone_before: datetime | None
    _accepts_type: Callable[[str], bool] | None
    applies: bool = True
    """Whether to leave out anything: a recovery of everything does not."""
    skipped: int = 0
    forgotten: int = 0
    wants: Callable[[str], bool] | None = None
    """Which types of events are passed to the handler; None for all that have a handler."""
    _message_types: set[str] = attrs.field(factory=set)
    """The types of the messages that were listed."""
    _event_types: set[str] = attrs.field(factory=set)

    def see(self, items: Sequence[Any], times: Sequence[datetime | None]) -> None:
        """Record the event types of the items of a page, as Basiq sent them."""
        for item in items:
            if isinstance(item, dict):
                is_message = "payload" in item
                event_type = type_of(item) if is_message else event_type_of(item)
                if event_type is not None:
                    (self._message_types if is_message else self._event_types).add(event_type)

    def is_decided(self, message: Message) -> bool:
        """Return whether a message was decided, and is not passed to the handler: the inbox may have forgotten it."""
        if self.known_since is None or not self.applies or isinstance(message, UnreadableMessage):
            return False
        time = item_time(message)
        if time is None or time >= self.known_since:
            return False
        kinds: tuple[MemoryKind, ...] = ("recovery", "messages")
        if isinstance(message, EventMessage):
            kinds = ("recovered events", "events")
        elif self._kind == "messages" and message.delivered is True:
            # A recovery passes over what Basiq delivered. Live, this inbox had it, if it was there then.
            if self.live_since is not None and time >= self.live_since + _SKEW:
                return True
            kinds = ("messages",)
        return any(self._covers(kind, message.event_type_id or "", time) for kind in kinds)

    def is_forgotten(self, message: Message) -> bool:
        """Return whether nothing tells if a message was decided: a recovery asks its own note."""
        if self._kind == "recovery" or self.gone_before is None or self.known_since is None:
            return False
        if isinstance(message, UnreadableMessage):
            return False
        time = item_time(message)
        return time is None or time < min(self.gone_before, self.known_since)

    @property
    def may_be_decided(self) -> bool:
        """Whether a message may be decided that the inbox does not know."""
        since, live = self.known_since, self.live_since
        decided = self._periods.get("recovery") or self._periods.get("messages")
        if self.gone_before is not None:
            return True
        return self.applies and since is not None and (bool(decided) or (live is not None and live + _SKEW < since))

    def judge(self, message: Message) -> bool | None:
        """Return whether a message is left; None if the list does not tell its time."""
        return None if item_time(message) is None else not self.is_decided(message)

    def _covers(self, kind: MemoryKind, event_type: str, time: datetime) -> bool:
        found = self._periods.get(kind, {}).get(event_type)
        return found is not None and (found[0] is None or found[0] <= time) and time < found[1]

    async def note(self, since: datetime | None, began: datetime) -> None:
        """Note that all of the types that were seen is decided that happened in a time.

        Call it only after a run that left nothing. ``began``: when it began to read, by Basiq's clock.
        """
        seen = self._event_types
        if self._kind == "recovery":  # an event whose message it met is no news, and its type was not seen there
            seen = seen | self._message_types
        wanted = seen if self.wants is None else set(filter(self.wants, seen))
        if self._kind != "events":
            self._extend(self._kind, self._message_types, since, began)
        if self._kind != "messages":
            self._extend("events" if self._kind == "events" else "recovered events", wanted, since, began)
        try:
            await self._set_note(_write(self._periods, self.gone_before))
        except Exception as exc:
            text = failure_text(exc)
            logger.warning("up to when all was decided could not be noted, so that the next run notes it: %s", text)

    def _extend(self, kind: MemoryKind, types: Collection[str], since: datetime | None, began: datetime) -> None:
        until, periods = began - TIME_TO_APPEAR, self._periods.setdefault(kind, {})
        for each in sorted(types):
            if self._accepts_type is not None and not self._accepts_type(each):
                continue
            former = periods.pop(each, None)
            is_joined = former is not None and (since is None or former[1] >= since)
            start = former[0] if former is not None and is_joined else since
            periods[each] = (start, until if former is None else max(until, former[1]))
        while len(periods) > _MOST_TYPES:
            del periods[next(iter(periods))]


def note_name(webhook_id: str) -> str:
    """Return the name of the note of a service. A job that posts has its note in a place of its own."""
    return f"decided {json.dumps([webhook_id])}"


def _write(periods: dict[str, dict[str, Period]], gone_before: datetime | None) -> str:
    fields: dict[str, dict[str, tuple[str | None, str]]] = {
        kind: {
            each: (None if since is None else since.isoformat(), until.isoformat())
            for each, (since, until) in found.items()
        }
        for kind, found in periods.items()
    }
    if gone_before is not None:
        fields[FORGOTTEN] = {"": (None, gone_before.isoformat())}
    return json.dumps(fields, separators=(",", ":"))


def read_periods(text: str | None) -> dict[str, dict[str, Period]]:
    """Return the periods of a note; none if another program wrote it: then more is passed to the handler."""
    try:
        found: dict[str, dict[str, Period]] = {}
        for kind, types in dict(json.loads(text or "{}")).items():
            for each, (since, until) in types.items():
                period = None if since is None else datetime.fromisoformat(since), datetime.fromisoformat(until)
                if any(moment is not None and moment.tzinfo is None for moment in period):
                    return {}
                found.setdefault(kind, {})[each] = period
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}
    return found
