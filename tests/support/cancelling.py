"""Cancelling work at every turn of the event loop: once, twice, again and again, by anyio, and with all tasks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Literal, ParamSpec, TypeVar, get_args

import anyio

from basiq_async._storage.sqlite_thread import ConnectionThread

How = Literal["once", "twice", "repeatedly", "anyio", "timeout", "everything"]
"""``everything`` cancels all tasks at once, as a loop does that shuts down."""
HOWS: tuple[How, ...] = get_args(How)

_MOST_TURNS = 100_000

P = ParamSpec("P")
T = TypeVar("T")


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def cancel_after(count: int, work: Coroutine[Any, Any, object], how: How, *, alone: bool = True) -> bool:
    """Cancel ``work`` after ``count`` turns of the loop, and wait for its end; False where it had ended before.

    Whatever is raised but the cancellation is raised here. Fails where a task is left; not so with ``alone=False``,
    where a server has tasks too, and only those of the work are cancelled.
    """
    before = asyncio.all_tasks()
    scope, limit = anyio.CancelScope(), asyncio.timeout(None)
    main = work
    if how == "anyio":
        main = _in_scope(scope, work)
    elif how == "timeout":
        main = _in_time(limit, work)
    task = asyncio.get_running_loop().create_task(main)
    await turns(count)
    hit = not task.done()
    if hit and how == "anyio":
        scope.cancel()
    elif hit and how == "timeout":
        limit.reschedule(asyncio.get_running_loop().time() - 1)
    elif hit and how == "everything":
        for each in (asyncio.all_tasks() - before) if alone else {task}:
            each.cancel()
    elif hit:
        task.cancel()
        if how == "twice":
            await turns(1)
            task.cancel()
    for _ in range(_MOST_TURNS):
        if task.done():
            break
        if how == "repeatedly" and hit:
            task.cancel()
        await turns(1)
    else:
        raise AssertionError("the work does not end")
    if not task.cancelled():
        task.result()
    left = asyncio.all_tasks() - before
    assert not left or not alone, f"tasks left behind: {left}"
    return hit


async def _in_scope(scope: anyio.CancelScope, work: Coroutine[Any, Any, object]) -> None:
    with scope:
        await work


async def _in_time(limit: asyncio.Timeout, work: Coroutine[Any, Any, object]) -> None:
    with suppress(TimeoutError):
        async with limit:
            await work


async def at_every_turn(
    attempt: Callable[[int], Awaitable[bool]], *, enough: int = 20, most: int = 2_000, step: int = 1
) -> int:
    """Call ``attempt`` with 1, 2, 3 … turns until it says that the work ended before; return how many hit it."""
    hits = 0
    for count in range(1, most, step):
        if not await attempt(count):
            break
        hits += 1
    assert hits >= enough, f"only {hits} points were reached"
    return hits


class Inline(ThreadPoolExecutor):
    """Runs in the calling thread what is submitted: the number of turns is the same each time."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as exc:
            future.set_exception(exc)
        return future


class InlineConnection(ConnectionThread):
    """The same in place of a connection's thread."""

    def __init__(self, *_: object) -> None:
        self.pid = os.getpid()

    def submit(self, work: Callable[[], T], *, write: bool = True) -> asyncio.Future[T]:
        return asyncio.wrap_future(Inline(1).submit(work))

    def stop(self) -> None:
        pass

    async def join(self, timeout: float | None = None) -> None:
        await asyncio.sleep(0)
