"""The protocol of inboxes, which remember handled events, for receivers and replays alike."""

from __future__ import annotations

import enum
import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

import attrs

from .._redaction.tracebacks import UnshownText, drop_tracebacks
from ..errors import InboxError


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
        """Return since when this inbox knows which events were handled; an aware datetime.

        The inbox may have forgotten events that were handled before that, or have been made later. Its storage
        remembers when it was first used, even if nothing was handled since.
        """
        ...

    async def pin(self, name: str, value: str) -> str:
        """Return the text recorded under ``name``; if none is, record ``value``, for good, and return it.

        Atomic: of two workers that record different texts at once, both get the same one. Name and text are ASCII, at
        most 200 characters each; names and keys do not touch each other.
        """
        ...

    async def pinned(self, name: str) -> str | None:
        """Return the text recorded under ``name``; None if there is none."""
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

        CLAIMED where it has a letter and nobody else holds it, BUSY where another token does, DONE where it has no
        letter. The letter stays until ``complete`` removes it; after ``release``, ``fail``, or the end of the lease,
        the key is in the quarantine as before.
        """
        ...

    async def drop_quarantined(self, key: str) -> bool:
        """Remove the letter of ``key``, which stays recorded as handled. False where there was none."""
        ...


class ClaimStatus(enum.Enum):
    """Who may handle an event now."""

    CLAIMED = "claimed"
    """Yours: handle it, then complete or release it."""
    DONE = "done"
    """It has been handled, or is in the quarantine."""
    BUSY = "busy"
    """Another worker is handling it."""


@attrs.frozen
class Claim:
    """The result of a claim.

    Where it is BUSY, ``retry_after`` is the number of seconds after which to ask again: what remains of the other
    worker's lease. ``holder`` is that worker's token, or None where the inbox does not know it.
    """

    status: ClaimStatus
    retry_after: float = 0.0
    holder: str | None = None


@attrs.frozen
class QuarantinedDelivery:
    """A delivery in the quarantine, a *letter* for short, with everything that handling it again needs.

    ``key`` is its inbox key and ``delivery_id`` its ``webhook-id``. ``body`` is the bytes as received, ``signed_at``
    the time in its signature. ``error`` describes the last failure, ``failures`` counts them, and ``quarantined_at``
    is when it was set aside. Both times are aware. ``seal`` is what the receiver put on it; an inbox that others may
    write to keeps it, and returns an empty one if it has none. None is for an inbox that is trusted.
    """

    key: str
    delivery_id: str
    event_type_id: str
    event_id: str
    body: bytes = attrs.field(repr=False)
    signed_at: datetime
    error: str
    failures: int
    quarantined_at: datetime
    seal: str | None = attrs.field(default=None, eq=False, repr=False)

    def sealed_parts(self) -> Sequence[bytes]:
        """The parts that a seal covers: everything that a handler gets."""
        ids = (self.key, self.delivery_id, self.event_type_id, self.event_id, self.signed_at.isoformat())
        return [*(text.encode("utf-8", "surrogatepass") for text in ids), self.body]


def pack(letter: QuarantinedDelivery, *, seal: bool = False) -> UnshownText:
    """Write a letter as JSON, in ASCII: any storage can hold that, whatever text an error or an id has.

    With its ``seal`` where the storage is one that others may write to.
    """
    fields = attrs.asdict(letter)
    if not seal:
        del fields["seal"]
    fields["body"] = b64encode(letter.body).decode()
    fields["signed_at"] = letter.signed_at.isoformat()
    fields["quarantined_at"] = letter.quarantined_at.isoformat()
    return UnshownText(json.dumps(fields))


def unpack(text: str | bytes) -> QuarantinedDelivery:
    """Read what ``pack`` wrote. Raises ValueError, KeyError or TypeError for anything else."""
    fields = json.loads(text)
    fields["body"] = b64decode(fields["body"])
    fields["signed_at"] = datetime.fromisoformat(fields["signed_at"])
    fields["quarantined_at"] = datetime.fromisoformat(fields["quarantined_at"])
    return QuarantinedDelivery(**fields)


def unpack_all(texts: Sequence[str], where: str) -> Sequence[QuarantinedDelivery]:
    """Read what ``pack`` wrote. Raises ``InboxError`` for anything else; ``where`` names the storage."""
    try:
        return [unpack(text) for text in texts]
    except (ValueError, TypeError, KeyError) as exc:
        del texts  # error reporters show local variables
        raise InboxError(f"the quarantine of {where} holds what no inbox has written") from drop_tracebacks(exc)


@runtime_checkable
class TransactionalInbox(Inbox, Protocol):
    """An inbox whose entry commits together with what a handler writes: both or neither.

    ``complete`` then raises where it did not commit, and never records a key whose transaction failed. An
    ``InboxError``, or a call that takes too long, is a failure of the storage. With any other error the storage refuses
    what the handler wrote; it counts as the handler's failure.
    """

    async def claim_transaction(self, key: str, token: str, *, lease: float, quarantined: bool = False) -> Claim:
        """Claim for a handler with a session: as ``claim``, or ``claim_quarantined``, and begin its transaction.

        It may wait until a connection is free. ``lease`` is how long, in seconds, the storage waits for a worker that
        says nothing.
        """
        ...

    def transaction(self, key: str, token: str) -> AbstractAsyncContextManager[Any]:
        """The session for a handler, within the transaction that ``claim_transaction`` began for ``token``.

        Leaving it flushes, and commits nothing: ``complete`` does that. Raises ``InboxError``
        where the storage failed, even in a statement of the handler's: the handler is not to blame then, and the
        delivery can be handled again.
        """
        ...
