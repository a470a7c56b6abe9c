"""Run a user's handler, cancel it once when its time is over, and find out whether it has ended."""

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
    """Runs one handler, with an optional time limit: ``await Handling(handler(...), limit).run()``.

    When the limit expires, the handler continues in a separate task, ``rest``, and is cancelled there once. So a
    handler that needs long to end, for example to close a database session, neither delays its caller nor is cancelled
    a second time. Other cancellations reach the handler unchanged.
    """

    __slots__ = ("_awaitable", "_limit", "_token", "rest")

    def __init__(self, awaitable: Awaitable[T], limit: Deadline | None = None) -> None:
        self._awaitable = awaitable
        self._limit = limit
        self.rest: asyncio.Task[T] | None = None

    async def run(self) -> T:
        """Run the handler, and return its result. Raises the handler's errors, and ``TimeoutError`` after the limit."""
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
        """Whether the handler ended without an error after its time was over."""
        rest = self.rest
        return rest is not None and rest.done() and not rest.cancelled() and rest.exception() is None

    def may_run_on(self, failure: BaseException) -> bool:
        """Return whether tasks of the handler may still run: it was cancelled, by its limit or by a limit inside it."""
        return any(isinstance(each, (TimeoutError, asyncio.CancelledError)) for each in walk(failure))

    async def wait(self, seconds: float) -> bool:
        """Wait until no task of the handler runs. Return False if one still runs after so many seconds."""
        clock = asyncio.get_running_loop().time
        until = clock() + seconds
        while tasks := self.unfinished():
            left = until - clock()
            if left <= 0:
                return False
            await asyncio.wait(tasks, timeout=left)
        return True

    def unfinished(self) -> set[asyncio.Task[Any]]:
        """Return the tasks that the handler has started and that still run, including ``rest``.

        A cancelled handler may leave one: SQLAlchemy, for example, commits in a shielded task.
        """
        return {task for task in asyncio.all_tasks() if _context_of(task).get(_current) is self}


def _context_of(task: asyncio.Task[Any]) -> Context:
    get_context = getattr(task, "get_context", None)
    if get_context is not None:
        found: Context = get_context()
        return found
    # In Python 3.11 a task has a context, but no method to get it.
    return next((each for each in gc.get_referents(task) if isinstance(each, Context)), Context())
