"""The protocol of inboxes: what has been handled, shared by live receiving and by replay."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol, runtime_checkable

from ._claim import Claim
from ._quarantine import QuarantinedDelivery

__all__ = ["Inbox"]


@runtime_checkable
class Inbox(Protocol):
    """Remembers what has been handled, so that one of any number of workers handles each event.

    A *key* names an event (``inbox_key`` makes it: ASCII, at most 400 characters). A *token* names one worker's claim
    and is never used twice, so that a worker whose lease expired cannot complete or release its successor's claim.
    ``basiq_async.testing.check_inbox`` checks an implementation.

    The code that makes an inbox closes it. A failure of the storage should raise ``InboxError``; a receiver then
    responds with 503, so that Basiq sends the delivery again.
    """

    async def check(self) -> None:
        """Raise ``InboxError``, which says what to do, unless the storage can be reached and used.

        That is: its tables are there, where it has tables, and of this version. For the check of a service's readiness.
        """
        ...

    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        """Try to take ``key`` for ``lease`` seconds, atomically.

        CLAIMED where it is free, where the lease on it expired, or where this token holds it already (the lease
        then starts again). DONE where it has been handled or is in the quarantine. BUSY where another token holds it.
        """
        ...

    async def complete(self, key: str, token: str) -> bool:
        """Record, durably, that ``key`` has been handled, and forget its failures.

        True where this call recorded it, also where the token's lease expired and nobody took over. False, and
        nothing changed, where another token holds the key or where it is recorded already.
        """
        ...

    async def release(self, key: str, token: str) -> None:
        """Give the claim back if this token still holds it: the key is free at once."""
        ...

    async def seen(self, key: str) -> bool:
        """Whether ``key`` has been handled or is in the quarantine. A claim alone does not count."""
        ...

    async def known_since(self) -> datetime:
        """Return from when on this inbox knows what was handled; an aware datetime.

        The inbox may have forgotten what was handled before that, or have been made later. Its storage remembers when
        it was first used, also where nothing was handled since.
        """
        ...

    async def pin(self, name: str, value: str) -> str:
        """Return the text recorded under ``name``; where there is none, record ``value``, for good, and return it.

        Atomic: of two workers that record different texts at once, both get the same one. Name and text are ASCII, at
        most 200 characters each; names and keys do not touch each other.
        """
        ...

    async def pinned(self, name: str) -> str | None:
        """Return the text recorded under ``name``; None where there is none."""
        ...

    async def fail(self, key: str, token: str) -> int:
        """Give the claim back as ``release`` does, and count a failure of the key, durably.

        Returns the failures so far, this one included. Where the key is recorded already, it counts nothing and
        returns 0.
        """
        ...

    async def quarantine(self, key: str, token: str, letter: QuarantinedDelivery) -> bool:
        """Record ``key`` as handled and store ``letter`` (whose key it is), both or neither.

        Returns what ``complete`` would. A letter is kept until it is handled or dropped. Where the token holds the
        key by ``claim_quarantined``, the new letter replaces the old one.
        """
        ...

    async def quarantined(
        self, *, after: QuarantinedDelivery | None = None, limit: int = 100
    ) -> Sequence[QuarantinedDelivery]:
        """At most ``limit`` letters, ordered by ``quarantined_at``, then by key.

        ``after`` is the last letter of the page before; it may be gone meanwhile. A page may be short; one that is
        empty is the end.
        """
        ...

    async def claim_quarantined(self, key: str, token: str, *, lease: float) -> Claim:
        """Try to take a key out of the quarantine to handle it again.

        CLAIMED where it has a letter and nobody else holds it, BUSY where another token does, DONE where there is
        no letter. The letter stays until ``complete`` removes it; after ``release``, ``fail``, or the end of the
        lease, the key is in the quarantine as before.
        """
        ...

    async def drop_quarantined(self, key: str) -> bool:
        """Remove the letter of ``key``, which stays recorded as handled. False where there was none."""
        ...
