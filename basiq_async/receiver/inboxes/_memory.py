"""The inbox in the memory of one process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from types import EllipsisType
from typing import Self

import attrs

from ..._arguments import Duration, check_remember
from ..._work.clock import RetentionClock, TimeSource, lease_clock
from ..._work.protocol import MOST_UNENDED, Claim, ClaimedEntry, ClaimStatus, InboxEntry, Waiting, WaitingInbox
from ..._work.schedule import ATTEMPTED, LONGEST_WAIT
from ...errors import ConfigurationError, InboxError

_CLAIMS_TO_SWEEP = 1024


@attrs.define
class _Lease:
    token: str
    lease: float
    ends: float

    def remaining(self, now: float) -> float:
        """Return the seconds until the lease ends: never more than its length, even if the clock was set back."""
        if self.ends - now > self.lease:
            self.ends = now + self.lease
        return self.ends - now


@attrs.define
class _Wait:
    entry: InboxEntry
    stored: float
    due: float
    attempts: int = 0

    def with_due(self) -> InboxEntry:
        return attrs.evolve(self.entry, due=datetime.fromtimestamp(self.due, UTC))

    def due_at(self, now: float) -> float:
        """Return when it is due: now, if a clock that was ahead has put it off for longer than any wait."""
        return self.due if self.due <= now + LONGEST_WAIT else now


class MemoryInbox(WaitingInbox):
    """An inbox in the memory of one process. Its entries are lost when the process ends.

    An entry is kept for ``remember``: three days by default, longer than Basiq retries a delivery (22 to 66 h); None is
    for ever. It goes up to six days later, so that a wrong clock has nothing forgotten. When there are more than
    ``max_entries`` (about 260 bytes each), the oldest is forgotten. The quarantine holds ``max_quarantined``
    deliveries; ``InboxError`` is raised when it is full. ``clock`` returns the time as an aware datetime. For a service
    with several processes, or one that must remember across restarts, use ``SQLiteInbox``.
    """

    def __init__(
        self,
        *,
        max_entries: int = 200_000,
        max_quarantined: int = 1_000,
        remember: Duration | None = ATTEMPTED,
        clock: TimeSource | None = None,
    ) -> None:
        if max_entries < 2:
            raise ConfigurationError("max_entries must be at least 2")
        if max_quarantined < 0:
            raise ConfigurationError("max_quarantined must not be negative")
        self._max_entries = max_entries
        self._max_quarantined = max_quarantined
        self._remember = check_remember(remember)
        self._retention = RetentionClock(clock)
        self._lease_clock = lease_clock(clock)
        self._done: OrderedDict[str, float] = OrderedDict()
        """For each handled key, the time when it was handled; the oldest first."""
        self._claims: dict[str, _Lease] = {}
        self._most_claims = _CLAIMS_TO_SWEEP
        self._failures: OrderedDict[str, int] = OrderedDict()
        self._unended: OrderedDict[str, list[str]] = OrderedDict()
        """For each key, the tokens of claims that had no end."""
        self._quarantined: dict[str, InboxEntry] = {}
        self._waiting: dict[str, _Wait] = {}
        self._notes: dict[str, str] = {}
        self._known_since, _ = self._retention.read()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        pass

    def __len__(self) -> int:
        """Return the number of handled keys that the inbox remembers."""
        return len(self._done)

    async def check(self) -> None:
        """See ``Inbox``: memory can always be used."""

    async def claim(
        self, key: str, token: str, *, lease: float, quarantined: bool = False, transaction: bool = False
    ) -> Claim:
        if key not in self._quarantined if quarantined else self._is_done(key):
            return _DONE
        before = self._claims.get(key)
        claim = self._take(key, token, lease)
        if claim is _CLAIMED and before is not None and before.token != token:
            self._count_unended(key, before.token)
        unended = len(self._unended.get(key, ()))
        return attrs.evolve(claim, unended=unended) if claim is _CLAIMED and unended else claim

    async def unended(self, keys: Sequence[str]) -> Mapping[str, int]:
        """Return how many attempts of events that are not handled had no end."""
        now, found = self._lease_clock(), dict[str, int]()
        for key in keys:
            held = self._claims.get(key)
            found[key] = len(self._unended.get(key, ())) + (held is not None and held.remaining(now) <= 0)
        return {key: min(count, MOST_UNENDED) for key, count in found.items() if count}

    async def complete(self, key: str, token: str) -> bool:
        if not self._may_record(key, token, completes=True):
            return False
        self._quarantined.pop(key, None)
        self._waiting.pop(key, None)
        self._failures.pop(key, None)
        self._unended.pop(key, None)
        self._record(key)
        return True

    async def release(self, key: str, token: str, *, failed: bool = False) -> int:
        held, delivery = self._claims.get(key), self._quarantined.get(key)
        mine = held is not None and held.token == token
        if mine:
            del self._claims[key]
        if token in self._unended.get(key, ()):
            self._unended[key] = [each for each in self._unended[key] if each != token]
        if not failed:
            return 0
        failures = self._failures.get(key, 0)
        if self._is_done(key):
            if delivery is None or not mine:
                return 0
            failures = max(failures, delivery.failures)
        failures += 1
        self._failures.pop(key, None)
        self._failures[key] = failures
        if len(self._failures) > self._max_entries // 2:
            self._failures.popitem(last=False)
        return failures

    async def known(self, keys: Sequence[str]) -> Collection[str]:
        return {key for key in keys if key in self._quarantined or key in self._waiting or self._is_done(key)}

    async def note(self, name: str) -> str | None:
        return self._notes.get(name)

    async def set_note(self, name: str, text: str, *, expected: str | EllipsisType | None = ...) -> bool:
        if expected is not ... and self._notes.get(name) != expected:
            return False
        self._notes[name] = text
        return True

    async def known_since(self) -> datetime:
        _, horizon = self._retention.read()
        return datetime.fromtimestamp(max(self._known_since, horizon - self._remember), UTC)

    async def quarantine(self, key: str, token: str, entry: InboxEntry) -> bool:
        if not self._may_record(key, token) or (key in self._waiting and not entry.acknowledged):
            return False
        if key not in self._quarantined and len(self._quarantined) >= self._max_quarantined:
            raise InboxError(
                f"the quarantine is full ({self._max_quarantined} deliveries): retry or drop some, raise "
                "max_quarantined, or use an inbox that outlives the process"
            )
        self._claims.pop(key, None)
        self._waiting.pop(key, None)
        self._done.pop(key, None)
        self._quarantined[key] = entry
        return True

    async def entries(
        self, *, waiting: bool = False, after: InboxEntry | None = None, limit: int = 100
    ) -> Sequence[InboxEntry]:
        found = [wait.with_due() for wait in self._waiting.values()] if waiting else [*self._quarantined.values()]
        found.sort(key=_order)
        if after is not None:
            found = [entry for entry in found if _order(entry) > _order(after)]
        return found[:limit]

    async def store(self, entry: InboxEntry, *, now: datetime | None = None) -> bool:
        key = entry.key
        if key in self._waiting or self._is_done(key):
            return False
        self._quarantined.pop(key, None)
        moment = self._wall(now)
        self._waiting[key] = _Wait(entry, moment, moment, entry.failures)
        return True

    async def claim_due(
        self,
        token: str,
        *,
        limit: int,
        retries: int,
        lease: float,
        without: Collection[str] = (),
        now: datetime | None = None,
    ) -> Sequence[ClaimedEntry]:
        moment, found = self._wall(now), list[ClaimedEntry]()
        if not limit:
            mine = [key for key in self._waiting if key in self._claims and self._claims[key].token == token]
            for key in mine:
                self._take(key, token, lease)
            return [self._claimed(self._waiting[key], token, moment) for key in mine]
        for key, wait in sorted(self._waiting.items(), key=lambda item: item[1].due_at(moment)):
            if len(found) == limit or wait.due_at(moment) > moment:
                break
            again = wait.entry.failures > 0
            held = self._claims.get(key)
            is_held = held is not None and held.remaining(self._lease_clock()) > 0
            if is_held or (again and not retries) or wait.entry.event_type_id in without:
                continue
            self._take(key, token, lease)
            retries -= again
            wait.attempts += 1
            found.append(self._claimed(wait, token, moment))
        return found

    def _claimed(self, wait: _Wait, token: str, moment: float) -> ClaimedEntry:
        return ClaimedEntry(wait.with_due(), token, wait.attempts, datetime.fromtimestamp(moment, UTC))

    async def put_off(self, entry: InboxEntry, token: str, *, seconds: float, now: datetime | None = None) -> bool:
        held, wait = self._claims.get(entry.key), self._waiting.get(entry.key)
        if held is None or held.token != token or wait is None:
            return False
        del self._claims[entry.key]
        wait.due = self._wall(now) + seconds
        wait.entry, wait.attempts = entry, entry.failures
        return True

    async def waiting(self, *, now: datetime | None = None) -> Waiting:
        found = list(self._waiting.values())
        fresh = [wait.stored for wait in found if not wait.entry.failures]
        since = [wait.entry.failing_since for wait in found if wait.entry.failures]
        moment = self._wall(now)
        return Waiting(
            count=len(found),
            fresh=len(fresh),
            size=sum(len(wait.entry.body) for wait in found),
            age=max(0.0, moment - min(fresh)) if fresh else None,
            failing_age=max((max(0.0, moment - each.timestamp()) for each in since if each is not None), default=None),
        )

    def _wall(self, now: datetime | None) -> float:
        return self._retention.read()[0] if now is None else now.timestamp()

    def _take(self, key: str, token: str, lease: float) -> Claim:
        now = self._lease_clock()
        held = self._claims.get(key)
        if held is not None and held.token != token and (remaining := held.remaining(now)) > 0:
            return Claim(ClaimStatus.BUSY, remaining, held.token)
        self._claims[key] = _Lease(token, lease, now + lease)
        if len(self._claims) > self._most_claims:
            for each, claim in self._claims.items():
                if claim.remaining(now) <= 0:
                    self._count_unended(each, claim.token)
            self._claims = {key: held for key, held in self._claims.items() if held.remaining(now) > 0}
            self._most_claims = max(_CLAIMS_TO_SWEEP, 2 * len(self._claims))
        return _CLAIMED

    def _count_unended(self, key: str, token: str) -> None:
        self._unended[key] = [*self._unended.pop(key, ()), token][:MOST_UNENDED]
        if len(self._unended) > self._max_entries // 2:
            self._unended.popitem(last=False)

    def _may_record(self, key: str, token: str, *, completes: bool = False) -> bool:
        held = self._claims.get(key)
        if held is not None and held.token == token:  # while it is claimed, no other worker has recorded it
            return True
        if key in self._waiting or (held is not None and held.remaining(self._lease_clock()) > 0):
            return False
        return (completes and key in self._quarantined) or not self._is_done(key)

    def _is_done(self, key: str) -> bool:
        """Return whether the key was handled, or is in the quarantine and was acknowledged."""
        _, horizon = self._retention.read()
        entry, handled = self._quarantined.get(key), self._done.get(key)
        if entry is not None:
            return entry.acknowledged
        return handled is not None and handled + self._remember > horizon

    def _record(self, key: str) -> None:
        """Record a key as handled, end its claim, and forget what is too old or too much."""
        now, horizon = self._retention.read()
        self._claims.pop(key, None)
        self._done[key] = max(now, self._retention.believed)  # as long, though the clock is behind
        self._done.move_to_end(key)
        while len(self._done) > self._max_entries or next(iter(self._done.values())) + self._remember <= horizon:
            _, handled = self._done.popitem(last=False)
            self._known_since = max(self._known_since, handled)


_CLAIMED = Claim(ClaimStatus.CLAIMED)
_DONE = Claim(ClaimStatus.DONE)


def _order(entry: InboxEntry) -> tuple[float, str]:
    return entry.quarantined_at.timestamp(), entry.key
