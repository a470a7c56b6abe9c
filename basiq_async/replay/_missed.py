"""What a recovery skips: messages that were delivered, and events whose messages were left alone or failed."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection
from datetime import datetime, timedelta

from .._work.keys import left_key
from .._work.limits import inbox_limit
from ..models import Message
from ..receiver import Inbox
from ._report import HandledEvents
from .targets._base import Target
from .targets._deduplicated import HANDLED_BEFORE

DELIVERED = "delivered"
"""The reason to skip a message that Basiq says it delivered before the inbox's records begin."""
_FAILED_BEFORE = "failed-before"
_SKEW = timedelta(minutes=5)
"""Maximum difference between Basiq's clock and this machine's."""
_LISTED = timedelta(days=8)
"""If a message's first attempt is older than this, its event has left the event list."""


def event_of(message: Message) -> tuple[str | None, str]:
    """Return the event type and the id that identify a message's event, in both sources."""
    return message.event_type_id, message.event_id or message.id


class InboxKnowledge(HandledEvents):
    """Asks an inbox which messages were handled in the past.

    shared: whether the live service records its handled events in this inbox. Otherwise the inbox is the recovery's
        own, and has no live deliveries.
    timeout: the limit, in seconds, of each call.
    now: returns the time.
    """

    def __init__(
        self, inbox: Inbox, webhook_id: str | None, *, shared: bool, timeout: float, now: Callable[[], datetime]
    ) -> None:
        super().__init__(inbox, webhook_id, timeout)
        self._shared = shared
        self._now = now
        self._since: datetime | None = None

    async def would_know(self, message: Message) -> bool:
        """Return whether the inbox would know that the live service handled a delivered message."""
        if not self._shared:
            return False
        if self._since is None:
            async with inbox_limit(self._timeout):
                self._since = await self._inbox.known_since()
        times = [each.timestamp for each in message.attempts if each.succeeded and each.timestamp is not None]
        return bool(times) and max(times) >= self._since + _SKEW

    async def leave(self, message: Message) -> None:
        """Record that a message was left alone, so that its event in the event list is skipped too."""
        first = message.first_attempt
        if first is None or first.timestamp is None or first.timestamp > self._now() - _LISTED:
            async with inbox_limit(self._timeout):
                await self._inbox.complete(left_key(self._key(message)), uuid.uuid4().hex)

    async def has_left(self, message: Message) -> bool:
        """Return whether the message of this event was left alone."""
        async with inbox_limit(self._timeout):
            return await self._inbox.seen(left_key(self._key(message)))


class _Wrapper:
    def __init__(self, inner: Target) -> None:
        self._inner = inner

    async def flush(self) -> None:
        """See ``Target``."""
        await self._inner.flush()


class MissedMessages(_Wrapper):
    """A target that skips messages which Basiq delivered before the inbox's records begin."""

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
    """A target that skips events whose messages were left alone, or failed.

    ``failed`` are the events whose messages are dead letters: they are not tried and kept a second time.
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
