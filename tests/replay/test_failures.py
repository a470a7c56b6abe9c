"""Failures: what is quarantined, stop, skip, the circuit breaker, and targets that ask for patience."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import pytest

from basiq_async import (
    ConfigurationError,
    Message,
    PermissionDeniedError,
    RateLimitError,
    ReplayError,
    ServerError,
    TargetError,
)
from basiq_async.receiver import MemoryInbox, SQLiteInbox
from basiq_async.replay import Progress
from tests.support import virtual
from tests.support.histories import Recorder, Refusing, Table, history, listed, quarantine_of


async def test_a_poisoned_message_is_quarantined_and_the_job_continues() -> None:
    async with history(300) as h:
        ids = await h.ids()
        target = Refusing(ids[3], ids[299])
        replay = h.replay(target)
        report = await replay.run()
        assert (report.handled, report.failed, report.finished) == (298, 2, True)
        entries = await quarantine_of(replay)
        assert set(entries) == {ids[3], ids[299]}
        assert entries[ids[3]].error == "ValueError: poisoned"
        assert json.loads(entries[ids[3]].body)["payload"]["eventId"] == entries[ids[3]].event_id
        again = await replay.run()
        assert (again.failed, again.finished, len(await quarantine_of(replay))) == (0, True, 2), (
            "it is known to the inbox"
        )


@pytest.mark.documented_world("it looks at what a list tells of attempts", "attempts")
async def test_what_is_quarantined_has_the_time_of_its_first_attempt_or_else_that_of_its_failure() -> None:
    async with history(3) as h:
        first, *_ = await h.messages()
        replay = h.replay(Refusing(first.id))
        await replay.run()
        (entry,) = (await quarantine_of(replay)).values()
        assert first.first_attempt is not None
        assert entry.signed_at == first.first_attempt.timestamp != entry.quarantined_at
    async with listed([{"id": "a"}, {"id": "b", "attempts": [{"id": "c"}]}], Refusing("a", "b")) as replay:
        await replay.run()
        entries = (await quarantine_of(replay)).values()
        assert [each.signed_at for each in entries] == [each.quarantined_at for each in entries]


async def test_what_was_quarantined_is_tried_again_without_asking_basiq(tmp_path: Any) -> None:
    async with history(700) as h, SQLiteInbox(tmp_path / "inbox.db") as inbox:
        ids = await h.ids()
        target = Refusing(*ids[:600])
        replay = h.replay(target, inbox=inbox)
        assert (await replay.retry_quarantined()).handled == 0
        assert (await replay.run()).failed == 600
        target.refused = {ids[5]}
        asked = len(h.fake.requests)
        report = await replay.retry_quarantined()
        assert len(h.fake.requests) == asked
        assert (report.handled, report.failed, report.finished) == (599, 1, True)
        assert set(await quarantine_of(replay)) == {ids[5]}
        target.refused = set()
        assert (await replay.retry_quarantined()).handled == 1
        assert await quarantine_of(replay) == {}
        assert (await replay.run()).handled == 0
        assert sorted(target.taken) == sorted(ids)


async def test_what_fails_again_has_its_new_error_and_is_there_once() -> None:
    async with history(3) as h:
        ids = await h.ids()
        target = Refusing(ids[0])
        replay = h.replay(target)
        await replay.run()
        target._error = lambda: RuntimeError("x" * 5_000)
        report = await replay.retry_quarantined()
        (entry,) = (await quarantine_of(replay)).values()
        assert entry.error.startswith("RuntimeError: xxx")
        assert len(entry.error) < 1_100
        assert (report.failed, entry.failures) == (1, 2)


async def test_what_fails_again_stays_quarantined_whatever_on_error_says() -> None:
    inbox = MemoryInbox()
    async with history(3) as h:
        target = Refusing(*await h.ids())
        replay = h.replay(target, inbox=inbox)
        await replay.run()
        report = await h.replay(target, inbox=inbox, on_error="skip").retry_quarantined()
        assert (report.failed, len(await quarantine_of(replay))) == (3, 3)
        with pytest.raises(ReplayError, match="failed, and the replay stopped before it"):
            await h.replay(target, inbox=inbox, on_error="stop").retry_quarantined()
        with pytest.raises(ReplayError, match="2 messages in a row failed"):
            await h.replay(target, inbox=inbox, max_failures=2, concurrency=1).retry_quarantined()
        assert len(await quarantine_of(replay)) == 3


async def test_stop_ends_the_job_in_front_of_the_message_that_failed() -> None:
    async with history(300) as h:
        ids = await h.ids()
        target = Refusing(ids[100])
        replay = h.replay(target, on_error="stop", concurrency=4)
        with pytest.raises(
            ReplayError, match=rf"message .{ids[100]}. failed, and the replay stopped before it: ValueE"
        ) as caught:
            await replay.run()
        assert isinstance(caught.value.__cause__, ValueError)
        assert caught.value.report is not None
        assert 100 <= caught.value.report.handled <= 103
        assert not caught.value.report.finished
        target.refused = set()
        assert (await replay.run()).finished
        assert sorted(target.taken) == sorted(ids)


async def test_skip_counts_it_and_continues_and_the_next_run_tries_it_again() -> None:
    async with history(30) as h:
        target = Refusing(*(await h.ids())[:7])
        replay = h.replay(target, on_error="skip")
        report = await replay.run()
        assert (report.handled, report.failed, report.finished) == (23, 7, False)
        assert await quarantine_of(replay) == {}
        target.refused = set()
        again = await replay.run()
        assert (again.handled, again.skipped, again.finished) == (7, {"handled-before": 23}, True)


async def test_many_failures_in_a_row_end_the_job_in_front_of_them() -> None:
    async with history(1_200) as h:
        ids = await h.ids()
        target = Refusing(ids[3], *ids[10:])
        replay = h.replay(target, concurrency=8)
        with pytest.raises(ReplayError, match=r"1,000 messages in a row failed.*in front of that: fix the") as caught:
            await replay.run()
        assert caught.value.report is not None
        assert 1_001 <= caught.value.report.failed <= 1_009
        assert set(await quarantine_of(replay)) == {ids[3]}, "they were never tried with a target that works"
        target.refused = {ids[3]}
        assert (await replay.run()).finished
        assert sorted(target.taken) == sorted(set(ids) - {ids[3]})


async def test_failures_in_a_row_that_do_not_end_the_job_are_quarantined_at_its_end() -> None:
    async with history(30) as h:
        ids = await h.ids()
        replay = h.replay(Refusing(*ids[20:]), max_failures=11)
        report = await replay.run()
        assert (report.failed, report.finished) == (10, True)
        assert set(await quarantine_of(replay)) == set(ids[20:])


async def test_without_a_limit_of_failures_each_is_quarantined_before_the_run_ends() -> None:
    counts: list[int] = []

    async def refuse(message: Message) -> None:
        counts.append(len(await quarantine_of(replay)))
        raise ValueError("poisoned")

    async with history(30) as h:
        replay = h.replay(refuse, concurrency=1, max_failures=None)
        await replay.run()
    assert (counts[0], len(counts)) == (0, 30)
    assert counts[-1] >= 20


@pytest.mark.parametrize(("limit", "stops"), [(5, True), (6, False), (None, False)])
async def test_the_breaker_is_adjustable_and_a_success_resets_it(limit: int | None, stops: bool) -> None:
    async with history(12) as h:
        ids = await h.ids()
        target = Refusing(*ids[:5], *ids[6:11])
        replay = h.replay(target, concurrency=1, max_failures=limit, on_error="skip")
        if stops:
            with pytest.raises(ReplayError, match="5 messages in a row failed, the last one with ValueError"):
                await replay.run()
        else:
            assert (await replay.run()).failed == 10


async def test_a_success_of_a_bulk_target_resets_the_breaker_too() -> None:
    async with history(6) as h:
        target, refused = Table(), (await h.ids())[1::2]
        accept = target.deliver

        async def deliver(message: Message) -> str | None:
            if message.id in refused:
                raise ValueError("poisoned")
            return await accept(message)

        target.deliver = deliver  # type: ignore[method-assign]
        report = await h.replay(target, max_failures=2, on_error="skip").run()
        assert (report.handled, report.failed) == (3, 3)


async def test_a_handler_that_is_cancelled_by_itself_is_a_failure_and_not_the_end() -> None:
    async with history(5) as h:
        target = Refusing(*(await h.ids())[:1], error=asyncio.CancelledError)
        replay = h.replay(target)
        report = await replay.run()
        assert (report.handled, report.failed) == (4, 1)
        (entry,) = (await quarantine_of(replay)).values()
        assert "cancelled" in entry.error


async def test_what_an_error_says_forges_no_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    said = "no such type: x\nCRITICAL forged \x1b]0;owned\x07\u202e"
    async with history(4) as h:
        first, second, *_ = await h.ids()
        refusing = Refusing(first, error=lambda: ValueError(said))
        down = [TargetError(said, status=503)]

        async def behave(message: Message) -> None:
            if message.id == second and down:
                raise down.pop()
            await refusing(message)

        await h.replay(behave, concurrency=1).run()
    assert f"message {first!r} failed: ValueError: no such type: x" in caplog.text
    assert len(caplog.messages) >= 2
    assert all(message.isprintable() for message in caplog.messages), caplog.messages


# --- patience ---


def throttling(error: Any, times: list[float], allowed: Any) -> Recorder:
    async def behave(message: Message) -> None:
        times.append(virtual.now())
        await asyncio.sleep(0.01)
        if not allowed():
            raise error()

    return Recorder(behave)


@pytest.mark.parametrize(
    "error",
    [
        lambda: TargetError("slow down", status=429, retry_after=30),
        lambda: RateLimitError(status=429, retry_after=30.0),
        lambda: ServerError(status=503, retry_after=30),
    ],
)
@virtual.clocked
async def test_retry_after_has_the_whole_job_wait_and_nothing_is_lost(error: Any) -> None:
    times: list[float] = []
    refused = 0
    updates: list[Progress] = []

    def allowed() -> bool:
        nonlocal refused
        if len(times) > 50 and refused < 8:
            refused += 1
            return False
        return True

    async with history(200) as h:
        target = throttling(error, times, allowed)
        replay = h.replay(target, concurrency=8)
        report = await replay.run(updates.append)
    assert (report.handled, report.failed) == (200, 0)
    assert len(target.ids) == len(set(target.ids)) == 200
    gaps = [later - sooner for sooner, later in itertools.pairwise(times)]
    assert sum(gap > 1 for gap in gaps) == 1
    assert max(gaps) == pytest.approx(30, abs=0.1)
    # What comes first after the wait comes alone.
    again = gaps.index(max(gaps)) + 1
    assert times[again + 1] > times[again]
    assert max(progress.paused for progress in updates) > 25


@virtual.clocked
async def test_a_wait_beyond_max_pause_ends_the_job_in_order() -> None:
    async with history(20) as h:
        ids = await h.ids()
        target = Refusing(ids[10], error=lambda: TargetError("no", retry_after=7_200))
        replay = h.replay(target, concurrency=1)
        with pytest.raises(ReplayError, match=r"pause of 7200 s, longer than max_pause") as caught:
            await replay.run()
        assert isinstance(caught.value.__cause__, TargetError)
        target.refused = set()
        assert (await replay.run()).handled == 10
        assert target.taken == ids


@virtual.clocked
async def test_a_pause_of_max_pause_itself_is_waited_out() -> None:
    asked = [TargetError("no", retry_after=30)]

    async def behave(message: Message) -> None:
        if asked:
            raise asked.pop()

    async with history(1) as h:
        report = await h.replay(Recorder(behave), max_pause=30).run()
        assert (report.handled, report.duration) == (1, pytest.approx(30))


@pytest.mark.parametrize("wait", [0, 1, 5, 600])
@virtual.clocked
async def test_a_target_that_only_ever_asks_for_patience_ends_the_job_after_max_pause(wait: float) -> None:
    async with history(20) as h:
        first, *_ = ids = await h.ids()
        target = Refusing(*ids, error=lambda: TargetError("no", retry_after=wait))
        began = virtual.now()
        with pytest.raises(ReplayError, match=f"asked for pauses .* before message '{first}': run the"):
            await h.replay(target, concurrency=1, max_pause=1_800).run()
        assert 1_800 <= virtual.now() - began < 1_800 + max(wait, 6)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -1, True, "30", None])
async def test_a_retry_after_that_is_no_time_is_an_ordinary_failure(odd: Any) -> None:
    async with history(2) as h:
        target = Refusing(*await h.ids(), error=lambda: TargetError("no", retry_after=odd))
        report = await h.replay(target).run()
        assert report.failed == 2


async def test_an_own_record_goes_on_after_a_failure_and_each_run_tries_it_again_unless_it_is_to_stop() -> None:
    class Picky(Table):
        refused: frozenset[str] = frozenset()

        async def deliver(self, message: Message) -> str | None:
            if message.id in self.refused:
                raise ValueError("poisoned")
            return await super().deliver(message)

    table = Picky()
    async with history(50) as h:
        ids = await h.ids()
        table.refused = frozenset({ids[20]})
        replay = h.replay(table)
        with pytest.raises(ReplayError, match=f"message '{ids[20]}' failed, and the replay stopped before it: Val"):
            await h.replay(table, on_error="stop").run()
        assert table.rows == ids[:20], "what was accepted before is written"
        for handled in (29, 0):
            report = await replay.run()
            assert (report.handled, report.failed, report.finished, report.in_flight) == (handled, 1, False, 0)
        with pytest.raises(ReplayError, match=r"1 message failed, .* The replay stopped in front of that"):
            await h.replay(table, max_failures=1).run()
        with pytest.raises(ConfigurationError, match="has no quarantine"):
            await replay.retry_quarantined()
        assert (await replay.quarantined(), await replay.drop_quarantined(["a"])) == ((), 0)
        table.refused = frozenset()
        assert (await replay.run()).finished
        assert sorted(table.rows) == sorted(ids)


async def test_a_list_that_cannot_be_read_ends_a_bulk_run_after_what_was_read_is_written() -> None:
    asked: list[str] = []
    async with history(40, page_size=10) as h:

        class Failing(Table):
            async def deliver(self, message: Message) -> str | None:
                if not asked:
                    asked.append(message.id)
                    h.fake.fail_next(9, status=403, path="*/messages")
                return await super().deliver(message)

        table = Failing()
        with pytest.raises(PermissionDeniedError):
            await h.replay(table).run()
        assert 0 < len(table.rows) < 40


@virtual.clocked
async def test_one_request_for_patience_does_not_slow_the_rest_of_the_job() -> None:
    async with history(400) as h:
        ids = await h.ids()
        asked = False

        async def behave(message: Message) -> None:
            nonlocal asked
            await asyncio.sleep(0.02)
            if message.id == ids[100] and not asked:
                asked = True
                raise TargetError("slow down", status=429, retry_after=0.1)

        target = Recorder(behave)
        report = await h.replay(target, concurrency=32).run()
    assert report.handled == 400
    # 400 messages, 32 at once, 20 ms each: 0.25 s; the pause, and a slow start in steps that double.
    assert report.duration < 0.6
    assert target.most_at_once == 32


@pytest.mark.parametrize("pause", [2.0, 0.0])
@virtual.clocked
async def test_a_rate_is_kept_after_a_pause(pause: float) -> None:
    times: list[float] = []

    async def behave(message: Message) -> None:
        times.append(virtual.now())
        await asyncio.sleep(0.2)
        if len(times) in (30, 31):
            raise TargetError("slow down", status=429, retry_after=pause)

    async with history(150) as h:
        report = await h.replay(Recorder(behave), concurrency=32, rate=20).run()
    assert report.handled == 150
    gaps = [later - sooner for sooner, later in itertools.pairwise(times)]
    assert min(gaps) >= 0.05 - 1e-6


@virtual.clocked
async def test_a_retry_after_of_nothing_again_and_again_has_the_job_wait_longer_each_time() -> None:
    times: list[float] = []
    until = virtual.now() + 60

    async def behave(message: Message) -> None:
        times.append(virtual.now())
        if virtual.now() < until:
            raise TargetError("slow down", status=429, retry_after=0)

    async with history(30) as h:
        report = await h.replay(Recorder(behave), concurrency=1).run()
    assert (report.handled, report.failed) == (30, 0)
    assert 60 <= report.duration < 66
    assert len(times) < 60
