"""The sources of a replay: each is a stream of messages, with a cursor from which to resume."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Generic, NamedTuple, NoReturn, Protocol, Self, TypeVar

import attrs

from .._wire.order import Order, raw_time
from ..client import BasiqClient
from ..models import Event, Message
from ..pagination import Paginator, UnreadableItem, last_raw, take_ready
from ._passes import OpenList, Passes
from ._watch import Place
from .checkpoints._base import State

T = TypeVar("T")
REACH = timedelta(days=7)
"""The age of the oldest events in the event list (the vendor's reference)."""
_PREFIX = "event-"
_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,200}", re.ASCII)


class Stepper(NamedTuple, Generic[T]):
    """Two functions that return a source's next message.

    ready: returns it if it is available at once; None if ``advance`` must be called.
    advance: the source's ``__anext__``.
    """

    ready: Callable[[], T | None]
    advance: Callable[[], Awaitable[T]]


def nothing_ready() -> None:
    """Return None: the ``Stepper.ready`` of a source that must always be awaited."""


class MessageSource(Protocol):
    """A stream of messages, each once, in the same order in each run."""

    def __aiter__(self) -> AsyncIterator[Message]:
        """Return itself."""
        ...

    async def __anext__(self) -> Message:
        """Return the next message. After a failure it can be called again."""
        ...

    def stepper(self) -> Stepper[Message]:
        """Return the two functions that read the next message, for a reader that calls them millions of times.

        After ``recover`` and ``next_pass`` they are no longer valid.
        """
        ...

    @property
    def cursor(self) -> str | None:
        """The place after the last message that was returned."""
        ...

    @property
    def order(self) -> Order:
        """The order of the list, as far as it is known."""
        ...

    def next_pass(self) -> bool:
        """At the end, begin a pass over messages that have arrived meanwhile. Return False if there cannot be any.

        Raises ``ReplayError`` if it cannot tell which messages are new.
        """
        ...

    async def recover(self, error: Exception) -> bool:
        """Find the place again after ``error``. Return False if that cannot help.

        Raises ``ReplayError`` if the list no longer has the place.
        """
        ...

    async def aclose(self) -> None:
        """Cancel the requests for pages ahead."""
        ...


@attrs.frozen(repr=False)
class UnreadableMessage(Message):
    """A placeholder for a message that cannot be read. ``raw`` is its JSON, ``error`` says what is wrong."""

    error: Exception = attrs.field(eq=False)


def placeholder_for(item: UnreadableItem) -> UnreadableMessage:
    """Return the placeholder for a message that cannot be read."""
    raw = item.raw if isinstance(item.raw, dict) else {"raw": item.raw}
    name = item.id or "unreadable-" + hashlib.sha256(json.dumps(raw, sort_keys=True).encode()).hexdigest()[:16]
    return UnreadableMessage(name, raw, item.error)


async def walk(source: MessageSource) -> AsyncIterator[Message]:
    """Yield the messages of all passes of a source. After an error, the source finds its place again if it can."""
    while True:
        try:
            message = await anext(source)
        except StopAsyncIteration:
            if source.next_pass():
                continue
            return
        except Exception as exc:
            if not await source.recover(exc):
                raise
            continue
        yield message


class History(Generic[T]):
    """A list, such as a webhook's messages, read from a checkpoint's place, in whichever order Basiq lists it."""

    def __init__(
        self,
        open_list: OpenList[T],
        state: State,
        *,
        ephemeral: bool = False,
        note_times: Callable[[Sequence[datetime]], None] | None = None,
    ) -> None:
        self._passes = Passes(open_list, state.cursor, state.last_id, ephemeral=ephemeral, note_times=note_times)
        self._open()

    def _open(self) -> None:
        self._paginator = self._passes.open()
        self._items = aiter(self._paginator)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        return await anext(self._items)

    def stepper(self) -> Stepper[T]:
        """See ``MessageSource``."""
        return Stepper(take_ready(self._items), self._items.__anext__)

    @property
    def cursor(self) -> str | None:
        """See ``MessageSource``."""
        passes = self._passes
        return passes.text(passes.start if passes.finished else self._place)

    @property
    def order(self) -> Order:
        """See ``MessageSource``."""
        return self._passes.order

    @property
    def _place(self) -> Place:
        paginator, start = self._paginator, self._passes.start
        last_id = paginator.last_id
        if last_id is None or last_id == start.after:
            return start
        return Place(paginator.cursor, 0, last_id, raw_time(last_raw(paginator)))

    def next_pass(self) -> bool:
        """See ``MessageSource``."""
        if not self._passes.finish(self._place):
            return False
        self._open()
        return True

    async def recover(self, error: Exception) -> bool:
        """See ``MessageSource``."""
        if not await self._passes.find(error, self._place):
            return False
        await self.aclose()
        if self._passes.exhausted:
            self._items = _NoItems()
        else:
            self._open()
        return True

    async def aclose(self) -> None:
        """See ``MessageSource``."""
        aclose = getattr(self._items, "aclose", None)
        if aclose is not None:
            await aclose()


class _NoItems:
    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> NoReturn:
        raise StopAsyncIteration


@attrs.frozen(repr=False)
class EventMessage(Message):
    """The message that an event would have made. ``created`` is the time of the event's creation."""

    created: datetime | None


class EventList:
    """The events of the types that ``wanted`` selects, each as a message, read from a checkpoint's place.

    The payload is that of a message: type, id and links of the event. So both have the same key in an inbox.
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

    def stepper(self) -> Stepper[Message]:
        """See ``MessageSource``."""
        return Stepper(nothing_ready, self.__anext__)

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
    """Open the list of events after a cursor, or after the event of the message with the id ``after``."""
    return _open(client, filter, cursor, None if after is None else _event_id(after), prefetch=prefetch)


def message_of(event: Event, webhook_id: str) -> Message:
    """Return the message that an event would have made."""
    if isinstance(event, _UnreadableEvent) and event.message is not None:
        return event.message
    return _as_message(event, webhook_id)


@attrs.frozen
class _UnreadableEvent(Event):
    """A placeholder for an event that cannot be read."""

    message: UnreadableMessage | None = None


def _open(
    client: BasiqClient, filter: str | None, cursor: str | None, after: str | None, *, prefetch: int = 1
) -> Paginator[Event]:
    return client.events.list(
        filter=filter, cursor=cursor, after=after, prefetch=prefetch, on_unreadable=_placeholder_for
    )


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


def _event_id(message_id: str) -> str | None:
    return message_id.removeprefix(_PREFIX) if message_id.startswith(_PREFIX) else None


def _message_id(event_id: str) -> str:
    """Return an id that a delivery can have, and whose prefix tells that it comes from an event."""
    plain = event_id if _PLAIN.fullmatch(event_id) else hashlib.sha256(event_id.encode(errors="replace")).hexdigest()
    return _PREFIX + plain


class FixedMessages:
    """A source with messages that are in memory."""

    cursor = None
    order: Order = "unknown"

    def __init__(self, messages: Iterable[Message]) -> None:
        self._messages = iter(messages)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        for message in self._messages:
            return message
        raise StopAsyncIteration

    def stepper(self) -> Stepper[Message]:
        """See ``MessageSource``."""
        return Stepper(lambda: next(self._messages, None), self.__anext__)

    def next_pass(self) -> bool:
        """See ``MessageSource``."""
        return False

    async def recover(self, error: Exception) -> bool:
        """See ``MessageSource``."""
        return False

    async def aclose(self) -> None:
        """See ``MessageSource``."""
