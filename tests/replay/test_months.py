"""Months of a service: what its history can show again is not handled again, and what is old is forgotten."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from basiq_async.receiver import Inbox, MemoryInbox, SQLiteInbox, WebhookReceiver
from basiq_async.replay import Replay, event_types, recover, share
from basiq_async.testing import Quirks
from tests.support.worlds import URL, World, a_world

DAY = timedelta(days=1)
REMEMBER = 4 * DAY


class Months:
    """A service that is away for a third of its events until Basiq gives up, and recovers or replays its history."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.chance = random.Random(7)
        self.missed = set[str]()
        self.is_away = False
        self.made: list[str] = []

    def receiver(self, inbox: Inbox) -> WebhookReceiver:
        return self.world.receiver(inbox=inbox, clock=self.world.fake.clock)

    async def live(self, inbox: Inbox, time: timedelta) -> None:
        """Let two events happen, and time pass."""
        world = self.world
        async with self.receiver(inbox) as receiver:

            async def receive(headers: Any, body: bytes) -> int:
                event_id = json.loads(body)["eventId"]
                if self.is_away:
                    self.missed.add(event_id)
                if event_id in self.missed:
                    return 503
                return (await receiver.handle(headers, body)).status

            world.fake.route(URL, receive, by_clock=True)
            for _ in range(2):
                self.is_away = self.chance.random() < 0.3
                self.made.append((await world.fake.emit("user.created")).event_id)
            self.is_away = False
            await world.fake.advance(time)
            if (await world.basiq.webhooks.get(world.webhook_id)).status != "active":
                await world.basiq.webhooks.reactivate(world.webhook_id)

    async def run(self, job: str, inbox: Inbox) -> bool:
        receiver = self.receiver(inbox)
        finished = True
        if job in ("recover", "both"):
            finished = (await recover(self.world.basiq, self.world.webhook_id, receiver, inbox=inbox)).finished
        make = partial(Replay, self.world.basiq, self.world.webhook_id, receiver, inbox=inbox)
        if job in ("replay", "both"):
            finished &= (await make().run()).finished
        if job == "events":
            finished &= (await make(source="events").run()).finished
        if job == "share":
            replay = make()
            finished &= (await share(replay, replay.work)).finished
        return finished


@pytest.mark.parametrize("every", [DAY / 4, DAY, 7 * DAY], ids=["often", "daily", "weekly"])
@pytest.mark.parametrize(
    ("kind", "job"),
    [*itertools.product(["memory", "file"], ["recover", "replay", "both", "events"]), ("file", "share")],
)
async def test_in_three_times_its_memory_nothing_is_handled_twice_and_nothing_is_kept_for_ever(
    kind: str, every: timedelta, job: str, tmp_path: Path
) -> None:
    async with a_world() as world:
        months, clock = Months(world), world.fake.clock
        memory = MemoryInbox(clock=clock, remember=REMEMBER)
        open_file = partial(SQLiteInbox, tmp_path / "inbox.db", clock=clock, remember=REMEMBER)

        @asynccontextmanager
        async def in_memory() -> AsyncGenerator[Inbox]:
            yield memory

        opened: AbstractAsyncContextManager[Inbox]
        for _ in range(max(12, round(4 * REMEMBER / every))):
            opened = in_memory() if kind == "memory" else open_file()  # a process each
            async with opened as inbox:
                await months.live(inbox, every)
                await months.run(job, inbox)
        twice = {each: count for each, count in Counter(world.got).items() if count > 1}
        assert twice == {}
        if job in ("recover", "both"):
            assert set(months.made[:-20]) - set(world.got) == set(), "all that Basiq still shows is handled"
        if kind == "memory":
            kept = len(memory)
        else:
            async with open_file() as inbox:
                rows = await inbox._store.run(
                    lambda connection: connection.execute("SELECT count(*) FROM inbox WHERE handled").fetchone()
                )
                kept = rows[0]
        assert kept <= 2 * ((REMEMBER + 5 * DAY + every) / every + 1), "and nothing older is kept"


@pytest.mark.parametrize("kind", ["memory", "file"])
async def test_doctor_does_not_name_what_a_recovery_decided_and_the_inbox_forgot(kind: str, tmp_path: Path) -> None:
    async def unavailable(headers: Any, body: bytes) -> int:
        return 503

    async with a_world() as world:
        clock = world.fake.clock
        found: Inbox = MemoryInbox(clock=clock, remember=REMEMBER)
        if kind == "file":
            found = SQLiteInbox(tmp_path / "inbox.db", clock=clock, remember=REMEMBER)
        async with found as inbox, world.receiver(inbox=inbox, clock=clock) as receiver:
            world.fake.route(URL, unavailable)
            for _ in range(3):
                await world.fake.emit("user.created")
            await world.fake.advance(days=3)
            world.fake.route(URL, receiver)
            await world.reactivate()
            assert (await recover(world.basiq, world.webhook_id, receiver, inbox=inbox)).handled == 3
            for _ in range(12):  # a live delivery each day: the inbox forgets by what Basiq delivers
                await world.fake.emit("user.created")
                await world.fake.advance(days=1)
            assert not await inbox.known(world.got[:3])
            assert (await recover(world.basiq, world.webhook_id, receiver, inbox=inbox)).finished
            diagnosis = await world.basiq.webhooks.diagnose(world.webhook_id, receiver=receiver)
            assert (diagnosis.undelivered, [each.code for each in diagnosis.problems]) == (0, [])
            world.fake.route(URL, unavailable)  # what no recovery has read is named
            await world.fake.emit("user.created")
            await world.fake.advance(days=3)
            diagnosis = await world.basiq.webhooks.diagnose(world.webhook_id, receiver=receiver)
            assert diagnosis.undelivered == 1


@pytest.mark.parametrize("where", [None, event_types("user.created")], ids=["all", "selected"])
@pytest.mark.parametrize("attempts", ["objects", "absent"])
async def test_a_replay_leaves_alone_what_was_handled_live_and_the_inbox_forgot(attempts: Any, where: Any) -> None:
    async with a_world(quirks=Quirks(attempts=attempts)) as world:
        clock = world.fake.clock
        inbox = MemoryInbox(clock=clock, remember=REMEMBER)
        async with world.receiver(inbox=inbox, clock=clock) as receiver:
            world.fake.route(URL, receiver)
            await world.fake.advance(hours=1)
            for _ in range(12):
                await world.fake.emit("user.created")
                await world.fake.advance(days=1)
            assert not await inbox.known(world.got[:3])
            report = await Replay(world.basiq, world.webhook_id, receiver, inbox=inbox, where=where).run()
        assert (report.finished, report.handled) == (True, 0)
        assert sum(report.skipped.values()) == 12
