"""A target function that is cancelled and needs long to end: no other worker handles its event before that."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from basiq_async import Message
from basiq_async.receiver import MemoryInbox, SQLInbox
from basiq_async.receiver.protocol import ClaimStatus, inbox_key
from tests.support import virtual
from tests.support.databases import engine_of, new_table, run
from tests.support.histories import shared_target
from tests.support.inboxes import Transactional
from tests.support.servers import PostgresServer

MESSAGE = Message("m1", {"id": "m1", "payload": {"eventId": "e1", "eventTypeId": "user.created"}})
KEY = inbox_key("e1", "m1")
LEASE = 30.0
COMMIT = 20.0


async def asked(inbox: MemoryInbox) -> ClaimStatus:
    return (await inbox.claim(KEY, "live", lease=LEASE)).status


@virtual.clocked
async def test_an_event_that_takes_longer_than_its_lease_is_no_other_workers_meanwhile() -> None:
    inbox = MemoryInbox(clock=virtual.clock)

    async def handler(message: Message) -> None:
        for _ in range(20):
            await asyncio.sleep(LEASE / 2)
            assert await asked(inbox) is ClaimStatus.BUSY

    await shared_target(handler, inbox, lease=LEASE).deliver(MESSAGE)
    assert await inbox.known([KEY])


async def test_a_function_of_the_message_alone_begins_no_transaction() -> None:
    inbox = Transactional()

    async def handler(message: Message) -> None: ...

    await shared_target(handler, inbox).deliver(MESSAGE)
    assert (inbox.log, await inbox.known([KEY])) == ([], {KEY})


@pytest.mark.parametrize(("sessions", "seconds"), [(False, 30.0), (True, 300.0)])
@virtual.clocked
async def test_the_claims_of_a_machine_that_vanishes_end_after(sessions: bool, seconds: float) -> None:
    inbox = Transactional(clock=virtual.clock)
    left: list[float | None] = []

    async def look(message: Message) -> None:
        left.append((await inbox.claim(KEY, "live", lease=LEASE)).retry_after)

    async def look_with_session(message: Message, session: None) -> None:
        await look(message)

    await shared_target(look_with_session if sessions else look, inbox).deliver(MESSAGE)
    assert left == [seconds]


@pytest.mark.parametrize(("sessions", "seconds"), [(False, 30.0), (True, 60.0)])
@virtual.clocked
async def test_a_cancelled_message_whose_function_does_not_end_is_waited_for(sessions: bool, seconds: float) -> None:
    released = asyncio.Event()

    async def resist(message: Message) -> None:
        while not released.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await released.wait()

    async def resist_with_session(message: Message, session: None) -> None:
        await resist(message)

    target = shared_target(resist_with_session if sessions else resist, Transactional(clock=virtual.clock))
    working = asyncio.create_task(target.deliver(MESSAGE))
    await asyncio.sleep(1)
    began = virtual.now()
    working.cancel()
    await asyncio.wait([working])
    released.set()
    assert virtual.now() - began == pytest.approx(seconds)


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("sessions", [False, True])
@virtual.clocked
async def test_a_cancelled_message_gives_its_claim_back_when_the_commit_has_ended(
    times: int, *, sessions: bool
) -> None:
    inbox = Transactional(clock=virtual.clock)
    log: list[str] = []

    async def handle(message: Message) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(COMMIT)
            log.append("committed")

    async def with_session(message: Message, session: None) -> None:
        await handle(message)

    target = shared_target(with_session if sessions else handle, inbox, lease=LEASE)
    working = asyncio.create_task(target.deliver(MESSAGE))
    await asyncio.sleep(1.0)
    for _ in range(times):
        working.cancel()
        await asyncio.sleep(0.1)
        assert await asked(inbox) is ClaimStatus.BUSY
    with pytest.raises(asyncio.CancelledError):
        await working
    assert log == ["committed"]
    assert await asked(inbox) is ClaimStatus.CLAIMED


@virtual.clocked
async def test_a_target_that_never_ends_is_waited_for_a_while_and_its_claim_runs_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    free = asyncio.Event()
    inbox = MemoryInbox(clock=virtual.clock)

    async def handler(message: Message) -> None:
        while not free.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await free.wait()

    working = asyncio.create_task(shared_target(handler, inbox, lease=LEASE).deliver(MESSAGE))
    await asyncio.sleep(1)
    started = virtual.now()
    working.cancel()
    await asyncio.sleep(LEASE / 2)
    claims = [await asked(inbox)]
    with pytest.raises(asyncio.CancelledError):
        await working
    waited = virtual.now() - started
    claims.append(await asked(inbox))
    free.set()
    await asyncio.sleep(1)
    assert waited <= LEASE
    assert claims == [ClaimStatus.BUSY, ClaimStatus.CLAIMED]
    assert "was cancelled but still runs" in caplog.text


async def test_a_commit_of_sqlalchemys_that_waits_for_a_lock_has_ended_before_its_claim_is_given_back(
    postgres: PostgresServer,
) -> None:
    async with engine_of(postgres.url()) as engine, SQLInbox(engine, table=new_table()) as inbox:
        sessions = async_sessionmaker(engine)
        await run(engine, "DROP TABLE IF EXISTS overdue", "CREATE TABLE overdue (id int primary key)")

        async def handler(message: Message) -> None:
            async with sessions() as session, session.begin():
                await session.execute(text("INSERT INTO overdue VALUES (1)"))  # waits for the lock

        async with engine.connect() as other:
            await other.execute(text("INSERT INTO overdue VALUES (1)"))
            working = asyncio.create_task(shared_target(handler, inbox).deliver(MESSAGE))
            while not await waiting_for_a_lock(engine):
                await asyncio.sleep(0.01)
            working.cancel()
            await asyncio.wait((working,), timeout=0.05)
            claim = await inbox.claim(KEY, "live", lease=LEASE)
            waits = await waiting_for_a_lock(engine)
            assert claim.status is ClaimStatus.BUSY or not waits
            await other.rollback()
        with pytest.raises(asyncio.CancelledError):
            await working


async def waiting_for_a_lock(engine: AsyncEngine) -> bool:
    async with engine.connect() as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%overdue%'"
        return bool((await connection.execute(text(query))).scalar_one())
