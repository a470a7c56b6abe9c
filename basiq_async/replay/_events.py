"""The event list of the last 7 days, as the messages that it would have made."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Self

import attrs

from .._wire.order import Order
from ..client import BasiqClient
from ..models import Event, Message
from ..pagination import Paginator, UnreadableItem
from ._sources import History, UnreadableMessage, placeholder_for
from .checkpoints._base import State

REACH = timedelta(days=7)
"""How far back the event list goes (the vendor's reference)."""
_PREFIX = "event-"
_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,200}", re.ASCII)


@attrs.frozen(repr=False)
class EventMessage(Message):
    """The message that an event would have made. ``created`` is when the event was."""

    created: datetime | None


@attrs.frozen
class _UnreadableEvent(Event):
    """Stands in for an event that cannot be read."""

    message: UnreadableMessage | None = None


class EventList:
    """The events of the types that ``wanted`` selects, each as a message, after a checkpoint's place.

    The payload is that of a message: type, id and links of the event. An inbox knows both by the same key.
    """

    def __init__(
        self, client: BasiqClient, webhook_id: str, filter: str | None, wanted: Callable[[str], bool], state: State
    ) -> None:
        self._webhook_id = webhook_id
        self._wanted = wanted
        if state.last_id is not None:
            state = attrs.evolve(state, last_id=_event_id(state.last_id))
        self._events = History(partial(_open, client, filter), state, ephemeral=True)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        while True:
            event = await anext(self._events)
            message = message_of(event, self._webhook_id)
            if isinstance(message, UnreadableMessage) or self._wanted(event.type):
                return message

    def stepper(self) -> Callable[[], Awaitable[Message]]:
        """See ``MessageSource``."""
        return self.__anext__

    @property
    def cursor(self) -> str | None:
        """See ``MessageSource``."""
        return self._events.cursor

    @property
    def order(self) -> Order:
        """See ``MessageSource``."""
        return self._events.order

    def next_pass(self) -> bool:
        """See ``MessageSource``."""
        return self._events.next_pass()

    async def recover(self, error: Exception) -> bool:
        """See ``MessageSource``."""
        return await self._events.recover(error)

    async def aclose(self) -> None:
        """See ``MessageSource``."""
        await self._events.aclose()


def open_events(
    client: BasiqClient, filter: str | None, cursor: str | None, after: str | None, *, prefetch: int = 1
) -> Paginator[Event]:
    """Begin the list of events after a cursor, or after the event of the message with the id ``after``."""
    return _open(client, filter, cursor, None if after is None else _event_id(after), prefetch=prefetch)


def _open(
    client: BasiqClient, filter: str | None, cursor: str | None, after: str | None, *, prefetch: int = 1
) -> Paginator[Event]:
    return client.events.list(
        filter=filter, cursor=cursor, after=after, prefetch=prefetch, on_unreadable=_placeholder_for
    )


def _event_id(message_id: str) -> str | None:
    return message_id.removeprefix(_PREFIX) if message_id.startswith(_PREFIX) else None


def message_of(event: Event, webhook_id: str) -> Message:
    """Return the message that an event would have made."""
    if isinstance(event, _UnreadableEvent) and event.message is not None:
        return event.message
    return _as_message(event, webhook_id)


def _placeholder_for(item: UnreadableItem) -> Event:
    message = placeholder_for(item)
    return _UnreadableEvent(message.id, message=attrs.evolve(message, id=_message_id(message.id)))


def _as_message(event: Event, webhook_id: str) -> EventMessage:
    links = {"event": event.links.get("self"), "eventEntity": event.data_ref}
    payload = {
        "eventTypeId": event.type,
        "eventId": event.id,
        "links": {name: link for name, link in links.items() if link},
    }
    name = _message_id(event.id)
    raw = {"id": name, "webhookId": webhook_id, "payload": payload, "attempts": []}
    return EventMessage(name, raw, event.created)


def _message_id(event_id: str) -> str:
    """Make an id that can be that of a delivery, and tells where it is from."""
    plain = event_id if _PLAIN.fullmatch(event_id) else hashlib.sha256(event_id.encode(errors="replace")).hexdigest()
    return _PREFIX + plain
