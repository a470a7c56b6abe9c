"""What failed in a job: on its way into the quarantine, and out of it again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Literal

import attrs

from .._wire.codec import Unreadable, read_message
from .._wire.writing import write_json
from .._work.attempts import KilledError
from .._work.clock import TimeSource
from .._work.inbox_calls import InboxCalls
from .._work.keys import inbox_key
from .._work.protocol import MOST_UNENDED, ClaimStatus, InboxEntry
from ..models import Message
from ..receiver import Result, WebhookReceiver
from ._engine import FailedMessage
from ._sources import EVENT_PREFIX, EventMessage, UnreadableMessage, as_object, ids_of, ids_of_event
from .targets._adapters import interpret
from .targets._base import Target
from .targets._shared import LEASE, new_token


@attrs.define
class QuarantineWriter:
    """Quarantines the messages of a run that failed.

    calls: where the failures are quarantined. None if a receiver records itself what it tries again.
    key_of: returns the key under which this job records the event of a key.
    """

    _calls: InboxCalls | None
    _key_of: Callable[[str], str]
    _now: TimeSource
    _token: str = attrs.field(factory=new_token)
    """The same for a call that is repeated."""

    async def write(self, failed: Sequence[FailedMessage]) -> None:
        """See ``Quarantine`` of the engine."""
        if self._calls is not None:
            for message, _, error in failed:
                await self._quarantine(self._calls, message, error)

    async def _quarantine(self, calls: InboxCalls, message: Message, error: str) -> None:
        """Put a message into the quarantine, unless it was handled meanwhile, or another worker holds it."""
        if isinstance(message, QuarantinedMessage):
            entry = attrs.evolve(
                message.entry, error=error, failures=message.entry.failures + 1, quarantined_at=self._now()
            )
            # A new entry replaces the old one only for a worker that holds it.
            found = await calls.claim(entry.key, self._token, lease=LEASE, quarantined=True)
            if found.status is not ClaimStatus.CLAIMED:
                return
        else:
            entry = make_entry(message, self._key_of(key_of(message)), error, now=self._now())
        await calls.quarantine(entry.key, self._token, entry)


def key_of(message: Message) -> str:
    """Return the key of a message in an inbox, also of one that cannot be read."""
    _, event_id, message_id = _ids_of(message)
    return inbox_key(event_id, message_id)


def _ids_of(message: Message) -> tuple[str | None, str | None, str]:
    if isinstance(message, UnreadableMessage):
        event_type_id, event_id, _ = (ids_of_event if message.of_event else ids_of)(message.raw)
        return event_type_id, event_id, message.id
    return ids_of(message.raw)


def make_entry(message: Message, key: str, error: str, *, now: datetime) -> InboxEntry:
    """Return the entry of the quarantine for a message that failed in a job."""
    kind: Literal["message", "event", "unreadable"] = "message"
    signed_at = now
    if isinstance(message, UnreadableMessage):
        kind = "unreadable"
    else:
        kind = "event" if isinstance(message, EventMessage) else "message"
        first = message.first_attempt
        signed_at = (first and first.timestamp) or now
    event_type_id, event_id, _ = _ids_of(message)
    return InboxEntry(
        key=key,
        delivery_id=message.id,
        event_type_id=event_type_id or "",
        event_id=event_id or "",
        body=write_json(message.raw).encode(),
        signed_at=signed_at,
        error=error,
        failures=1,
        unended=MOST_UNENDED if error.startswith(KilledError.__name__) else 0,
        quarantined_at=now,
        kind=kind,
        acknowledged=False,
    )


@attrs.frozen(repr=False)
class QuarantinedMessage(Message):
    """A message that is in the quarantine, with its ``entry``. ``fault``: why no target gets it, else None."""

    entry: InboxEntry = attrs.field(kw_only=True, eq=False)
    fault: Exception | None = attrs.field(default=None, kw_only=True, eq=False)


def message_of_entry(entry: InboxEntry) -> QuarantinedMessage:
    """Return the message of an entry of the quarantine, to hand it to a target again."""
    raw: dict[str, Any] = {}
    fault: Exception | None = None
    try:
        found = json.loads(entry.body)
        raw = as_object(found)
        if entry.kind == "delivery":
            if raw is not found:
                raise Unreadable("is no JSON object")
            raw = {"id": entry.delivery_id, "payload": raw, "attempts": []}
        if entry.kind == "unreadable" and entry.delivery_id.startswith(EVENT_PREFIX):
            raise Unreadable("is an event that could not be read")
        read_message(raw)
    except RecursionError:
        fault = Unreadable("is nested too deeply to be read again")
    except (Unreadable, ValueError) as exc:
        fault = exc
    return QuarantinedMessage(entry.delivery_id, raw, entry=entry, fault=fault)


@attrs.frozen
class RetryTarget:
    """Hands messages of the quarantine to a target again."""

    _inner: Target
    _receiver: WebhookReceiver | None

    async def deliver(self, message: Message) -> str | None:
        """See ``Target``."""
        if not isinstance(message, QuarantinedMessage):
            raise TypeError("only messages of the quarantine are tried again")
        entry = message.entry
        if self._receiver is not None:
            outcome = await self._receiver._retry(entry)
            if outcome.result is Result.QUARANTINED and outcome.error is not None:
                raise outcome.error  # it stays
            return interpret(outcome)
        if message.fault is not None:
            raise message.fault
        return await self._inner.deliver(message)
