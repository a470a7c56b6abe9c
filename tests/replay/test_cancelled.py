"""A run that is cancelled at any await, in any way: nothing is lost, and only what was under way is repeated."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from basiq_async import Message
from basiq_async.receiver import Delivery, Inbox, SQLiteInbox, WebhookReceiver
from basiq_async.replay import JSONLinesTarget
from tests.support.cancelling import HOWS, How, Inline, SteppingInbox, at_every_turn, cancel_after
from tests.support.histories import History, Table, history, quarantine_of
from tests.world.stores import without_threads

MESSAGES = 14
CONCURRENCY = 3
MAIN: tuple[How, ...] = ("once", "repeatedly", "anyio", "everything")


class Effects:
    """A handler with an effect in its midst. One message always fails."""

    def __init__(self, poisoned: str) -> None:
        self.counts: Counter[str] = Counter()
        self.under_way: set[str] = set()
        """What had its effect, and was cancelled before it returned."""
        self._poisoned = poisoned

    async def __call__(self, message: Message) -> None:
        await asyncio.sleep(0)
        if message.id == self._poisoned:
            raise ValueError("poisoned")
        self.counts[message.id] += 1
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.under_way.add(message.id)
            raise

    def check(self, ids: list[str], how: How, *, cancelled: int = 1) -> None:
        good = [each for each in ids if each != self._poisoned]
        assert sorted(self.counts) == sorted(good), "messages were lost"
        repeated = {each for each, count in self.counts.items() if count > 1}
        if how == "everything":
            # A commit that is cut off in the store may be recorded or not: it is not known to have been.
            assert len(repeated) <= CONCURRENCY * cancelled
        else:
            assert repeated <= self.under_way, "messages were repeated that were done"


async def _cancelled_and_resumed(h: History, ids: list[str], inbox: Inbox, turn: int, how: How, **options: Any) -> bool:
    effects = Effects(ids[5])
    replay = h.replay(effects, inbox=inbox, concurrency=CONCURRENCY, **options)
    hit = await cancel_after(turn, replay.run(), how)
    report = await replay.run()
    assert report.finished
    effects.check(ids, how)
    assert set(await quarantine_of(replay)) == {ids[5]}, "a failed message is neither quarantined nor tried again"
    return hit


@pytest.mark.parametrize(
    ("kind", "how"),
    [*(("memory", how) for how in HOWS), *(("sqlite", how) for how in MAIN)],
)
async def test_a_run_that_is_cancelled_at_any_await_loses_nothing_and_repeats_only_what_was_under_way(
    kind: str, how: How, tmp_path: Path
) -> None:
    step, enough = {"memory": (5, 8), "sqlite": (9, 3)}[kind]
    with without_threads():  # so that the number of turns is always the same
        async with history(MESSAGES, page_size=6) as h:
            ids = await h.ids()

            async def attempt(turn: int) -> bool:
                async with SQLiteInbox(tmp_path / f"{turn}.db") if kind == "sqlite" else SteppingInbox() as inbox:
                    return await _cancelled_and_resumed(h, ids, inbox, turn, how)

            await at_every_turn(attempt, step=step, enough=enough)


@pytest.mark.parametrize("how", MAIN)
async def test_a_receiver_as_target_repeats_only_what_was_under_way(how: How) -> None:
    async with history(MESSAGES, page_size=6) as h:
        ids = await h.ids()

        async def attempt(turn: int) -> bool:
            effects = Effects(ids[5])
            receiver = WebhookReceiver("whsec_" + "c2VjcmV0LW9mLXRoZS10ZXN0cw==", inbox=SteppingInbox())

            @receiver.on("*")
            async def handle(delivery: Delivery) -> None:
                await effects(Message(delivery.id, {"id": delivery.id}))

            replay = h.replay(receiver, concurrency=CONCURRENCY)
            hit = await cancel_after(turn, replay.run(), how)
            assert (await replay.run()).finished
            effects.check(ids, how)
            return hit

        await at_every_turn(attempt, step=6, enough=8)


@pytest.mark.parametrize("how", HOWS)
async def test_a_table_that_is_its_own_record_has_one_row_a_message_however_a_run_is_cancelled(how: How) -> None:
    async with history(MESSAGES, page_size=6) as h:
        ids = await h.ids()

        async def attempt(turn: int) -> bool:
            table = Table()
            replay = h.replay(table)
            hit = await cancel_after(turn, replay.run(), how)
            assert not table.buffer or how == "everything", "what was accepted was not written"
            assert (await replay.run()).finished
            assert sorted(table.rows) == sorted(ids)
            return hit

        await at_every_turn(attempt, step=4, enough=5)


@pytest.mark.parametrize("how", MAIN)
async def test_an_export_that_is_cancelled_at_any_await_holds_each_message_once(how: How, tmp_path: Path) -> None:
    asyncio.get_running_loop().set_default_executor(Inline(1))
    async with history(MESSAGES, page_size=6) as h:
        ids = await h.ids()

        async def attempt(turn: int) -> bool:
            path = tmp_path / f"{turn}.jsonl"
            target = JSONLinesTarget(path)
            replay = h.replay(target)
            hit = await cancel_after(turn, replay.run(), how)
            assert (await replay.run()).finished
            lines = path.read_text().splitlines()
            assert len(lines) == len(set(lines)) == MESSAGES, f"after {turn} turns: {len(lines)} lines"
            return hit

        # A loop whose tasks begin at once takes fewer turns.
        await at_every_turn(attempt, step=1 if asyncio.get_running_loop().get_task_factory() else 4, enough=5)
    assert len(ids) == MESSAGES


@pytest.mark.parametrize("how", MAIN)
async def test_what_is_tried_again_survives_a_cancellation_at_any_await(how: How) -> None:
    async with history(8) as h:
        ids = await h.ids()

        async def attempt(turn: int) -> bool:
            inbox = SteppingInbox()

            async def refuse(message: Message) -> None:
                raise ValueError("no")

            await h.replay(refuse, inbox=inbox).run()
            effects = Effects(ids[5])
            replay = h.replay(effects, inbox=inbox, concurrency=CONCURRENCY)
            hit = await cancel_after(turn, replay.retry_quarantined(), how)
            async with asyncio.timeout(20):  # a claim that was left behind lasts for 30 s
                report = await replay.retry_quarantined()
            assert report.finished
            effects.check(ids, how)
            assert set(await quarantine_of(replay)) == {ids[5]}
            return hit

        await at_every_turn(attempt, step=4, enough=5)


@pytest.mark.parametrize("how", MAIN)
async def test_a_run_that_is_cancelled_again_and_again_ends_with_all_handled(how: How) -> None:
    inbox, cancelled = SteppingInbox(), 0
    async with history(150, page_size=20) as h:
        ids = await h.ids()
        effects = Effects(ids[5])
        replay = h.replay(effects, inbox=inbox, concurrency=CONCURRENCY)
        while await cancel_after(60 + cancelled % 7, replay.run(), how):
            cancelled += 1
        effects.check(ids, how, cancelled=cancelled)
        assert cancelled > 4
