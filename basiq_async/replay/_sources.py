"""The sources of a replay: each yields messages page by page, and says where to resume."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, Generic, Literal, Protocol, TypeVar

import attrs

from .._wire.broken_items import BrokenItem
from .._wire.codec import event_type_of
from .._wire.order import Order
from .._wire.paging import made_up_id, raw_id
from .._work.keys import inbox_key
from ..client import BasiqClient
from ..errors import ResponseDecodeError
from ..models import DeliveryAttempt, Event, Message, read_text
from ..pagination import Paginator, UnreadableItem

T = TypeVar("T")
Source = Literal["messages", "events"]
EVENT_PREFIX = "event-"
_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,200}", re.ASCII)


class Batch(Generic[T]):
    """What a page has to yield: the ``items`` that the record does not know, in the order of the list.

    errors: for the places of items that fail at once, why.
    """

    def __init__(
        self, items: Sequence[T] = (), keys: Sequence[str] = (), errors: Mapping[int, Exception] | None = None
    ) -> None:
        self.items = items
        self.keys = keys
        self.errors = errors or {}
        self._left = len(items)
        self._keeps_unread = False

    @property
    def is_done(self) -> bool:
        """Whether all items are done, and none stays unread."""
        return self._left <= 0 and not self._keeps_unread

    def mark_done(self, count: int = 1) -> None:
        """Count ``count`` items as done. A batch that is done keeps its place, and not its items."""
        self._left -= count
        if self._left <= 0:
            self.items = ()

    def keep_unread(self) -> None:
        """Keep an item that is not done for the next run: no resume point passes this page in this one."""
        self._keeps_unread = True


EXPIRED = "expired"
"""Why a message was skipped whose payload Basiq no longer has."""


def is_expired(message: Message) -> bool:
    """Return whether Basiq no longer has a message's payload, so that nothing tells what it was about.

    No source of Basiq says that this occurs. The engine that it probably runs does it after 5 to 90 days.
    """
    payload = message.raw.get("payload")
    return isinstance(payload, dict) and payload.get("expired") is True and message.event_id is None


def plain_id(raw: Mapping[str, Any]) -> str:
    """Return the id by which a file or a table knows a message: the id in its JSON, or a digest of that.

    ``raw`` is the message as Basiq sent it, or its placeholder's.
    """
    return read_text(raw.get("id")) or made_up_id(raw)


def message_key(raw: Any) -> str:
    """Return the inbox key of a message."""
    return inbox_key(*ids_of(raw)[1:])


def event_key(raw: Any) -> str:
    """Return the inbox key of an event: that of the message which it would have made."""
    return inbox_key(*ids_of_event(raw)[1:])


def ids_of(raw: Any) -> tuple[str | None, str | None, str]:
    """Return the event type, the event id and the message id of a message; None for each of an event that it lacks."""
    item = as_object(raw)
    payload = item.get("payload")
    found = (payload.get("eventId") if isinstance(payload, dict) else None) or item.get("eventId")
    return type_of(item), read_text(found), _id_of(raw, item)


def type_of(item: Mapping[str, Any]) -> str | None:
    """Return the event type of a message as Basiq sent it."""
    payload = item.get("payload")
    return read_text((payload.get("eventTypeId") if isinstance(payload, dict) else None) or item.get("eventTypeId"))


def ids_of_event(raw: Any) -> tuple[str | None, str | None, str]:
    """Return the event type, the event id and the message id for an event of the event list."""
    item = as_object(raw)
    return event_type_of(item), read_text(item.get("id")), message_id_of(_id_of(raw, item))


def _id_of(raw: Any, item: Mapping[str, Any]) -> str:
    return (isinstance(raw, BrokenItem) and raw_id(raw)) or plain_id(item)


def plain_ids(items: Sequence[Any]) -> list[str]:
    """Return ``plain_id`` of each item of a page, as Basiq sent it."""
    return [plain_id(as_object(item)) for item in items]


@attrs.frozen(repr=False)
class UnreadableMessage(Message):
    """A placeholder for a message that cannot be read. ``raw`` is its JSON, ``error`` says what is wrong.

    ``of_event``: it is an event of the event list.
    """

    error: Exception = attrs.field(eq=False)
    of_event: bool = False

    @property
    def payload(self) -> Mapping[str, Any]:
        """Nothing of it can be relied on."""
        found = self.raw.get("payload")
        return found if isinstance(found, dict) else {}

    @cached_property
    def attempts(self) -> tuple[DeliveryAttempt, ...]:
        """It has none to read, and no times: one bad date must not end a run."""
        return ()

    @property
    def delivered(self) -> None:
        """That is not known."""


def placeholder_for(item: UnreadableItem) -> UnreadableMessage:
    """Return the placeholder for a message that cannot be read."""
    raw = as_object(item.raw)
    not_json = item.raw is not raw and item.id
    return UnreadableMessage(not_json or plain_id(raw), raw, item.error)


def as_object(raw: Any) -> dict[str, Any]:
    """Return an item of a list as a JSON object, whatever it is."""
    if isinstance(raw, BrokenItem):
        raw = raw.text
    return raw if isinstance(raw, dict) else {"raw": raw}


@attrs.frozen(repr=False)
class EventMessage(Message):
    """The message that an event would have made. ``created`` is the time of the event's creation."""

    created: datetime | None


class MessageSource(Protocol):
    """Yields messages, page by page. What each name means, ``Reading`` says."""

    @property
    def order(self) -> Order: ...

    finished: bool
    read_count: int
    known_count: int
    unselected_count: int
    unknown_count: int

    @property
    def read_by_id(self) -> int: ...

    def advance(self) -> Awaitable[Batch[Message] | None]: ...

    def resume_point(self) -> str | None: ...

    async def aclose(self) -> None: ...


class FixedMessages:
    """A source that is no list of Basiq's. ``pages`` yields messages."""

    order: Order = "unknown"
    finished = True
    read_by_id = 0

    def __init__(self, pages: AsyncGenerator[Sequence[Message]]) -> None:
        self._pages = pages
        self.read_count = self.known_count = self.unselected_count = self.unknown_count = 0

    async def advance(self) -> Batch[Message] | None:
        """See ``Reading``."""
        async for messages in self._pages:
            self.read_count += len(messages)
            if messages:
                return Batch(messages)
        return None

    def resume_point(self) -> None:
        """See ``Reading``."""

    async def aclose(self) -> None:
        """See ``Reading``."""
        await self._pages.aclose()


# --- events ---


def open_events(client: BasiqClient, filter: str | None, cursor: str | None = None) -> Paginator[Event]:
    """Open the list of events at its start, or at a cursor. The reader itself decides what it requests ahead."""
    return client.events.list(filter=filter, cursor=cursor, prefetch=0, on_unreadable=_placeholder_for)


def message_of(event: Event, webhook_id: str) -> Message:
    """Return the message that an event would have made."""
    if isinstance(event, _UnreadableEvent) and event.message is not None:
        return event.message
    links = {"event": event.links.get("self"), "eventEntity": event.data_ref}
    payload = {
        "eventTypeId": event.type,
        "eventId": event.id,
        "links": {name: link for name, link in links.items() if link},
    }
    name = message_id_of(event.id)
    raw = {"id": name, "webhookId": webhook_id, "payload": payload, "attempts": []}
    return EventMessage(name, raw, event.created)


def convert_events(webhook_id: str, wanted: Callable[[str], bool]) -> Callable[[Event], Message | None]:
    """Return the function that makes messages of the events whose types ``wanted`` selects.

    The payload is that of a message: type, id and links of the event. So both have the same key in an inbox. An event
    that does not tell its whole type cannot be read: nothing says that it is not wanted.
    """

    def convert(event: Event) -> Message | None:
        message = message_of(event, webhook_id)
        if isinstance(message, UnreadableMessage) or wanted(event.type):
            return message
        if "." in event.type:
            return None
        error = ResponseDecodeError("an event without its entity or its type", location="$.eventType")
        return UnreadableMessage(message.id, event.raw, error, of_event=True)

    return convert


@attrs.frozen
class _UnreadableEvent(Event):
    """A placeholder for an event that cannot be read."""

    message: UnreadableMessage | None = None


def _placeholder_for(item: UnreadableItem) -> Event:
    message = placeholder_for(item)
    return _UnreadableEvent(message.id, message=attrs.evolve(message, id=message_id_of(message.id), of_event=True))


def message_id_of(event_id: str) -> str:
    """Return an id that a delivery can have, and whose prefix tells that it comes from an event."""
    plain = event_id if _PLAIN.fullmatch(event_id) else hashlib.sha256(event_id.encode(errors="replace")).hexdigest()
    return EVENT_PREFIX + plain
