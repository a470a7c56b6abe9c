"""The keys under which an inbox knows events: one key for one event, whoever handles it.

The events of one webhook have keys without the webhook's id: those of the receiver that has no ``webhook_id``, or else
those of the first webhook that used the inbox. So a replay and a receiver agree, whether the receiver was told its
webhook's id or not, and a receiver that is told it later knows what it handled before. The events of every other
webhook have keys with its id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from json.encoder import encode_basestring_ascii as _quoted

from ..errors import ConfigurationError
from .protocol import Inbox

_LONGEST_KEY = 400


def inbox_key(
    event_type_id: str | None, event_id: str | None, message_id: str | None, webhook_id: str | None = None
) -> str:
    """Make the key of an event: the same for a delivery and for a replayed message.

    It holds the payload's event type and event id, or, where one of them is missing, the id of the message
    (``webhook-id`` of a delivery). With a ``webhook_id`` it belongs to that webhook alone, so that two webhooks can
    share an inbox and each gets every event; the first webhook of an inbox has keys without it. ASCII, at most 400
    characters. Raises ``ConfigurationError`` where all ids are missing.
    """
    if event_type_id and event_id:
        # JSON keeps the border between the two, and writes lone surrogates and control characters as ASCII.
        key = f"event:[{_quoted(event_type_id)},{_quoted(event_id)}]"
    elif message_id:
        key = "message:" + _quoted(message_id)
    else:
        raise ConfigurationError("an inbox key needs an event type and event id, or the id of the message")
    if webhook_id:
        key = f"webhook:{_quoted(webhook_id)}:{key}"
    return _shorten(key)


def prefix_key(prefix: str, key: str) -> str:
    """Make a key for another fact about the same event."""
    return _shorten(f"{prefix}:{key}")


def _shorten(key: str) -> str:
    return key if len(key) <= _LONGEST_KEY else "sha256:" + hashlib.sha256(key.encode()).hexdigest()


_UNNAMED = "receiver-without-webhook-id"
"""Pinned by a receiver that has no ``webhook_id``: until one with an id comes, the inbox is of one webhook."""
_FIRST = "first-webhook"
"""The webhook that used the inbox first, where no receiver without an id had."""
_SIGNERS = "first-signer"
"""Pinned: the signer that first used the keys without an id."""
_SIGNER = "signer-"
"""Prefix of what is pinned for each signer that may use the keys without an id."""
_OWNER = "webhook-of-keys-without-id"
"""Whose events have keys without its id: decided when the first receiver that has an id comes."""


class Scope:
    """Finds the keys of the events of the webhook ``webhook_id``, as a replay uses them."""

    def __init__(self, inbox: Inbox, webhook_id: str | None) -> None:
        self._inbox = inbox
        self._webhook_id = webhook_id
        self._in_keys: str | None = None
        self.known = webhook_id is None
        """Whether ``find`` has been called."""

    async def find(self, *, record: bool = True) -> None:
        """Ask the inbox, once, which keys they are. Raises the inbox's errors. Writes nothing unless ``record``."""
        if not self.known:
            self._in_keys = await self._find(self._webhook_id or "", record)
            self.known = True

    def key(self, event_type_id: str | None, event_id: str | None, message_id: str | None) -> str:
        """Return the key of an event. ``find`` comes first."""
        return inbox_key(event_type_id, event_id, message_id, self._in_keys)

    def left_key(self, event_type_id: str | None, event_id: str | None, message_id: str | None) -> str:
        """Return the key that says that a recovery left the event alone."""
        return prefix_key("left", self.key(event_type_id, event_id, message_id))

    async def _find(self, webhook_id: str, record: bool) -> str | None:
        pinned = self._inbox.pinned
        owner = await pinned(_OWNER)
        if owner is None and await pinned(_UNNAMED) is None:
            owner = await (self._inbox.pin(_FIRST, webhook_id) if record else pinned(_FIRST))
        return None if owner in (None, webhook_id) else webhook_id


class ReceiverScope(Scope):
    """A ``Scope`` for a receiver, which may not know its webhook's id.

    ``signers`` names its signing keys. The inbox keeps which signers have used the keys without an id: a receiver
    whose keys are all others serves another webhook, whose events those entries would hide. One that has an old and a
    new secret makes the new one known.
    """

    def __init__(self, inbox: Inbox, webhook_id: str | None, signers: Sequence[str]) -> None:
        super().__init__(inbox, webhook_id)
        self._signers = signers
        self.known = False

    async def _find(self, webhook_id: str, record: bool) -> str | None:
        pin, pinned = self._inbox.pin, self._inbox.pinned
        if not webhook_id:
            if not await self._join():
                raise ConfigurationError(
                    "a receiver with other secrets uses this inbox, and without a webhook_id each would skip events "
                    "that the other has handled: pass webhook_id= to both. If it is the same webhook with a new "
                    "secret, pass the old secret once as well"
                )
            await pin(_UNNAMED, "yes")
            return None
        owner = await pinned(_OWNER)
        if owner is None:
            if await pinned(_UNNAMED) is None:
                first = await pin(_FIRST, webhook_id)
            elif await self._join():
                first = webhook_id
            else:  # they are another webhook's, whose receiver has no id yet
                return webhook_id
            owner = await pin(_OWNER, first)
        if owner != webhook_id:
            return webhook_id
        await self._join(known=True)
        return None

    async def _join(self, *, known: bool = False) -> bool:
        """Note these signers among those of the keys without an id; False where none of them is known there."""
        first = await self._inbox.pin(_SIGNERS, self._signers[0])
        for each in self._signers:
            known = known or each == first or await self._inbox.pinned(_SIGNER + each) is not None
        if known:
            for each in self._signers:
                await self._inbox.pin(_SIGNER + each, "yes")
        return known
