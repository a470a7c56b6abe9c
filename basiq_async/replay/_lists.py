"""Several lists read at once, as one stream with one cursor."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Self

from ..errors import CheckpointError, PaginationError, ReplayError
from ..models import Message
from ..pagination import Page
from ._sources import OpenList, is_lost
from .checkpoints._base import State

__all__ = ["Lists"]


class _List:
    """One of the lists: the page that is consumed, and the next one, which is on its way.

    A place is the cursor of a page, how many of its items come before, and the last item before. Without a cursor it
    is behind that item, wherever it is; without an item, at the beginning of the list.
    """

    def __init__(self, open_list: OpenList[Message], place: Sequence[Any]) -> None:
        self._open_list = open_list
        self.cursor: str | None = place[0]
        self.offset: int = place[1]
        self.last_id: str | None = place[2]
        self.ended = False
        self._skip = self.cursor is not None and self.offset > 0
        self._looked_for: str | None = None
        self.next_cursor: str | None = None
        self._pages = self._open(self.cursor, self.last_id)
        self.task: asyncio.Task[Page[Message]] | None = None

    @property
    def place(self) -> list[Any]:
        """What the constructor takes, to go on here."""
        return [self.cursor, self.offset, self.last_id]

    def _open(self, cursor: str | None, after: str | None) -> AsyncIterator[Page[Message]]:
        return aiter(self._open_list(cursor, after).pages())

    def request(self) -> asyncio.Task[Page[Message]]:
        """Have the next page come."""
        if self.task is None:
            self.task = asyncio.get_running_loop().create_task(self._next())
        return self.task

    async def _next(self) -> Page[Message]:
        return await anext(self._pages)

    def take(self) -> list[Message]:
        """Begin the page that has come, and return what is left of it. Raises whatever its request raised."""
        task, self.task = self.task, None
        if task is None:
            return []
        try:
            page = task.result()
        except StopAsyncIteration:
            self.ended = True
            return []
        items = list(page.items)
        if self._skip:
            # A page may have got longer or shorter before the place; the id decides.
            known = [index for index, item in enumerate(items) if item.id == self.last_id]
            if not known:
                self.look_for_place()
                return []
            self.offset, self._skip = known[-1] + 1, False
            items = items[self.offset :]
        self.next_cursor = page.next_cursor
        if not items:
            self.finish_page()
        return items

    def finish_page(self) -> None:
        """The page is consumed: the place is the beginning of the next one, if there is one."""
        if self.next_cursor is not None:
            self.cursor, self.offset = self.next_cursor, 0

    def look_for_place(self) -> bool:
        """Go on behind ``last_id``, wherever that is now; return False where that was tried already."""
        if self.last_id is None or self._looked_for == self.last_id:
            return False
        self._looked_for, self._skip = self.last_id, False
        self.cursor, self.offset, self.next_cursor = None, 0, None
        self._pages = self._open(None, self.last_id)
        return True


class Lists:
    """Reads several lists at once: while one page is consumed, the next ones of all lists are on their way.

    The order differs from run to run. The cursor holds the place in each list.
    """

    def __init__(self, open_lists: Sequence[OpenList[Message]], state: State) -> None:
        places = [[None, 0, None]] * len(open_lists) if state.cursor is None else _read(state.cursor)
        if len(places) != len(open_lists):
            raise _unreadable()
        self._lists = [_List(each, place) for each, place in zip(open_lists, places, strict=True)]
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
        assert current is not None  # noqa: S101  # it is where the items are from
        current.offset += 1
        current.last_id = message.id
        if not self._items:
            current.finish_page()
        return message

    async def _turn(self) -> None:
        """Go to a page that has come, of the list that had its turn longest ago."""
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
            await asyncio.sleep(0)  # lets the other requests begin, also where no consumer ever waits

    def stepper(self) -> Callable[[], Awaitable[Message]]:
        """See ``MessageSource``."""
        return self.__anext__

    @property
    def cursor(self) -> str | None:
        """See ``MessageSource``."""
        return json.dumps([each.place for each in self._lists])

    async def recover(self, error: Exception, last_id: str | None) -> bool:
        """See ``MessageSource``. Each list has a last message of its own."""
        failed, self._failed = self._failed, None
        if failed is None:
            return False
        if is_lost(error) and failed.look_for_place():
            return True
        if isinstance(error, PaginationError) and failed.last_id is not None and failed.next_cursor is None:
            raise ReplayError(
                f"the place where the replay stood in one of its lists cannot be found again ({error}). Begin anew "
                "with another checkpoint, and with an inbox, so that nothing is handled twice"
            ) from error
        return False

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


def _read(cursor: str) -> list[list[Any]]:
    try:
        places = json.loads(cursor)
        if all(len(place) == 3 and isinstance(place[1], int) for place in places):
            return list(places)
    except (ValueError, TypeError):
        pass
    raise _unreadable()


def _unreadable() -> CheckpointError:
    return CheckpointError(
        "the checkpoint's cursor cannot be read: it is damaged, or that of another number of lists; pass another "
        "checkpoint to begin anew, with an inbox, so that nothing is handled twice"
    )
