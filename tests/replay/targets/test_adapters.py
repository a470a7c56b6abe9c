"""Targets: functions, receivers, targets of one's own, and inboxes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from basiq_async.replay.protocol import Commit, ReplayJob

from basiq_async import BasiqClient, ConfigurationError, Message, ReplayError, TargetError
from basiq_async.receiver import Delivery, MemoryInbox, SQLiteInbox, WebhookReceiver
from basiq_async.receiver.protocol import Claim, ClaimStatus, inbox_key
from basiq_async.replay import MemoryCheckpoint, Replay, SQLiteCheckpoint, Target
from tests.support import virtual
from tests.support.histories import Recorder, Refusing, Watching, history
from tests.support.scripted import Scripted, page

SECRET = "whsec_c2VjcmV0LW9mLXRoZS10ZXN0cy1vZi1yZXBsYXk="


# --- a target of one's own ---


class Buffering:
    """Takes messages, and has them only after a flush."""

    def __init__(self) -> None:
        self.buffer: list[str] = []
        self.kept: set[str] = set()
        self.flushes = 0

    async def deliver(self, message: Message) -> str | None:
        self.buffer.append(message.id)
        return "odd" if message.id in ("a", "b") else None

    async def flush(self) -> None:
        self.flushes += 1
        await asyncio.sleep(0)
        self.kept.update(self.buffer)


async def test_a_target_is_flushed_before_what_it_took_is_recorded() -> None:
    target = Buffering()
    assert isinstance(target, Target)

    class Suspicious(Watching):
        async def save(self, commit: Commit) -> None:
            recorded = set(commit.done) | set(() if commit.advance is None else commit.advance.done)
            assert recorded <= target.kept
            await super().save(commit)

    async with history(500) as h:
        report = await h.replay(target, checkpoint=Suspicious()).run()
    assert report.handled == 500
    assert target.flushes < 200


async def test_a_flush_that_fails_ends_the_job_with_nothing_recorded() -> None:
    class Failing(Buffering):
        async def flush(self) -> None:
            raise OSError("the volume is gone")

    checkpoint = MemoryCheckpoint()
    async with history(50) as h:
        with pytest.raises(ReplayError, match="could not be recorded: OSError: the volume is gone"):
            await h.replay(Failing(), checkpoint=checkpoint).run()
        state = await checkpoint.peek(ReplayJob(h.webhook_id))
    assert state is not None
    assert (state.handled, state.position, state.done) == (0, 0, frozenset())


async def test_what_a_target_took_is_recorded_though_its_flush_is_cancelled_with_all_else() -> None:
    flushing = asyncio.Event()

    class Held(Buffering):
        async def flush(self) -> None:
            if not flushing.is_set():
                flushing.set()
                await asyncio.Event().wait()
            await super().flush()

    target, checkpoint = Held(), MemoryCheckpoint()
    async with history(20) as h:
        run = asyncio.create_task(h.replay(target, checkpoint=checkpoint).run())
        await flushing.wait()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()  # as the end of asyncio.run does
        with pytest.raises(asyncio.CancelledError):
            await run
        state = await checkpoint.peek(ReplayJob(h.webhook_id))
        assert state is not None
        assert state.handled == len(target.buffer) > 0, "each message that was handled is recorded"
        report = await h.replay(target, checkpoint=checkpoint).run()
        assert (state.handled + report.handled, report.finished) == (20, True)


async def test_after_a_save_that_is_cancelled_with_all_else_nothing_more_is_recorded() -> None:
    saving = asyncio.Event()

    class Slow(Watching):
        async def save(self, commit: Commit) -> None:
            await super().save(commit)
            if not saving.is_set():
                saving.set()
                await asyncio.Event().wait()

    target, checkpoint = Buffering(), Slow()
    async with history(20) as h:
        run = asyncio.create_task(h.replay(target, checkpoint=checkpoint).run())
        await saving.wait()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()  # as the end of asyncio.run does
        with pytest.raises(asyncio.CancelledError):
            await run
        assert len(checkpoint.commits) == 1, "nobody knows whether the save succeeded: the next run finds it out"
        await h.replay(target, checkpoint=checkpoint).run()
        state = await checkpoint.peek(ReplayJob(h.webhook_id))
        assert state is not None
        assert state.handled == 20, "no message is counted twice"


async def test_what_a_target_has_no_use_for_is_skipped_for_its_reason() -> None:
    async with BasiqClient("a2V5", transport=Scripted(page([{"id": "a"}, {"id": "b"}, {"id": "c"}]))) as client:
        report = await Replay(client, "w1", Buffering(), checkpoint=MemoryCheckpoint()).run()
    assert (report.handled, report.skipped, report.position) == (1, {"odd": 2}, 3)


# --- a receiver ---


async def test_a_receiver_handles_what_it_missed_with_its_own_handlers_and_inbox() -> None:
    inbox = MemoryInbox()
    receiver = WebhookReceiver(SECRET, inbox=inbox)
    got: list[Delivery] = []

    @receiver.on("user.*")
    async def handle(delivery: Delivery) -> None:
        got.append(delivery)

    async with history(300) as h:
        messages = [each async for each in h.client.messages.list(h.webhook_id)]
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

        # Even with a checkpoint that knows nothing, nothing is handled twice.
        again = await h.replay(receiver).run()
        assert (again.handled, again.skipped["handled-before"]) == (0, len(of_users))


@virtual.clocked
async def test_a_handler_of_a_receiver_that_fails_makes_a_dead_letter_with_its_error() -> None:
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
    async with BasiqClient("a2V5", transport=Scripted(page(items))) as client:
        replay = Replay(client, "w1", receiver, checkpoint=MemoryCheckpoint())
        assert (await replay.run()).failed == 2
        errors = {dead_letter.id: dead_letter.error for dead_letter in await replay.dead_letters()}
    assert errors["m0"] == "LookupError: no such user"
    assert errors["m1"].startswith("TimeoutError")


async def test_what_a_receiver_puts_into_its_quarantine_is_no_dead_letter() -> None:
    receiver = WebhookReceiver(SECRET, quarantine_after=1)

    @receiver.on("*")
    async def fail(delivery: Delivery) -> None:
        raise LookupError("no such user")

    items = [{"id": "m0", "payload": {"eventTypeId": "user.created", "eventId": "e0"}}]
    async with BasiqClient("a2V5", transport=Scripted(page(items))) as client:
        replay = Replay(client, "w1", receiver, checkpoint=MemoryCheckpoint())
        report = await replay.run()
        assert (report.failed, report.skipped) == (0, {"quarantined": 1})
        assert not await replay.dead_letters()
    assert [entry.delivery_id for entry in await receiver.quarantined()] == ["m0"]


@virtual.clocked
async def test_a_delivery_that_another_worker_holds_is_waited_for() -> None:
    inbox = MemoryInbox(clock=virtual.clock)
    receiver = WebhookReceiver(SECRET, inbox=inbox)
    got: list[str] = []

    @receiver.on("*")
    async def handle(delivery: Delivery) -> None:
        got.append(delivery.id)

    item = {"id": "m1", "payload": {"eventTypeId": "user.created", "eventId": "e1"}}
    await inbox.claim(inbox_key("user.created", "e1", "m1"), "a-killed-worker", lease=25)
    async with BasiqClient("a2V5", transport=Scripted(page([item]))) as client:
        report = await Replay(client, "w1", receiver, checkpoint=MemoryCheckpoint()).run()
    assert (report.handled, got) == (1, ["m1"])
    assert report.duration == pytest.approx(25, abs=1.5)


class Holding(MemoryInbox):
    """An inbox where somebody else holds everything, for ever."""

    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        return Claim(ClaimStatus.BUSY, 5)


@virtual.clocked
async def test_a_delivery_that_another_worker_never_finishes_is_a_failure() -> None:
    receiver = WebhookReceiver(SECRET, inbox=Holding())
    receiver.on("*")(_nothing)
    item = {"id": "m1", "payload": {"eventTypeId": "user.created", "eventId": "e1"}}
    async with BasiqClient("a2V5", transport=Scripted(page([item]))) as client:
        for target, inbox in ((receiver, None), (Recorder(), Holding())):
            report = await Replay(
                client,
                "w1",
                target,
                checkpoint=MemoryCheckpoint(),
                inbox=inbox,
            ).run()
            assert report.failed == 1


@virtual.clocked
async def test_an_inbox_that_does_not_answer_has_the_job_wait() -> None:
    class Down(MemoryInbox):
        until = virtual.now() + 60

        async def claim(self, key: str, token: str, *, lease: float) -> Claim:
            if virtual.now() < self.until:
                raise ConnectionError("the database restarts")
            return await super().claim(key, token, lease=lease)

    receiver = WebhookReceiver(SECRET, inbox=Down())
    receiver.on("*")(_nothing)
    async with history(50) as h:
        report = await h.replay(receiver).run()
    assert (report.handled, report.failed) == (50, 0)
    assert 60 <= report.duration < 75


async def test_a_receiver_that_is_closed_ends_the_job() -> None:
    receiver = WebhookReceiver(SECRET)
    receiver.on("*")(_nothing)
    await receiver.aclose()
    async with history(50) as h:
        with pytest.raises(ReplayError, match="the receiver is closed"):
            await h.replay(receiver).run()


async def test_a_receiver_takes_no_second_inbox() -> None:
    async with history(1) as h:
        with pytest.raises(ConfigurationError, match="has its own inbox"):
            h.replay(WebhookReceiver(SECRET), inbox=MemoryInbox())


async def _nothing(delivery: Delivery) -> None: ...


# --- a function with an inbox ---


async def test_what_the_inbox_knows_is_skipped_and_what_is_handled_is_entered() -> None:
    inbox = MemoryInbox()
    async with history(40) as h:
        ids = await h.ids()
        target = Refusing(ids[7])
        replay = h.replay(target, inbox=inbox)
        first = await replay.run()
        assert (first.handled, first.failed) == (39, 1)
        # The claim of the failed one was given back; a new checkpoint has it handled and nothing else.
        target.refused = set()
        again = await h.replay(target, inbox=inbox).run()
        assert (again.handled, again.skipped) == (1, {"handled-before": 39})
        assert sorted(target.taken) == sorted(ids)


async def test_claims_of_a_killed_run_are_taken_up_at_once_by_the_next(tmp_path: Path) -> None:
    checkpoint = SQLiteCheckpoint(tmp_path / "replay.db")
    async with history(20) as h, SQLiteInbox(tmp_path / "inbox.db") as inbox:
        state = await checkpoint.open(ReplayJob(h.webhook_id), concurrency=8)
        async for each in h.client.messages.list(h.webhook_id):
            key = inbox_key(each.event_type_id, each.event_id, each.id)
            await inbox.claim(key, f"{state.token}:{each.id}", lease=300)
        await checkpoint.aclose()
        report = await h.replay(Recorder(), checkpoint=checkpoint, inbox=inbox).run()
        assert report.handled == 20


async def test_with_an_inbox_a_target_is_flushed_before_a_message_counts_as_handled() -> None:
    target = Buffering()

    class Suspicious(MemoryInbox):
        async def complete(self, key: str, token: str) -> bool:
            assert token.partition(":")[2] in target.kept
            return await super().complete(key, token)

    async with history(30) as h:
        replay = h.replay(target, inbox=Suspicious())
        assert (await replay.run()).handled == 30


def test_a_target_error_knows_its_status_and_wait() -> None:
    error = TargetError("no", status=429, retry_after=3.0)
    assert (error.status, error.retry_after, error.report) == (429, 3.0, None)
