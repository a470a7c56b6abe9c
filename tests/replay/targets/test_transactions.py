"""Replays whose target's effect commits together with the inbox's entry."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from basiq_async import Message
from basiq_async.receiver import Delivery, SQLInbox, WebhookReceiver
from basiq_async.replay import share
from tests.support.databases import engine_with, new_table, url_of
from tests.support.deliveries import SECRET
from tests.support.histories import history, shared_target

# Not unique: an effect that happens twice is to be seen.
EFFECTS = Table("replayed", MetaData(), Column("n", Integer, primary_key=True), Column("id", String))


@pytest.fixture(params=["asyncpg", "aiosqlite"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    async with engine_with(EFFECTS.metadata, url_of(request, tmp_path), pool_size=10) as engine:
        yield engine


@pytest.fixture
async def inbox(engine: AsyncEngine) -> AsyncGenerator[SQLInbox]:
    async with SQLInbox(engine, table=new_table()) as inbox:
        yield inbox


async def effects(engine: AsyncEngine) -> Counter[str]:
    async with engine.connect() as connection:
        return Counter((await connection.execute(select(EFFECTS.c.id))).scalars())


async def write(message: Message, session: AsyncSession) -> None:
    await session.execute(insert(EFFECTS).values(id=message.id))


async def test_the_effect_of_each_message_commits_with_its_entry(engine: AsyncEngine, inbox: SQLInbox) -> None:
    async with history(30) as h:
        for _ in range(2):  # the second job knows nothing of the first but the inbox
            replay = h.replay(write, inbox=inbox, concurrency=8)
            report = await replay.run()
            assert report.finished
        assert report.handled == 0
        assert report.skipped == {"handled-before": 30}
        assert await effects(engine) == Counter(await h.ids())


@pytest.mark.parametrize("how", ["run", "receiver", "pages"])
async def test_a_job_that_ended_does_not_look_as_if_it_was_killed(inbox: SQLInbox, how: str) -> None:
    async with history(6, page_size=3) as h:
        receiver = WebhookReceiver(SECRET, inbox=inbox, webhook_id=h.webhook_id)
        receiver.on("*")(nothing)
        replay = h.replay(receiver if how == "receiver" else nothing, inbox=inbox)
        report = await (share(replay, replay.work) if how == "pages" else replay.run())
        assert (report.finished, report.handled + report.skipped.get("handled-before", 0)) == (True, 6)
        assert json.loads(await inbox.note("processes") or "")["open"] == []


async def nothing(event: Message | Delivery, session: AsyncSession) -> None: ...


async def test_a_message_that_fails_has_had_no_effect_until_it_is_retried(engine: AsyncEngine, inbox: SQLInbox) -> None:
    broken = True

    async def handler(message: Message, session: AsyncSession) -> None:
        await write(message, session)
        if broken:
            raise ValueError("no")

    async with history(3) as h:
        replay = h.replay(handler, inbox=inbox, concurrency=1)
        assert (await replay.run()).failed == 3
        assert not await effects(engine)
        broken = False
        await replay.retry_quarantined()
        assert await effects(engine) == Counter(await h.ids())


async def test_a_run_that_is_cancelled_again_and_again_has_each_effect_once(
    engine: AsyncEngine, inbox: SQLInbox
) -> None:
    async with history(60) as h:
        for number in range(60):
            replay = h.replay(write, inbox=inbox, concurrency=4)
            task = asyncio.create_task(replay.run())
            await asyncio.sleep(0.002 * (number % 10))
            task.cancel()
            await asyncio.wait({task})
        await h.replay(write, inbox=inbox, concurrency=4).run()
        assert await effects(engine) == Counter(await h.ids())


@pytest.mark.parametrize("engine", ["asyncpg", "psycopg"], indirect=True)
async def test_a_lost_connection_is_an_outage_and_not_the_messages_failure(
    engine: AsyncEngine, inbox: SQLInbox
) -> None:
    lost: list[str] = []

    async def handler(message: Message, session: AsyncSession) -> None:
        await write(message, session)
        if not lost:
            lost.append(message.id)
            await session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    async with history(5) as h:
        replay = h.replay(handler, inbox=inbox, concurrency=1)
        report = await replay.run()
        assert (report.handled, report.failed) == (5, 0)
        assert await effects(engine) == Counter(await h.ids())


async def test_a_handler_with_a_session_may_take_longer_than_its_lease(engine: AsyncEngine, inbox: SQLInbox) -> None:
    async def slowly(message: Message, session: AsyncSession) -> None:
        await write(message, session)
        await asyncio.sleep(0.05)  # by the clock of the server, which ends a transaction that is idle for too long

    message = Message("m1", {"id": "m1", "payload": {"eventId": "e1", "eventTypeId": "user.created"}})
    assert await shared_target(slowly, inbox, lease=0.01).deliver(message) is None
    assert await effects(engine) == Counter(["m1"])
