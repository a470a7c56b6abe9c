"""Cancel work at every turn of the event loop, in every way."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, Literal, ParamSpec, TypeVar, get_args

import anyio

from basiq_async.receiver import MemoryInbox
from tests.support.real_time import PATIENCE

How = Literal["once", "twice", "repeatedly", "anyio", "timeout", "everything"]
"""``everything`` cancels all tasks at once, as a loop does that shuts down."""
HOWS: tuple[How, ...] = get_args(How)
CALLS = ("claim", "complete", "release", "quarantine", "entries", "known", "note", "set_note")
"""Those of an inbox that a receiver and a run make."""

P = ParamSpec("P")
T = TypeVar("T")


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def cancel_after(count: int, work: Coroutine[Any, Any, object], how: How, *, alone: bool = True) -> bool:
    """Cancel ``work`` after ``count`` turns of the loop, and wait for its end. Return False if it had ended before.

    Any error of the work, except the cancellation, is raised. A task that is left over fails the test. With
    ``alone=False``, for a server with tasks of its own, only the work's task is cancelled, and left-over tasks pass.
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
    async with asyncio.timeout(PATIENCE):
        while how == "repeatedly" and not task.done():
            task.cancel()
            await turns(1)
        await asyncio.wait((task,))
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
    """Call ``attempt`` with 1, 2, 3 … turns, until it returns False: the work had ended. Return the number of hits.

    step: of so many turns in a row, one by chance: another one in the next run of the tests.
    """
    hits = 0
    for count in range(1, most, step):
        if not await attempt(count + random.randrange(step)):
            break
        hits += 1
    assert hits >= enough, f"only {hits} points were reached"
    return hits


class SteppingInbox(MemoryInbox):
    """An inbox whose calls take turns before and after their effect, as those of a database do."""

    def __init__(self, count: int = 1, **options: Any) -> None:
        super().__init__(**options)
        self._count = count
        for name in CALLS:
            setattr(self, name, partial(self._step, getattr(self, name)))

    async def _step(self, call: Callable[..., Awaitable[Any]], *arguments: Any, **options: Any) -> Any:
        await turns(self._count)
        result = await call(*arguments, **options)
        await turns(self._count)
        return result


class Inline(ThreadPoolExecutor):
    """An executor that runs calls in the calling thread, so that the number of the loop's turns is always the same."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as exc:
            future.set_exception(exc)
        return future
