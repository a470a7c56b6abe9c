"""The protocols of records and inboxes, which remember the handled events for receivers and replays."""

from __future__ import annotations

import enum
import json
from base64 import b64decode, b64encode
from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from types import EllipsisType
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import attrs

from .._redaction.tracebacks import UnshownText, hide_arguments
from ..errors import InboxError

MOST_UNENDED = 3
"""After so many attempts without an end, an event is not handled any more."""


@runtime_checkable
class Record(Protocol):
    """Knows which keys a job need not pass to the handler again, and keeps the job's notes.

    It stands where the effect stands: an inbox for handlers, and for a bulk target what the target writes.
    """

    async def known(self, keys: Sequence[str]) -> Collection[str]:
        """Return those of the keys that were handled, are in the quarantine, or wait to be handled.

        A claim alone does not count, and neither does a key that was forgotten. The keys may come in any order, any
        number of them and twice; an inbox asks its storage for 500 at once.
        """
        ...

    async def note(self, name: str) -> str | None:
        """Return the note of this name, or None: if there is none, and if another program has altered it."""
        ...

    async def set_note(self, name: str, text: str, *, expected: str | EllipsisType | None = ...) -> bool:
        """Store a note, durably, in place of the one of this name. Return whether it was stored.

        A name and a text may be any str, up to 64 kB. ``expected``: store it only if ``note`` would return this,
        compared and stored in one step; ``...`` in any case.
        """
        ...


@runtime_checkable
class Inbox(Record, Protocol):
    """Remembers the handled events, so that only one of many workers handles each event.

    A *key* names an event (``inbox_key`` makes it: ASCII, at most 400 characters). A *token* names one worker's claim
    and is never used twice, so that a worker whose lease expired cannot complete or release its successor's claim.
    ``basiq_async.testing.check_inbox`` checks an implementation.

    The code that makes an inbox closes it. A failure of the storage should raise ``InboxError``; a receiver then
    responds with 503, so that Basiq sends the delivery again.
    """

    async def check(self) -> None:
        """Check that the storage can be used, for the readiness check of a service. It tries a write.

        Raises ``InboxError``, whose text says what to do, if the storage cannot be reached or written, such as on a
        full disk, or if its tables are missing or of another version of this library.
        """
        ...

    async def claim(
        self, key: str, token: str, *, lease: float, quarantined: bool = False, transaction: bool = False
    ) -> Claim:
        """Try to claim ``key`` for ``lease`` seconds, atomically.

        CLAIMED if the key is free, if the lease on it expired, or if this token holds it already (the lease then
        starts again). DONE if the event has been handled, or is in the quarantine and was acknowledged. BUSY if another
        token holds the key, by a claim of either kind.

        A claim whose lease ran out, and that was neither released nor completed, is an attempt without an end: its
        process was killed, or hung. The call that claims the key after it counts it, in one step: ``Claim.unended`` is
        how many there were, three at the most. ``release`` by the token of such a claim takes it back, however late:
        its process lives, and perhaps never got the response. ``complete`` forgets the count, ``quarantine`` leaves it.

        An entry of the quarantine that was *not acknowledged* does not keep the key from being claimed: a live attempt
        handles the event. The entry stays until ``complete`` removes it, or ``quarantine`` replaces it.

        ``quarantined``: claim a delivery of the quarantine, to handle it again or to drop it. DONE then means that the
        key is not in the quarantine. The delivery stays there until ``complete`` removes it: ``release`` and the end of
        the lease leave it there.

        ``transaction``: see ``TransactionalInbox``. No other inbox is asked for one.
        """
        ...

    async def complete(self, key: str, token: str) -> bool:
        """Record, durably, that ``key`` has been handled, and forget its failures. It leaves the quarantine at once.

        Returns True if this call recorded it. An expired lease does not matter if no other worker has claimed the key
        since, even if the key was quarantined meanwhile. Returns False, and changes nothing, if another token holds the
        key, or if it was handled already.
        """
        ...

    async def release(self, key: str, token: str, *, failed: bool = False) -> int:
        """Release the claim if this token still holds it: the key is free at once. If another one has claimed the key
        since, the attempt of this token is none without an end any more.

        ``failed``: count a failure of the key too, durably. Returns the number of failures so far, this one included;
        0 without ``failed``. If the key was handled, or is in the quarantine and was acknowledged, it counts nothing
        and returns 0, unless the token has claimed it as ``quarantined``: then the failures of the quarantined delivery
        count too.
        """
        ...

    async def known_since(self) -> datetime:
        """Return the time since which this inbox remembers every handled event, as an aware datetime.

        An event is remembered for longer than Basiq sends its message again, which is 22 to 66 h. Events that were
        handled earlier may be forgotten, or the inbox did not exist then. The storage notes when it was first used, and
        what it forgets: a longer memory, chosen later, brings nothing back, and so does not move this time back.
        """
        ...

    async def quarantine(self, key: str, token: str, entry: InboxEntry) -> bool:
        """Put ``entry`` into the quarantine, and end the claim on ``key``: both or neither.

        The key is then handled, as far as ``claim`` knows, if ``entry`` was acknowledged. A quarantined delivery is
        kept until it is completed.

        Returns True if this call stored it: the token holds the key by a claim of either kind, or no other token does
        and the key was neither handled nor acknowledged in the quarantine. It replaces an earlier one.
        """
        ...

    async def entries(
        self, *, waiting: bool = False, after: InboxEntry | None = None, limit: int = 100
    ) -> Sequence[InboxEntry]:
        """Return at most ``limit`` quarantined deliveries, ordered by ``quarantined_at``, then by key.

        ``after`` is the last delivery of the previous page; it may have left the quarantine since. A page may have
        fewer than ``limit``. An empty page is the end.

        ``waiting``: those that wait, in place of those in the quarantine. Only a ``WaitingInbox`` is
        asked for them.
        """
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
    is that worker's token, or None if the inbox does not know it. If it is CLAIMED, ``unended`` is the number of
    attempts before this one that had no end.
    """

    status: ClaimStatus
    retry_after: float = 0.0
    holder: str | None = None
    unended: int = 0


EntryKind = Literal["delivery", "message", "event", "unreadable"]
_KINDS = get_args(EntryKind)
_TIMES = ("signed_at", "quarantined_at", "failing_since", "unhandled_since")


@attrs.frozen
class InboxEntry:
    """A delivery, or a job's message, in the quarantine or waiting, with all that is needed to handle it again.

    ``pack`` and ``unpack`` are for inboxes, which store it as a text.

    ``key`` is its inbox key and ``delivery_id`` its ``webhook-id``. ``body`` is the raw JSON of what failed: for a
    delivery the bytes as received, and ``signed_at`` the time of its signature. ``error`` describes the last failure,
    ``failures`` is the number of failures, and ``quarantined_at`` is the time when it was quarantined. Both times are
    aware.

    ``kind``: a delivery; a message or an event of Basiq's lists that a job met, both with the JSON of a message;
    or something unreadable. ``acknowledged``: whether Basiq does not send the event again. It is False for what a job
    quarantined: Basiq's next attempt may handle it.

    A ``WaitingInbox`` keeps deliveries that wait in the same form: ``quarantined_at`` is then the time when it was
    stored, ``error`` and ``failures`` are those of its attempts so far, ``failing_since`` is the time of the first
    failure, and ``unended`` is how many of the failures were attempts without an end: a process was killed, or hung.
    ``idle`` is the seconds since the first failure in which no process with its handler looked for it, and
    ``unhandled_since`` the time since which only processes without one looked. It returns them with ``due``, the time
    of the next attempt, which the storage keeps beside; for all others ``due`` is None.
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
    kind: EntryKind = "delivery"
    acknowledged: bool = True
    failing_since: datetime | None = None
    idle: float = 0.0
    unhandled_since: datetime | None = None
    unended: int = 0
    due: datetime | None = attrs.field(default=None, eq=False)

    def pack(self) -> str:
        """Return it as JSON in ASCII, which any storage can hold, even with odd characters in an error or an id."""
        fields = attrs.asdict(self)
        del fields["due"]
        fields["body"] = b64encode(self.body).decode()
        for name in _TIMES:
            fields[name] = None if fields[name] is None else fields[name].isoformat()
        return UnshownText(json.dumps(fields))

    @classmethod
    @hide_arguments
    def unpack(cls, text: str | bytes) -> InboxEntry:
        """Return the entry whose ``pack`` returned this text. Raises ``InboxError`` for any other text."""
        try:
            fields = json.loads(text)
            fields["body"] = b64decode(fields["body"])
            for name in _TIMES:
                fields[name] = None if fields[name] is None else datetime.fromisoformat(fields[name])
            found = cls(**fields, due=None)
        except (ValueError, TypeError, KeyError, RecursionError):
            found = None
        if found is None or not _has_right_types(found):
            raise InboxError("the quarantine holds data that no inbox has written")
        return found


def _has_right_types(entry: InboxEntry) -> bool:
    """Return whether the fields have their types: JSON of another program may have a number for a text."""
    texts = (entry.key, entry.delivery_id, entry.event_type_id, entry.event_id, entry.error)
    return (
        all(type(text) is str for text in texts)
        and type(entry.failures) is type(entry.unended) is int
        and type(entry.acknowledged) is bool
        and entry.kind in _KINDS
        and type(entry.idle) in (int, float)
        and None not in (entry.signed_at, entry.quarantined_at)
        and all(each is None or each.tzinfo is not None for each in (getattr(entry, name) for name in _TIMES))
    )


def unpack_entry(text: str | bytes, *, key: str, at: datetime, due: datetime | None = None) -> InboxEntry:
    """Return the entry that a storage holds for ``key``, at the time ``at`` of its order. Never raises.

    A text that no inbox has written becomes an unreadable entry: it is kept and reported, and hides no other.
    """
    try:
        entry = InboxEntry.unpack(text)
    except InboxError as exc:
        body = text if isinstance(text, bytes) else str(text).encode("utf-8", "surrogatepass")
        # With its key for an id, a person can drop it.
        return InboxEntry(key, key, "", "", body, at, str(exc), 0, at, kind="unreadable", due=due)
    # The key and time of its place, so that the next page always begins after it.
    return attrs.evolve(entry, key=key, quarantined_at=at, due=due)


@attrs.frozen
class ClaimedEntry:
    """A delivery that waits and that ``token`` has claimed. ``attempts`` is how many were begun, this one included.

    Those beyond ``entry.failures`` and this one had no end. ``claimed_at`` is the time by the inbox's clock.
    """

    entry: InboxEntry
    token: str
    attempts: int
    claimed_at: datetime

    @property
    def unended(self) -> int:
        """The number of attempts before this one that had no end, and are not recorded as failures yet."""
        return max(0, self.attempts - 1 - self.entry.failures)


@attrs.frozen(kw_only=True)
class Waiting:
    """What waits in an inbox to be handled: deliveries that were acknowledged.

    ``count`` is their number, ``fresh`` the number of those that never failed, and ``size`` the bytes that they take.
    ``age`` is the seconds since the oldest of those that never failed was stored, and ``failing_age`` the seconds since
    the first failure of the one that fails for longest; None if there is none.
    """

    count: int = 0
    fresh: int = 0
    size: int = 0
    age: float | None = None
    failing_age: float | None = None

    @property
    def failing(self) -> int:
        """The number of those that failed."""
        return self.count - self.fresh


@runtime_checkable
class WaitingInbox(Inbox, Protocol):
    """An inbox that also keeps deliveries to be handled after their acknowledgement.

    A key that waits is known, and is not handled: ``claim`` returns CLAIMED for it. Only the token that claimed it last
    can end its wait, by ``complete``, or by ``quarantine`` of an acknowledged delivery, also after its lease; for any
    other both return False. It is kept until it is handled or quarantined, however long that takes.

    Each time is by the inbox's clock, or by ``now`` if it is given, which must then be given in all calls.
    """

    async def store(self, entry: InboxEntry, *, now: datetime | None = None) -> bool:
        """Store a delivery durably under its key, due at once. Its ``quarantined_at`` is the time when it came.

        Returns False if the key was handled, waits already, or is in the quarantine and was acknowledged. What a job
        quarantined waits now. Another worker's claim stays, and if it completes, the wait ends too. Raises
        ``InboxError`` while another worker handles the key in a transaction.
        """
        ...

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
        """Claim at most ``limit`` due deliveries that no token holds, the longest due first.

        At most ``retries`` of them have failed before, and none has an event type of ``without``. The statement that
        claims counts each as an attempt, so that an attempt which kills its process counts too. One that is due in more
        than an hour is due now: a clock that was ahead has stored it, or put it off.

        With a ``limit`` of 0, it claims no more, and returns what this token holds, because the response to an earlier
        call was lost: the leases start again, and that is no further attempt.
        """
        ...

    async def put_off(self, entry: InboxEntry, token: str, *, seconds: float, now: datetime | None = None) -> bool:
        """End this token's claim on a delivery that waits, and store it again: it is due again after ``seconds``,
        an hour at most.

        ``entry.failures`` is then the number of its attempts: one that failed counts as a failure, and one that was
        given back does not count. A transaction of the token is rolled back first, in any case. Returns False, and
        changes nothing else, if the token does not hold the key, or if it does not wait.
        """
        ...

    async def waiting(self, *, now: datetime | None = None) -> Waiting:
        """Return what waits."""
        ...


@runtime_checkable
class TransactionalInbox(Inbox, Protocol):
    """An inbox whose entry commits together with the handler's writes: both or neither.

    ``complete`` raises if it did not commit, and never records a key whose transaction failed. An ``InboxError``, or a
    call that takes too long, is a failure of the storage. Any other error means that the storage refused the handler's
    writes; it counts as the handler's failure.

    A ``claim`` with ``transaction=True`` also begins the transaction of a handler with a session. The call may wait for
    a free connection. The storage ends the claim if the worker sends nothing for ``lease`` seconds.
    """

    def transaction(self, key: str, token: str) -> AbstractAsyncContextManager[Any]:
        """Return the session for a handler, within the transaction that ``claim`` began for ``token``.

        The end of the ``async with`` flushes; only ``complete`` commits. Raises ``InboxError`` if the storage failed,
        even in a statement of the handler: that is not the handler's failure, and the delivery can be handled again.
        """
        ...
