"""Work that is seen through: it ends once, whatever cancels the task that waits for it, and costs no processor."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine

import anyio
import pytest

from basiq_async import ConnectionFailedError
from basiq_async._work.tasks import (
    TaskOwner,
    cancelling,
    result_of,
    run_cancel_once,
    run_to_completion,
    wait_uncancelled,
)
from tests.support import virtual

Waiting = Callable[[Callable[[], Coroutine[object, object, None]]], Awaitable[None]]


async def _by_timeout(work: Callable[[], Coroutine[object, object, None]]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1):
            await run_to_completion(work)


async def _again_and_again(work: Callable[[], Coroutine[object, object, None]]) -> None:
    task = asyncio.create_task(run_to_completion(work))
    while not task.done():
        await asyncio.sleep(0.1)
        task.cancel()
    assert task.cancelled()


async def _by_scope(work: Callable[[], Coroutine[object, object, None]]) -> None:
    with anyio.move_on_after(1) as scope:
        await run_to_completion(work)
    assert scope.cancelled_caught


WAYS = [_by_timeout, _again_and_again, _by_scope]


@pytest.mark.parametrize("way", WAYS)
@virtual.clocked
async def test_work_is_seen_through_once_whatever_cancels_the_one_who_waits(way: Waiting) -> None:
    ended: list[float] = []

    async def work() -> None:
        await asyncio.sleep(5)
        ended.append(virtual.now())

    began = virtual.now()
    await way(work)
    assert ended == [began + 5]


async def test_a_scope_of_anyio_does_not_keep_the_processor_busy_meanwhile() -> None:
    turns = 0

    async def work() -> None:
        nonlocal turns
        loop = asyncio.get_running_loop()
        until = loop.time() + 0.04
        before = time.thread_time()
        await asyncio.sleep(until - loop.time())
        turns = int((time.thread_time() - before) * 1e6)

    with anyio.CancelScope() as scope:
        scope.cancel()
        await run_to_completion(work)
    assert turns < 20_000  # half of the waiting, in microseconds


def test_a_loop_that_shuts_down_starts_the_work_again() -> None:
    ended: list[int] = []
    starts = 0

    async def work() -> None:
        nonlocal starts
        starts += 1
        await asyncio.sleep(0.001)
        ended.append(starts)

    async def main() -> None:
        asyncio.get_running_loop().create_task(run_to_completion(work), name="left behind")
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(main())  # cancels what is left, as a second Ctrl-C has it do
    assert ended == [2]


async def test_an_error_of_the_work_is_raised() -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        raise KeyError("oops")

    with pytest.raises(KeyError):
        await run_to_completion(work)


async def test_a_native_cancellation_is_not_swallowed_by_a_scope_of_anyio() -> None:
    async def work() -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    for first in ("scope", "native"):
        scopes: list[anyio.CancelScope] = []

        async def inside(scopes: list[anyio.CancelScope] = scopes) -> None:
            with anyio.CancelScope() as scope:
                scopes.append(scope)
                await run_to_completion(work)
            await asyncio.sleep(0)

        task = asyncio.create_task(inside())
        for _ in range(3):
            await asyncio.sleep(0)
        cancels: list[Callable[[], object]] = [scopes[0].cancel, task.cancel]
        for cancel in cancels if first == "scope" else reversed(cancels):
            cancel()
            for _ in range(3):
                await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_work_that_runs_apart_sees_one_cancellation_however_many_there_are() -> None:
    seen = 0
    ended = False

    async def work() -> None:
        nonlocal seen, ended
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen += 1
            for _ in range(10):
                await asyncio.sleep(0)
            ended = True
            raise

    with anyio.CancelScope() as scope:
        asyncio.get_running_loop().call_soon(scope.cancel)
        await run_cancel_once(work())
    assert (seen, ended) == (1, True)


async def test_waiting_out_leaves_the_future_alone() -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(wait_uncancelled(future))
    for _ in range(4):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    future.set_result(1)
    assert isinstance(await task, asyncio.CancelledError)
    assert await wait_uncancelled(future) is None


@pytest.mark.parametrize("cancelled_after", [[], [1.0], [1.0, 2.0, 4.5]])
@virtual.clocked
async def test_waiting_out_lasts_as_long_as_its_limit_whenever_it_is_cancelled(cancelled_after: list[float]) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(wait_uncancelled(loop.create_future(), 5.0))
    began = virtual.now()
    for seconds in cancelled_after:
        loop.call_at(began + seconds, task.cancel)
    cancellation = await task
    assert virtual.now() - began == 5.0
    assert (cancellation is not None) == bool(cancelled_after)


@pytest.mark.parametrize("cancelled", [False, True], ids=["failed", "cancelled"])
def test_a_task_whose_owner_awaits_it_is_no_fault_of_the_event_loop(cancelled: bool) -> None:
    async def work() -> None:
        await asyncio.sleep(1)
        raise ValueError("known to the owner")

    async def main() -> None:
        faults: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context))
        owner = TaskOwner()
        owner.spawn(work())
        await asyncio.sleep(0 if cancelled else 2)
        await owner.aclose()
        await asyncio.sleep(1)
        gc.collect()
        assert faults == []

    virtual.run(main())


@virtual.clocked
async def test_an_owner_that_is_closed_has_cancelled_its_tasks_and_awaited_their_end() -> None:
    ended: list[float] = []

    async def work() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(1)
            ended.append(virtual.now())

    owner = TaskOwner()
    assert not owner.closed
    tasks = [owner.spawn(work()) for _ in range(3)]
    began = virtual.now()
    await asyncio.sleep(0)
    await owner.aclose()
    assert ended == [began + 1] * 3
    assert all(task.cancelled() for task in tasks)
    assert owner.closed


async def test_a_task_that_was_cancelled_once_is_being_cancelled_until_it_has_dealt_with_it() -> None:
    found: list[bool] = []

    async def work() -> None:
        found.append(cancelling())
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            found.append(cancelling())
            task.uncancel()
            found.append(cancelling())

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    await task
    assert found == [False, True, False]


@virtual.clocked
async def test_a_result_that_several_wait_for_is_an_error_of_a_closed_client_or_the_callers_own_cancellation() -> None:
    owner = TaskOwner()
    shared = owner.spawn(asyncio.sleep(10, "found"))
    first, second = (asyncio.create_task(result_of(shared)) for _ in range(2))
    await asyncio.sleep(1)
    await owner.aclose()
    for waiting in (first, second):
        with pytest.raises(ConnectionFailedError, match="the client is closed") as caught:
            await waiting
        assert not caught.value.sent
    shared = asyncio.create_task(asyncio.sleep(10, "found"))
    waiting = asyncio.create_task(result_of(shared))
    await asyncio.sleep(1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await result_of(asyncio.create_task(asyncio.sleep(0, "found"))) == "found"


@virtual.clocked
async def test_an_owner_forgets_a_task_that_has_ended() -> None:
    owner = TaskOwner()
    task = weakref.ref(owner.spawn(asyncio.sleep(1)))
    await asyncio.sleep(2)
    gc.collect()
    assert task() is None, "an owner grows with the number of its tasks"


@pytest.mark.parametrize("fails", [False, True])
@virtual.clocked
async def test_an_error_of_work_that_was_seen_through_is_no_fault_of_the_event_loop(fails: bool) -> None:
    async def work() -> None:
        await asyncio.sleep(1)
        if fails:
            raise ValueError("logged by the work")

    faults: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context))
    task = asyncio.create_task(run_to_completion(work))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))
    assert task.cancelled()
    del task
    gc.collect()
    assert faults == []


@virtual.clocked
async def test_a_caller_that_was_cancelled_is_cancelled_whatever_becomes_of_the_work_that_runs_apart() -> None:
    starts: list[asyncio.Task[object]] = []

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        starts.append(task)
        try:
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(1)

    caller = asyncio.create_task(run_cancel_once(work()))
    await asyncio.sleep(1)
    caller.cancel()
    await asyncio.wait((caller,))
    assert caller.cancelled()

    starts.clear()
    caller = asyncio.create_task(run_to_completion(work))
    await asyncio.sleep(1)
    caller.cancel()
    await asyncio.sleep(1)
    starts[0].cancel()  # as an event loop does that shuts down
    await asyncio.wait((caller,))
    assert (caller.cancelled(), len(starts), starts[-1].cancelled()) == (True, 2, False)
