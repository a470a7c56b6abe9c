"""What a recovery hands to its target: what was missed, and nothing that was not."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection
from datetime import datetime, timedelta

from ..._inbox.calls import InboxCalls
from ..._inbox.keys import Scope
from ...models import Message
from ...receiver import Inbox
from ._base import Target
from ._deduplicated import HANDLED_BEFORE

DELIVERED = "delivered"
"""Why a message is left alone: Basiq says that it was delivered, at a time of which the inbox knows nothing."""
_FAILED_BEFORE = "failed-before"

_SKEW = timedelta(minutes=5)
"""By how much Basiq's clock and this one may differ."""
_LISTED = timedelta(days=8)
"""What was first tried longer ago than this is of an event that is not listed any more."""


def event_of(message: Message) -> tuple[str | None, str]:
    """Return what names a message's event: the same in both sources."""
    return message.event_type_id, message.event_id or message.id


class InboxKnowledge:
    """What an inbox can say of the past.

    ``shared``: the live service enters what it handles in this inbox. Otherwise it is the recovery's own, and knows of
    no delivery. ``now`` returns the time, ``timeout`` is the limit in seconds of each call.
    """

    def __init__(
        self, inbox: Inbox, scope: Scope, *, shared: bool, timeout: float, now: Callable[[], datetime]
    ) -> None:
        self._inbox = inbox
        self._scope = scope
        self._shared = shared
        self._calls = InboxCalls(timeout)
        self._now = now
        self._since: datetime | None = None

    async def would_know(self, message: Message) -> bool:
        """Whether the inbox would know a message that was delivered, had it been handled then."""
        if not self._shared:
            return False
        if self._since is None:
            self._since = await self._calls.within_limit(self._inbox.known_since())
        times = [each.timestamp for each in message.attempts if each.succeeded and each.timestamp is not None]
        return bool(times) and max(times) >= self._since + _SKEW

    async def has(self, message: Message) -> bool:
        """Whether it has the message's event as handled."""
        return await self._calls.within_limit(self._seen(message, left=False))

    async def leave(self, message: Message) -> None:
        """Note, for the event list, that a message was left alone."""
        first = message.first_attempt
        if first is None or first.timestamp is None or first.timestamp > self._now() - _LISTED:
            await self._calls.within_limit(self._mark(message))

    async def has_left(self, message: Message) -> bool:
        """Whether the message of this event was left alone."""
        return await self._calls.within_limit(self._seen(message, left=True))

    async def _seen(self, message: Message, *, left: bool) -> bool:
        return await self._inbox.seen(await self._key(message, left=left))

    async def _mark(self, message: Message) -> None:
        await self._inbox.complete(await self._key(message, left=True), uuid.uuid4().hex)

    async def _key(self, message: Message, *, left: bool) -> str:
        await self._scope.find()
        key = self._scope.left_key if left else self._scope.key
        return key(message.event_type_id, message.event_id, message.id)


class _Wrapper:
    def __init__(self, inner: Target) -> None:
        self._inner = inner

    async def flush(self) -> None:
        """See ``Target``."""
        await self._inner.flush()


class MissedMessages(_Wrapper):
    """A target without the messages that Basiq delivered when the inbox could not know of it."""

    def __init__(self, inner: Target, knowledge: InboxKnowledge) -> None:
        super().__init__(inner)
        self._knowledge = knowledge

    async def deliver(self, message: Message) -> str | None:
        """See ``Target``."""
        if not message.delivered or await self._knowledge.would_know(message):
            return await self._inner.deliver(message)
        if await self._knowledge.has(message):
            return HANDLED_BEFORE
        await self._knowledge.leave(message)
        return DELIVERED


class MissedEvents(_Wrapper):
    """A target without the events whose messages were left alone, or failed.

    What failed as a message is kept: it is not tried, and kept, a second time. ``failed`` has those events.
    """

    def __init__(
        self, inner: Target, knowledge: InboxKnowledge | None, failed: Collection[tuple[str | None, str]]
    ) -> None:
        super().__init__(inner)
        self._knowledge = knowledge
        self._failed = failed

    async def deliver(self, message: Message) -> str | None:
        """See ``Target``."""
        if self._failed and event_of(message) in self._failed:
            return _FAILED_BEFORE
        if self._knowledge is not None and await self._knowledge.has_left(message):
            return DELIVERED
        return await self._inner.deliver(message)
