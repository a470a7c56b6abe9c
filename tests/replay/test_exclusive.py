"""The claim of an exclusive run: one run at a time, also if one is frozen, killed, or ends in the midst of it."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from basiq_async import InboxError, JobInUseError, Message, ReplayError
from basiq_async.receiver import MemoryInbox
from basiq_async.receiver.protocol import Claim, ClaimStatus
from basiq_async.replay import Replay
from basiq_async.replay._run_claim import (  # private: a clock of the test, and the name of a dead holder
    LEASE,
    RunClaim,
    _process,
)
from tests.support import virtual
from tests.support.histories import Away, Collecting, Recorder, Watching, history


@pytest.fixture(autouse=True)
def virtual_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("basiq_async.replay._run_claim._clock", virtual.now)


@virtual.clocked
async def test_a_second_exclusive_run_is_refused_and_named_the_holder() -> None:
    inbox, release = MemoryInbox(clock=virtual.clock), asyncio.Event()
    async with history(5) as h:
        first = Recorder(lambda _: release.wait())
        running = asyncio.create_task(h.replay(first, inbox=inbox, exclusive=True).run())
        while first.at_once < 5:
            await asyncio.sleep(0.01)
        await asyncio.sleep(10 * LEASE)  # it is renewed
        second = Recorder()
        with pytest.raises(JobInUseError, match=rf"another run of this job is alive \(process {os.getpid()} on"):
            await h.replay(second, inbox=inbox, exclusive=True).run()
        with pytest.raises(JobInUseError):
            await h.replay(second, inbox=inbox, exclusive=True).retry_quarantined()
        assert second.ids == []
        release.set()
        assert (await running).handled == 5
        assert (await h.replay(second, inbox=inbox, exclusive=True).run()).finished, "its end gives the job free"


@virtual.clocked
async def test_a_frozen_run_delivers_and_records_nothing_after_another_took_over() -> None:
    inbox, frozen = Watching(), asyncio.Event()
    inbox._lease_clock = virtual.now
    async with history(40) as h:
        ids = await h.ids()

        async def freeze(message: Message) -> None:
            if len(target.ids) == 10:
                await asyncio.sleep(0)
                await frozen.wait()

        target = Recorder(freeze)
        replay = h.replay(target, inbox=inbox, exclusive=True, concurrency=1)
        running = asyncio.create_task(replay.run())
        while len(target.ids) < 10:
            await asyncio.sleep(0.01)
        # The whole process stands still: it renews nothing.
        (renewing,) = (task for task in asyncio.all_tasks() if "_renew" in repr(task))
        renewing.cancel()
        await asyncio.sleep(LEASE + 1)
        second = Recorder()
        assert (await h.replay(second, inbox=inbox, exclusive=True).run()).finished
        assert len(second.ids) == 30
        frozen.set()  # the other run has ended, and the job is free
        with pytest.raises(ReplayError, match="another run has taken the job over"):
            await running
        assert len(target.ids) == 11, "only what was under way"
        assert set(target.ids[:10]) | set(second.ids) == set(ids)
        assert sum(map(len, inbox.completed)) == 40


@virtual.clocked
async def test_a_run_that_was_frozen_while_nobody_took_over_goes_on() -> None:
    inbox, thawed = MemoryInbox(clock=virtual.clock), asyncio.Event()
    async with history(20) as h:

        async def freeze(message: Message) -> None:
            if len(target.ids) == 10 and not thawed.is_set():
                (renewing,) = (task for task in asyncio.all_tasks() if "_renew" in repr(task))
                renewing.cancel()
                await asyncio.sleep(3 * LEASE)
                thawed.set()

        target = Recorder(freeze)
        assert (await h.replay(target, inbox=inbox, exclusive=True, concurrency=1).run()).finished
        assert target.ids == await h.ids()


@virtual.clocked
async def test_a_dead_holder_on_this_machine_is_taken_over_at_once() -> None:
    inbox = MemoryInbox(clock=virtual.clock)
    async with history(5) as h:
        claim = RunClaim(inbox, h.webhook_id)
        claim.token = f"{_process().rpartition('/')[0]}/{dead_process()}/abcd"
        await inbox.claim(claim._key, claim.token, lease=LEASE)
        began = virtual.now()
        assert (await h.replay(Recorder(), inbox=inbox, exclusive=True).run()).handled == 5
        assert virtual.now() - began < 1


@pytest.mark.parametrize("holder", ["elsewhere/1f.2/1/abc", "no place", "", None])
@virtual.clocked
async def test_a_holder_that_may_be_alive_is_waited_for(holder: str | None) -> None:
    class Held(MemoryInbox):
        async def claim(self, key: str, token: str, *, lease: float) -> Claim:
            return Claim(ClaimStatus.BUSY, 12.0, holder)

    async with history(5) as h:
        target = Recorder()
        with pytest.raises(JobInUseError, match="its claim ends within 12 s"):
            await h.replay(target, inbox=Held(), exclusive=True).run()
        assert target.ids == []


@virtual.clocked
async def test_a_killed_run_on_another_machine_keeps_the_next_one_out_for_its_lease() -> None:
    inbox = MemoryInbox(clock=virtual.clock)
    async with history(5) as h:
        await inbox.claim(RunClaim(inbox, h.webhook_id)._key, "elsewhere/1f.2/77/abc", lease=LEASE)
        replay = h.replay(Recorder(), inbox=inbox, exclusive=True)
        with pytest.raises(JobInUseError, match=r"process 77 on elsewhere.* within 30 s"):
            await replay.run()
        await asyncio.sleep(LEASE)
        assert (await replay.run()).handled == 5


@virtual.clocked
async def test_an_inbox_that_is_away_for_less_than_the_lease_costs_a_run_nothing() -> None:
    inbox = Away("claim", InboxError("away"), 0)
    async with history(5) as h:

        async def behave(message: Message) -> None:
            inbox.until = virtual.now() + LEASE * 0.9
            await asyncio.sleep(LEASE * 0.9)

        assert (await h.replay(Recorder(behave), inbox=inbox, exclusive=True, concurrency=1).run()).finished


async def test_what_is_exclusive_by_default() -> None:
    async def function(message: Message) -> None: ...

    async with history(1) as h:
        inbox = MemoryInbox()

        def kind(replay: Replay) -> str:
            return replay._handling.kind

        assert kind(h.replay(function, inbox=inbox)) == "shared"
        assert kind(h.replay(function, inbox=inbox, exclusive=True)) == "exclusive"
        assert kind(h.replay(Collecting(), inbox=inbox)) == "exclusive"
        assert kind(h.replay(Collecting(), inbox=inbox, exclusive=False)) == "shared"


def dead_process() -> int:
    """Return the id of a process that has ended."""
    child = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(child, 0)
    return child


async def test_a_run_whose_claim_was_cancelled_keeps_no_other_out() -> None:
    class Slow(MemoryInbox):
        async def claim(self, key: str, token: str, *, lease: float) -> Claim:
            claim = await super().claim(key, token, lease=lease)
            claimed.set()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            return claim

    claimed, inbox = asyncio.Event(), Slow()
    async with history(5) as h:
        replay = h.replay(Recorder(), inbox=inbox, exclusive=True)
        running = asyncio.create_task(replay.run())
        await claimed.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert (await replay.run()).handled == 5


@virtual.clocked
async def test_what_is_finished_while_the_place_is_noted_is_recorded_and_the_run_goes_on() -> None:
    class Noting(MemoryInbox):
        async def set_note(self, name: str, text: str, **more: Any) -> bool:
            await asyncio.sleep(4)
            return await super().set_note(name, text, **more)

    async with history(60, page_size=10) as h:
        target = Recorder(lambda message: asyncio.sleep(1))
        async with asyncio.timeout(600):
            report = await h.replay(target, inbox=Noting(), exclusive=True, concurrency=4).run()
    assert (report.handled, report.finished) == (60, True)
