"""Thirty days of a service: whatever should have reached its handler does, or a person reads what did not.

The fake is served over HTTP and its clock is moved; the service is a process that is killed. ``BASIQ_STORY_EVENTS`` is
the number of events; 20000 is the whole size.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import create_async_engine

from basiq_async import BasiqClient
from basiq_async.receiver import SQLInbox, SQLiteInbox
from basiq_async.replay import HttpTarget, recover
from basiq_async.testing import FakeBasiq, ManualClock, serve
from tests.support.environment import ROOT, free_port, unmeasured
from tests.support.real_time import PATIENCE
from tests.support.story_service import EFFECTS, LEASE, POISON, database
from tests.support.warm import CLIENT

EVENTS = int(os.environ.get("BASIQ_STORY_EVENTS", "210"))
TYPES = ("consent.revoked", "account.updated", "transactions.updated")


class Service:
    """The service's process."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.webhook_id, self.secret = folder, free_port(), "", ""
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/basiq"

    async def start(self) -> None:
        command = [*CLIENT, "tests.support.story_service:main", str(self.port), self.webhook_id, self.secret]
        self._process = await asyncio.create_subprocess_exec(
            *command,
            str(self.folder),
            cwd=ROOT,
            env=unmeasured(),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            assert await self._process.stdout.readline() == b"ready\n"
            while not await self._listens():
                await asyncio.sleep(0.01)

    async def kill(self) -> None:
        if self._process is not None:
            if self._process.returncode is None:
                self._process.send_signal(signal.SIGKILL)
            await self._process.wait()
            while await self._listens():  # what it stands for ends a moment later
                await asyncio.sleep(0.01)

    async def _listens(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except ConnectionError:
            return False
        writer.close()
        return True


class Story:
    """What happens, and what of it must have been handled."""

    def __init__(self, fake: FakeBasiq) -> None:
        self.fake, self.random = fake, random.Random("a long story")
        self.events: set[str] = set()
        self.poison: set[str] = set()

    def emit(self, count: int, *, poison: int = 0) -> int:
        """Have events happen; return how many messages were made of them."""
        types: Sequence[str] = [self.random.choice(TYPES) for _ in range(count)]
        emitted = [(self.events, self.fake.emit(name, user_id="u-1")) for name in types]
        emitted += [(self.poison, self.fake.emit(POISON, user_id="u-1")) for _ in range(poison)]
        for found, emission in emitted:
            found.add(emission.event_id)
        return sum(len(emission.message_ids) for _, emission in emitted)


@pytest.mark.documented_world("its webhook is disabled after one message", "disables")
@pytest.mark.real_time("a lease after each kill")
@pytest.mark.usefixtures("warm_programs")
async def test_thirty_days_with_an_outage_end_with_each_event_handled_once_or_named(tmp_path: Path) -> None:
    fake = FakeBasiq(clock=ManualClock((datetime.now(UTC) - timedelta(days=30)).replace(microsecond=0)))
    story, service, stopped = Story(fake), Service(tmp_path), tmp_path / "stopped"
    each = EVENTS // 30
    async with serve(fake) as url, BasiqClient(fake.api_key, base_url=url) as basiq:
        try:
            webhook = await basiq.webhooks.ensure(url=service.url, subscribed_events=(*TYPES, POISON))
            assert webhook.secret is not None
            service.webhook_id, service.secret = webhook.id, webhook.secret.reveal()
            await service.start()
            await fake.advance(minutes=15)

            for day in range(25):
                # Not on a day of a kill: each attempt of it would end a lease of real time after the one before.
                story.emit(each, poison=day in (4, 12))
                if day % 8 == 3:  # killed while deliveries come in; they come again
                    begun, delivering = fake.now(), asyncio.ensure_future(fake.advance(seconds=1))
                    while not delivering.done() and not any(made.at >= begun for made in fake.deliveries[-each:]):
                        await asyncio.sleep(0)
                    await service.kill()
                    await delivering
                    await asyncio.sleep(LEASE)
                    await service.start()
                elif day == 15:  # the inbox is away for a minute
                    stopped.touch()
                    await fake.advance(minutes=1)
                    stopped.unlink()
                await fake.advance(days=1)

            await service.kill()  # down for more than the 27 hours 35 minutes and 5 seconds of Basiq's attempts
            assert story.emit(3 * each, poison=1) == 3 * each + 1
            await fake.advance(hours=28)
            assert (await basiq.webhooks.get(webhook.id)).status == "disabled"
            assert story.emit(each, poison=1) == 0  # no message is made of them
            await fake.advance(hours=3)

            await service.start()
            assert (await basiq.webhooks.ensure(url=service.url, subscribed_events=(*TYPES, POISON))).action == (
                "reactivated"
            )
            await fake.advance(minutes=15)
            story.emit(each)
            await fake.advance(minutes=1)

            async with (
                HttpTarget(service.url, service.secret) as target,
                SQLiteInbox(tmp_path / "recovery-inbox.db") as inbox,
            ):
                recovery = await recover(
                    basiq,
                    webhook.id,
                    target,
                    inbox=inbox,
                )
                assert len(recovery.problems) == 1, recovery.problems
                (left,) = recovery.problems  # both poisons: the service said that they are in its quarantine
                assert (left.code, recovery.at_service) == ("quarantined", 2)
                assert recovery.messages.read_to_end
                assert recovery.handled
        finally:
            await service.kill()

        engine = create_async_engine(database(tmp_path))
        async with SQLInbox(engine) as inbox, engine.connect() as connection:
            effects = Counter((await connection.execute(select(EFFECTS.c.event_id))).scalars())
            entries = await inbox.entries(limit=100)
        await engine.dispose()

    named = {entry.event_id for entry in entries}
    assert set(effects) == story.events  # nothing lost
    assert set(effects.values()) == {1}  # nothing twice
    assert named == story.poison  # what cannot be handled is in a list, by name
