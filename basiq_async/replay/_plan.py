"""Looking without touching: what a run would do, and what an inbox lacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime

from .._concurrency.tasks import run_to_completion
from .._inbox.calls import InboxCalls
from .._inbox.keys import Scope
from ..models import Message
from ..receiver import Inbox
from ._inactivity import InactivityTracker
from ._report import Plan, Reconciliation
from ._sources import MessageSource, walk
from ._where import Where, message_time
from .checkpoints._base import State


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
    known = None if inbox is None else _Known(inbox, webhook_id, inbox_timeout)
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
    known = _Known(inbox, webhook_id, inbox_timeout)
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


class _Known:
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
