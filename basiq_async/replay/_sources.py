"""Where a replay reads its messages from: one stream, and the cursor that resumes it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from datetime import datetime
from typing import Generic, NoReturn, Protocol, Self, TypeVar

import attrs

from .._wire.codec import Unreadable, read_message
from .._wire.order import Order, raw_time
from ..models import Message
from ..pagination import UnreadableItem, last_raw
from ._passes import OpenList, Passes
from ._watch import Place
from .checkpoints._base import Checkpoint, DeadLetter, State

T = TypeVar("T")


class MessageSource(Protocol):
    """Messages in an order that stays the same from run to run, once each."""

    def __aiter__(self) -> AsyncIterator[Message]:
        """Return itself."""
        ...

    async def __anext__(self) -> Message:
        """Return the next message. After a failure it can be called again."""
        ...

    def stepper(self) -> Callable[[], Awaitable[Message]]:
        """Return what ``__anext__`` calls, for a reader that asks millions of times.

        ``recover`` and ``next_pass`` end its validity.
        """
        ...

    @property
    def cursor(self) -> str | None:
        """The place after the last message that was returned."""
        ...

    @property
    def order(self) -> Order:
        """In which order the list comes, as far as it is known by now."""
        ...

    def next_pass(self) -> bool:
        """At the end: begin with what has come meanwhile; return False where nothing can be left.

        Raises ``ReplayError`` where it cannot be known what is new.
        """
        ...

    async def recover(self, error: Exception) -> bool:
        """Find the place again after ``error``; return False where that cannot help.

        Raises ``ReplayError`` where the list does not have the place any more.
        """
        ...

    async def aclose(self) -> None:
        """Give up what was asked for ahead."""
        ...


@attrs.frozen(repr=False)
class UnreadableMessage(Message):
    """Stands in for a message that cannot be read. ``raw`` is what came, ``error`` says what is wrong, and where."""

    error: Exception = attrs.field(eq=False)


def placeholder_for(item: UnreadableItem) -> UnreadableMessage:
    """Return what stands in for a message that cannot be read."""
    raw = item.raw if isinstance(item.raw, dict) else {"raw": item.raw}
    name = item.id or "unreadable-" + hashlib.sha256(json.dumps(raw, sort_keys=True).encode()).hexdigest()[:16]
    return UnreadableMessage(name, raw, item.error)


class History(Generic[T]):
    """A list, such as that of a webhook's messages, after a checkpoint's place, whichever way it is ordered."""

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

    def stepper(self) -> Callable[[], Awaitable[T]]:
        """See ``MessageSource``."""
        return self._items.__anext__

    @property
    def cursor(self) -> str | None:
        """See ``MessageSource``."""
        return self._passes.text(self._place)

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
            self._items = _Nothing()
        else:
            self._open()
        return True

    async def aclose(self) -> None:
        """See ``MessageSource``."""
        aclose = getattr(self._items, "aclose", None)
        if aclose is not None:
            await aclose()


class _Nothing:
    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> NoReturn:
        raise StopAsyncIteration


async def walk(source: MessageSource) -> AsyncIterator[Message]:
    """Go through all passes of a source. It finds its place again where it has to."""
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


class DeadLetters:
    """The dead letters of a checkpoint as messages, page by page: all of them, or those with certain ids."""

    cursor = None
    order: Order = "unknown"

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

    def next_pass(self) -> bool:
        """See ``MessageSource``."""
        return False

    async def recover(self, error: Exception) -> bool:
        """See ``MessageSource``."""
        return False

    async def aclose(self) -> None:
        """See ``MessageSource``."""


class FixedMessages:
    """Messages that are there already."""

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

    def stepper(self) -> Callable[[], Awaitable[Message]]:
        """See ``MessageSource``."""
        return self.__anext__

    def next_pass(self) -> bool:
        """See ``MessageSource``."""
        return False

    async def recover(self, error: Exception) -> bool:
        """See ``MessageSource``."""
        return False

    async def aclose(self) -> None:
        """See ``MessageSource``."""
