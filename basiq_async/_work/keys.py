"""The keys of events in an inbox: one key for each event, the same for every receiver and replay.

For one webhook of an inbox, the keys do not contain the webhook's id: for the webhook of the receiver without a
``webhook_id`` if there is one, else for the first webhook that used the inbox. So a replay and a receiver agree even if
the receiver has no ``webhook_id``, and a receiver that gets one later still knows the events it handled before. The
keys of every other webhook contain its id.
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
    """Return the inbox key of an event: the same for a delivery and for a replayed message.

    The key is made from the payload's event type and event id. If one of them is missing, it is made from the id of the
    message (``webhook-id`` of a delivery). A key with a ``webhook_id`` belongs to that webhook alone, so that two
    webhooks can share an inbox and each gets every event; the keys of an inbox's first webhook have none. A key is
    ASCII, at most 400 characters. Raises ``ConfigurationError`` if all ids are missing.
    """
    if event_type_id and event_id:
        # JSON keeps the two ids apart, and writes lone surrogates and control characters as ASCII.
        key = f"event:[{_quoted(event_type_id)},{_quoted(event_id)}]"
    elif message_id:
        key = "message:" + _quoted(message_id)
    else:
        raise ConfigurationError("an inbox key needs an event type and event id, or the id of the message")
    if webhook_id:
        key = f"webhook:{_quoted(webhook_id)}:{key}"
    return _shorten(key)


def prefix_key(prefix: str, key: str) -> str:
    """Return the key of another fact about the same event, such as that a recovery left it alone."""
    return _shorten(f"{prefix}:{key}")


def _shorten(key: str) -> str:
    return key if len(key) <= _LONGEST_KEY else "sha256:" + hashlib.sha256(key.encode()).hexdigest()


_UNNAMED = "receiver-without-webhook-id"
"""Pinned by a receiver without a ``webhook_id``: until a receiver with an id comes, the inbox serves one webhook."""
_FIRST = "first-webhook"
"""Pinned: the first webhook that used the inbox, if no receiver without an id had used it before."""
_SIGNERS = "first-signer"
"""Pinned: the signer that first used the keys without an id."""
_SIGNER = "signer-"
"""The prefix of a pinned name for each signer that may use the keys without an id."""
_OWNER = "webhook-of-keys-without-id"
"""Pinned: the webhook whose keys do not contain its id. Decided when the first receiver with an id comes."""


class Scope:
    """Makes the inbox keys of one webhook's events, for a replay."""

    def __init__(self, inbox: Inbox, webhook_id: str | None) -> None:
        self._inbox = inbox
        self._webhook_id = webhook_id
        self._in_keys: str | None = None
        self.known = webhook_id is None
        """Whether ``find`` has been called."""

    async def find(self, *, record: bool = True) -> None:
        """Ask the inbox, once, whether the keys contain the webhook's id. With ``record``, pin what is decided.

        Raises the inbox's errors.
        """
        if not self.known:
            self._in_keys = await self._find(self._webhook_id or "", record)
            self.known = True

    def key(self, event_type_id: str | None, event_id: str | None, message_id: str | None) -> str:
        """Return the key of an event. Call ``find`` before."""
        return inbox_key(event_type_id, event_id, message_id, self._in_keys)

    def left_key(self, event_type_id: str | None, event_id: str | None, message_id: str | None) -> str:
        """Return the key under which the inbox records that a recovery left the event alone."""
        return prefix_key("left", self.key(event_type_id, event_id, message_id))

    async def _find(self, webhook_id: str, record: bool) -> str | None:
        pinned = self._inbox.pinned
        owner = await pinned(_OWNER)
        if owner is None and await pinned(_UNNAMED) is None:
            owner = await (self._inbox.pin(_FIRST, webhook_id) if record else pinned(_FIRST))
        return None if owner in (None, webhook_id) else webhook_id


class ReceiverScope(Scope):
    """Makes the inbox keys of a receiver's events. The receiver may not know its webhook's id.

    ``signers`` names the receiver's signing keys. The inbox records which signers have used the keys without an id. A
    receiver with none of these signers serves another webhook, and the entries would hide that webhook's events. A
    receiver with an old and a new secret records the new one too.
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
                    "that the other has handled: pass webhook_id= to both. If both serve the same webhook, and its "
                    "secret is new, pass the old secret once as well"
                )
            await pin(_UNNAMED, "yes")
            return None
        owner = await pinned(_OWNER)
        if owner is None:
            if await pinned(_UNNAMED) is None:
                first = await pin(_FIRST, webhook_id)
            elif await self._join():
                first = webhook_id
            else:  # the keys without an id belong to another webhook, whose receiver has no id yet
                return webhook_id
            owner = await pin(_OWNER, first)
        if owner != webhook_id:
            return webhook_id
        await self._join(known=True)
        return None

    async def _join(self, *, known: bool = False) -> bool:
        """Record these signers as users of the keys that have no webhook's id, if one of them is a user already.

        Return whether they are recorded. ``known``: record them in any case.
        """
        first = await self._inbox.pin(_SIGNERS, self._signers[0])
        for each in self._signers:
            known = known or each == first or await self._inbox.pinned(_SIGNER + each) is not None
        if known:
            for each in self._signers:
                await self._inbox.pin(_SIGNER + each, "yes")
        return known
