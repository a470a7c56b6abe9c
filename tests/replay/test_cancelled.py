"""A run that is cancelled at any await, in any way: nothing is lost, and only what was under way is repeated."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from basiq_async import Message
from basiq_async.receiver import Delivery, MemoryInbox, WebhookReceiver
from basiq_async.receiver.protocol import Claim
from basiq_async.replay import Checkpoint, HttpTarget, JSONLinesTarget, MemoryCheckpoint, SQLiteCheckpoint
from basiq_async.replay.protocol import Commit, ReplayJob, State
from tests.support.cancelling import HOWS, How, Inline, InlineStore, at_every_turn, cancel_after
from tests.support.histories import History, history

MESSAGES = 14
CONCURRENCY = 3
MAIN: tuple[How, ...] = ("once", "repeatedly", "anyio", "everything")


class Slow(MemoryCheckpoint):
    """A checkpoint whose calls take some turns, as those of a database."""

    async def open(self, job: ReplayJob, *, concurrency: int) -> State:
        await asyncio.sleep(0)
        return await super().open(job, concurrency=concurrency)

    async def save(self, commit: Commit) -> None:
        await asyncio.sleep(0)
        await super().save(commit)

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        await super().aclose()


class SlowInbox(MemoryInbox):
    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        await asyncio.sleep(0)
        claim = await super().claim(key, token, lease=lease)
        await asyncio.sleep(0)
        return claim

    async def complete(self, key: str, token: str) -> bool:
        await asyncio.sleep(0)
        done = await super().complete(key, token)
        await asyncio.sleep(0)
        return done

    async def release(self, key: str, token: str) -> None:
        await asyncio.sleep(0)
        await super().release(key, token)


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


async def _cancelled_and_resumed(
    h: History, ids: list[str], checkpoint: Checkpoint, turn: int, how: How, **options: Any
) -> bool:
    effects = Effects(ids[5])
    replay = h.replay(effects, checkpoint=checkpoint, concurrency=CONCURRENCY, **options)
    hit = await cancel_after(turn, replay.run(), how)
    report = await replay.run()
    assert report.finished
    effects.check(ids, how)
    dead_letters = [dead_letter.id for dead_letter in await replay.dead_letters()]
    assert dead_letters == [ids[5]], "a failed message is neither a dead letter nor tried again"
    return hit


@pytest.mark.parametrize("how", HOWS)
async def test_a_run_that_is_cancelled_at_any_await_loses_and_repeats_nothing(how: How) -> None:
    async with history(MESSAGES, page_size=6) as h:
        ids = await h.ids()
        await at_every_turn(lambda turn: _cancelled_and_resumed(h, ids, Slow(), turn, how))


@pytest.mark.parametrize("how", MAIN)
async def test_with_an_inbox_a_run_that_is_cancelled_at_any_await_repeats_only_what_was_under_way(how: How) -> None:
    async with history(MESSAGES, page_size=6) as h:
        ids = await h.ids()
        await at_every_turn(lambda turn: _cancelled_and_resumed(h, ids, Slow(), turn, how, inbox=SlowInbox()), step=2)


@pytest.mark.parametrize("how", MAIN)
async def test_a_receiver_as_target_repeats_only_what_was_under_way(how: How) -> None:
    async with history(MESSAGES, page_size=6) as h:
        ids = await h.ids()

        async def attempt(turn: int) -> bool:
            effects = Effects(ids[5])
            receiver = WebhookReceiver("whsec_" + "c2VjcmV0LW9mLXRoZS10ZXN0cw==", inbox=SlowInbox())

            @receiver.on("*")
            async def handle(delivery: Delivery) -> None:
                await effects(Message(delivery.id, {"id": delivery.id}))

            replay = h.replay(receiver, checkpoint=Slow(), concurrency=CONCURRENCY)
            hit = await cancel_after(turn, replay.run(), how)
            assert (await replay.run()).finished
            effects.check(ids, how)
            return hit

        await at_every_turn(attempt, step=3)


@pytest.mark.parametrize("how", MAIN)
async def test_an_endpoint_gets_every_message_however_a_run_is_cancelled(how: How) -> None:
    got: Counter[str] = Counter()

    async def take(request: web.Request) -> web.Response:
        got[request.headers["webhook-id"]] += 1
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/", take)
    points = 0
    async with history(MESSAGES, page_size=6) as h, TestServer(app) as server:
        ids = await h.ids()
        for turn in range(3, 120, 9):
            got.clear()
            async with HttpTarget(str(server.make_url("/")), "whsec_" + "c2VjcmV0LW9mLXRoZS10ZXN0cw==") as target:
                replay = h.replay(target, checkpoint=Slow(), concurrency=CONCURRENCY)
                points += await cancel_after(turn, replay.run(), how, alone=False)
                assert (await replay.run()).finished
            assert sorted(got) == sorted(ids)
            assert got.total() <= len(ids) + CONCURRENCY
    assert points > 5


@pytest.mark.parametrize("how", MAIN)
async def test_an_sqlite_checkpoint_survives_a_cancellation_at_any_await(
    how: How, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("basiq_async.replay.checkpoints._sqlite.SQLiteStore", InlineStore)
    async with history(MESSAGES, page_size=6) as h:
        ids = await h.ids()

        async def attempt(turn: int) -> bool:
            checkpoint = SQLiteCheckpoint(tmp_path / f"{turn}.db")
            return await _cancelled_and_resumed(h, ids, checkpoint, turn, how)

        await at_every_turn(attempt, step=5, enough=5)


@pytest.mark.parametrize("how", MAIN)
async def test_an_export_that_is_cancelled_at_any_await_holds_each_message_once(how: How, tmp_path: Path) -> None:
    asyncio.get_running_loop().set_default_executor(Inline(1))
    async with history(MESSAGES, page_size=6) as h:
        ids = await h.ids()

        async def attempt(turn: int) -> bool:
            path = tmp_path / f"{turn}.jsonl"
            target = JSONLinesTarget(path)
            replay = h.replay(target, checkpoint=Slow(), concurrency=CONCURRENCY)
            hit = await cancel_after(turn, replay.run(), how)
            assert (await replay.run()).finished
            lines = path.read_text().splitlines()
            assert len(lines) == len(set(lines)) == MESSAGES, f"after {turn} turns: {len(lines)} lines"
            return hit

        await at_every_turn(attempt, step=3, enough=15)
    assert len(ids) == MESSAGES


@pytest.mark.parametrize("how", MAIN)
async def test_dead_letters_that_are_tried_again_survive_a_cancellation_at_any_await(how: How) -> None:
    async with history(8) as h:
        ids = await h.ids()

        async def attempt(turn: int) -> bool:
            checkpoint = Slow()

            async def refuse(message: Message) -> None:
                raise ValueError("no")

            await h.replay(refuse, checkpoint=checkpoint).run()
            effects = Effects(ids[5])
            replay = h.replay(effects, checkpoint=checkpoint, concurrency=CONCURRENCY)
            hit = await cancel_after(turn, replay.retry_dead(), how)
            report = await replay.retry_dead()
            effects.check(ids, how)
            assert (report.dead, [dead_letter.id for dead_letter in await replay.dead_letters()]) == (1, [ids[5]])
            return hit

        await at_every_turn(attempt, step=2, enough=10)


@pytest.mark.parametrize("how", MAIN)
async def test_a_run_that_is_cancelled_again_and_again_ends_with_all_handled(how: How) -> None:
    checkpoint, cancelled = Slow(), 0
    async with history(150, page_size=20) as h:
        ids = await h.ids()
        effects = Effects(ids[5])
        replay = h.replay(effects, checkpoint=checkpoint, concurrency=CONCURRENCY)
        while await cancel_after(30 + cancelled % 7, replay.run(), how):
            cancelled += 1
        effects.check(ids, how, cancelled=cancelled)
        assert cancelled > 4


async def test_a_close_of_an_earlier_run_does_not_touch_the_connection_of_the_next(tmp_path: Path) -> None:
    checkpoint = SQLiteCheckpoint(tmp_path / "replay.db")
    for _ in range(20):
        await checkpoint.open(ReplayJob("w1"), concurrency=1)
        closing = asyncio.create_task(checkpoint.aclose())
        for _ in range(3):
            await asyncio.sleep(0)
            closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
    state = await checkpoint.open(ReplayJob("w1"), concurrency=1)
    assert state.interrupted == 20
    await checkpoint.save(Commit(done=["a"]))
    await checkpoint.aclose()


async def test_an_open_that_is_cancelled_leaves_the_checkpoint_free(tmp_path: Path) -> None:
    checkpoint = SQLiteCheckpoint(tmp_path / "replay.db")
    opening = asyncio.create_task(checkpoint.open(ReplayJob("w1"), concurrency=1))
    for _ in range(3):
        await asyncio.sleep(0)
        opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await checkpoint.open(ReplayJob("w1"), concurrency=1)
    await checkpoint.aclose()
