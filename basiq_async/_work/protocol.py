"""The protocol of inboxes, which remember the handled events for receivers and replays."""

from __future__ import annotations

import enum
import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

import attrs

from .._redaction.tracebacks import UnshownText, hide_arguments
from ..errors import InboxError


@runtime_checkable
class Inbox(Protocol):
    """Remembers the handled events, so that only one of many workers handles each event.

    A *key* names an event (``inbox_key`` makes it: ASCII, at most 400 characters). A *token* names one worker's claim
    and is never used twice, so that a worker whose lease expired cannot complete or release its successor's claim.
    ``basiq_async.testing.check_inbox`` checks an implementation.

    The code that makes an inbox closes it. A failure of the storage should raise ``InboxError``; a receiver then
    responds with 503, so that Basiq sends the delivery again.
    """

    async def check(self) -> None:
        """Check that the storage can be used, for the readiness check of a service.

        Raises ``InboxError``, whose text says what to do, if the storage cannot be reached, or if its tables are
        missing or of another version of this library.
        """
        ...

    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        """Try to claim ``key`` for ``lease`` seconds, atomically.

        CLAIMED if the key is free, if the lease on it expired, or if this token holds it already (the lease then
        starts again). DONE if the event has been handled or is in the quarantine. BUSY if another token holds the key.
        """
        ...

    async def complete(self, key: str, token: str) -> bool:
        """Record, durably, that ``key`` has been handled, and forget its failures.

        Returns True if this call recorded it. An expired lease does not matter if no other worker has claimed the key
        since. Returns False, and changes nothing, if another token holds the key or the key is recorded already.
        """
        ...

    async def release(self, key: str, token: str) -> None:
        """Release the claim if this token still holds it: the key is free at once."""
        ...

    async def seen(self, key: str) -> bool:
        """Return whether ``key`` has been handled or is in the quarantine. A claim alone does not count."""
        ...

    async def known_since(self) -> datetime:
        """Return the time since which this inbox remembers every handled event, as an aware datetime.

        An event is remembered for longer than Basiq sends its message again, which is 27 h 35 min. Events that were
        handled earlier may be forgotten, or the inbox did not exist then. The storage remembers when it was first used,
        even if nothing was handled since.
        """
        ...

    async def fail(self, key: str, token: str) -> int:
        """Release the claim as ``release`` does, and count a failure of the key, durably.

        Returns the number of failures so far, this one included. If the key is recorded already, it counts nothing and
        returns 0.
        """
        ...

    async def quarantine(self, key: str, token: str, delivery: QuarantinedDelivery) -> bool:
        """Record ``key`` as handled and store its quarantined delivery, ``delivery``: both or neither.

        Returns what ``complete`` would return. A quarantined delivery is kept until it is handled or dropped. If the
        token holds the key by ``claim_quarantined``, the new one replaces the old one.
        """
        ...

    async def quarantined(
        self, *, after: QuarantinedDelivery | None = None, limit: int = 100
    ) -> Sequence[QuarantinedDelivery]:
        """Return at most ``limit`` quarantined deliveries, ordered by ``quarantined_at``, then by key.

        ``after`` is the last delivery of the previous page; it may have left the quarantine since. A page may have
        fewer than ``limit``. An empty page is the end.
        """
        ...

    async def claim_quarantined(self, key: str, token: str, *, lease: float) -> Claim:
        """Try to claim a quarantined delivery, to handle it again.

        CLAIMED if the key is in the quarantine and no other token holds it, BUSY if another token does, DONE if the key
        is not in the quarantine. The delivery stays in the quarantine until ``complete`` removes it: ``release``,
        ``fail`` and the end of the lease leave it there.
        """
        ...

    async def drop_quarantined(self, key: str) -> bool:
        """Remove ``key`` from the quarantine; it stays recorded as handled. Return False if it was not there."""
        ...


class ClaimStatus(enum.Enum):
    """The status of an event when a worker tries to claim it."""

    CLAIMED = "claimed"
    """This worker has the claim: it handles the event, then completes or releases it."""
    DONE = "done"
    """It has been handled, or is in the quarantine."""
    BUSY = "busy"
    """Another worker is handling it."""


@attrs.frozen
class Claim:
    """The result of an attempt to claim a key.

    If the status is BUSY, ``retry_after`` is the number of seconds until the other worker's lease ends, and ``holder``
    is that worker's token, or None if the inbox does not know it.
    """

    status: ClaimStatus
    retry_after: float = 0.0
    holder: str | None = None


@attrs.frozen
class QuarantinedDelivery:
    """A delivery in the quarantine, with all that is needed to handle it again.

    ``pack`` and ``unpack`` are for inboxes, which store it as a text.

    ``key`` is its inbox key and ``delivery_id`` its ``webhook-id``. ``body`` is the bytes as received, and
    ``signed_at`` the time of its signature. ``error`` describes the last failure, ``failures`` is the number of
    failures, and ``quarantined_at`` is the time when it was set aside. Both times are aware. ``seal`` is the
    receiver's signature over the delivery. An inbox whose storage other programs may write to keeps the seal, and
    returns an empty one if there is none. It is None from an inbox whose storage is trusted.
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

    def pack(self, *, seal: bool = False) -> str:
        """Return it as JSON in ASCII, which any storage can hold, even with odd characters in an error or an id.

        ``seal``: whether to include the seal, for a storage that other programs may write to.
        """
        fields = attrs.asdict(self)
        if not seal:
            del fields["seal"]
        fields["body"] = b64encode(self.body).decode()
        fields["signed_at"] = self.signed_at.isoformat()
        fields["quarantined_at"] = self.quarantined_at.isoformat()
        return UnshownText(json.dumps(fields))

    @classmethod
    @hide_arguments
    def unpack(cls, text: str | bytes) -> QuarantinedDelivery:
        """Return the delivery whose ``pack`` returned this text. Raises ``InboxError`` for any other text."""
        try:
            fields = json.loads(text)
            fields["body"] = b64decode(fields["body"])
            for name in ("signed_at", "quarantined_at"):
                fields[name] = datetime.fromisoformat(fields[name])
            return cls(**fields)
        except (ValueError, TypeError, KeyError, RecursionError):
            raise InboxError("the quarantine holds data that no inbox has written") from None


@hide_arguments
def unpack_all(texts: Sequence[str], where: str) -> Sequence[QuarantinedDelivery]:
    """Unpack several texts. Raises ``InboxError``, in which ``where`` names the storage."""
    try:
        return [QuarantinedDelivery.unpack(text) for text in texts]
    except InboxError as exc:
        raise InboxError(f"{exc}: restore {where}") from None


@runtime_checkable
class TransactionalInbox(Inbox, Protocol):
    """An inbox whose entry commits together with the handler's writes: both or neither.

    ``complete`` raises if it did not commit, and never records a key whose transaction failed. An ``InboxError``, or a
    call that takes too long, is a failure of the storage. Any other error means that the storage refused the handler's
    writes; it counts as the handler's failure.
    """

    async def claim_transaction(self, key: str, token: str, *, lease: float, quarantined: bool = False) -> Claim:
        """Claim a key as ``claim`` does, and begin the transaction of a handler with a session.

        ``quarantined``: claim as ``claim_quarantined`` does. The call may wait for a free connection. The storage ends
        the claim if the worker sends nothing for ``lease`` seconds.
        """
        ...

    def transaction(self, key: str, token: str, *, session: bool = True) -> AbstractAsyncContextManager[Any]:
        """Return the session for a handler, within the transaction that ``claim_transaction`` began for ``token``.

        Without ``session``, return the transaction's connection, which a handler with a parameter ``connection`` gets.
        The end of the ``async with`` flushes; only ``complete`` commits. Raises ``InboxError`` if the storage failed,
        even in a statement of the handler: that is not the handler's failure, and the delivery can be handled again.
        """
        ...
