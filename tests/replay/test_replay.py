"""What a replay promises: every message once, whatever ends a run."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from basiq_async import BasiqClient, ConfigurationError, F, InMemoryTransport, Message, RetryPolicy, ServerError
from basiq_async.receiver import Delivery, MemoryInbox, WebhookReceiver, inbox_key
from basiq_async.replay import (
    Advance,
    CheckpointError,
    Commit,
    Job,
    JSONLinesTarget,
    MemoryCheckpoint,
    Progress,
    ReplayError,
    SQLiteCheckpoint,
    Target,
    Where,
    event_types,
    failed_only,
    limit,
    message_time,
    since,
    until,
)

from .scene import SECRET, History


async def test_every_message_is_handled_once_and_the_report_says_so() -> None:
    history = History(1_203)
    report = await history.replay().run()
    assert history.handled == Counter(await history.ids())
    assert (report.handled, report.failed, report.skipped, report.repeated) == (1_203, 0, {}, 0)
    assert (report.position, report.finished, report.handled_in_all) == (1_203, True, 1_203)
    assert report.rate > 0
    history.fake.assert_no_violations()


async def test_a_second_run_finds_nothing_to_do() -> None:
    history = History(600)
    await history.replay().run()
    again = await history.replay().run()
    assert (again.handled, again.handled_in_all, again.finished) == (0, 600, True)
    assert history.handled.total() == 600


async def test_an_empty_history_is_finished_at_once() -> None:
    report = await History(0).replay().run()
    assert (report.handled, report.finished, report.rate) == (0, True, 0.0)


async def test_stop_drains_what_is_begun_and_the_next_run_goes_on() -> None:
    history = History(2_000)
    replay = history.replay(concurrency=7)

    async def handler(message: Message) -> None:
        if sum(history.handled.values()) == 500:
            replay.stop()
        await asyncio.sleep(0)
        await history.handler(message)

    replay._target = handler
    report = await replay.run()
    assert 500 <= report.handled <= 507
    assert not report.finished
    rest = await history.replay().run()
    assert history.handled == Counter(await history.ids())
    assert rest.repeated == 0
    assert rest.handled + report.handled == 2_000


async def test_stop_before_the_first_message_leaves_everything_to_do() -> None:
    history = History(10)
    replay = history.replay()
    running = asyncio.create_task(replay.run())
    await asyncio.sleep(0)
    replay.stop()
    report = await running
    assert (report.handled, report.finished) == (0, False)


async def test_cancellation_leaves_no_task_and_what_was_done_is_recorded() -> None:
    history = History(2_000)
    reached = asyncio.Event()

    async def handler(message: Message) -> None:
        await history.handler(message)
        if history.handled.total() > 700:
            reached.set()
            await asyncio.Event().wait()

    before = asyncio.all_tasks()
    running = asyncio.create_task(history.replay(handler, concurrency=5).run())
    await reached.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert asyncio.all_tasks() == before
    report = await history.replay().run()
    assert history.handled.total() - 2_000 <= 5
    assert set(history.handled) == set(await history.ids())
    assert report.repeated == 5


async def test_out_of_order_completion_is_tracked_exactly() -> None:
    history = History(1_500)
    ids = await history.ids()
    slow, reached = asyncio.Event(), asyncio.Event()

    async def handler(message: Message) -> None:
        if message.id == ids[3]:
            await slow.wait()
        await history.handler(message)
        if history.handled.total() == 1_499:
            reached.set()

    running = asyncio.create_task(history.replay(handler, concurrency=4).run())
    await reached.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert history.checkpoint._state.position == 0
    await history.replay().run()
    assert history.handled[ids[3]] == 1
    assert history.handled.total() <= 1_500 + 4


async def test_a_slow_target_holds_back_the_reading() -> None:
    history = History(5_000)
    reached = asyncio.Event()

    async def handler(message: Message) -> None:
        reached.set()
        await asyncio.Event().wait()

    running = asyncio.create_task(history.replay(handler).run())
    await reached.wait()
    for _ in range(50):
        await asyncio.sleep(0)
    pages = [request for request in history.fake.requests if "/messages" in request.url]
    assert 1 <= len(pages) <= 2
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_no_more_are_in_flight_than_the_concurrency() -> None:
    history = History(500)
    inside = most = 0

    async def handler(message: Message) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0)
        inside -= 1

    # Those that are handled and not recorded count as well: of nine a few are, and the rest are with the handler.
    await history.replay(handler, concurrency=9).run()
    assert 5 <= most <= 9


# --- failures ---


class Broken:
    """Fails for every ``nth`` message, until it is mended."""

    def __init__(self, history: History, nth: int = 10) -> None:
        self.history, self.nth, self.count, self.mended = history, nth, 0, False
        self.failed: set[str] = set()

    async def __call__(self, message: Message) -> None:
        self.count += 1
        if not self.mended and self.count % self.nth == 0:
            self.failed.add(message.id)
            raise ValueError("no \ud800 good")
        await self.history.handler(message)


async def test_dead_letters_are_kept_and_retried(tmp_path: Path) -> None:
    history = History(700)
    target = Broken(history)
    replay = history.replay(target, checkpoint=SQLiteCheckpoint(tmp_path / "replay.db"))
    report = await replay.run()
    assert (report.handled, report.failed, report.dead, report.finished) == (630, 70, 70, True)
    letters = await replay.dead_letters()
    assert {letter.id for letter in letters} == target.failed
    assert letters[0].error == "ValueError: no \ud800 good"
    again = await replay.retry_dead()
    assert (again.failed, again.dead) == (7, 7)
    skipping = await history.replay(
        target, checkpoint=SQLiteCheckpoint(tmp_path / "replay.db"), on_error="skip"
    ).retry_dead()
    assert skipping.dead == 7 - skipping.handled
    target.mended = True
    last = await replay.retry_dead()
    assert (last.handled, last.failed, last.dead) == (skipping.dead, 0, 0)
    assert history.handled == Counter(await history.ids())
    assert await replay.dead_letters() == []
    assert (await replay.run()).handled == 0


async def test_there_are_no_dead_letters_before_the_first_run(tmp_path: Path) -> None:
    path = tmp_path / "replay.db"
    assert await History(1).replay(checkpoint=SQLiteCheckpoint(path)).dead_letters() == ()
    assert not path.exists()


async def test_skip_counts_and_keeps_nothing() -> None:
    history = History(100)
    report = await history.replay(Broken(history), on_error="skip").run()
    assert (report.handled, report.failed, report.dead, report.finished) == (90, 10, 0, True)


async def test_stop_ends_in_front_of_the_message_which_is_tried_again() -> None:
    history = History(300)
    target = Broken(history, 50)
    with pytest.raises(ReplayError, match=r"failed, and the replay stopped at it: ValueError: no") as caught:
        await history.replay(target, on_error="stop", concurrency=1).run()
    assert caught.value.report is not None
    assert caught.value.report.handled == 49
    assert isinstance(caught.value.__cause__, ValueError)
    target.mended = True
    await history.replay(target).run()
    assert history.handled == Counter(await history.ids())


async def test_so_many_failures_in_a_row_end_the_job() -> None:
    history = History(600)
    target = Broken(history, 1)
    with pytest.raises(ReplayError, match=r"20 messages in a row failed.*dead letters: mend it") as caught:
        await history.replay(target, max_failures=20, concurrency=1).run()
    assert caught.value.report is not None
    assert caught.value.report.dead == 20


async def test_failures_that_are_not_in_a_row_end_nothing() -> None:
    history = History(100)
    report = await history.replay(Broken(history, 2), max_failures=2, concurrency=1).run()
    assert (report.failed, report.finished) == (50, True)


async def test_the_circuit_breaker_can_be_taken_out() -> None:
    history = History(1_100)
    report = await history.replay(Broken(history, 1), max_failures=None, on_error="skip").run()
    assert (report.failed, report.finished) == (1_100, True)


async def test_a_handler_that_cancels_itself_is_a_failed_message() -> None:
    async def handler(message: Message) -> None:
        raise asyncio.CancelledError

    report = await History(3).replay(handler).run()
    assert (report.failed, report.finished) == (3, True)


async def test_a_target_that_is_not_async_ends_the_job_with_what_to_do() -> None:
    with pytest.raises(ReplayError, match="pass an async function"):
        await History(3).replay(lambda message: None).run()


async def test_what_reading_the_history_raises_comes_through_and_what_was_done_is_recorded() -> None:
    history = History(2_000)
    history.fake.page_size = 500

    async def handler(message: Message) -> None:
        if history.handled.total() == 100:
            history.fake.fail_next(50, status=500)
        await history.handler(message)

    client = history.client
    history.client = BasiqClient(
        history.fake.DEFAULT_API_KEY, transport=InMemoryTransport(history.fake), retry=RetryPolicy(max_retries=0)
    )
    with pytest.raises(ServerError) as caught:
        await history.replay(handler).run()
    assert "run it again to go on" in caught.value.__notes__[0]
    history.client = client
    history.fake.reset_log()
    await history.replay().run()
    assert history.handled == Counter(await history.ids())


# --- checkpoints ---


async def test_a_second_job_on_the_same_checkpoint_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    history = History(100)
    path = tmp_path / "replay.db"
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def handler(message: Message) -> None:
        begun.set()
        await go_on.wait()

    first = history.replay(handler, checkpoint=SQLiteCheckpoint(path))
    running = asyncio.create_task(first.run())
    await begun.wait()
    with pytest.raises(CheckpointError, match="in use by another run"):
        await history.replay(checkpoint=SQLiteCheckpoint(path)).run()
    with pytest.raises(ReplayError, match="one run at a time"):
        await first.run()
    go_on.set()
    assert (await running).finished
    assert (await history.replay(checkpoint=SQLiteCheckpoint(path)).run()).handled == 0


async def test_the_checkpoint_of_another_filter_is_refused(tmp_path: Path) -> None:
    history = History(10)
    await history.replay(checkpoint=SQLiteCheckpoint(tmp_path / "replay.db")).run()
    other = history.replay(checkpoint=SQLiteCheckpoint(tmp_path / "replay.db"), filter=F("event.type").eq("x"))
    with pytest.raises(CheckpointError, match="belongs to the replay of webhook"):
        await other.run()
    with pytest.raises(CheckpointError, match="belongs to"):
        await other.plan()


async def test_a_cursor_that_cannot_be_read_is_told_as_a_damaged_checkpoint() -> None:
    history = History(10)
    await history.checkpoint.open(Job(history.webhook_id), concurrency=1)
    await history.checkpoint.save(Commit(advance=Advance("nonsense", 5, ())))
    await history.checkpoint.close()
    with pytest.raises(CheckpointError, match="cursor cannot be read"):
        await history.replay().run()


class FullDisk(MemoryCheckpoint):
    def __init__(self, after: int, error: Exception) -> None:
        super().__init__()
        self.after, self.error = after, error

    async def save(self, commit: Commit) -> None:
        self.after -= 1
        if self.after < 0:
            raise self.error
        await super().save(commit)


@pytest.mark.parametrize("error", [CheckpointError("the disk is full"), OSError(28, "No space left on device")])
async def test_a_full_disk_stops_the_job_cleanly_and_nothing_is_lost(error: Exception) -> None:
    history = History(1_000)
    checkpoint = FullDisk(12, error)
    before = asyncio.all_tasks()
    with pytest.raises(ReplayError, match=r"disk is full|could not be made durable: OSError") as caught:
        await history.replay(checkpoint=checkpoint, concurrency=8).run()
    assert caught.value.report is not None
    assert asyncio.all_tasks() == before
    done = history.handled.total()
    assert 0 < done < 1_000
    checkpoint.after = 10**9
    report = await history.replay(checkpoint=checkpoint, concurrency=8).run()
    assert set(history.handled) == set(await history.ids())
    assert history.handled.total() - 1_000 <= report.repeated == 8


# --- inboxes ---


async def test_what_an_inbox_knows_is_skipped_and_what_is_handled_is_entered() -> None:
    history = History(400)
    inbox = MemoryInbox()
    first = await history.replay(inbox=inbox, where=limit(150)).run()
    assert first.handled == 150
    report = await history.replay(inbox=inbox, checkpoint=MemoryCheckpoint()).run()
    assert (report.handled, report.skipped) == (250, {"handled-before": 150})
    assert history.handled == Counter(await history.ids())


async def test_none_is_repeated_with_an_inbox_after_a_run_that_was_not_recorded() -> None:
    history = History(300)
    inbox = MemoryInbox()
    with pytest.raises(ReplayError):
        await history.replay(inbox=inbox, checkpoint=FullDisk(0, CheckpointError("full"))).run()
    assert history.handled
    await history.replay(inbox=inbox).run()
    assert history.handled == Counter(await history.ids())


async def test_a_message_that_failed_is_not_in_the_inbox() -> None:
    history = History(30)
    inbox, target = MemoryInbox(), Broken(history, 3)
    await history.replay(target, inbox=inbox, on_error="skip").run()
    target.mended = True
    report = await history.replay(target, inbox=inbox, checkpoint=MemoryCheckpoint()).run()
    assert report.handled == 10
    assert history.handled == Counter(await history.ids())


async def test_a_receiver_handles_with_its_own_handlers_and_inbox() -> None:
    history = History(500, event_types=["consent.revoked", "user.created"])
    receiver = WebhookReceiver(SECRET)
    seen: Counter[str] = Counter()

    @receiver.on("consent.*")
    async def handle(delivery: Delivery) -> None:
        seen[delivery.id] += 1

    async with receiver:
        report = await history.replay(receiver).run()
        again = await history.replay(receiver, checkpoint=MemoryCheckpoint()).run()
        assert await history.replay(receiver, checkpoint=MemoryCheckpoint()).plan()
    assert report.handled == len(seen) == seen.total()
    assert report.skipped == {"no-handler": 500 - report.handled}
    assert again.skipped["handled-before"] == report.handled
    assert again.handled == 0


async def test_a_handler_of_a_receiver_that_fails_makes_dead_letters() -> None:
    history = History(5)
    receiver = WebhookReceiver(SECRET)

    @receiver.on("*")
    async def handle(delivery: Delivery) -> None:
        raise RuntimeError("broken")

    async with receiver:
        replay = history.replay(receiver)
        report = await replay.run()
    assert report.dead == 5
    assert (await replay.dead_letters())[0].error == "RuntimeError: broken"


async def test_a_closed_receiver_ends_the_job() -> None:
    receiver = WebhookReceiver(SECRET)
    receiver.on("*")(History(1).handler)  # type: ignore[arg-type]
    await receiver.aclose()
    with pytest.raises(ReplayError, match="receiver is closed"):
        await History(5).replay(receiver).run()


async def test_reconcile_tells_what_was_delivered_and_never_handled() -> None:
    history = History(300, failed=0.3)
    inbox = MemoryInbox()
    messages = [message async for message in history.client.messages.list(history.webhook_id)]
    for message in messages[:100]:
        key = inbox_key(message.event_type_id, message.event_id, message.id)
        await inbox.claim(key, "t", lease=60)
        await inbox.complete(key, "t")
    found = await history.replay().reconcile(inbox, ids=5)
    missing = [message.id for message in messages[100:] if message.delivered]
    assert (found.checked, found.delivered) == (300, sum(message.delivered for message in messages))
    assert (found.missing, found.missing_ids) == (len(missing), tuple(missing[:5]))
    assert sum(found.missing_by_type.values()) == len(missing)
    assert found.undelivered == 200 - len(missing)
    some = await history.replay(where=failed_only() & limit(10)).reconcile(inbox)
    assert (some.checked, some.missing) == (10, 0)


# --- which ---


async def test_plan_counts_by_type_and_day_and_touches_nothing(tmp_path: Path) -> None:
    history = History(500, every=timedelta(hours=1), failed=0.5)
    inbox = MemoryInbox()
    path = tmp_path / "replay.db"
    replay = history.replay(checkpoint=SQLiteCheckpoint(path), where=failed_only(), inbox=inbox)
    plan = await replay.plan()
    messages = [message async for message in history.client.messages.list(history.webhook_id)]
    failed = [message for message in messages if not message.delivered]
    assert plan.total == len(failed)
    assert plan.by_type == Counter(message.event_type_id for message in failed)
    assert sum(plan.by_day.values()) == plan.total
    assert len(plan.by_day) >= 20
    assert plan.skipped == {"where": 500 - len(failed)}
    assert plan.first == min(time for m in failed if (time := message_time(m)))
    assert not history.handled
    assert not path.exists()
    report = await replay.run()
    assert report.handled == plan.total
    assert (await replay.plan()).total == 0


async def test_plan_is_for_what_is_left() -> None:
    history = History(600)
    await history.replay(where=limit(130)).run()
    plan = await history.replay(where=limit(200)).plan()
    assert plan.total == 200
    assert plan.position + plan.skipped.get("recorded", 0) == 130


async def test_limit_counts_what_is_handed_out_and_the_next_run_goes_on() -> None:
    history = History(300, failed=0.5)
    report = await history.replay(where=failed_only() & limit(20)).run()
    assert (report.handled, report.finished) == (20, False)
    rest = await history.replay(where=failed_only()).run()
    failed = [m.id async for m in history.client.messages.list(history.webhook_id) if not m.delivered]
    assert history.handled == Counter(failed)
    assert rest.finished


async def test_the_ready_predicates_choose_by_time_type_and_outcome() -> None:
    history = History(200, every=timedelta(hours=1), failed=0.4)
    messages = [message async for message in history.client.messages.list(history.webhook_id)]
    middle = message_time(messages[100])
    assert middle is not None
    late = {m.id for m in messages if since(middle)(m)}
    early = {m.id for m in messages if until(middle)(m)}
    assert late | early == {m.id for m in messages}
    assert not late & early
    types = {m.event_type_id for m in messages if event_types("consent.*", "user.created")(m)}
    assert types <= {"user.created", *(t for t in types if t and t.startswith("consent."))}
    either = failed_only() | since(middle)
    assert all(either(m) == (not m.delivered or m.id in late) for m in messages)
    assert all((~failed_only())(m) == m.delivered for m in messages)
    both = failed_only() & (lambda m: m.id in late)
    assert all(both(m) == (not m.delivered and m.id in late) for m in messages)
    unknown = Message("1", {"id": "1"})
    assert since(timedelta(days=1))(unknown)
    assert until(datetime.now(UTC))(unknown)


@pytest.mark.parametrize(
    "make",
    [
        lambda: since(datetime(2026, 1, 1)),
        lambda: since("2d"),  # type: ignore[arg-type]
        lambda: until(timedelta.max),
        lambda: limit(0),
        lambda: limit(True),
        lambda: event_types("con*"),
        lambda: event_types(),
        lambda: limit(3) | failed_only(),
        lambda: ~limit(3),
    ],
)
def test_what_cannot_choose_is_refused(make: Any) -> None:
    with pytest.raises(ConfigurationError):
        make()


def test_a_predicate_goes_with_functions_alone() -> None:
    with pytest.raises(TypeError):
        _ = failed_only() & 3  # type: ignore[operator]
    with pytest.raises(TypeError):
        _ = failed_only() | 3  # type: ignore[operator]
    assert isinstance(limit(3) & limit(2), Where)
    assert (limit(3) & limit(2)).limit == 2


async def test_a_predicate_that_raises_makes_a_failed_message() -> None:
    history = History(3)

    def where(message: Message) -> bool:
        raise KeyError("x")

    assert (await history.replay(where=where).plan()).total == 3
    report = await history.replay(where=where).run()
    assert (report.handled, report.failed) == (0, 3)


# --- arguments, progress, export ---


@pytest.mark.parametrize(
    "options",
    [
        {"concurrency": 0},
        {"concurrency": True},
        {"rate": 0},
        {"rate": float("nan")},
        {"rate": "5"},
        {"on_error": "ignore"},
        {"max_failures": 0},
        {"max_pause": -1},
        {"checkpoint": "replay.db"},
        {"target": 3},
        {"where": 3},
        {"target": WebhookReceiver(SECRET), "inbox": MemoryInbox()},
    ],
)
def test_arguments_that_cannot_be_are_told_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        History(1).replay(**options)


async def test_progress_tells_counts_and_what_is_left_where_a_plan_says_so() -> None:
    history = History(400, failed=0.25)
    told: list[Progress] = []

    async def handler(message: Message) -> None:
        await asyncio.sleep(0.02)

    replay = history.replay(handler, where=failed_only(), concurrency=4)
    plan = await replay.plan()
    report = await replay.run(told.append, plan=plan)
    assert len(told) >= 2
    assert all(later.handled >= earlier.handled for earlier, later in itertools.pairwise(told))
    last = told[-1]
    assert (last.handled, last.read, last.remaining, last.in_flight) == (report.handled, 400, 0, 0)
    assert told[0].eta is not None
    assert told[0].rate > 0


async def test_without_a_plan_nothing_is_said_about_what_is_left() -> None:
    told: list[Progress] = []

    def failing(progress: Progress) -> None:
        told.append(progress)
        raise RuntimeError("a hook that fails does not fail the job")

    report = await History(20).replay().run(failing)
    assert report.finished
    assert told[-1].remaining is None
    assert told[-1].eta is None


async def test_an_export_has_every_message_once_across_runs(tmp_path: Path) -> None:
    history = History(700)
    path = tmp_path / "out.jsonl"
    async with JSONLinesTarget(path) as target:
        assert isinstance(target, Target)
        await history.replay(target, where=limit(300)).run()
    with path.open("ab") as file:
        file.write(b'{"id":"torn')
    report = await history.replay(JSONLinesTarget(path)).run()
    assert report.finished
    assert Counter(json.loads(line)["id"] for line in path.read_text().splitlines()) == Counter(await history.ids())
    await history.replay(JSONLinesTarget(path), checkpoint=MemoryCheckpoint()).run()
    assert repr(target) == f"JSONLinesTarget({str(path)!r})"
    assert len(path.read_text().splitlines()) == 700


@pytest.mark.parametrize("content", ["hello\n", "[1]\n", '{"x": 1}\n', "torn"])
async def test_an_export_never_writes_to_a_foreign_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(content)
    with pytest.raises(ReplayError, match="something else than messages"):
        await History(3).replay(JSONLinesTarget(path)).run()
    assert path.read_text() == content


async def test_an_export_that_cannot_be_written_ends_the_job(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match="cannot be written"):
        await History(3).replay(JSONLinesTarget(tmp_path)).run()
    with pytest.raises(ConfigurationError):
        JSONLinesTarget("")
