"""Cancel work: at every turn of the event loop, or a replay at random moments, in every way."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Literal, ParamSpec, TypeVar, get_args
from zlib import crc32

import anyio
import attrs

from basiq_async import BasiqClient, InMemoryTransport, Message
from basiq_async._storage import sqlite  # private: the thread of a store
from basiq_async.receiver import Inbox
from basiq_async.replay import Replay
from basiq_async.testing import FakeBasiq
from tests.support.real_time import PATIENCE

How = Literal["once", "twice", "repeatedly", "anyio", "timeout", "everything"]
"""``everything`` cancels all tasks at once, as a loop does that shuts down."""
HOWS: tuple[How, ...] = get_args(How)
Moment = Callable[[], Awaitable[None]]

P = ParamSpec("P")
T = TypeVar("T")


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def cancel_after(count: int, work: Coroutine[Any, Any, object], how: How, *, alone: bool = True) -> bool:
    """Cancel ``work`` after ``count`` turns of the loop: see ``cancel_at``."""
    return await cancel_at(lambda: turns(count), work, how, alone=alone)


async def cancel_at(moment: Moment, work: Coroutine[Any, Any, object], how: How, *, alone: bool = True) -> bool:
    """Cancel ``work`` when ``moment`` has passed, and wait for its end. Return False if it had ended before.

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
    await moment()
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


class Inline(ThreadPoolExecutor):
    """An executor that runs calls in the calling thread, so that the number of the loop's turns is always the same."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as exc:
            future.set_exception(exc)
        return future


class InlineStore(sqlite.SQLiteStore):
    """A ``SQLiteStore`` that works in the calling thread, for the same reason."""

    def run(self, work: sqlite.Work[T], *, write: bool = True) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        call = sqlite._Call(work, write, loop.create_future(), loop)

        def do() -> T:
            try:
                self._commit([call])
            except BaseException as exc:
                raise self.file.translate(exc) from None
            result: T = call.result
            return result

        return asyncio.wrap_future(Inline(1).submit(do))

    async def aclose(self) -> None:
        if self._connection is not None:
            self.file.close(self._connection)
        await asyncio.sleep(0)


@attrs.define
class Tally:
    """The counts of a storm."""

    cancellations: int = 0
    hits: int = 0
    """Cancellations of a run that had handled something."""
    repeated: int = 0
    unexplained: int = 0
    """Effects that were repeated although they were not under way. Only a loop that shuts down during a save may cause
    them."""
    by_way: Counter[str] = attrs.field(factory=Counter[str])


async def storm(
    inbox: Inbox, made: tuple[FakeBasiq, str], *, concurrency: int, cancellations: int, rng: random.Random
) -> Tally:
    """Cancel a replay many times, at random moments and in every way; then run it to the end, and check the result.

    The runs are exclusive. A message that was handled, and is not under way at the cancellation, is recorded, so no
    later run repeats it. A message that failed is set aside or is tried again. No message is lost.
    """
    fake, webhook_id = made
    effects: Counter[str] = Counter()
    under_way: Counter[str] = Counter()
    allowance = 0
    tally = Tally()
    begun = asyncio.Event()

    async def handler(message: Message) -> None:
        await asyncio.sleep(rng.random() * 0.002)
        begun.set()
        if crc32(message.id.encode()) % 50 == 0:
            raise ValueError("poisoned")
        effects[message.id] += 1
        try:
            await asyncio.sleep(rng.random() * 0.001)
        except asyncio.CancelledError:
            under_way[message.id] += 1
            raise

    async with BasiqClient(FakeBasiq.DEFAULT_API_KEY, transport=InMemoryTransport(fake)) as client:
        ids = [message.id async for message in client.messages.list(webhook_id)]
        replay = Replay(
            client,
            webhook_id,
            handler,
            inbox=inbox,
            exclusive=True,
            concurrency=concurrency,
            max_failures=None,
        )
        while tally.cancellations < cancellations:
            before = effects.total()
            begun.clear()
            how = rng.choice(HOWS)
            delay = rng.random() * 0.006 if rng.random() < 0.9 else None
            if not await cancel_at(lambda delay=delay: _moment(begun, delay, rng), replay.run(), how):
                raise SystemExit(
                    f"the job was done after {tally.cancellations} cancellations: more messages are needed"
                )
            tally.cancellations += 1
            tally.hits += effects.total() > before
            tally.by_way[how] += 1
            # A loop that shuts down also cuts off the save that is under way: it is not known whether it was recorded.
            allowance += concurrency if how == "everything" else 0
        report = await replay.run()
        aside = {entry.delivery_id for entry in await replay.quarantined(limit=1_000_000)}
    assert report.finished
    missing = set(ids) - set(effects) - aside
    assert not missing, f"{len(missing)} messages are lost"
    assert aside == {each for each in ids if crc32(each.encode()) % 50 == 0}, "not all that failed is set aside"
    tally.repeated = sum(count - 1 for count in effects.values())
    unexplained = tally.unexplained = sum(max(0, count - 1 - under_way[each]) for each, count in effects.items())
    assert unexplained <= allowance, f"{unexplained} effects were repeated that were not under way"
    return tally


async def _moment(begun: asyncio.Event, delay: float | None, rng: random.Random) -> None:
    """Wait for a random moment: with a ``delay``, after the first effect; else in the first turns of the run."""
    if delay is None:
        for _ in range(rng.randrange(1, 40)):
            await asyncio.sleep(0)
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            await begun.wait()
    await asyncio.sleep(delay)
