"""Read several lists at once, as one stream with one cursor."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Sequence
from typing import Self

import attrs

from .._wire.order import Order, item_time
from ..models import Message
from ..pagination import Page
from ._passes import OpenList, Passes, unreadable
from ._sources import Stepper, nothing_ready
from ._watch import Place
from .checkpoints._base import State

_OTHERS = "it is damaged, or made for another number of lists"


class _List:
    """One of the lists: the page that is consumed, and the request for the next page.

    Its place is the cursor of a page, the number of the page's items before the place, and the last item before it.
    Without a cursor, the place is after that item, on any page; without an item, it is the beginning of the list.
    """

    def __init__(self, open_list: OpenList[Message], text: str | None) -> None:
        self._passes = Passes(open_list, text)
        self.ended = False
        self.task: asyncio.Task[Page[Message]] | None = None
        self._open()

    def _open(self) -> None:
        start = self._passes.start
        self._cursor, self._offset, self._after = start.cursor, start.offset, start.after
        self._last: Message | None = None
        self._skip = start.cursor is not None and start.offset > 0
        self._next_cursor: str | None = None
        self._pages = aiter(self._passes.open().pages())

    @property
    def _place(self) -> Place:
        start, last = self._passes.start, self._last
        time = start.time if last is None else item_time(last)
        return Place(self._cursor, self._offset, self._after, time)

    @property
    def text(self) -> str | None:
        """The text from which the constructor resumes at this place."""
        return self._passes.text(self._place)

    @property
    def order(self) -> Order:
        """The order of the list, as far as it is known."""
        return self._passes.order

    def request(self) -> asyncio.Task[Page[Message]]:
        """Request the next page, unless it is requested already. Return the task of the request."""
        if self.task is None:
            self.task = asyncio.get_running_loop().create_task(self._next())
        return self.task

    async def _next(self) -> Page[Message]:
        return await anext(self._pages)

    def take(self) -> list[Message]:
        """Begin the page that has arrived, and return its items after the place. Raises the error of its request."""
        task, self.task = self.task, None
        if task is None:
            return []
        try:
            page = task.result()
        except StopAsyncIteration:
            self._finish()
            return []
        items = list(page.items)
        if self._skip:
            # Items may have been added or removed before the place, so the id decides, not the offset.
            known = [index for index, item in enumerate(items) if item.id == self._after]
            if not known:
                self._passes.start = attrs.evolve(self._place, cursor=None, offset=0)
                self._open()
                return []
            self._offset, self._skip = known[-1] + 1, False
            items = items[self._offset :]
        self._next_cursor = page.next_cursor
        if not items:
            self._finish_page()
        return items

    def _finish(self) -> None:
        self.ended = not self._passes.finish(self._place)
        if not self.ended:
            self._open()

    def passed(self, message: Message, *, last_of_page: bool) -> None:
        """Move the place after a message of the page that was handed out."""
        self._offset += 1
        self._after, self._last = message.id, message
        if last_of_page:
            self._finish_page()

    def _finish_page(self) -> None:
        """Move the place to the beginning of the next page, if there is one."""
        if self._next_cursor is not None:
            self._cursor, self._offset = self._next_cursor, 0

    async def find(self, error: Exception) -> bool:
        """Resume after the last message, which may have moved. Return False if that cannot help after ``error``."""
        if not await self._passes.find(error, self._place):
            return False
        if self._passes.exhausted:
            self._finish()
        else:
            self._open()
        return True


class Lists:
    """Reads several lists at once: while a page is consumed, the next pages of all lists are requested.

    The order of the messages differs from run to run. The cursor holds the place in each list.
    """

    def __init__(self, open_lists: Sequence[OpenList[Message]], state: State) -> None:
        texts = [None] * len(open_lists) if state.cursor is None else _read(state.cursor)
        if len(texts) != len(open_lists):
            raise unreadable(_OTHERS)
        self._lists = [_List(each, text) for each, text in zip(open_lists, texts, strict=True)]
        self._ready = deque(self._lists)
        self._current: _List | None = None
        self._items: deque[Message] = deque()
        self._failed: _List | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        while not self._items:
            await self._turn()
        message = self._items.popleft()
        current = self._current
        assert current is not None  # noqa: S101  # the items are from this list
        current.passed(message, last_of_page=not self._items)
        return message

    async def _turn(self) -> None:
        """Take a page that has arrived, from the list whose last turn was longest ago."""
        self._current = None
        left = [each for each in self._ready if not each.ended]
        if not left:
            raise StopAsyncIteration
        tasks = [each.request() for each in left]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        chosen = next(each for each, task in zip(left, tasks, strict=True) if task.done())
        self._ready.remove(chosen)
        self._ready.append(chosen)
        self._failed = chosen
        self._items.extend(chosen.take())
        self._failed = None
        self._current = chosen
        if not chosen.ended and self._items:
            await asyncio.sleep(0)  # lets the other requests begin, even if the consumer never awaits

    def stepper(self) -> Stepper[Message]:
        """See ``MessageSource``."""
        return Stepper(nothing_ready, self.__anext__)

    @property
    def cursor(self) -> str | None:
        """See ``MessageSource``."""
        return json.dumps([each.text for each in self._lists])

    @property
    def order(self) -> Order:
        """See ``MessageSource``. The lists that are long enough to show an order decide."""
        orders: set[Order] = {each.order for each in self._lists if each.order != "unknown"}
        return orders.pop() if len(orders) == 1 else "unknown"

    def next_pass(self) -> bool:
        """See ``MessageSource``. Each list goes through its own passes."""
        return False

    async def recover(self, error: Exception) -> bool:
        """See ``MessageSource``. The list whose request failed resumes after its own last message."""
        failed, self._failed = self._failed, None
        return failed is not None and await failed.find(error)

    async def aclose(self) -> None:
        """See ``MessageSource``."""
        tasks = [each.task for each in self._lists if each.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.exception()


def _read(cursor: str) -> list[str | None]:
    try:
        texts: list[str | None] = json.loads(cursor)
        if isinstance(texts, list) and all(each is None or isinstance(each, str) for each in texts):
            return texts
    except ValueError:
        pass
    raise unreadable(_OTHERS)
