"""Targets: functions, receivers, targets of one's own, and inboxes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from basiq_async import ConfigurationError, Message, ReplayError
from basiq_async._work.keys import inbox_key
from basiq_async._work.once import Unit
from basiq_async.receiver import Deferred, Delivery, MemoryInbox, WebhookReceiver
from basiq_async.receiver.protocol import Claim, ClaimStatus
from basiq_async.replay import Record, Replay
from tests.support import virtual
from tests.support.deliveries import SECRET
from tests.support.histories import (
    Receiving,
    Recorder,
    Table,
    history,
    listed,
    quarantine_of,
)

# --- a target of one's own ---


async def test_a_flush_that_fails_ends_the_job_with_nothing_recorded() -> None:
    async def flush() -> None:
        raise OSError("the volume is gone")

    target = Table()
    target.flush = flush  # type: ignore[method-assign]
    async with history(50) as h:
        with pytest.raises(ReplayError, match="could not be recorded: OSError: the volume is gone"):
            await h.replay(target).run()
    assert target.rows == []


async def test_what_a_target_took_is_recorded_though_its_flush_is_cancelled_with_all_else() -> None:
    flushing, target = asyncio.Event(), Table()
    whole = target.flush

    async def flush() -> None:
        if not flushing.is_set():
            flushing.set()
            await asyncio.Event().wait()
        await whole()

    target.flush = flush  # type: ignore[method-assign]
    async with history(20) as h:
        replay = h.replay(target)
        run = asyncio.create_task(replay.run())
        await flushing.wait()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()  # as the end of asyncio.run does
        with pytest.raises(asyncio.CancelledError):
            await run
        kept = list(target.rows)
        assert kept, "each message that was handled is recorded"
        report = await replay.run()
        assert (len(kept) + report.handled, report.finished) == (20, True)


@pytest.mark.parametrize("kind", [Table, Recorder])
async def test_what_a_target_has_no_use_for_is_skipped_for_its_reason(kind: Callable[[], Any]) -> None:
    target: Any = kind()

    async def deliver(message: Message) -> str | None:
        return "odd" if message.id in ("a", "b") else None

    target.deliver = deliver
    options = {"inbox": None} if kind is Table else {}
    async with listed([{"id": "a"}, {"id": "b"}, {"id": "c"}], target, **options) as replay:
        report = await replay.run()
        assert (report.handled, report.skipped, report.read, report.finished) == (1, {"odd": 2}, 3, True)


@pytest.mark.documented_world("without times a list is read to its end", "attempts")
async def test_a_table_of_ones_own_is_the_record() -> None:
    table = Table()
    assert isinstance(table, Record)
    async with history(300, page_size=40) as h:
        replay = h.replay(table)
        running = asyncio.create_task(replay.run())
        while not table.buffer:
            await asyncio.sleep(0)
        replay.stop()
        first = await running
        assert 0 < first.handled < 300
        del table.rows[::7]  # what it lost comes again
        assert (await h.replay(table).run()).finished
        assert sorted(table.rows) == sorted(await h.ids())
        asked = len(h.fake.requests)
        assert (await h.replay(table).run()).handled == 0
        assert len(h.fake.requests) - asked <= 3


async def test_a_table_is_asked_to_write_at_each_4096_messages_and_at_the_end() -> None:
    table, sizes = Table(), list[int]()
    whole = table.flush

    async def flush() -> None:
        sizes.append(len(table.buffer))
        await whole()

    table.flush = flush  # type: ignore[method-assign]
    async with history(9_000) as h:
        await h.replay(table).run()
    assert sizes == [4_096, 4_096, 808]


# --- a receiver ---


async def test_a_receiver_handles_what_it_missed_with_its_own_handlers_and_inbox() -> None:
    service = Receiving(MemoryInbox(), "user.*")
    receiver, got = service.receiver, service.got
    async with history(300) as h:
        messages = await h.messages()
        of_users = [each for each in messages if (each.event_type_id or "").startswith("user.")]
        live = of_users[:5]
        for each in live:
            await receiver.dispatch(Delivery.from_message(each))
        replay = h.replay(receiver)
        report = await replay.run()
        assert report.handled == len(of_users) - 5
        assert report.skipped == {"handled-before": 5, "no-handler": 300 - len(of_users)}
        assert sorted(each.id for each in got) == sorted(each.id for each in of_users)
        assert got[-1].event_id == next(each.event_id for each in messages if each.id == got[-1].id)

        again = await h.replay(receiver).run()
        assert (again.handled, again.finished) == (0, True)


@virtual.clocked
async def test_a_handler_of_a_receiver_that_fails_has_its_message_quarantined_with_its_error() -> None:
    # A time limit that ran out is tried again, after pauses that grow.
    receiver = WebhookReceiver(SECRET, handler_timeout=0.02)

    @receiver.on("user.created")
    async def created(delivery: Delivery) -> None:
        raise LookupError("no such user")

    @receiver.on("user.updated")
    async def updated(delivery: Delivery) -> None:
        await asyncio.sleep(60)

    items = [
        {"id": f"m{i}", "payload": {"eventTypeId": t, "eventId": f"e{i}"}}
        for i, t in enumerate(["user.created", "user.updated"])
    ]
    async with listed(items, receiver, inbox=receiver.inbox) as replay:
        assert (await replay.run()).failed == 2
        errors = {name: entry.error for name, entry in (await quarantine_of(replay)).items()}
    assert errors["m0"] == "LookupError: no such user"
    assert errors["m1"].startswith("TimeoutError")


async def test_what_a_receiver_puts_into_its_quarantine_is_there_once() -> None:
    service = Receiving(quarantine_after=1)
    service.refused = {"m0"}
    async with listed([{"id": "m0"}], service.receiver, inbox=service.receiver.inbox) as replay:
        report = await replay.run()
        assert (report.failed, report.skipped) == (0, {"quarantined": 1})
        (entry,) = (await quarantine_of(replay)).values()
        assert (entry.delivery_id, entry.acknowledged) == ("m0", False)


@pytest.mark.parametrize("kind", ["receiver", "function"])
@virtual.clocked
async def test_what_another_worker_never_finishes_is_asked_again_at_the_end_and_is_no_failure(kind: str) -> None:
    class Partly(MemoryInbox):
        """An inbox where somebody else holds one event, for ever."""

        asked = 0

        async def claim(
            self, key: str, token: str, *, lease: float, quarantined: bool = False, transaction: bool = False
        ) -> Claim:
            if "e3" not in key:
                return await super().claim(key, token, lease=lease, quarantined=quarantined, transaction=transaction)
            self.asked += 1
            return Claim(ClaimStatus.BUSY, 5)

    inbox = Partly()
    target = Receiving(inbox).receiver if kind == "receiver" else Recorder()
    items = [{"id": f"m{i}", "payload": {"eventTypeId": "user.created", "eventId": f"e{i}"}} for i in range(9)]
    async with listed(items, target, inbox=inbox) as replay:
        report = await replay.run()
        assert (report.handled, report.failed, report.skipped, report.finished) == (8, 0, {"busy": 1}, False)
        assert inbox.asked > 10
        assert 300 < report.duration < 600
        assert await quarantine_of(replay) == {}


@virtual.clocked
async def test_claims_of_a_killed_run_are_free_after_its_lease_and_stall_no_other() -> None:
    inbox = MemoryInbox(clock=virtual.clock)
    async with history(40) as h:
        messages = await h.messages()
        await h.hold(inbox, messages[10:18], lease=30)
        times: dict[str, float] = {}
        began = virtual.now()

        async def handle(message: Message) -> None:
            times[message.id] = virtual.now() - began

        report = await h.replay(handle, inbox=inbox, concurrency=4).run()
        assert (report.handled, report.failed, report.finished) == (40, 0, True)
        held = {each.id for each in messages[10:18]}
        assert max(time for name, time in times.items() if name not in held) < 1, "the others do not wait"
        assert all(29 < times[name] < 40 for name in held)


@virtual.clocked
async def test_a_stop_while_others_hold_messages_is_not_finished() -> None:
    inbox = MemoryInbox(clock=virtual.clock)
    async with history(4) as h:
        await h.hold(inbox, await h.messages(), lease=3_600)
        replay = h.replay(Recorder(), inbox=inbox, concurrency=1)
        asyncio.get_running_loop().call_later(5, replay.stop)
        report = await replay.run()
        assert (report.handled, report.finished) == (0, False)
        assert report.duration < 400


async def test_a_receiver_that_is_closed_ends_the_job() -> None:
    receiver = Receiving(inbox := MemoryInbox()).receiver
    await receiver.aclose()
    async with history(50) as h:
        replay = h.replay(receiver)
        with pytest.raises(ReplayError, match="the receiver is closed"):
            await replay.run()
        assert (len(inbox), await quarantine_of(replay)) == (0, {})


async def test_a_receiver_with_a_memory_inbox_is_refused_unless_that_is_passed() -> None:
    async with history(1) as h:
        for receiver in (Receiving().receiver, Receiving(MemoryInbox()).receiver):
            with pytest.raises(ConfigurationError, match=r"MemoryInbox does not know.*or pass inbox=receiver.inbox"):
                Replay(h.client, h.webhook_id, receiver)
            assert (await Replay(h.client, h.webhook_id, receiver, inbox=receiver.inbox).run()).handled == 1


# --- a function with an inbox ---


@virtual.clocked
async def test_a_run_that_was_frozen_passes_what_it_had_under_way_and_nothing_else_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Unit, "_begin_renewal", lambda *_: None)  # a process that stands still renews nothing
    inbox, frozen = MemoryInbox(clock=virtual.clock), asyncio.Event()
    async with history(40) as h:
        ids = await h.ids()

        async def freeze(message: Message) -> None:
            if len(target.ids) >= 10 and not frozen.is_set():
                await frozen.wait()

        target, second = Recorder(freeze), Recorder()
        running = asyncio.create_task(h.replay(target, inbox=inbox, concurrency=4).run())
        while target.at_once < 4 or len(target.ids) < 10:
            await asyncio.sleep(0.01)
        assert (await h.replay(second, inbox=inbox).run()).finished
        assert len(second.ids) == 40 - len(target.ids)
        handled = list(target.ids)
        frozen.set()
        assert (await running).finished
        repeated = set(target.ids) & set(second.ids)
        assert set(target.ids) | set(second.ids) == set(ids)
        assert set(target.ids) == {*handled, *repeated}
        assert len(repeated) <= 4


async def test_two_runs_share_the_work() -> None:
    async with history(300, page_size=50) as h:
        inbox, first, second = MemoryInbox(), Recorder(), Recorder()
        reports = await asyncio.gather(
            *(h.replay(target, inbox=inbox, concurrency=4).run() for target in (first, second))
        )
        assert all(report.finished for report in reports)
        assert sorted(first.ids + second.ids) == sorted(await h.ids())


@virtual.clocked
async def test_a_run_keeps_a_bounded_number_of_messages_that_others_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("basiq_async.replay._engine._MOST_BUSY", 50)
    async with history(400, page_size=20) as h:
        inbox, target = MemoryInbox(clock=virtual.clock), Recorder()
        await h.hold(inbox, await h.messages(), lease=100)
        h.fake.reset_log()
        running = asyncio.create_task(h.replay(target, inbox=inbox).run())
        await asyncio.sleep(60)
        assert len(h.fake.requests) < 8, "it read on"
        assert (await running).finished
        assert len(target.ids) == 400


@virtual.clocked
async def test_a_stop_while_what_others_held_is_tried_again_leaves_the_rest() -> None:
    async def behave(message: Message) -> None:
        if message in held:
            replay.stop()

    async with history(10) as h:
        inbox, target = MemoryInbox(clock=virtual.clock), Recorder(behave)
        replay = h.replay(target, inbox=inbox, concurrency=1)
        await h.hold(inbox, held := (await h.messages())[:5], lease=100)
        running = asyncio.create_task(replay.run())
        await asyncio.sleep(5)
        for each in held:
            await inbox.release(inbox_key(each.event_id, each.id), f"another/{each.id}")
        report = await running
        assert (report.handled, report.skipped, report.finished) == (6, {"busy": 4}, False)
        assert (await h.replay(target, inbox=inbox).run()).finished
        assert sorted(target.ids) == sorted(await h.ids())


@virtual.clocked
async def test_a_deferred_handler_has_its_own_time_in_a_job() -> None:
    inbox = MemoryInbox(clock=virtual.clock)
    receiver = WebhookReceiver(SECRET, inbox=inbox, deferred=Deferred(timeout=1_000))

    @receiver.on("*", deferred=True)
    async def slowly(delivery: Delivery) -> None:
        await asyncio.sleep(900)

    async with history(2) as h:
        report = await h.replay(receiver).run()
    assert (report.handled, report.failed, report.finished) == (2, 0, True)
