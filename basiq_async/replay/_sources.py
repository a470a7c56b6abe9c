"""The sources of a replay: each hands out messages page by page, and says where to resume."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

import attrs

from .._wire.order import Order
from ..client import BasiqClient
from ..errors import ConfigurationError
from ..filters import Filter, filter_text
from ..models import Event, Message
from ..pagination import Paginator, UnreadableItem
from ..services.diagnosis import Stretch
from ._feed import Feed
from ._keys import event_message_id, item_id, made_up_id
from ._place import damaged
from .checkpoints._base import Source

REACH = timedelta(days=7)
"""The age of the oldest events in the event list (the vendor's reference)."""


class MessageSource(Protocol):
    """Hands out messages, page by page. See ``Feed``, which is one."""

    @property
    def order(self) -> Order:
        """The order of the list, as far as it is known."""
        ...

    @property
    def finished(self) -> bool:
        """Whether all messages were handed out."""
        ...

    @property
    def repeats(self) -> bool:
        """Whether messages may have been handed out again, because of what the list no longer shows."""
        ...

    @property
    def read(self) -> tuple[Stretch, ...]:
        """The times of which all items were handed out, in this run or in an earlier one."""
        ...

    def take(self) -> Message | None:
        """Return the next message of the page that is here; None if ``advance`` must be called."""
        ...

    async def advance(self) -> bool:
        """Request the next page. Return False at the end."""
        ...

    def text(self) -> str | None:
        """Return the text from which to resume after the last message that was handed out."""
        ...

    async def aclose(self) -> None:
        """Cancel the requests for pages ahead."""
        ...


async def each_message(source: MessageSource) -> AsyncIterator[Message]:
    """Yield the messages of a source."""
    while True:
        while (message := source.take()) is not None:
            yield message
        if not await source.advance():
            return


@attrs.frozen(repr=False)
class UnreadableMessage(Message):
    """A placeholder for a message that cannot be read. ``raw`` is its JSON, ``error`` says what is wrong."""

    error: Exception = attrs.field(eq=False)


def placeholder_for(item: UnreadableItem) -> UnreadableMessage:
    """Return the placeholder for a message that cannot be read."""
    raw = item.raw if isinstance(item.raw, dict) else {"raw": item.raw}
    name = item_id(item.raw) if isinstance(item.raw, dict) else item.id or made_up_id(raw)
    return UnreadableMessage(name, raw, item.error)


@attrs.frozen(repr=False)
class EventMessage(Message):
    """The message that an event would have made. ``created`` is the time of the event's creation."""

    created: datetime | None


class Lists:
    """Several lists at once: while a page of one is consumed, the next pages of all are requested.

    The order of the messages differs from run to run. ``text`` returns the places in all lists.
    """

    def __init__(self, feeds: Sequence[Feed[Message]]) -> None:
        self._feeds = feeds
        self._tasks: dict[Feed[Message], asyncio.Task[bool]] = {}
        self._waiting = deque(feeds)
        self._current: Feed[Message] | None = None

    def take(self) -> Message | None:
        """See ``MessageSource``."""
        return None if self._current is None else self._current.take()

    async def advance(self) -> bool:
        """See ``MessageSource``. The next page is of the list whose last page was longest ago."""
        if self._current is not None:
            self._waiting.append(self._current)
            self._current = None
        while self._waiting:
            for feed in self._waiting:
                if feed not in self._tasks:
                    self._tasks[feed] = asyncio.create_task(feed.advance())
            await asyncio.wait(self._tasks.values(), return_when=asyncio.FIRST_COMPLETED)
            feed = next(each for each in self._waiting if self._tasks[each].done())
            self._waiting.remove(feed)
            if self._tasks.pop(feed).result():
                self._current = feed
                return True
        return False

    def text(self) -> str:
        """See ``MessageSource``."""
        return json.dumps([each.text() for each in self._feeds])

    @property
    def order(self) -> Order:
        """See ``MessageSource``. The lists that are long enough to show an order decide."""
        orders: set[Order] = {each.order for each in self._feeds if each.order != "unknown"}
        return orders.pop() if len(orders) == 1 else "unknown"

    @property
    def finished(self) -> bool:
        """See ``MessageSource``."""
        return all(each.finished for each in self._feeds)

    @property
    def repeats(self) -> bool:
        """See ``MessageSource``."""
        return any(each.repeats for each in self._feeds)

    @property
    def read(self) -> tuple[Stretch, ...]:
        """See ``MessageSource``. Each list has a part of the messages only."""
        return ()

    async def aclose(self) -> None:
        """See ``MessageSource``."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.exception()
        for feed in self._feeds:
            await feed.aclose()


def read_texts(text: str | None, count: int) -> Sequence[str | None]:
    """Split the text of ``Lists.text`` into one text for each list. Raises ``CheckpointError``."""
    if text is None:
        return [None] * count
    try:
        texts: list[str | None] = json.loads(text)
        if isinstance(texts, list) and len(texts) == count and all(isinstance(each, str) for each in texts):
            return texts
    except (ValueError, RecursionError):
        pass
    raise damaged("place in the lists")


def read_filters(
    filters: Sequence[str | Filter] | None, filter: str | Filter | None, source: Source
) -> list[str] | None:
    """Check the ``filters`` argument of a replay, and return the texts to send. Raises ``ConfigurationError``."""
    if filters is None:
        return None
    if filter is not None:
        raise ConfigurationError("pass filter or filters, not both")
    if source != "messages":
        raise ConfigurationError('filters needs source="messages": the event list is short enough for one')
    if isinstance(filters, (str, Filter)):
        raise ConfigurationError("filters must be a list of filters; for one, pass filter")
    texts = [filter_text(each) or "" for each in filters]
    if not texts or not all(texts):
        raise ConfigurationError("filters must hold at least one filter, none of them empty")
    if len(set(texts)) < len(texts):
        raise ConfigurationError("filters holds the same filter twice: each message would be handled twice")
    return texts


class FixedMessages:
    """A source that is no list of Basiq's: it has no place to resume at.

    read_page: returns the messages of the next page; None at the end.
    """

    order: Order = "unknown"
    finished = True
    repeats = False
    read: tuple[Stretch, ...] = ()

    def __init__(
        self,
        messages: Iterable[Message] = (),
        *,
        read_page: Callable[[], Awaitable[Iterable[Message] | None]] | None = None,
    ) -> None:
        self._messages = iter(messages)
        self._read_page = read_page

    def take(self) -> Message | None:
        """See ``MessageSource``."""
        return next(self._messages, None)

    async def advance(self) -> bool:
        """See ``MessageSource``."""
        page = None if self._read_page is None else await self._read_page()
        self._messages = iter(page or ())
        return page is not None

    def text(self) -> None:
        """See ``MessageSource``."""

    async def aclose(self) -> None:
        """See ``MessageSource``."""


# --- events ---


def open_events(
    client: BasiqClient, filter: str | None, cursor: str | None = None, *, prefetch: int = 1
) -> Paginator[Event]:
    """Open the list of events at its start, or at a cursor."""
    return client.events.list(filter=filter, cursor=cursor, prefetch=prefetch, on_unreadable=_placeholder_for)


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
    name = event_message_id(event.id)
    raw = {"id": name, "webhookId": webhook_id, "payload": payload, "attempts": []}
    return EventMessage(name, raw, event.created)


def convert_events(webhook_id: str, wanted: Callable[[str], bool]) -> Callable[[Event], Message | None]:
    """Return the function that makes messages of the events whose types ``wanted`` selects.

    The payload is that of a message: type, id and links of the event. So both have the same key in an inbox.
    """

    def convert(event: Event) -> Message | None:
        message = message_of(event, webhook_id)
        return message if isinstance(message, UnreadableMessage) or wanted(event.type) else None

    return convert


@attrs.frozen
class _UnreadableEvent(Event):
    """A placeholder for an event that cannot be read."""

    message: UnreadableMessage | None = None


def _placeholder_for(item: UnreadableItem) -> Event:
    message = placeholder_for(item)
    return _UnreadableEvent(message.id, message=attrs.evolve(message, id=event_message_id(message.id)))
