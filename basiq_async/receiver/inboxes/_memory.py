"""What has been handled: the inbox, shared by live receiving and by replay."""

from __future__ import annotations

import enum
import hashlib
import math
import time
from datetime import timedelta
from json.encoder import encode_basestring_ascii as _quoted
from typing import Protocol, runtime_checkable

import attrs

from ...errors import ConfigurationError
from .._clock import Clock, in_seconds

__all__ = ["Claim", "ClaimStatus", "Inbox", "MemoryInbox", "inbox_key"]

_LONGEST_KEY = 400
_CLAIMS_TO_SWEEP = 1024


class ClaimStatus(enum.Enum):
    """What a claim came to."""

    CLAIMED = "claimed"
    """It is yours to handle, until the lease runs out."""
    DONE = "done"
    """It has been handled."""
    BUSY = "busy"
    """Another worker is at it."""


@attrs.frozen
class Claim:
    """The answer to a claim. ``retry_after``, where it is BUSY: for how many seconds the other's lease runs."""

    status: ClaimStatus
    retry_after: float = 0.0


@runtime_checkable
class Inbox(Protocol):
    """Remembers what has been handled, so that of any number of workers one handles.

    A *key* names what is to be handled (``inbox_key`` makes it: ASCII, at most 400 characters). A *token*,
    chosen by the worker and never used twice, names the worker's claim, so that one who comes too late cannot
    touch the claim of the one who took over. ``basiq_async.testing.check_inbox`` checks an implementation.

    Whoever makes an inbox closes it. What goes wrong in the storage may raise anything but should raise an
    ``InboxError``; a receiver then answers 503, so that Basiq sends again.
    """

    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        """Try to take ``key`` for ``lease`` seconds, atomically.

        CLAIMED where it is free, where the lease on it ran out, or where this token holds it already (the
        lease then begins anew). DONE where it has been handled, BUSY where another token holds it.
        """
        ...

    async def complete(self, key: str, token: str) -> bool:
        """Record, durably, that ``key`` has been handled.

        True where this call recorded it, which it does also where the token's lease ran out and nobody took
        over. False, and nothing changed, where another token holds the key, or where it is recorded already.
        """
        ...

    async def release(self, key: str, token: str) -> None:
        """Give the claim back, if this token still holds it: the next one to ask gets it at once."""
        ...

    async def seen(self, key: str) -> bool:
        """Whether ``key`` has been handled. A claim alone does not count."""
        ...


def inbox_key(event_type_id: str | None, event_id: str | None, message_id: str | None) -> str:
    """The key under which an inbox knows an event: the same live and in a replay.

    Made of the payload's event type and event id; where one of them is missing, of the id of the message
    (``webhook-id`` of a delivery). ASCII, at most 400 characters. Raises ``ConfigurationError`` where there
    is nothing to make it of.
    """
    if event_type_id and event_id:
        # JSON keeps the border between the two, and writes lone surrogates and control characters as ASCII.
        key = f"event:[{_quoted(event_type_id)},{_quoted(event_id)}]"
    elif message_id:
        key = "message:" + _quoted(message_id)
    else:
        raise ConfigurationError("an inbox key needs an event type and event id, or the id of the message")
    if len(key) > _LONGEST_KEY:
        key = "sha256:" + hashlib.sha256(key.encode()).hexdigest()
    return key


class MemoryInbox:
    """An inbox within one process: what it remembers ends with the process.

    It remembers for ``remember`` (two days by default, longer than Basiq goes on trying, 27 h 35 min) and at
    most ``max_entries`` (about 120 bytes each); when there are more, the older half is forgotten. ``clock`` gives
    the time. For a service of several processes, or one whose restarts should be remembered: ``SQLiteInbox``.
    """

    def __init__(
        self,
        *,
        max_entries: int = 200_000,
        remember: timedelta = timedelta(days=2),
        clock: Clock = time.time,
    ) -> None:
        if max_entries < 2:
            raise ConfigurationError("max_entries must be at least 2")
        if remember <= timedelta(0):
            raise ConfigurationError("remember must be more than nothing")
        self._half = max_entries // 2
        self._remember = remember.total_seconds()
        self._clock = in_seconds(clock)
        # Two generations of digests, which are half the size of the keys: to take the oldest out of one dict,
        # again and again, would be to search for it among ever more gaps.
        self._done: dict[int, int] = {}
        self._before: dict[int, int] = {}
        self._began = self._clock()
        self._claims: dict[str, tuple[str, float, int]] = {}  # token, when it expires, and the key's digest
        self._most_claims = _CLAIMS_TO_SWEEP
        self._latest = 0  # shared by all the entries of one second: an int is as large as a digest

    def __len__(self) -> int:
        """How many handled keys it remembers."""
        return len(self._done) + len(self._before)

    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        """See ``Inbox``."""
        now = self._clock()
        digest = _digest(key)
        if self._is_done(digest, now):
            return _DONE
        held = self._claims.get(key)
        if held is not None and held[0] != token and held[1] > now:
            return Claim(ClaimStatus.BUSY, held[1] - now)
        self._claims[key] = (token, now + lease, digest)
        if len(self._claims) > self._most_claims:
            self._claims = {key: held for key, held in self._claims.items() if held[1] > now}
            self._most_claims = max(_CLAIMS_TO_SWEEP, 2 * len(self._claims))
        return _CLAIMED

    async def complete(self, key: str, token: str) -> bool:
        """See ``Inbox``."""
        now = self._clock()
        held = self._claims.get(key)
        if held is not None and held[0] == token:  # still its own: so nobody has recorded it
            digest = held[2]
            del self._claims[key]
        else:
            digest = _digest(key)
            if self._is_done(digest, now) or (held is not None and held[1] > now):
                return False
            self._claims.pop(key, None)
        if len(self._done) >= self._half or now >= self._began + self._remember:
            self._before, self._done, self._began = self._done, {}, now
        if now + self._remember > self._latest:
            self._latest = math.ceil(now + self._remember)
        self._done[digest] = self._latest
        return True

    async def release(self, key: str, token: str) -> None:
        """See ``Inbox``."""
        held = self._claims.get(key)
        if held is not None and held[0] == token:
            del self._claims[key]

    async def seen(self, key: str) -> bool:
        """See ``Inbox``."""
        return self._is_done(_digest(key), self._clock())

    def _is_done(self, digest: int, now: float) -> bool:
        expires = self._done.get(digest) or self._before.get(digest)
        return expires is not None and expires > now


_CLAIMED = Claim(ClaimStatus.CLAIMED)
_DONE = Claim(ClaimStatus.DONE)


def _digest(key: str) -> int:
    # Python's own hash of texts, twice: 128 bits that are other ones in each process, and last as long as this inbox.
    return hash(key) << 64 ^ hash("." + key)
