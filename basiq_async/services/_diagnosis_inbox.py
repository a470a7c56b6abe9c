"""What an inbox knows of a webhook, for a ``Diagnosis``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from itertools import chain

from .._work.failing import FailingType, count_failing
from .._work.inbox_calls import InboxCalls
from .._work.keys import inbox_key, key_of_post, posting_job
from .._work.noted import refuse_others
from .._work.protocol import MOST_UNENDED, Inbox, InboxEntry, Waiting
from .api import Api
from .coverage import Activity, Coverage, Inactivity, LiveSince, find_live_since, read_coverage
from .details import Details
from .diagnosis import DiagnosedReceiver, matches

EventIds = tuple[str | None, str | None, str | None]
"""The ids of an event type, of an event and of a message."""
_CALL = 5.0
_now = partial(datetime.now, UTC)
_MOST_NAMED = 3
"""How many events are named that ended their processes."""


class KnownEvents:
    """What an inbox knows of a webhook. Without an inbox, it knows nothing."""

    def __init__(self, inbox: Inbox | None, receiver: DiagnosedReceiver | None, webhook_id: str) -> None:
        found = inbox if inbox is not None or receiver is None else receiver.inbox
        self._calls = None if found is None else InboxCalls(found, _CALL)
        self._receiver = receiver if inbox is None else None
        self._webhook_id = webhook_id
        if self._receiver is not None:
            refuse_others(self._receiver.webhook_ids, webhook_id)
        self.coverage = Coverage()
        self.live_since = LiveSince()
        """Since when the inbox has recorded every live delivery."""
        self._jobs: list[str] = []
        """The jobs whose posts show what was handled."""
        self.last_recorded: datetime | None = None
        """When the inbox last recorded something, if it tells."""
        self.known_since: datetime | None = None
        """Since when the inbox surely knows what was handled; None if no recovery has decided anything older."""
        self.not_joined: tuple[str, ...] = ()
        self.patterns: tuple[str, ...] | None = None if receiver is None else receiver.patterns
        """The event types with a handler, as the receiver has them, or has noted them; None if that is not known."""
        self.quarantined = 0
        self.quarantined_since: datetime | None = None
        self.killers: list[str] = []
        """The ids of some events in the quarantine that ended three processes each."""
        self.alone: list[tuple[str, str]] = []
        """The types and ids of some events that wait and are handled alone."""
        self.waiting = Waiting()
        self.failing_types: tuple[FailingType, ...] = ()

    @property
    def has_inbox(self) -> bool:
        """Whether there is an inbox at all."""
        return self._calls is not None

    def details(self, api: Api) -> Details:
        """Return what reads messages by their ids. It uses what the inbox remembers of them, and notes nothing."""
        return Details(api, self._webhook_id, note=None if self._calls is None else self._calls.note)

    def unrecoverable(
        self, activity: Activity, inactive: datetime | None, now: datetime, types: Collection[str]
    ) -> tuple[Inactivity, ...]:
        """Return the periods whose events of these types are lost, as far as the recoveries with the inbox show it."""
        if self._calls is None:
            return ()
        return self.coverage.unrecoverable(activity.periods(self.coverage.seen_inactive, inactive), now, types)

    async def open(self, url: str, find_working: Callable[[], Awaitable[Collection[str] | None]]) -> None:
        """Find out what the inbox, and what recoveries have noted in it, say of the webhook.

        url: that of the webhook. ``find_working`` returns the ids of active webhooks; None if they cannot be known.
        """
        calls, webhook_id, receiver = self._calls, self._webhook_id, self._receiver
        if calls is None:
            return
        noted = await calls.noted()
        self.last_recorded = await calls.last_recorded()
        if receiver is None:
            self.patterns = await calls.handled_types() or None
        self.not_joined = () if noted.admits([webhook_id]) else tuple(noted.webhooks)
        self.live_since = await find_live_since(calls, noted, webhook_id)
        own = {*noted.webhooks, *(() if receiver is None else receiver.webhook_ids)}
        self.coverage = await read_coverage(calls, webhook_id, own, find_working, now=_now)
        if receiver is None and webhook_id not in noted.live():
            jobs, own_url = await calls.jobs(), posting_job(url)
            for other in [own_url] if own_url in jobs else jobs:  # a job to another place is no evidence
                self._jobs.append(other)
                found = await read_coverage(calls, webhook_id, (), find_working, job=other, now=_now)
                self.coverage = found if self.coverage.is_new and found != Coverage() else self.coverage
        self.known_since = None if self.coverage.read_up_to is None else await calls.known_since()

    async def count_left(self) -> None:
        """Count what waits and is in the quarantine: after the lists, as what is under way there may end in it."""
        if (calls := self._calls) is None:
            return
        self.waiting = await calls.count_waiting()
        if self.waiting.failing:
            async with aclosing(self._note_alone(calls)) as entries:
                self.failing_types = tuple(await count_failing(entries))
        for job in (None, *self._jobs):
            async with aclosing(calls.read_quarantine(job)) as entries:
                async for entry in entries:
                    self.quarantined += 1
                    if self.quarantined_since is None or entry.quarantined_at < self.quarantined_since:
                        self.quarantined_since = entry.quarantined_at
                    if entry.unended >= MOST_UNENDED and len(self.killers) < _MOST_NAMED:
                        self.killers.append(entry.event_id or entry.delivery_id)

    async def _note_alone(self, calls: InboxCalls) -> AsyncGenerator[InboxEntry]:
        async with aclosing(calls.read_waiting()) as entries:
            async for entry in entries:
                if entry.unended and len(self.alone) < _MOST_NAMED:
                    self.alone.append((entry.event_type_id, entry.event_id or entry.delivery_id))
                yield entry

    def accepts_type(self, event_type_id: str) -> bool:
        """Return whether there is a handler for an event type, as far as that is known."""
        return self.patterns is None or any(matches(each, event_type_id) for each in self.patterns)

    async def find_unended(self, ids: Sequence[EventIds]) -> tuple[tuple[str, int], ...]:
        """Return the ids of some of these events of which attempts had no end, each with how many."""
        if self._calls is None:
            return ()
        keys = {inbox_key(event_id, message_id): event_id or message_id or "" for _, event_id, message_id in ids}
        found = await self._calls.unended([*keys])
        return tuple((keys[key], count) for key, count in [*found.items()][:_MOST_NAMED])

    async def find(self, ids: Sequence[EventIds]) -> list[bool]:
        """Return for the ids of each event type, event and message whether the inbox knows that event."""
        if self._calls is None or not ids:
            return [False] * len(ids)
        own = [inbox_key(event_id, message_id) for _, event_id, message_id in ids]
        keys = [[key, *(key_of_post(job, key) for job in self._jobs)] for key in own]
        known = frozenset(await self._calls.known([*chain(*keys)]))
        return [not known.isdisjoint(each) for each in keys]
