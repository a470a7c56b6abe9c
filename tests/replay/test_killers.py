"""A process that is killed again and again at the same event: that event is quarantined, and nothing beside it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from basiq_async import BasiqClient, InMemoryTransport
from basiq_async.receiver import (
    Delivery,
    InboxEntry,
    MemoryInbox,
    Result,
    SQLInbox,
    SQLiteInbox,
    WebhookReceiver,
)
from basiq_async.replay import Replay, recover, share
from basiq_async.testing import FakeBasiq
from tests.support import virtual
from tests.support.databases import engine_of, new_table, url_of
from tests.support.deliveries import SECRET, Service, payload, post
from tests.support.killing import hasten, start

pytestmark = pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="it forks this process, whose threads newer Pythons warn of: run on 3.11"
)
LEASE = 0.2
KILLED = "the process was killed 3 times while it handled this"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process takes a claim back here: none waits for that."""
    monkeypatch.setattr("basiq_async._work.once._TAKE_BACK", 0.02)


class Killing:
    """Runs in forks of this process, whose handler kills its process at one event. ``effects`` has all others."""

    def __init__(self, folder: Path, count: int = 12, *, killer: int = 4) -> None:
        self.fake = FakeBasiq(seed="killer", page_size=5)
        self.webhook_id = self.fake.seed_messages(count, failed=1.0)
        self.place, self.effects = folder / "inbox.db", folder / "effects"
        self.ids = asyncio.run(self._list())
        self.killer = self.ids[killer]

    async def _list(self) -> list[str]:
        async with self.client() as client:
            return [each.event_id or "" async for each in client.messages.list(self.webhook_id)]

    def client(self) -> BasiqClient:
        return BasiqClient(FakeBasiq.DEFAULT_API_KEY, transport=InMemoryTransport(self.fake))

    async def handle(self, event: Any) -> None:
        await asyncio.sleep(0.01)  # so that others are under way
        if event.event_id == self.killer:
            os.kill(os.getpid(), signal.SIGKILL)
        with self.effects.open("a") as effects:
            effects.write(f"{event.event_id}\n")

    def receiver(self, inbox: SQLiteInbox, **options: Any) -> WebhookReceiver:
        receiver = WebhookReceiver(SECRET, inbox=inbox, webhook_id=self.webhook_id, **options)
        receiver.on("*")(self.handle)
        return receiver

    def run(self, work: Callable[[SQLiteInbox], Awaitable[None]]) -> int:
        async def in_fork(ready: Callable[[], None]) -> None:
            async with hasten(SQLiteInbox(self.place), LEASE) as inbox:
                await work(inbox)

        return start(in_fork).join()

    def run_until_it_ends(self, work: Callable[[SQLiteInbox], Awaitable[None]]) -> int:
        """Run until a run comes to its end. Return how many were killed."""
        ends = 0
        while self.run(work) < 0:
            ends += 1
            assert ends < 10
        return ends

    def handled(self) -> Counter[str]:
        return Counter(self.effects.read_text().split())

    def quarantined(self) -> list[InboxEntry]:
        async def read() -> list[InboxEntry]:
            async with SQLiteInbox(self.place) as inbox:
                return list(await inbox.entries())

        return asyncio.run(read())


@pytest.mark.parametrize("how", ["recover", "replay", "a function", "on_error=skip", "share"])
def test_a_job_that_is_killed_at_an_event_quarantines_it_after_three_ends_and_handles_all_others(
    tmp_path: Path, how: str
) -> None:
    killing = Killing(tmp_path)

    async def lose(page: str) -> None: ...

    async def work(inbox: SQLiteInbox) -> None:
        async with killing.client() as client:
            target: Any = killing.handle if how in ("a function", "on_error=skip", "share") else killing.receiver(inbox)
            own = {} if isinstance(target, WebhookReceiver) else {"inbox": inbox}
            if how == "recover":
                await recover(client, killing.webhook_id, target)
            elif how == "share":
                await share(Replay(client, killing.webhook_id, target, **own), lose)
            else:
                on_error: Any = "skip" if how == "on_error=skip" else "quarantine"
                await Replay(client, killing.webhook_id, target, on_error=on_error, **own).run()

    assert killing.run_until_it_ends(work) == 3
    handled = killing.handled()
    assert set(handled) == set(killing.ids) - {killing.killer}
    assert max(handled.values()) <= 2, "what was under way beside it ran once more, alone"
    entries = killing.quarantined()
    innocents = [entry for entry in entries if entry.event_id != killing.killer]
    assert len(innocents) == 0
    if how != "on_error=skip":
        assert (KILLED in entries[0].error, entries[0].unended) == (True, 3)
    assert killing.run(work) == 0
    assert killing.handled() == handled


@pytest.mark.parametrize("quarantine_after", [None, 5])
def test_a_live_service_that_is_killed_at_an_event_quarantines_it_and_is_killed_no_more(
    tmp_path: Path, quarantine_after: int | None
) -> None:
    killing = Killing(tmp_path)
    results: Path = tmp_path / "results"

    async def work(inbox: SQLiteInbox) -> None:
        async with killing.receiver(inbox, quarantine_after=quarantine_after) as receiver:
            for _ in range(2):  # Basiq sends again what got no 2xx, in any order
                bodies = {each: payload("user.created", each) for each in killing.ids}
                found = await asyncio.gather(*[post(receiver, body) for body in bodies.values()])
                await asyncio.sleep(1.5 * LEASE)
            mine = dict(zip(bodies, found, strict=True))[killing.killer]
            results.write_text(f"{mine.result.value} {mine.status}")

    assert killing.run_until_it_ends(work) == 3
    assert set(killing.handled()) == set(killing.ids) - {killing.killer}
    (entry,) = killing.quarantined()
    assert (entry.event_id, entry.acknowledged, entry.failures) == (killing.killer, quarantine_after is not None, 3)
    assert (KILLED in entry.error, entry.unended) == (True, 3)
    expected = "failed 500" if quarantine_after is None else "duplicate 200"
    assert results.read_text() == expected, "Basiq is told the truth"


@virtual.clocked
async def test_a_shutdown_in_order_leaves_no_attempt_without_an_end() -> None:
    inbox, begun = MemoryInbox(), asyncio.Event()

    async def hang(delivery: Delivery) -> None:
        begun.set()
        await asyncio.sleep(3600)

    for _ in range(4):
        begun.clear()
        receiver = WebhookReceiver(SECRET, inbox=inbox)
        receiver.on("*")(hang)
        posted = asyncio.create_task(post(receiver, payload("user.created", "e-1")))
        await begun.wait()
        posted.cancel()
        await asyncio.wait({posted})
        await receiver.aclose()
    service = Service(inbox=inbox)
    assert (await service.post(payload("user.created", "e-1"))).result is Result.HANDLED


class KillingSessions(Killing):
    """The same with handlers with a session, which are claimed by a transaction: a kill rolls it back."""

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(folder)
        self.url, self.table = url, new_table()

    async def handle_with(self, event: Any, session: AsyncSession) -> None:
        await self.handle(event)

    def run(self, work: Callable[[Any], Awaitable[None]]) -> int:
        async def in_fork(ready: Callable[[], None]) -> None:
            async with engine_of(self.url) as engine, hasten(SQLInbox(engine, table=self.table), LEASE) as inbox:
                await work(inbox)

        return start(in_fork).join()

    async def quarantined(self) -> list[InboxEntry]:
        async with engine_of(self.url) as engine, SQLInbox(engine, table=self.table) as inbox:
            return list(await inbox.entries())


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return url_of(request, tmp_path)


@pytest.mark.parametrize("how", ["live", "not entered", "recover", "a function", "pages"])
@pytest.mark.parametrize("url", ["asyncpg", "aiosqlite"], indirect=True)
def test_a_handler_with_a_session_that_kills_its_process_ends_four_at_the_most(
    tmp_path: Path, url: str, how: str
) -> None:
    killing = KillingSessions(tmp_path, url)

    async def work(inbox: SQLInbox) -> None:
        receiver = WebhookReceiver(SECRET, inbox=inbox, webhook_id=killing.webhook_id)
        receiver.on("*")(killing.handle_with)
        async with killing.client() as client:
            if how == "recover":
                await recover(client, killing.webhook_id, receiver)
            elif how == "a function":
                await Replay(client, killing.webhook_id, killing.handle_with, inbox=inbox).run()
            elif how == "pages":
                replay = Replay(client, killing.webhook_id, killing.handle_with, inbox=inbox)
                await share(replay, replay.work)
            else:
                async with contextlib.nullcontext() if how == "not entered" else receiver:
                    for _ in range(2):
                        await asyncio.gather(*[post(receiver, payload("user.created", each)) for each in killing.ids])
                        await asyncio.sleep(1.5 * LEASE)

    assert killing.run_until_it_ends(work) == 4, "the first leaves a trace of the process, and of no event"
    assert set(killing.handled()) == set(killing.ids) - {killing.killer}
    (entry,) = asyncio.run(killing.quarantined())
    assert (entry.event_id, entry.unended) == (killing.killer, 3)
