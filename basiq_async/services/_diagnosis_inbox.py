"""What an inbox knows of a webhook, for a ``Diagnosis``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime
from itertools import chain

from .._work.keys import inbox_key, owner_of_job, posting_job
from .._work.limits import inbox_limit
from .._work.owners import (
    Owner,
    find_recording_since,
    identity_in,
    list_of,
    live_identities,
    read_jobs,
    read_owners,
    refuse_others,
)
from .._work.protocol import Inbox, Waiting
from .._work.quarantine import count_by_owner
from .._work.waiting import FailingType, count_waiting, find_failing
from .api import Api
from .coverage import Activity, Coverage, Inactivity, coverage_note, read_coverage
from .details import Details
from .diagnosis import DiagnosedReceiver

Ids = tuple[str | None, str | None, str | None]
"""The ids of an event type, of an event and of a message."""
_CALL = 5.0


class KnownEvents:
    """What an inbox knows of a webhook, under its identity. Without an inbox, it knows nothing."""

    def __init__(
        self, inbox: Inbox | None, receiver: DiagnosedReceiver | None, webhook_id: str, identity: str | None
    ) -> None:
        self._inbox = inbox if inbox is not None or receiver is None else receiver.inbox
        self._receiver = receiver if inbox is None else None
        self._webhook_id = webhook_id
        self._identity: str | None = identity
        if self._receiver is not None and self._receiver.webhook_ids:
            refuse_others(self._receiver.webhook_ids, webhook_id, "receiver")
        self.coverage = Coverage()
        self.recording_since: datetime | None = None
        """Since when the inbox has recorded every live delivery; None if it has none."""
        self._owners: list[str | None] = [identity]
        """Whose keys show what was handled."""
        self.quarantined = 0
        self.waiting = Waiting()
        self.failing_types: tuple[FailingType, ...] = ()
        self.others: dict[str, int] = {}

    @property
    def has_inbox(self) -> bool:
        """Whether there is an inbox at all."""
        return self._inbox is not None

    def details(self, api: Api) -> Details:
        """Return what reads messages by their ids. It uses what the inbox remembers of them, and notes nothing."""
        inbox = self._inbox

        async def note(name: str) -> str | None:
            async with inbox_limit(_CALL):
                return None if inbox is None else await inbox.note(name)

        return Details(api, self._webhook_id, note=None if inbox is None else note)

    def out_of_reach(self, activity: Activity, inactive: datetime | None, now: datetime) -> tuple[Inactivity, ...]:
        """Return the periods whose events are lost, as far as the recoveries with the inbox show it."""
        if self._inbox is None:
            return ()
        return self.coverage.out_of_reach(activity.periods(self.coverage.seen_inactive, inactive), now)

    async def open(self, url: str, find_working: Callable[[], Awaitable[Collection[str] | None]]) -> None:
        """Find out whose the inbox is, and what recoveries noted in it. Raises ``ConfigurationError`` for another's.

        url: that of the webhook. ``find_working`` returns the ids of active webhooks; None if they cannot be known.
        """
        inbox, webhook_id, receiver = self._inbox, self._webhook_id, self._receiver
        if inbox is None:
            return
        owners = await read_owners(inbox, timeout=_CALL)
        if receiver is not None:
            self._identity = receiver.webhook_id
        else:
            refuse_others(owners, webhook_id if self._identity is None else self._identity, "inbox")
            self._identity = identity_in(owners, webhook_id, self._identity)
        self.recording_since = await find_recording_since(inbox, webhook_id, timeout=_CALL)
        own = receiver.webhook_ids if receiver is not None else list_of(owners, self._identity or webhook_id)

        async def find_surely_working() -> Collection[str]:
            found = await find_working()
            return own if found is None else found  # nothing is concluded from what cannot be known

        self.coverage = await read_coverage(inbox, webhook_id, own, find_surely_working, timeout=_CALL)
        self._owners = [self._identity]
        if receiver is None and owners.get(webhook_id, Owner("")).since is None:
            jobs = await read_jobs(inbox, timeout=_CALL)
            own_url = posting_job(url)
            for job in [own_url] if own_url in jobs else jobs:  # a job to another place is no evidence
                self._owners.append(posted := owner_of_job(job, self._identity or webhook_id))
                async with inbox_limit(_CALL):
                    noted = Coverage.read(await inbox.note(coverage_note(f"{posted} {webhook_id}")))
                self.coverage = noted if self.coverage.is_new and noted != Coverage() else self.coverage
        await self._count_entries(inbox, [each for each in live_identities(owners) if each != self._identity])

    async def _count_entries(self, inbox: Inbox, others: Sequence[str]) -> None:
        counts = await count_by_owner(inbox, [*self._owners, *others], timeout=_CALL)
        self.waiting = await count_waiting(inbox, self._identity, timeout=_CALL)
        if self.waiting.failing:
            self.failing_types = tuple(await find_failing(inbox, self._identity, timeout=_CALL))
        self.quarantined = sum(counts.pop(each, 0) for each in self._owners)
        for each in others:
            counts[each] += (await count_waiting(inbox, each, timeout=_CALL)).count
        self.others = {each: count for each, count in counts.items() if each is not None and count}

    async def find(self, ids: Sequence[Ids]) -> list[bool]:
        """Return for the ids of each event type, event and message whether the inbox knows that event."""
        if self._inbox is None or not ids:
            return [False] * len(ids)
        keys = [[inbox_key(*each, owner) for owner in self._owners] for each in ids]
        async with inbox_limit(_CALL):
            known = frozenset(await self._inbox.known([*chain(*keys)]))
        return [not known.isdisjoint(each) for each in keys]
