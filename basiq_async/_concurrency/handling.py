"""Runs a user's handler: cancels it once when its time is over, and knows whether it has ended."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Generator
from contextvars import Context, ContextVar, Token
from types import coroutine
from typing import Any, Generic, TypeVar

from .._redaction.tracebacks import walk
from .deadlines import Deadline

T = TypeVar("T")

_current: ContextVar[Handling[Any] | None] = ContextVar("basiq_async_handling", default=None)


class Handling(Generic[T]):
    """Runs one handler, within a time limit where one is passed: ``await Handling(handler(...), limit).run()``.

    When the limit expires, the cancellation is thrown into the handler in a separate task, ``rest``, which nobody
    cancels again: a handler that resists, such as one in a database's exit, does not hold up its caller, and a
    second cancellation does not tear it from what it awaits there. A cancellation by others goes to the handler as it
    is.
    """

    __slots__ = ("_awaitable", "_limit", "_token", "rest")

    def __init__(self, awaitable: Awaitable[T], limit: Deadline | None = None) -> None:
        self._awaitable = awaitable
        self._limit = limit
        self.rest: asyncio.Task[T] | None = None

    async def run(self) -> T:
        """Run the handler. Raises what it raises, and ``TimeoutError`` when its time is over."""
        token: Token[Handling[Any] | None] = _current.set(self)
        try:
            if self._limit is None:
                return await self._awaitable
            with self._limit:
                return await self._drive(self._awaitable.__await__(), None, self._limit)
        finally:
            _current.reset(token)

    @coroutine
    def _drive(
        self, steps: Generator[Any, Any, T], exc: BaseException | None, limit: Deadline
    ) -> Generator[Any, Any, T]:
        sent: Any = None
        try:
            while True:
                step = steps.send(sent) if exc is None else steps.throw(exc)
                exc = None
                try:
                    sent = yield step
                except BaseException as thrown:
                    exc = thrown
                if self.rest is None and limit.expired and isinstance(exc, asyncio.CancelledError):
                    self.rest = asyncio.get_running_loop().create_task(self._finish(steps, exc, limit))
                    raise exc
        except StopIteration as end:
            result: T = end.value
            return result

    async def _finish(self, steps: Generator[Any, Any, T], exc: BaseException, limit: Deadline) -> T:
        return await self._drive(steps, exc, limit)

    @property
    def ended_well(self) -> bool:
        """Whether the handler ended without an error, though its time was over."""
        rest = self.rest
        return rest is not None and rest.done() and not rest.cancelled() and rest.exception() is None

    def may_run_on(self, failure: BaseException) -> bool:
        """Whether something of the handler may still run: it was cancelled, by us or by a time limit inside it."""
        return any(isinstance(each, (TimeoutError, asyncio.CancelledError)) for each in walk(failure))

    async def wait(self, seconds: float) -> bool:
        """Wait until nothing of the handler runs any more; False where that takes longer."""
        clock = asyncio.get_running_loop().time
        until = clock() + seconds
        while tasks := self.unfinished():
            left = until - clock()
            if left <= 0:
                return False
            await asyncio.wait(tasks, timeout=left)
        return True

    def unfinished(self) -> set[asyncio.Task[Any]]:
        """The tasks that the handler has begun and that still run, ``rest`` among them.

        A handler that was cancelled, even by a time limit inside it, may have left one: SQLAlchemy, for example,
        commits in a shielded task.
        """
        return {task for task in asyncio.all_tasks() if _context_of(task).get(_current) is self}


def _context_of(task: asyncio.Task[Any]) -> Context:
    get_context = getattr(task, "get_context", None)
    if get_context is not None:
        found: Context = get_context()
        return found
    # Python 3.11 has the context of a task, and no method that returns it.
    return next((each for each in gc.get_referents(task) if isinstance(each, Context)), Context())
