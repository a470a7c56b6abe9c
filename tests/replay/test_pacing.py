"""How fast a replay goes, on a virtual clock."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from typing import Any

import pytest

from basiq_async import Message
from basiq_async.receiver import ClaimStatus, MemoryInbox, WebhookReceiver, inbox_key
from basiq_async.replay import MemoryCheckpoint, Progress, ReplayError, Report, TargetError
from basiq_async.replay.pace import Gate, Pace

from ..virtual import now, run
from .scene import SECRET, History


def test_a_rate_is_smooth_and_never_above() -> None:
    times: list[float] = []

    async def main() -> Report:
        history = History(1_000)

        async def handler(message: Message) -> None:
            times.append(now())
            await asyncio.sleep(0.3)

        return await history.replay(handler, rate=50, concurrency=32).run()

    report = run(main())
    assert report.handled == 1_000
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert min(gaps) >= 0.02 - 1e-6
    assert 19.9 <= times[-1] - times[0] <= 20.5


def test_time_that_the_target_took_is_not_made_up_for_by_a_burst() -> None:
    times: list[float] = []

    async def main() -> None:
        async def handler(message: Message) -> None:
            times.append(now())
            await asyncio.sleep(5 if len(times) == 10 else 0)

        await History(100).replay(handler, rate=10, concurrency=1).run()

    run(main())
    assert min(b - a for a, b in itertools.pairwise(times)) >= 0.1 - 1e-6


class Busy:
    """Answers as one that is overloaded does, until ``open_at`` (seconds from the first message)."""

    def __init__(self, history: History, open_at: float, retry_after: float) -> None:
        self.history, self.open_at, self.retry_after = history, open_at, retry_after
        self.began: float | None = None
        self.tries: list[float] = []

    async def __call__(self, message: Message) -> None:
        self.began = now() if self.began is None else self.began
        self.tries.append(now() - self.began)
        await asyncio.sleep(0.01)
        if now() - self.began < self.open_at:
            raise TargetError("the target answered 429", status=429, retry_after=self.retry_after)
        await self.history.handler(message)


def test_retry_after_slows_the_whole_job_and_loses_nothing() -> None:
    async def main() -> None:
        history = History(300)
        target = Busy(history, 25, 10)
        told: list[Progress] = []
        report = await history.replay(target, concurrency=20).run(told.append)
        assert (report.handled, report.failed) == (300, 0)
        assert history.handled == Counter(await history.ids())
        # 20 were under way when the first was told to wait; then it is one at a time, until one is taken.
        assert len([time for time in target.tries if time < 25]) <= 20 + 3
        assert not [time for time in target.tries if 0.1 < time < 10]
        assert max(progress.paused for progress in told) > 9
        assert told[-1].paused == 0

    run(main())


def test_a_target_that_never_takes_anything_ends_the_job() -> None:
    async def main() -> None:
        history = History(30)
        with pytest.raises(ReplayError, match="100 times in a row and took nothing"):
            await history.replay(Busy(history, 1e9, 1)).run()

    run(main())


def test_a_wait_beyond_max_pause_ends_the_job_with_what_to_do() -> None:
    async def main() -> None:
        history = History(30)
        with pytest.raises(ReplayError, match="more than max_pause; run it again after that") as caught:
            await history.replay(Busy(history, 1e9, 7_200)).run()
        assert caught.value.report is not None
        assert not caught.value.report.finished

    run(main())


@pytest.mark.parametrize("wait", [True, "5", float("inf"), -1])
def test_a_retry_after_that_is_no_time_is_an_ordinary_failure(wait: Any) -> None:
    async def main() -> None:
        async def handler(message: Message) -> None:
            raise TargetError("no", retry_after=wait)

        assert (await History(2).replay(handler).run()).failed == 2

    run(main())


def test_stop_ends_a_pause_and_a_wait_for_ones_turn() -> None:
    async def main() -> None:
        for options in ({"rate": 0.01}, {}):
            history = History(30)
            target = Busy(history, 1e9, 3_000) if not options else history.handler
            replay = history.replay(target, **options)
            running = asyncio.create_task(replay.run())
            await asyncio.sleep(5)
            replay.stop()
            began = now()
            assert not (await running).finished
            assert now() - began < 1
            rest = await history.replay().run()
            assert rest.finished
            assert history.handled == Counter(await history.ids())

    run(main())


def test_cancellation_ends_a_pause_and_leaves_nothing() -> None:
    async def main() -> None:
        for options in ({"rate": 0.01}, {}):
            history = History(30)
            target = Busy(history, 1e9, 3_000) if not options else history.handler
            running = asyncio.create_task(history.replay(target, **options).run())
            await asyncio.sleep(5)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running

    run(main())


def test_stop_gives_up_a_page_that_takes_long() -> None:
    async def main() -> None:
        history = History(30)
        history.fake.fail_next(delay=3_600, path="*/messages")
        replay = history.replay()
        running = asyncio.create_task(replay.run())
        await asyncio.sleep(0.5)
        replay.stop()
        report = await running
        assert not report.finished or report.handled == 30

    run(main())


def test_a_pace_that_was_stopped_lets_nobody_through() -> None:
    async def main() -> None:
        pace = Pace(1)
        pace.stop()
        assert not await pace.wait()

    run(main())


def test_a_gate_opens_slowly_after_a_pause() -> None:
    async def main() -> None:
        gate = Gate(4)
        gate.pause(10)
        gate.pause(5)
        assert gate.pauses == 1
        began, entered = now(), []

        async def caller() -> None:
            assert await gate.enter()
            entered.append(now() - began)
            await asyncio.sleep(1)
            gate.succeeded()
            gate.leave()

        async with asyncio.TaskGroup() as group:
            for _ in range(6):
                group.create_task(caller())
        assert entered[0] == pytest.approx(10)
        assert entered[1] == pytest.approx(11)
        assert gate.open
        assert gate.paused_until is None
        gate.stop()
        assert not await gate.enter()

    run(main())


def test_one_who_was_let_in_and_cancelled_at_once_gives_the_place_back() -> None:
    async def main() -> None:
        gate = Gate(2)
        gate.pause(1)
        first = asyncio.create_task(gate.enter())
        second = asyncio.create_task(gate.enter())
        await asyncio.sleep(0)
        gate._reopen()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        gate._admit()
        assert await second

    run(main())


def test_a_delivery_that_another_worker_holds_is_waited_for() -> None:
    async def main() -> None:
        history = History(1)
        message = await history.client.messages.list(history.webhook_id).first()
        assert message is not None
        key = inbox_key(message.event_type_id, message.event_id, message.id)
        inbox = MemoryInbox()
        assert (await inbox.claim(key, "other", lease=30)).status is ClaimStatus.CLAIMED
        running = asyncio.create_task(history.replay(inbox=inbox).run())
        await asyncio.sleep(3)
        await inbox.complete(key, "other")
        report = await running
        assert report.skipped == {"handled-before": 1}

        async with WebhookReceiver(SECRET) as receiver:
            receiver.on("*")(history.handler)  # type: ignore[arg-type]
            await receiver.inbox.claim(key, "other", lease=30)
            running = asyncio.create_task(history.replay(receiver, checkpoint=MemoryCheckpoint()).run())
            await asyncio.sleep(3)
            await receiver.inbox.complete(key, "other")
            assert (await running).skipped == {"handled-before": 1}

    run(main())


def test_a_delivery_that_is_held_for_ever_is_a_failed_message() -> None:
    class Held(MemoryInbox):
        async def claim(self, key: str, token: str, *, lease: float) -> Any:
            found = await super().claim(key, "other", lease=600)
            return found if found.status is not ClaimStatus.CLAIMED else await super().claim(key, token, lease=lease)

    async def main() -> None:
        replay = History(1).replay(inbox=Held())
        assert (await replay.run()).failed == 1
        assert "does not finish" in (await replay.dead_letters())[0].error
        async with WebhookReceiver(SECRET, inbox=Held()) as receiver:
            history = History(1)
            receiver.on("*")(history.handler)  # type: ignore[arg-type]
            assert (await history.replay(receiver).run()).failed == 1

    run(main())
