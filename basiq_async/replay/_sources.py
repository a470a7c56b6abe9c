"""Where a replay reads its messages from: one stream, and the cursor that goes on with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from typing import Generic, Protocol, Self, TypeVar

import attrs

from .._codec import Unreadable, read_message
from ..errors import APIError, CheckpointError, ConfigurationError, PaginationError, ReplayError
from ..models import Message
from ..pagination import Paginator, UnreadableItem
from .checkpoints._base import Checkpoint, DeadLetter, State

__all__ = [
    "DeadLetters",
    "Given",
    "History",
    "MessageSource",
    "OpenList",
    "UnreadableMessage",
    "is_lost",
    "stand_in",
    "walk",
]

T = TypeVar("T")

OpenList = Callable[[str | None, str | None], Paginator[T]]
"""Begins a list behind a cursor or, where that cannot be used, behind the message with an id."""

_LOST = (400, 404, 410)
"""How Basiq may refuse the link to a page that has expired."""


class MessageSource(Protocol):
    """Messages in an order that stays the same from run to run, once each."""

    def __aiter__(self) -> AsyncIterator[Message]:
        """Return itself."""
        ...

    async def __anext__(self) -> Message:
        """Return the next message. After a failure it can be called again."""
        ...

    def stepper(self) -> Callable[[], Awaitable[Message]]:
        """Return what ``__anext__`` calls, for a reader that asks millions of times. ``recover`` ends its validity."""
        ...

    @property
    def cursor(self) -> str | None:
        """Behind the last message that was returned."""
        ...

    async def recover(self, error: Exception, last_id: str | None) -> bool:
        """Find the place behind ``last_id`` again after ``error``; return False where that cannot help."""
        ...

    async def aclose(self) -> None:
        """Give up what was asked for ahead."""
        ...


@attrs.frozen(repr=False)
class UnreadableMessage(Message):
    """Stands in for a message that cannot be read. ``raw`` is what came, ``error`` says what is wrong, and where."""

    error: Exception = attrs.field(eq=False)


def stand_in(item: UnreadableItem) -> UnreadableMessage:
    """Return what stands in for a message that cannot be read."""
    raw = item.raw if isinstance(item.raw, dict) else {"raw": item.raw}
    name = item.id or "unreadable-" + hashlib.sha256(json.dumps(raw, sort_keys=True).encode()).hexdigest()[:16]
    return UnreadableMessage(name, raw, item.error)


class History(Generic[T]):
    """A list, such as that of a webhook's messages, behind a checkpoint's place.

    Links to pages expire. Where Basiq refuses one, the list is read from its beginning, to go on behind the last
    message by its id.
    """

    def __init__(self, open_list: OpenList[T], state: State) -> None:
        self._open_list = open_list
        self._after = state.last_id
        try:
            self._paginator = open_list(state.cursor, state.last_id)
        except ConfigurationError as exc:
            if state.cursor is None:
                raise
            raise CheckpointError(
                f"the checkpoint's cursor cannot be read ({exc}): pass another checkpoint to begin anew, with an "
                "inbox, so that nothing is handled twice"
            ) from exc
        self._items = aiter(self._paginator)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        return await anext(self._items)

    def stepper(self) -> Callable[[], Awaitable[T]]:
        """See ``MessageSource``."""
        return self._items.__anext__

    @property
    def cursor(self) -> str | None:
        """See ``MessageSource``."""
        return self._paginator.cursor

    async def recover(self, error: Exception, last_id: str | None) -> bool:
        """See ``MessageSource``. Raises ``ReplayError`` where the list does not have that message any more."""
        if last_id is None:
            return False
        if last_id == self._after:  # nothing was read since the place was looked for
            if isinstance(error, PaginationError):
                raise ReplayError(
                    f"the place where the replay stood cannot be found again ({error}). Begin anew with another "
                    "checkpoint, and with an inbox, so that nothing is handled twice"
                ) from error
            return False
        if not is_lost(error):
            return False
        await self.aclose()
        self._after = last_id
        self._paginator = self._open_list(None, last_id)
        self._items = aiter(self._paginator)
        return True

    async def aclose(self) -> None:
        """See ``MessageSource``."""
        aclose = getattr(self._items, "aclose", None)
        if aclose is not None:
            await aclose()


async def walk(source: MessageSource, last_id: str | None) -> AsyncIterator[Message]:
    """Go through a source, which stands behind ``last_id``. It finds its place again where it has to."""
    while True:
        try:
            message = await anext(source)
        except StopAsyncIteration:
            return
        except Exception as exc:
            if not await source.recover(exc, last_id):
                raise
            continue
        last_id = message.id
        yield message


def is_lost(error: Exception) -> bool:
    """Return whether ``error`` can mean that the link to a page has expired."""
    return isinstance(error, APIError) and error.status in _LOST


class DeadLetters:
    """The dead letters of a checkpoint as messages, page by page: all of them, or those with certain ids."""

    cursor = None

    def __init__(self, checkpoint: Checkpoint, ids: Collection[str] | None = None) -> None:
        self._checkpoint = checkpoint
        self._ids = None if ids is None else frozenset(ids)
        self._page: list[DeadLetter] = []
        self._after = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        while True:
            if not self._page:
                self._page = list(reversed(await self._checkpoint.dead_letters(after=self._after)))
                if not self._page:
                    raise StopAsyncIteration
            letter = self._page.pop()
            self._after = letter.number
            if self._ids is None or letter.id in self._ids:
                break
        try:
            return attrs.evolve(read_message(dict(letter.message)), id=letter.id)
        except Unreadable as exc:
            return UnreadableMessage(letter.id, letter.message, exc)

    def stepper(self) -> Callable[[], Awaitable[Message]]:
        """See ``MessageSource``."""
        return self.__anext__

    async def recover(self, error: Exception, last_id: str | None) -> bool:
        """See ``MessageSource``."""
        return False

    async def aclose(self) -> None:
        """See ``MessageSource``."""


class Given:
    """Messages that are there already."""

    cursor = None

    def __init__(self, messages: Iterable[Message]) -> None:
        self._messages = iter(messages)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        for message in self._messages:
            return message
        raise StopAsyncIteration

    def stepper(self) -> Callable[[], Awaitable[Message]]:
        """See ``MessageSource``."""
        return self.__anext__

    async def recover(self, error: Exception, last_id: str | None) -> bool:
        """See ``MessageSource``."""
        return False

    async def aclose(self) -> None:
        """See ``MessageSource``."""
