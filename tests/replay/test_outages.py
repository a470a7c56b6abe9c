"""A target that is down: the job waits, and no message is quarantined for it."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from basiq_async import (
    ConnectionFailedError,
    InboxError,
    Message,
    ReplayError,
    RequestTimeoutError,
    TargetError,
)
from basiq_async.receiver import MemoryInbox
from basiq_async.replay import JSONLinesTarget, Progress, Replay, recover
from tests.support import virtual
from tests.support.cancelling import Inline
from tests.support.histories import Away, Receiving, Recorder, Refusing, Table, history, quarantine_of


def timed(replay: Replay, **seconds: float) -> Replay:
    """Return the replay with other time limits than those of every job."""
    replay._job.settings = attrs.evolve(replay._job.settings, **seconds)
    return replay


OUTAGES: list[Callable[[], Exception]] = [
    lambda: ConnectionFailedError("no connection to a:1: refused", sent=False),
    lambda: ConnectionFailedError("the connection broke"),
    lambda: RequestTimeoutError("no whole response"),
    lambda: ConnectionRefusedError("refused"),
    lambda: TimeoutError(),
    *(lambda status=status: TargetError("the gateway's target is down", status=status) for status in (502, 503, 504)),
]


@pytest.mark.parametrize("error", OUTAGES)
@pytest.mark.parametrize("concurrency", [1, 8])
def test_an_outage_has_the_job_wait_and_quarantines_nothing(
    error: Callable[[], Exception], concurrency: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        began = virtual.now()
        tries: Counter[str] = Counter()
        seen: list[Progress] = []

        async def behave(message: Message) -> None:
            tries[message.id] += 1
            await asyncio.sleep(0.01)
            # For the first 3 seconds all is well.
            if 3 < virtual.now() - began < 300 and len(target.ids) >= 40:
                raise error()

        target = Recorder(behave)
        async with history(100) as h:
            replay = h.replay(target, concurrency=concurrency, rate=15)
            report = await replay.run(seen.append)
            assert await quarantine_of(replay) == {} or concurrency == 1
        if concurrency > 1 or "refused" in str(error()):
            assert (report.handled, report.failed) == (100, 0)
        else:
            # With no other message to tell by, one may be given up.
            assert report.failed <= 1
        assert report.handled + report.failed == 100
        assert 300 < report.duration < 400
        assert max(progress.down for progress in seen) > 200
        assert max(progress.paused for progress in seen) > 20
        # The pauses grow: the target is not asked again and again.
        assert sum(tries.values()) < 200

    with caplog.at_level(logging.INFO, "basiq_async.replay"):
        virtual.run(main())
    assert sum("seems to be down" in each.message for each in caplog.records) == 1
    assert sum("the replay continues" in each.message for each in caplog.records) == 1


@virtual.clocked
async def test_an_outage_that_lasts_ends_the_job_in_front_of_the_message() -> None:
    async with history(20) as h:
        ids = await h.ids()
        target = Refusing(*ids[10:], error=lambda: ConnectionFailedError("refused", sent=False))
        replay = h.replay(target, concurrency=4, max_pause=600)
        with pytest.raises(ReplayError, match=r"down for 6\d\d s.* before message .*: run the same again"):
            await replay.run()
        assert await quarantine_of(replay) == {}
        target.refused = set()
        report = await replay.run()
        assert (report.handled, report.finished) == (10, True)
        assert target.taken == ids


@virtual.clocked
async def test_the_pauses_of_an_outage_double_from_half_a_second_to_a_minute() -> None:
    times: list[float] = []

    async def behave(message: Message) -> None:
        times.append(virtual.now())
        if len(times) <= 10 or len(times) == 12:  # the first message is accepted in between
            raise ConnectionRefusedError("refused")

    async with history(2) as h:
        assert (await h.replay(Recorder(behave), concurrency=1).run()).handled == 2
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert waits == pytest.approx([0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60, 0, 0.5])


@pytest.mark.parametrize(
    "error", [ConnectionFailedError("refused", sent=False), TargetError("no", retry_after=600)], ids=["down", "asks"]
)
@virtual.clocked
async def test_stop_does_not_wait_for_a_target_that_is_down_or_asks_for_a_pause(error: Exception) -> None:
    async with history(20) as h:
        target = Refusing(*await h.ids(), error=lambda: error)
        replay = h.replay(target, concurrency=4)
        asyncio.get_running_loop().call_later(100, replay.stop)
        report = await replay.run()
        assert (report.handled, report.failed, report.finished) == (0, 0, False)
        assert report.duration == pytest.approx(100)


@pytest.mark.parametrize(("concurrency", "place"), [(1, 7), (8, 7), (8, 199)])
@virtual.clocked
async def test_one_message_that_times_out_is_quarantined_and_no_outage(concurrency: int, place: int) -> None:
    async with history(200) as h:
        ids = await h.ids()
        tries, updates = 0, list[Progress]()

        async def behave(message: Message) -> None:
            nonlocal tries
            await asyncio.sleep(0.1)
            if message.id == ids[place]:
                tries += 1
                raise TimeoutError

        replay = h.replay(Recorder(behave), concurrency=concurrency)
        report = await replay.run(updates.append)
        assert (report.handled, report.failed, report.finished) == (199, 1, True)
        assert set(await quarantine_of(replay)) == {ids[place]}
        alone = concurrency == 1 or place == 199
        assert tries == (5 if alone else 3)
        assert (max(each.down for each in updates) > 0) == alone, "while others are accepted, only this one waits"
        assert report.duration < 50


@pytest.mark.parametrize("limit", [10, None])
@virtual.clocked
async def test_a_target_that_hangs_with_a_message_is_cancelled_after_its_time(limit: int | None) -> None:
    async with history(30) as h:
        ids = await h.ids()

        async def behave(message: Message) -> None:
            if message.id == ids[3]:
                await asyncio.Event().wait()

        target = Recorder(behave)
        replay = timed(h.replay(target, concurrency=2), **({} if limit is None else {"target_timeout": limit}))
        report = await replay.run()
        assert (report.handled, report.failed, report.finished) == (29, 1, True)
        assert report.rate == pytest.approx(30 / report.duration), "a failed message counts for the rate"
        (entry,) = (await quarantine_of(replay)).values()
        assert f"no result within {limit or 300} s" in entry.error
        assert target.at_once == 0


@virtual.clocked
async def test_a_handler_that_outlasts_its_cancellation_and_succeeds_is_not_called_again() -> None:
    async def behave(message: Message) -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            await asyncio.sleep(1)

    async with history(3) as h:
        target = Recorder(behave)
        replay = timed(h.replay(target), target_timeout=10)
        report = await replay.run()
        assert (report.failed, report.finished) == (0, True)
        assert sorted(target.ids) == sorted(await h.ids())


@virtual.clocked
async def test_a_flush_that_hangs_ends_the_job_with_what_to_do() -> None:
    target = Table()
    target.flush = hang  # type: ignore[method-assign]
    async with history(30) as h:
        with pytest.raises(ReplayError, match="could not be recorded within 60 s: fix the record, then run"):
            await h.replay(target).run()


async def hang(*_: object, **__: object) -> Any:
    await asyncio.Event().wait()


INBOX_CALLS: list[tuple[str, Callable[[Replay], Any]]] = [
    ("note", Replay.run),
    ("entries", Replay.retry_quarantined),
    ("known", Replay.plan),
    ("entries", Replay.plan),
    ("entries", Replay.quarantined),
    ("entries", lambda replay: replay.drop_quarantined(["m"])),
]


failures = pytest.mark.parametrize(
    "failure", [InboxError("away"), ConnectionError("away"), None], ids=["inbox", "socket", "hangs"]
)


@failures
@pytest.mark.parametrize("kind", ["receiver", "function"])
@virtual.clocked
async def test_a_run_waits_for_an_inbox_that_claims_nothing(kind: str, failure: Exception | None) -> None:
    inbox = Away("claim", failure, 120)
    target = Receiving(inbox, clock=virtual.clock).receiver if kind == "receiver" else Recorder()
    async with history(30) as h:
        report = await h.replay(target, inbox=inbox).run()
    assert (report.handled, report.failed) == (30, 0)
    assert 120 <= report.duration < 260


@failures
@pytest.mark.parametrize("lasts", [60, 100_000])
@virtual.clocked
async def test_a_run_waits_for_an_inbox_that_does_not_say_what_it_knows(
    failure: Exception | None, lasts: float
) -> None:
    inbox, began = Away("known", failure, lasts), virtual.now()
    async with history(30) as h:
        replay = h.replay(Recorder(), inbox=inbox, max_pause=300)
        if lasts > 300:
            with pytest.raises((InboxError, ConnectionError), match=r"away|did not respond"):
                await replay.run()
            assert 300 <= virtual.now() - began < 400
        else:
            report = await replay.run()
            assert (report.handled, report.finished) == (30, True)
            assert lasts <= report.duration < 150
        inbox.until = virtual.now() + lasts
        with pytest.raises((InboxError, ConnectionError)):
            await replay.plan()


@virtual.clocked
async def test_stop_does_not_wait_for_an_inbox_that_is_away() -> None:
    class AwayLater(MemoryInbox):
        is_away = False

        async def note(self, name: str) -> str | None:
            if self.is_away and name.startswith("reading"):
                raise InboxError("away")
            return await super().note(name)

    async with history(3) as h:
        replay = h.replay(Recorder(), inbox=(inbox := AwayLater()))
        await replay.run()
        inbox.is_away = True
        running = asyncio.create_task(replay.run())
        await asyncio.sleep(300)
        replay.stop()
        with pytest.raises(InboxError, match="away"):
            async with asyncio.timeout(1):
                await running


@pytest.mark.parametrize(("call", "work"), INBOX_CALLS)
@virtual.clocked
async def test_no_call_of_an_inbox_is_waited_for_without_end(call: str, work: Callable[[Replay], Any]) -> None:
    inbox = MemoryInbox()
    async with history(3) as h:
        replay = h.replay(Recorder(), inbox=inbox)
        await replay.run()
        await h.fake.emit("user.created")
        setattr(inbox, call, hang)
        with pytest.raises(InboxError, match="the inbox did not respond within 5 s"):
            async with asyncio.timeout(60):
                await work(replay)


@virtual.clocked
async def test_no_failure_is_quarantined_without_end() -> None:
    inbox = MemoryInbox()
    inbox.quarantine = hang
    async with history(3) as h:
        with pytest.raises(InboxError, match="the inbox did not respond within 5 s"):
            async with asyncio.timeout(10):
                await h.replay(Refusing(*await h.ids()), inbox=inbox).run()


@pytest.mark.parametrize("call", ["note", "set_note", "entries", "waiting"])
@virtual.clocked
async def test_no_call_of_an_inbox_has_a_recovery_wait_without_end(call: str) -> None:
    inbox = MemoryInbox()
    whole = getattr(inbox, call)

    async def hang_with_the_recoverys_own(*args: Any, **options: Any) -> Any:
        return await (whole if args and not args[0].startswith("recovery") else hang)(*args, **options)

    setattr(inbox, call, hang_with_the_recoverys_own if "note" in call else hang)
    async with history(3) as h:
        with pytest.raises(InboxError, match="the inbox did not respond within 5 s"):
            async with asyncio.timeout(10):
                await recover(h.client, h.webhook_id, Recorder(), inbox=inbox)


@pytest.mark.parametrize("call", ["claim", "complete"])
@virtual.clocked
async def test_a_run_waits_for_an_inbox_that_hangs_and_then_ends(call: str) -> None:
    inbox = MemoryInbox()
    setattr(inbox, call, hang)
    async with history(3) as h, asyncio.timeout(200):
        with pytest.raises((ReplayError, InboxError), match="the inbox did not respond within 5 s"):
            await h.replay(Recorder(), inbox=inbox, max_pause=60).run()


@virtual.clocked
async def test_what_was_handled_and_cannot_be_entered_in_the_inbox_is_not_handled_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    target = Recorder()
    async with history(5) as h:
        report = await h.replay(target, inbox=Away("complete", OSError("no space left"), 60)).run()
        assert (report.handled, report.failed) == (5, 0)
        assert sorted(target.ids) == sorted(await h.ids())
    assert caplog.text.count("could not be recorded in the inbox: OSError: no space left") == 5


@virtual.clocked
async def test_the_release_of_a_run_is_not_waited_for_without_end() -> None:
    inbox = MemoryInbox()
    inbox.release = hang
    async with history(3) as h, asyncio.timeout(60):
        assert (await h.replay(Recorder(), inbox=inbox).run()).finished  # it ends with its lease


@virtual.clocked
async def test_a_note_that_cannot_be_written_costs_requests_and_nothing_else() -> None:
    inbox = MemoryInbox()
    async with history(3) as h:
        replay = h.replay(Recorder(), inbox=inbox)
        assert (await replay.run()).finished
        await h.fake.emit("user.created")
        inbox.set_note = hang
        assert (await replay.run()).finished
        assert (await replay.run()).finished


@pytest.mark.parametrize("what", ["begin", "end"])
@virtual.clocked
async def test_a_file_that_does_not_open_or_close_is_an_error_in_time(what: str, tmp_path: Path) -> None:
    asyncio.get_running_loop().set_default_executor(Inline(1))
    target = JSONLinesTarget(tmp_path / "export.jsonl")
    aclose = target.aclose
    setattr(target, {"begin": "_begin_run", "end": "aclose"}[what], hang)
    async with history(3) as h:
        replay = timed(h.replay(target), record_timeout=5)
        with pytest.raises(ReplayError, match=f"the target did not {what} its run within 5 s"):
            async with asyncio.timeout(60):
                await replay.run()
    await aclose()


@virtual.clocked
async def test_a_message_that_times_out_after_an_outage_has_ended_is_quarantined_too() -> None:
    async with history(20) as h:
        ids = await h.ids()
        refused = 0

        async def behave(message: Message) -> None:
            nonlocal refused
            refused += 1
            if refused <= 3:
                raise ConnectionRefusedError("no listener is there")
            if message.id == ids[12]:
                raise TimeoutError

        replay = h.replay(Recorder(behave), concurrency=1)
        report = await replay.run()
        assert (report.handled, report.failed) == (19, 1), "the messages of an earlier outage count in a later one"
        assert set(await quarantine_of(replay)) == {ids[12]}


def together(*errors: Exception) -> ExceptionGroup[Exception]:
    return ExceptionGroup("unhandled errors in a TaskGroup", errors)


@pytest.mark.parametrize(
    ("error", "duration", "failed"),
    [
        (together(ConnectionRefusedError("refused"), TimeoutError()), 120, 0),
        (together(TargetError("no", status=502), together(ConnectionError("broken"))), 120, 0),
        (together(TargetError("slow down", retry_after=5), TargetError("no", retry_after=200)), 200, 0),
        (together(TargetError("slow down", retry_after=200), TimeoutError()), 200, 0),
        (together(ConnectionRefusedError("refused"), ValueError("no")), 0, 20),
        (together(TargetError("slow down", retry_after=200), ValueError("no")), 0, 20),
    ],
)
@virtual.clocked
async def test_failures_of_a_task_group_are_an_outage_if_all_of_them_are(
    error: Exception, duration: float, failed: int
) -> None:
    began = virtual.now()

    async def behave(message: Message) -> None:
        if virtual.now() - began < 120:
            raise error

    async with history(20) as h:
        report = await h.replay(Recorder(behave), concurrency=4).run()
    assert (report.handled, report.failed) == (20 - failed, failed)
    assert duration <= report.duration < duration + 60
