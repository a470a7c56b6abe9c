"""The inbox in the memory of one process."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import attrs

from ..._work.clock import RetentionClock, TimeSource, lease_clock
from ..._work.protocol import Claim, ClaimStatus, QuarantinedDelivery
from ...errors import ConfigurationError, InboxError

_CLAIMS_TO_SWEEP = 1024


@attrs.define
class _Lease:
    token: str
    lease: float
    ends: float
    digest: int

    def remaining(self, now: float) -> float:
        """Return the seconds until the lease ends: never more than its length, even if the clock was set back."""
        if self.ends - now > self.lease:
            self.ends = now + self.lease
        return self.ends - now


class MemoryInbox:
    """An inbox in the memory of one process. Its entries are lost when the process ends.

    An entry is kept for ``remember``: two days by default, longer than Basiq retries a delivery (27 h 35 min). When
    there are more than ``max_entries`` (about 120 bytes each), the older half is forgotten. The quarantine holds
    ``max_quarantined`` deliveries; ``InboxError`` is raised when it is full. ``clock`` returns the time. For a service
    with several processes, or one that must remember across restarts, use ``SQLiteInbox``.
    """

    def __init__(
        self,
        *,
        max_entries: int = 200_000,
        max_quarantined: int = 1_000,
        remember: timedelta = timedelta(days=2),
        clock: TimeSource = time.time,
    ) -> None:
        if max_entries < 2:
            raise ConfigurationError("max_entries must be at least 2")
        if max_quarantined < 0:
            raise ConfigurationError("max_quarantined must not be negative")
        if remember <= timedelta(0):
            raise ConfigurationError("remember must be longer than zero")
        self._half = max_entries // 2
        self._max_quarantined = max_quarantined
        self._remember = remember.total_seconds()
        self._retention = RetentionClock(clock)
        self._lease_clock = lease_clock(clock)
        # Two generations of digests, which are half the size of the keys. With a single dict, each removal of the
        # oldest entry would search past all the gaps that earlier removals left.
        self._done: dict[int, int] = {}
        self._before: dict[int, int] = {}
        self._began = self._retention.now()
        self._claims: dict[str, _Lease] = {}
        self._most_claims = _CLAIMS_TO_SWEEP
        self._latest = 0  # one int object for all entries of a second, because an int is as large as a digest
        self._failures: dict[int, int] = {}
        self._letters: dict[str, QuarantinedDelivery] = {}
        self._known_since = self._began

    def __len__(self) -> int:
        """Return the number of handled keys that the inbox remembers."""
        return len(self._done) + len(self._before)

    async def check(self) -> None:
        """See ``Inbox``: memory can always be used."""

    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        """See ``Inbox``."""
        digest = _digest(key)
        if self._is_done(digest, self._retention.now()) or (self._letters and key in self._letters):
            return _DONE
        return self._take(key, token, lease, digest)

    async def complete(self, key: str, token: str) -> bool:
        """See ``Inbox``."""
        digest = self._may_record(key, token)
        if digest is None:
            return False
        self._record(key, digest)
        if self._letters:
            self._letters.pop(key, None)
        if self._failures:
            self._failures.pop(digest, None)
        return True

    async def release(self, key: str, token: str) -> None:
        """See ``Inbox``."""
        held = self._claims.get(key)
        if held is not None and held.token == token:
            del self._claims[key]

    async def seen(self, key: str) -> bool:
        """See ``Inbox``."""
        return key in self._letters or self._is_done(_digest(key), self._retention.now())

    async def known_since(self) -> datetime:
        """See ``Inbox``."""
        return datetime.fromtimestamp(max(self._known_since, self._retention.now() - self._remember), UTC)

    async def fail(self, key: str, token: str) -> int:
        """See ``Inbox``."""
        held, digest, letter = self._claims.get(key), _digest(key), self._letters.get(key)
        mine = held is not None and held.token == token
        if mine:
            del self._claims[key]
        if (letter is not None and not mine) or (letter is None and self._is_done(digest, self._retention.now())):
            return 0
        before = self._failures.pop(digest, 0)
        failures = self._failures[digest] = 1 + max(before, 0 if letter is None else letter.failures)
        if len(self._failures) > self._half:  # forget the keys that failed longest ago
            for old in list(self._failures)[: len(self._failures) // 2]:
                del self._failures[old]
        return failures

    async def quarantine(self, key: str, token: str, letter: QuarantinedDelivery) -> bool:
        """See ``Inbox``."""
        digest = self._may_record(key, token)
        if digest is None:
            return False
        if key not in self._letters and len(self._letters) >= self._max_quarantined:
            raise InboxError(
                f"the quarantine is full ({self._max_quarantined} deliveries): retry or drop some, raise "
                "max_quarantined, or use SQLiteInbox, SQLInbox or RedisInbox"
            )
        self._record(key, digest)
        self._letters[key] = attrs.evolve(letter, seal=None)  # no other program writes here
        return True

    async def quarantined(
        self, *, after: QuarantinedDelivery | None = None, limit: int = 100
    ) -> Sequence[QuarantinedDelivery]:
        """See ``Inbox``."""
        letters = sorted(self._letters.values(), key=_order)
        if after is not None:
            letters = [letter for letter in letters if _order(letter) > _order(after)]
        return letters[:limit]

    async def claim_quarantined(self, key: str, token: str, *, lease: float) -> Claim:
        """See ``Inbox``."""
        return self._take(key, token, lease, _digest(key)) if key in self._letters else _DONE

    async def drop_quarantined(self, key: str) -> bool:
        """See ``Inbox``."""
        if self._letters.pop(key, None) is None:
            return False
        self._claims.pop(key, None)
        digest = _digest(key)
        self._failures.pop(digest, None)
        self._record(key, digest)
        return True

    def _take(self, key: str, token: str, lease: float, digest: int) -> Claim:
        now = self._lease_clock()
        held = self._claims.get(key)
        if held is not None and held.token != token and (remaining := held.remaining(now)) > 0:
            return Claim(ClaimStatus.BUSY, remaining, held.token)
        self._claims[key] = _Lease(token, lease, now + lease, digest)
        if len(self._claims) > self._most_claims:
            self._claims = {key: held for key, held in self._claims.items() if held.remaining(now) > 0}
            self._most_claims = max(_CLAIMS_TO_SWEEP, 2 * len(self._claims))
        return _CLAIMED

    def _may_record(self, key: str, token: str) -> int | None:
        """Return the digest of the key if this token may record it, else None."""
        held = self._claims.get(key)
        if held is not None and held.token == token:  # while it is claimed, no other worker has recorded it
            return held.digest
        digest = _digest(key)
        if held is not None and held.remaining(self._lease_clock()) > 0:
            return None
        if key in self._letters or self._is_done(digest, self._retention.now()):
            return None
        return digest

    def _record(self, key: str, digest: int) -> None:
        now = self._retention.now()
        self._claims.pop(key, None)
        grown_old = now >= self._began + self._remember and now <= self._retention.horizon(now)
        if len(self._done) >= self._half or grown_old:
            if self._before:  # the older generation is forgotten now
                self._known_since = self._began
            self._before, self._done, self._began = self._done, {}, now
        if now + self._remember > self._latest:
            self._latest = math.ceil(now + self._remember)
        self._done[digest] = self._latest

    def _is_done(self, digest: int, now: float) -> bool:
        expires = self._done.get(digest) or self._before.get(digest)
        return expires is not None and expires > self._retention.horizon(now)


_CLAIMED = Claim(ClaimStatus.CLAIMED)
_DONE = Claim(ClaimStatus.DONE)


def _digest(key: str) -> int:
    # Python's own hash of str, twice: 128 bits. They are valid only in this process, as this inbox is.
    return hash(key) << 64 ^ hash("." + key)


def _order(letter: QuarantinedDelivery) -> tuple[float, str]:
    return letter.quarantined_at.timestamp(), letter.key
