"""One timer for the time limits of many tasks."""

from __future__ import annotations

import asyncio

import pytest

from basiq_async._work.deadlines import Deadline, Deadlines


async def test_a_task_that_takes_too_long_gets_a_timeout_error_and_is_no_longer_being_cancelled() -> None:
    limit = Deadline(Deadlines(0.01))
    with pytest.raises(TimeoutError), limit:
        await asyncio.Event().wait()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert limit.expired
    await asyncio.sleep(0)


async def test_each_of_many_tasks_has_its_own_limit() -> None:
    deadlines = Deadlines(0.03)
    ended: list[str] = []

    async def one(name: str, wait: float) -> None:
        try:
            with Deadline(deadlines):
                await asyncio.sleep(wait)
        except TimeoutError:
            name += " cut off"
        ended.append(name)

    async with asyncio.TaskGroup() as group:
        group.create_task(one("first", 20))
        group.create_task(one("quick", 0))
        await asyncio.sleep(0.015)
        group.create_task(one("second", 20))
    assert ended == ["quick", "first cut off", "second cut off"]


async def test_a_limit_that_was_kept_does_not_touch_what_its_task_does_afterwards() -> None:
    deadlines = Deadlines(0.01)
    with Deadline(deadlines):
        await asyncio.sleep(0)
    await asyncio.sleep(0.03)
    with pytest.raises(TimeoutError), Deadline(deadlines):
        await asyncio.sleep(20)


async def test_a_cancellation_by_others_stays_one() -> None:
    deadlines = Deadlines(20)

    async def work() -> None:
        with Deadline(deadlines):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_a_cancellation_by_others_in_the_same_moment_is_not_lost() -> None:
    deadlines = Deadlines(0.01)
    limit = Deadline(deadlines)

    async def work() -> None:
        with limit:
            try:
                await asyncio.Event().wait()
            finally:
                task.cancel()

    task = asyncio.create_task(work())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert limit.expired


async def test_an_error_of_the_work_itself_is_not_covered_up_by_the_limit() -> None:
    with pytest.raises(KeyError), Deadline(Deadlines(0.01)):
        try:
            await asyncio.Event().wait()
        finally:
            raise KeyError
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


def test_limits_go_on_working_in_a_later_event_loop() -> None:
    deadlines = Deadlines(0.01)

    async def quick() -> None:
        with Deadline(deadlines):
            await asyncio.sleep(0)

    async def slow() -> None:
        with pytest.raises(TimeoutError), Deadline(deadlines):
            await asyncio.sleep(20)

    asyncio.run(quick())
    asyncio.run(slow())


async def test_a_timer_that_fires_after_its_loop_was_left_cuts_nothing_off() -> None:
    deadlines = Deadlines(0.01)
    with Deadline(deadlines):
        await asyncio.sleep(0)

    async def elsewhere() -> None:
        with Deadline(deadlines):
            await asyncio.sleep(0)

    await asyncio.to_thread(asyncio.run, elsewhere())
    await asyncio.sleep(0.03)  # the first loop's timer
    with pytest.raises(TimeoutError), Deadline(deadlines):
        await asyncio.sleep(20)


def test_a_limit_is_refused_outside_of_a_task() -> None:
    async def main() -> str:
        answered: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def callback() -> None:
            try:
                with Deadline(Deadlines(1)):
                    answered.set_result("entered")
            except RuntimeError as exc:
                answered.set_result(str(exc))

        asyncio.get_running_loop().call_soon(callback)
        return await answered

    assert asyncio.run(main()) == "a time limit can only be set in a task"


async def test_a_limit_that_is_shorter_than_the_others_ends_first_and_a_longer_one_does_not_end_later() -> None:
    deadlines = Deadlines(0.02)
    ended: list[str] = []

    async def one(name: str, seconds: float | None) -> None:
        try:
            with Deadline(deadlines, seconds):
                await asyncio.sleep(20)
        except TimeoutError:
            ended.append(name)

    async with asyncio.TaskGroup() as group:
        group.create_task(one("common", None))
        group.create_task(one("longer", 30))
        group.create_task(one("shorter", 0.005))
    assert ended == ["shorter", "common", "longer"]


async def test_a_shorter_limit_that_was_kept_leaves_no_timer() -> None:
    with Deadline(Deadlines(1000), 0.01) as limit:
        await asyncio.sleep(0)
    await asyncio.sleep(0.02)
    assert not limit.expired
