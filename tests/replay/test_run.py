"""A run: everything once, in bounds, stoppable, and resumable with nothing lost."""

from __future__ import annotations

import asyncio
import itertools
import statistics
from datetime import timedelta
from typing import Any

import pytest

from basiq_async import (
    APIError,
    BasiqClient,
    ConfigurationError,
    F,
    Message,
    PaginationError,
    ReplayError,
    Response,
    ServerError,
)
from basiq_async._wire.codec import _strict_loads
from basiq_async.errors import CheckpointError
from basiq_async.replay import MemoryCheckpoint, Progress, Replay, SQLiteCheckpoint, limit
from basiq_async.replay.protocol import Advance, Commit, ReplayJob
from basiq_async.testing import FakeBasiq
from tests.support import virtual
from tests.support.histories import Gated, Recorder, Refusing, Watching, execute, history
from tests.support.real_time import PATIENCE
from tests.support.scripted import Scripted, page

pytestmark = pytest.mark.usefixtures("both_orders")


async def test_every_message_of_the_history_is_handled_once() -> None:
    target = Recorder()
    async with history(1_234) as h:
        report = await h.replay(target).run()
        assert sorted(target.ids) == sorted(await h.ids())
    assert (report.handled, report.failed, report.skipped, report.repeated) == (1_234, 0, {}, 0)
    assert (report.position, report.finished, report.handled_in_all, report.dead) == (1_234, True, 1_234, 0)
    assert report.cursor is not None
    assert report.rate > 0


async def test_an_empty_history_is_done_at_once() -> None:
    async with history(0) as h:
        report = await h.replay(Recorder()).run()
    assert (report.handled, report.position, report.finished) == (0, 0, True)


async def test_a_second_run_handles_what_came_since() -> None:
    target, checkpoint = Recorder(), MemoryCheckpoint()
    async with history(30) as h:
        replay = h.replay(target, checkpoint=checkpoint)
        await replay.run()
        again = await replay.run()
        assert (again.handled, again.finished, again.handled_in_all) == (0, True, 30)
        await h.fake.emit("user.created")
        await h.fake.emit("user.created")
        more = await replay.run()
        assert (more.handled, more.position, more.handled_in_all) == (2, 32, 32)
        assert sorted(target.ids) == sorted(await h.ids())


async def test_what_is_done_and_recorded_makes_room_for_as_many_others_though_the_rest_takes_long() -> None:
    inside, full = 0, asyncio.Event()

    async def target(message: Message) -> None:
        nonlocal inside
        if message.id in quick:
            return
        inside += 1
        if inside == 8:
            full.set()
        await full.wait()

    async with history(40) as h, asyncio.timeout(PATIENCE):
        quick = (await h.ids())[:4]
        await h.replay(target, concurrency=8).run()
    assert full.is_set()


@pytest.mark.parametrize("concurrency", [1, 3, 32])
async def test_no_more_than_concurrency_are_under_way_and_slow_commits_count(concurrency: int) -> None:
    checkpoint = Watching(delay=0.001)
    unrecorded = most = 0

    async def behave(message: Message) -> None:
        nonlocal unrecorded, most
        unrecorded += 1
        most = max(most, unrecorded)
        await asyncio.sleep(0)

    async def save(commit: Commit) -> None:
        nonlocal unrecorded
        await Watching.save(checkpoint, commit)
        unrecorded -= commit.handled

    checkpoint.save = save
    async with history(300) as h:
        target = Recorder(behave)
        await h.replay(target, checkpoint=checkpoint, concurrency=concurrency).run()
    assert most == concurrency
    assert unrecorded == 0


async def test_the_last_messages_and_the_end_of_the_run_are_one_write_to_the_checkpoint() -> None:
    checkpoint = Watching()
    async with history(5) as h:
        await h.replay(Recorder(), checkpoint=checkpoint, concurrency=64).run()
    assert [(commit.handled, commit.ended) for commit in checkpoint.commits] == [(5, True)]


async def test_one_write_to_the_checkpoint_serves_several_messages() -> None:
    checkpoint = Watching()
    async with history(1_000) as h:
        await h.replay(Recorder(), checkpoint=checkpoint, concurrency=64).run()
    assert sum(commit.handled for commit in checkpoint.commits) == 1_000
    assert len(checkpoint.commits) <= 1_000 / 16 + 10


async def test_a_slow_target_holds_the_pages_back() -> None:
    release = asyncio.Event()
    target = Recorder(lambda message: release.wait())
    async with history(2_000, page_size=100) as h:
        running = asyncio.create_task(h.replay(target, concurrency=8).run())
        while target.at_once < 8:
            await asyncio.sleep(0)
        for _ in range(50):
            await asyncio.sleep(0)
        asked = sum("/messages" in request.url for request in h.fake.requests)
        assert asked <= 2
        release.set()
        assert (await running).handled == 2_000


async def test_a_message_that_takes_long_lets_a_bounded_number_of_others_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("basiq_async.replay._engine._MOST_AHEAD", 1_000)
    release = asyncio.Event()
    checkpoint = Watching()
    async with history(1_400) as h:
        ids = await h.ids()

        async def behave(message: Message) -> None:
            if message.id == ids[0]:
                await release.wait()

        target = Recorder(behave)
        running = asyncio.create_task(h.replay(target, checkpoint=checkpoint).run())
        count = -1
        while count != len(target.ids) or not target.ids:
            count = len(target.ids)
            await asyncio.sleep(0.02)
        assert 900 < len(target.ids) < 1_100
        state = await checkpoint.peek(ReplayJob(h.webhook_id))
        assert state is not None
        assert (state.position, len(state.done)) == (0, len(target.ids))
        release.set()
        assert (await running).handled == 1_400
    assert len(set(target.ids)) == 1_400
    state = await checkpoint.peek(ReplayJob(h.webhook_id))
    assert state is not None
    assert (state.position, state.done, state.interrupted) == (1_400, frozenset(), 0)


# --- stopping and resuming ---


async def test_stop_finishes_what_is_under_way_and_the_next_run_continues() -> None:
    checkpoint = MemoryCheckpoint()
    async with history(1_000, page_size=70) as h:

        async def behave(message: Message) -> None:
            await asyncio.sleep(0)
            if len(target.ids) == 333:
                replay.stop()

        target = Recorder(behave)
        replay = h.replay(target, checkpoint=checkpoint, concurrency=10)
        report = await replay.run()
        assert target.at_once == 0
        assert report.handled == len(target.ids) < 1_000
        assert not report.finished
        assert report.repeated == 0
        rest = await replay.run()
        assert rest.finished
        assert rest.handled + report.handled == 1_000
        assert rest.handled_in_all == 1_000
        assert rest.repeated == 0
        assert sorted(target.ids) == sorted(await h.ids())


async def test_stop_gives_up_a_page_that_does_not_come() -> None:
    fake = FakeBasiq(page_size=10)
    webhook_id = fake.seed_messages(50)
    gated = Gated(fake, free=1)
    target = Recorder()
    async with BasiqClient(fake.DEFAULT_API_KEY, transport=gated) as client:
        replay = Replay(client, webhook_id, target, checkpoint=MemoryCheckpoint(), concurrency=2)
        running = asyncio.create_task(replay.run())
        while gated.asked < 2 or len(target.ids) < 10:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.005)
        replay.stop()
        report = await running
    assert (report.handled, report.position, report.finished) == (10, 10, False)


async def test_stop_before_the_first_message_handles_none() -> None:
    class Slow(MemoryCheckpoint):
        async def open(self, job: ReplayJob, *, concurrency: int) -> Any:
            state = await super().open(job, concurrency=concurrency)
            replay.stop()
            return state

    target = Recorder()
    async with history(5) as h:
        replay = h.replay(target, checkpoint=Slow())
        replay.stop()  # with nothing under way this is forgotten
        assert (await replay.run()).handled == 0
    assert target.ids == []


async def test_what_a_killed_run_left_unrecorded_is_bounded_in_the_report() -> None:
    checkpoint = MemoryCheckpoint()
    async with history(50) as h:
        await checkpoint.open(ReplayJob(h.webhook_id), concurrency=7)
        await checkpoint.aclose()
        replay = h.replay(Recorder(), checkpoint=checkpoint)
        assert (await replay.run()).repeated == 7
        assert (await replay.run()).repeated == 0


async def test_a_resume_in_the_middle_of_a_page_skips_what_is_recorded() -> None:
    checkpoint = MemoryCheckpoint()
    async with history(40) as h:
        ids = await h.ids()
        assert (await h.replay(Recorder(), checkpoint=checkpoint, where=limit(5)).run()).handled == 5
        place = (await checkpoint.open(ReplayJob(h.webhook_id), concurrency=4)).cursor
        gone = "an-id-that-is-in-the-history-no-more"
        await checkpoint.save(Commit(advance=Advance(place, 5, [ids[7], ids[20], gone])))
        await checkpoint.aclose()
        target = Recorder()
        report = await h.replay(target, checkpoint=checkpoint).run()
        assert sorted(target.ids) == sorted(set(ids[5:]) - {ids[7], ids[20]})
        assert (report.handled, report.skipped, report.position) == (33, {"recorded": 2}, 40)
        state = await checkpoint.peek(ReplayJob(h.webhook_id))
    assert state is not None
    assert state.done == frozenset()


async def test_a_run_that_stops_keeps_what_earlier_runs_recorded_ahead_of_it() -> None:
    checkpoint = MemoryCheckpoint()
    async with history(600, page_size=100) as h:
        ids = await h.ids()
        await checkpoint.open(ReplayJob(h.webhook_id), concurrency=4)
        await checkpoint.save(Commit(done=[ids[10], ids[400], ids[599]]))
        await checkpoint.aclose()
        target = Recorder()
        first = await h.replay(target, checkpoint=checkpoint, where=limit(270)).run()
        state = await checkpoint.peek(ReplayJob(h.webhook_id))
        assert state is not None
        assert (first.handled, first.position, state.done) == (270, 271, {ids[400], ids[599]})
        assert not first.finished
        rest = await h.replay(target, checkpoint=checkpoint).run()
        assert rest.skipped == {"recorded": 2}
        assert sorted(target.ids) == sorted(set(ids) - {ids[10], ids[400], ids[599]})


async def test_the_filter_belongs_to_the_job() -> None:
    checkpoint = MemoryCheckpoint()
    async with history(200) as h:
        only = F("eventTypeId").eq("user.created")
        target = Recorder()
        report = await h.replay(target, checkpoint=checkpoint, filter=only).run()
        assert 0 < report.handled < 200
        with pytest.raises(CheckpointError, match="belongs to the replay of"):
            await h.replay(target, checkpoint=checkpoint).run()


# --- what goes wrong ---


async def test_an_error_of_the_api_is_raised_after_what_was_read_is_recorded() -> None:
    checkpoint, target = MemoryCheckpoint(), Recorder()
    async with history(40, page_size=10) as h:
        h.fake.fail_next(1, delay=0.001, path="*/messages")
        replay = h.replay(target, checkpoint=checkpoint)
        seen = 0

        async def behave(message: Message) -> None:
            nonlocal seen
            seen += 1
            if seen == 1:
                h.fake.fail_next(9, status=500, path="*/messages")

        target._behave = behave
        with pytest.raises(ServerError) as caught:
            await replay.run()
        assert any("run it again to continue" in note for note in caught.value.__notes__)
        state = await checkpoint.peek(ReplayJob(h.webhook_id))
        assert state is not None
        assert state.handled == len(target.ids) == state.position < 40
        while True:
            try:
                report = await replay.run()
                break
            except APIError:
                pass
        assert report.handled_in_all == 40
        assert sorted(target.ids) == sorted(await h.ids())


UNREADABLE: list[Any] = [
    {"no": "id"},
    {"id": "c", "attempts": [{"timestamp": "the day before yesterday"}]},
    {"id": "c", "payload": "text"},
    "text",
]


@pytest.mark.parametrize("item", UNREADABLE)
async def test_a_message_that_cannot_be_read_is_a_dead_letter_with_its_json_and_its_place(item: Any) -> None:
    target, checkpoint = Recorder(), MemoryCheckpoint()
    script = Scripted(page([{"id": "a"}, {"id": "b"}, item, {"id": "d"}]))
    async with BasiqClient("a2V5", transport=script) as client:
        replay = Replay(client, "w1", target, checkpoint=checkpoint)
        report = await replay.run()
        (dead_letter,) = await replay.dead_letters()
        assert (report.handled, report.failed, report.dead, report.finished) == (3, 1, 1, True)
        assert sorted(target.ids) == ["a", "b", "d"]
        assert "data[2]" in dead_letter.error
        assert dead_letter.message == (item if isinstance(item, dict) else {"raw": item})
        # Read again, it is still one dead letter; tried again, it fails with the same error.
        assert (await Replay(client, "w1", target, checkpoint=checkpoint).run()).dead == 1
        again = await replay.retry_dead()
        assert (again.failed, again.dead) == (1, 1)


async def test_a_message_without_an_id_is_the_same_one_whatever_the_order_of_its_names() -> None:
    script = Scripted(page([{"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 2, "b": 1}]))
    async with BasiqClient("a2V5", transport=script) as client:
        report = await Replay(client, "w1", Recorder(), checkpoint=MemoryCheckpoint()).run()
    assert (report.failed, report.dead) == (2, 2), "what is listed twice is one dead letter"


@pytest.mark.parametrize("loads", ["orjson", "json"])
async def test_a_text_cut_anywhere_costs_its_own_message_at_most(loads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if loads == "json":
        monkeypatch.setattr("basiq_async._wire.codec.default_loads", lambda: _strict_loads)
    items = [f'{{"id":"m{index}","attempts":[{{"id":"a","response":"OK"}}]}}'.encode() for index in range(301)]
    items[100] = items[100].replace(b"OK", rb"Thanks \ud83d")
    items[200] = items[200].replace(b"OK", b"Thanks \xf0\x9f")
    target = Recorder()
    script = Scripted(Response(200, {}, b'{"type":"list","data":[' + b",".join(items) + b"]}"))
    async with BasiqClient("a2V5", transport=script) as client:
        replay = Replay(client, "w1", target, checkpoint=MemoryCheckpoint())
        report = await replay.run()
        (dead_letter,) = await replay.dead_letters()
        assert (report.handled, report.failed, report.dead, report.finished) == (300, 1, 1, True)
        assert sorted(target.ids) == sorted(f"m{index}" for index in range(301) if index != 200)
        assert (dead_letter.id, dead_letter.message) == ("m200", {"raw": items[200].decode(errors="backslashreplace")})
        assert "$.data[200]: is not JSON of UTF-8 text (not UTF-8)" in dead_letter.error


async def test_messages_that_cannot_be_read_count_as_failures_in_a_row() -> None:
    script = Scripted(page([{"id": str(i), "payload": 1} for i in range(10)]))
    async with BasiqClient("a2V5", transport=script) as client:
        with pytest.raises(ReplayError, match="3 messages in a row failed"):
            await Replay(client, "w1", Recorder(), checkpoint=MemoryCheckpoint(), max_failures=3).run()
        with pytest.raises(ReplayError, match="the replay stopped before it"):
            await Replay(client, "w1", Recorder(), checkpoint=MemoryCheckpoint(), on_error="stop").run()


async def test_a_plan_counts_a_message_that_cannot_be_read() -> None:
    async with BasiqClient("a2V5", transport=Scripted(page([{"id": "a"}, "text"]))) as client:
        assert (await Replay(client, "w1", Recorder(), checkpoint=MemoryCheckpoint()).plan()).total == 2


async def test_a_next_link_that_loops_is_a_pagination_error() -> None:
    looping = Scripted(page([{"id": "a"}], "https://au-api.basiq.io/notifications/webhooks/w1/messages?limit=500"))
    async with BasiqClient("a2V5", transport=looping) as client:
        with pytest.raises(PaginationError):
            await Replay(client, "w1", Recorder(), checkpoint=MemoryCheckpoint()).run()


async def test_a_cursor_that_cannot_be_read_is_a_damaged_checkpoint() -> None:
    checkpoint = MemoryCheckpoint()
    await checkpoint.open(ReplayJob("w1"), concurrency=1)
    await checkpoint.save(Commit(advance=Advance("mangled", 3, ())))
    await checkpoint.aclose()
    async with BasiqClient("a2V5", transport=Scripted(page([]))) as client:
        with pytest.raises(CheckpointError, match="place in the list cannot be read"):
            await Replay(client, "w1", Recorder(), checkpoint=checkpoint).run()
        with pytest.raises(CheckpointError, match="place in the list cannot be read"):
            await Replay(client, "w1", Recorder(), checkpoint=checkpoint).plan()


async def test_a_checkpoint_that_fails_ends_the_job_and_nothing_is_handed_out_any_more() -> None:
    class Full(Watching):
        async def save(self, commit: Commit) -> None:
            if len(self.commits) == 3:
                raise CheckpointError("the disk is full")
            await super().save(commit)

    checkpoint, target = Full(), Recorder()
    async with history(1_000) as h:
        replay = h.replay(target, checkpoint=checkpoint, concurrency=16)
        with pytest.raises(CheckpointError, match="the disk is full") as caught:
            await replay.run()
        state = await checkpoint.peek(ReplayJob(h.webhook_id))
    assert state is not None
    assert state.handled < len(target.ids) <= state.handled + 16
    assert caught.value.report is not None
    assert caught.value.report.handled == len(target.ids)


async def test_a_full_disk_stops_the_job_and_room_lets_it_continue(tmp_path: Any) -> None:
    checkpoint, target = SQLiteCheckpoint(tmp_path / "replay.db"), Recorder()
    async with history(400) as h:
        ids = await h.ids()

        async def behave(message: Message) -> None:
            if message.id == ids[100]:
                await execute(checkpoint, "PRAGMA max_page_count = 1")

        target._behave = behave
        replay = h.replay(target, checkpoint=checkpoint, concurrency=4)
        with pytest.raises(CheckpointError, match="disk is full"):
            await replay.run()
        target._behave = None
        assert (await replay.run()).finished
    assert set(target.ids) == set(ids)
    assert len(target.ids) <= len(ids) + 4


async def test_a_checkpoint_of_foreign_making_that_raises_anything_is_a_replay_error() -> None:
    class Broken(MemoryCheckpoint):
        async def save(self, commit: Commit) -> None:
            raise RuntimeError("the connection to the database is gone")

    async with history(3) as h:
        with pytest.raises(ReplayError, match=r"could not be recorded: RuntimeError: the connection") as caught:
            await h.replay(Recorder(), checkpoint=Broken()).run()
    assert isinstance(caught.value.__cause__, RuntimeError)


async def test_one_replay_does_one_run_at_a_time() -> None:
    async with history(5) as h:
        release = asyncio.Event()
        replay = h.replay(Recorder(lambda _: release.wait()))
        running = asyncio.create_task(replay.run())
        await asyncio.sleep(0.001)
        with pytest.raises(ReplayError, match="running already"):
            await replay.run()
        release.set()
        assert (await running).handled == 5


async def test_two_jobs_on_one_checkpoint_are_refused(tmp_path: Any) -> None:
    async with history(5) as h:
        release = asyncio.Event()

        def job(target: Recorder) -> Replay:
            return h.replay(target, checkpoint=SQLiteCheckpoint(tmp_path / "replay.db"))

        target = Recorder(lambda _: release.wait())
        running = asyncio.create_task(job(target).run())
        while target.at_once < 5:
            await asyncio.sleep(0.001)
        other = Recorder()
        with pytest.raises(CheckpointError, match="in use"):
            await job(other).run()
        assert other.ids == []
        release.set()
        assert (await running).handled == 5


async def test_a_keyboard_interrupt_in_the_target_gets_through() -> None:
    async def main() -> None:
        async with history(5) as h:
            target = Refusing(*await h.ids(), error=KeyboardInterrupt)
            await h.replay(target).run()

    with pytest.raises(KeyboardInterrupt):
        await asyncio.to_thread(asyncio.run, main())


# --- how fast ---


@virtual.clocked
async def test_a_rate_is_kept_without_bursts() -> None:
    times: list[float] = []

    async def behave(message: Message) -> None:
        times.append(virtual.now())
        if len(times) == 50:
            await asyncio.sleep(2)  # what was missed meanwhile is not made up for

    async with history(200, page_size=50) as h:
        replay = h.replay(Recorder(behave), rate=40)
        report = await replay.run()
    gaps = [later - sooner for sooner, later in itertools.pairwise(times)]
    assert min(gaps) > 0.024
    assert report.duration == pytest.approx(199 / 40, abs=0.2)


@pytest.mark.parametrize(("rate", "in_one"), [(10, 1), (10_000, 100)], ids=["slowly", "quickly"])
@virtual.clocked
async def test_a_save_begins_at_once_and_records_all_that_finished_during_the_one_before(
    rate: int, in_one: int
) -> None:
    checkpoint = Watching(delay=0.01)
    async with history(400) as h:
        replay = h.replay(Recorder(), checkpoint=checkpoint, concurrency=256, rate=rate)
        await replay.run()
    sizes = [commit.handled for commit in checkpoint.commits if commit.handled]
    assert in_one / 2 <= statistics.median(sizes) <= in_one * 1.5
    assert sum(sizes) == 400


@virtual.clocked
async def test_stop_does_not_wait_for_the_rate() -> None:
    async with history(100) as h:
        target = Recorder()
        replay = h.replay(target, rate=0.001)
        asyncio.get_running_loop().call_later(5, replay.stop)
        report = await replay.run()
        assert (report.handled, report.duration) == (1, pytest.approx(5))
        assert report.position == 0 or report.position == 1
        rest = await h.replay(target, checkpoint=replay._checkpoint).run()
        assert rest.handled == 99


@virtual.clocked
async def test_progress_tells_counts_rate_and_with_a_plan_what_is_left() -> None:
    told: list[Progress] = []
    async with history(100) as h:
        replay = h.replay(Recorder(), rate=20, where=lambda m: True)
        plan = await replay.plan()
        report = await replay.run(told.append, plan=plan)
    assert len(told) == pytest.approx(report.duration / 0.25, abs=2)
    middle, last = told[len(told) // 2], told[-1]
    assert middle.rate == pytest.approx(20, rel=0.1)
    assert middle.remaining == 100 - middle.handled
    assert middle.eta == pytest.approx(middle.remaining / middle.rate)
    assert middle.in_flight > 0
    assert middle.paused == 0
    assert (last.handled, last.read, last.failed, last.skipped, last.remaining) == (100, 100, 0, {}, 0)
    assert last.duration == report.duration


@virtual.clocked
async def test_progress_has_no_rate_and_no_estimate_while_the_target_stalls() -> None:
    told: list[Progress] = []

    async def stall(message: Message) -> None:
        await asyncio.sleep(60 if message.id == ids[40] else 0.1)

    async with history(100) as h:
        ids = [message.id async for message in h.client.messages.list(h.webhook_id)]
        replay = h.replay(stall, concurrency=1)
        await replay.run(told.append, plan=await replay.plan())
    before = next(each for each in told if each.handled == 39)
    assert (before.rate, before.eta) == (pytest.approx(10, rel=0.1), pytest.approx(6.1, rel=0.1))
    stalled = next(each for each in told if each.duration > 20)
    assert (stalled.handled, stalled.rate, stalled.eta) == (40, 0.0, None), "a rate or an estimate while it stalls"
    after = next(each for each in told if each.handled >= 90)
    assert after.rate == pytest.approx(5, rel=0.1), "the rate is not that of the last ten seconds"


async def test_without_a_plan_nothing_is_claimed_of_what_is_left_and_a_failing_hook_does_no_harm() -> None:
    told: list[Progress] = []

    def progress(now: Progress) -> None:
        told.append(now)
        raise RuntimeError("a hook that fails")

    async with history(3) as h:
        report = await h.replay(Recorder()).run(progress)
    assert report.handled == 3
    assert told[-1].remaining is None
    assert told[-1].eta is None


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": True}, "concurrency"),
        ({"rate": 0}, "rate"),
        ({"rate": float("inf")}, "rate"),
        ({"max_failures": 0}, "max_failures"),
        ({"max_pause": -1}, "max_pause"),
        ({"on_error": "ignore"}, "on_error"),
        ({"checkpoint": "replay.db"}, "checkpoint"),
        ({"where": "all"}, "where"),
        ({"filter": 7}, "filter"),
        ({"target": 7}, "target"),
        ({"webhook_id": ""}, "webhook_id"),
    ],
)
async def test_arguments_that_cannot_be_are_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    async with BasiqClient("a2V5", transport=Scripted(page([]))) as client:
        good: dict[str, Any] = {"webhook_id": "w1", "target": Recorder(), "checkpoint": MemoryCheckpoint()}
        with pytest.raises(ConfigurationError, match=named):
            Replay(client, **{**good, **wrong})


def test_timedeltas_are_not_rates() -> None:
    with pytest.raises(ConfigurationError, match="rate"):
        Replay(
            BasiqClient("a2V5", transport=Scripted(page([]))),
            "w1",
            Recorder(),
            checkpoint=MemoryCheckpoint(),
            rate=timedelta(seconds=1),
        )


@virtual.clocked
async def test_no_more_messages_than_concurrency_are_under_way_at_once() -> None:
    async def behave(message: Message) -> None:
        await asyncio.sleep(0.1)

    target = Recorder(behave)
    async with history(40) as h:
        report = await h.replay(target, concurrency=3).run()
    assert (report.handled, target.most_at_once) == (40, 3)
