from __future__ import annotations

import asyncio
import itertools
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import attrs
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from basiq_async import ConfigurationError, InboxError
from basiq_async._work.inbox_calls import InboxCalls
from basiq_async.receiver import Inbox, SQLInbox, inbox_metadata
from basiq_async.receiver.inboxes import _sql  # private: what a service builds once
from basiq_async.receiver.protocol import Claim, ClaimStatus
from basiq_async.testing import check_inbox
from tests.support import inbox_stress
from tests.support.cancelling import cancel_after
from tests.support.databases import ByTransaction, engine_of, in_use, inbox_of, new_table, pruned, run, scalar
from tests.support.deliveries import quarantined_delivery
from tests.support.inboxes import check_briefly
from tests.support.real_time import PATIENCE
from tests.support.servers import PostgresServer, postgres_server

CLAIMED, DONE, BUSY = ClaimStatus.CLAIMED, ClaimStatus.DONE, ClaimStatus.BUSY


# Each driver once, and each kind of claim; in test_model.py both kinds walk at random, and test_sql_transactions.py has
# handlers with a session on each driver.
@pytest.mark.parametrize(
    ("url", "kind"), [("asyncpg", SQLInbox), ("psycopg", ByTransaction), ("aiosqlite", SQLInbox)], indirect=["url"]
)
async def test_a_sql_inbox_keeps_every_promise(url: str, kind: type[SQLInbox], monkeypatch: pytest.MonkeyPatch) -> None:
    check_briefly(monkeypatch)  # a lease is in the database alone, and test_model.py walks on
    for built in (_sql.Tables, _sql.Statements):  # once, as in a service: here each promise makes an inbox
        monkeypatch.setattr(_sql, built.__name__, cache(built))
    table = new_table()
    async with engine_of(url) as engine:

        @asynccontextmanager
        async def make(name: str) -> AsyncGenerator[Inbox]:
            async with kind(engine, table=table, service=name) as inbox:
                yield inbox

        await run(engine, f"CREATE TABLE {table}_rows (row_number INTEGER)")

        async def write(session: AsyncSession) -> int:
            count = (await session.execute(text(f"SELECT count(*) FROM {table}_rows"))).scalar_one()
            await session.execute(text(f"INSERT INTO {table}_rows VALUES (:row)"), {"row": count})
            return int(count)

        await check_inbox(make, shared=True, leases=kind is SQLInbox, write=write, seconds=PATIENCE)


def _of_service(url: str, table: str, name: str) -> AbstractAsyncContextManager[SQLInbox]:
    return inbox_of(url, table, service=name)


@pytest.mark.parametrize("url", ["asyncpg", "aiosqlite"], indirect=True)
async def test_of_two_processes_with_the_same_keys_one_gets_each(url: str) -> None:
    await inbox_stress.raced(partial(_of_service, url, new_table()))


@pytest.mark.parametrize("url", ["aiosqlite"], indirect=True)  # what a server committed is no longer the process's
async def test_what_a_process_recorded_is_there_after_it_was_killed(url: str) -> None:
    await inbox_stress.killed(partial(_of_service, url, new_table()), PATIENCE)


@pytest.mark.parametrize(
    ("driver", "how"), [("asyncpg", "SIGQUIT"), ("psycopg", "SIGINT")], ids=["at once", "in order"]
)
async def test_a_server_that_is_stopped_and_comes_back_has_lost_nothing(driver: str, how: str) -> None:
    with postgres_server() as server:

        @asynccontextmanager
        async def outage() -> AsyncGenerator[None]:
            await asyncio.to_thread(server.stop, getattr(signal, how))
            yield
            await asyncio.to_thread(server.start)

        async with engine_of(server.url(driver)) as engine:
            table = new_table()
            await inbox_stress.away(lambda name: SQLInbox(engine, table=table, service=name), outage)


@pytest.mark.parametrize("url", ["asyncpg", "aiosqlite"], indirect=True)
async def test_tables_that_are_emptied_while_they_are_in_use_begin_again(url: str) -> None:
    table = new_table()
    async with engine_of(url) as engine, SQLInbox(engine, table=table) as inbox:
        began = await inbox.known_since()
        await run(engine, *(f"DELETE FROM {each.name}" for each in inbox_metadata(table).sorted_tables))
        assert await inbox.known_since() >= began
        assert (await inbox.claim("key", "token", lease=PATIENCE)).status is CLAIMED


@pytest.mark.parametrize("leased", [True, False])
async def test_what_failed_is_kept_though_another_writes_to_the_sqlite_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leased: bool
) -> None:
    """A job that quarantines what failed has no lease by then."""
    monkeypatch.setattr("basiq_async._storage.sql._LOCK_WAIT", 0.0)
    async with engine_of(f"sqlite+aiosqlite:///{tmp_path}/sql.db") as engine, SQLInbox(engine) as inbox:
        if leased:
            assert (await inbox.claim("k", "a", lease=PATIENCE)).status is CLAIMED
        with closing(sqlite3.connect(tmp_path / "sql.db", isolation_level=None)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            keeping = asyncio.create_task(inbox.quarantine("k", "a", quarantined_delivery("k")))
            await asyncio.wait({keeping}, timeout=0.05)
            writer.execute("ROLLBACK")
            assert await keeping
        assert [each.key for each in await inbox.entries()] == ["k"]
        assert (await inbox.claim("m", "a", lease=PATIENCE)).status is CLAIMED
        assert not await inbox.quarantine("m", "b", quarantined_delivery("m")), "another worker has it"


# --- tables ---


async def test_entering_it_makes_its_tables_in_a_schema_of_ones_own(engine: AsyncEngine) -> None:
    table = new_table()
    await run(engine, f"CREATE SCHEMA {table}_schema")
    async with SQLInbox(engine, table=table, schema=f"{table}_schema") as inbox:
        assert await inbox.complete("k", "a")
        assert await scalar(engine, f"SELECT count(*) FROM {table}_schema.{table}") == 1
        assert repr(inbox) == f"<SQLInbox {table}_schema.{table}, 0 transactions>"


async def test_its_tables_are_in_the_schema_that_the_engine_translates_to(engine: AsyncEngine) -> None:
    schema = f"Of {new_table()}"
    await run(engine, f'CREATE SCHEMA "{schema}"')
    async with SQLInbox(engine.execution_options(schema_translate_map={None: schema}), table="Order") as inbox:
        assert await inbox.complete("k", "a")
        assert await scalar(engine, f'SELECT count(*) FROM "{schema}"."Order"') == 1


def test_its_metadata_has_its_tables_for_alembic() -> None:
    tables = {"app.seen", "app.seen_failures", "app.seen_notes", "app.seen_version"}
    assert set(inbox_metadata("seen", "app").tables) == tables


async def test_an_engine_that_commits_by_itself_is_refused(postgres: PostgresServer) -> None:
    for driver in ("asyncpg", "psycopg"):
        async with engine_of(postgres.url(driver), isolation_level="AUTOCOMMIT") as engine:
            with pytest.raises(ConfigurationError, match="AUTOCOMMIT"):
                async with SQLInbox(engine, table=new_table()):
                    pass


def test_a_missing_extra_is_named() -> None:
    code = """
import sys
sys.modules["sqlalchemy"] = sys.modules["redis"] = sys.modules["redis.asyncio"] = None
from basiq_async import ConfigurationError
from basiq_async import receiver
for name in ("SQLInbox", "inbox_metadata", "RedisInbox"):
    try:
        getattr(receiver, name)
    except ConfigurationError as error:
        assert isinstance(error, ImportError)
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "SQLInbox needs the extra 'sql': pip install '/path/to/the/clone[sql]'",
        "inbox_metadata needs the extra 'sql': pip install '/path/to/the/clone[sql]'",
        "RedisInbox needs the extra 'redis': pip install '/path/to/the/clone[redis]'",
    ]


async def test_an_inbox_says_when_an_event_was_handled(engine: AsyncEngine) -> None:
    async with SQLInbox(engine, table=new_table()) as inbox:
        assert await inbox.handled_at("k") is None
        await inbox.claim("k", "a", lease=60)
        assert await inbox.handled_at("k") is None, "a claim alone does not count"
        await inbox.complete("k", "a")
        moment = await inbox.handled_at("k")
        assert moment is not None
        assert abs(datetime.now(UTC) - moment) < timedelta(hours=1)


@pytest.mark.parametrize("url", ["asyncpg", "aiosqlite"], indirect=True)
async def test_it_last_recorded_something_when_the_newest_event_was_handled_or_quarantined(url: str) -> None:
    table, moment = new_table(), datetime(2026, 1, 5, tzinfo=UTC)
    async with engine_of(url) as engine, SQLInbox(engine, table=table) as inbox:
        assert await inbox.last_recorded() is None
        for key in ("new", "old"):
            await inbox.complete(key, "a")
        await run(engine, f"UPDATE {table} SET handled_at = '2025-01-05 00:00:00.000000' WHERE key = 'old'")
        await run(engine, f"UPDATE {table} SET handled_at = '2026-01-04 00:00:00.000000' WHERE key = 'new'")
        assert await inbox.last_recorded() == moment - timedelta(days=1)
        for key, days in (("first", 0), ("second", -9)):
            entry = attrs.evolve(quarantined_delivery(key), quarantined_at=moment + timedelta(days=days))
            await inbox.quarantine(key, "a", entry)
        assert await inbox.last_recorded() == moment


# --- what goes wrong ---


async def test_a_lease_of_which_less_than_a_second_is_left_says_whose_it_is(
    inbox: SQLInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def find(connection: object, key: str) -> SimpleNamespace:
        return SimpleNamespace(in_quarantine=False, handled_at=None, token="a", remaining=0.5)

    monkeypatch.setattr(inbox._sql, "find", find)
    await inbox.claim("k", "a", lease=60)
    assert await inbox.claim("k", "b", lease=60) == Claim(BUSY, 0.5, "a")


async def test_a_claim_of_another_worker_is_busy_at_once(engine: AsyncEngine) -> None:
    table = new_table()
    async with SQLInbox(engine, table=table) as inbox, SQLInbox(engine, table=table, timeout=60) as other:
        await inbox.claim("k", "dead", lease=0.001)
        await asyncio.sleep(0.01)
        await inbox.claim("k", "a", lease=60, transaction=True)
        async with asyncio.timeout(PATIENCE):
            claim = await other.claim("k", "b", lease=60)
        assert (claim.status, claim.holder) == (BUSY, None), "the lease that has run out says nothing"
        assert claim.retry_after > 0
        assert (await inbox.claim("k", "a", lease=60, transaction=True)).status is CLAIMED
        assert (await inbox.claim("k", "b", lease=60, transaction=True)).holder == "a"


@pytest.mark.parametrize("url", ["aiosqlite"], indirect=True)
async def test_sqlite_runs_one_handler_with_a_session_at_a_time(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("basiq_async._storage.sql._LOCK_WAIT", 0.02)
    table = new_table()
    async with engine_of(url) as engine, SQLInbox(engine, table=table) as a, SQLInbox(engine, table=table) as b:
        assert (await a.claim("k", "a", lease=60, transaction=True)).status is CLAIMED
        assert (await b.claim("l", "b", lease=60, transaction=True)).status is BUSY
        await a.release("k", "a")
        assert (await b.claim("l", "b", lease=60, transaction=True)).status is CLAIMED


async def test_without_a_free_connection_a_claim_fails_in_time_and_nothing_leaks(postgres: PostgresServer) -> None:
    async with engine_of(postgres.url(), pool_size=2, max_overflow=0, pool_timeout=60) as engine:
        async with SQLInbox(engine, table=new_table()) as inbox:
            await inbox.claim("a", "t", lease=60, transaction=True)
            inbox._store.timeout = 0.5
            async with engine.connect():
                for call in (inbox.claim("c", "t", lease=60), inbox.claim("c", "t", lease=60, transaction=True)):
                    with pytest.raises(InboxError, match=r"within 0\.5 s.*all connections of the pool are in use"):
                        await call
        assert in_use(engine) == 0, "closing the inbox gives back what it held"


async def test_calls_get_a_connection_in_the_order_in_which_they_came(postgres: PostgresServer) -> None:
    """SQLAlchemy's pool gives it to a new one before those that wait."""
    async with (
        engine_of(postgres.url(), pool_size=1, max_overflow=0) as engine,
        SQLInbox(engine, table=new_table()) as inbox,
    ):
        ended: list[str] = []

        async def ask(name: str, times: int = 1) -> None:
            for _ in range(times):
                await inbox.known(["k"])
                ended.append(name)

        await asyncio.gather(ask("again", 10), *(ask(str(number)) for number in range(8)))
        assert ended[:10] == ["again", *map(str, range(8)), "again"]


def test_one_event_loop_after_the_other_uses_an_inbox(postgres: PostgresServer) -> None:
    engine = create_async_engine(postgres.url(), pool_size=1, max_overflow=0)
    inbox = SQLInbox(engine, table=new_table())

    async def use() -> None:
        await inbox.check()
        assert await asyncio.gather(*(inbox.known(["k"]) for _ in range(5))) == [set()] * 5
        await engine.dispose()

    for _ in range(2):
        asyncio.run(use())


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
@pytest.mark.parametrize("when", ["waiting", "connecting", "running"])
async def test_a_call_that_is_cancelled_leaves_the_one_connection_to_others(
    when: str, driver: str, postgres: PostgresServer
) -> None:
    async with (
        engine_of(postgres.url(driver), pool_size=1, max_overflow=0) as engine,
        SQLInbox(engine, table=new_table()) as inbox,
    ):
        for transaction in (True, False):
            for count in range(1, 30, 3):
                if when == "connecting":
                    await engine.dispose()
                other = asyncio.create_task(inbox.known(["k"])) if when == "waiting" else None
                claim = inbox.claim(f"k-{count}-{transaction}", "t", lease=60, transaction=transaction)
                await cancel_after(count, claim, "once", alone=False)
                await inbox.release(f"k-{count}-{transaction}", "t")
                if other is not None:
                    assert not await other
        await inbox.known(["k"])


async def test_a_database_that_does_not_respond_is_an_error_in_time(engine: AsyncEngine) -> None:
    table = new_table()
    async with SQLInbox(engine, table=table) as inbox, engine.begin() as connection:
        await connection.execute(text(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
        inbox._store.timeout = 0.1
        with pytest.raises(InboxError, match=r"did not respond within 0\.1 s"):
            await inbox.claim("k", "a", lease=60)
        with pytest.raises(InboxError, match=r"did not respond within 0\.1 s"):
            await inbox.known(["k"])
        inbox._store.timeout = 60
        await connection.rollback()
        assert (await inbox.claim("k", "a", lease=60)).status is CLAIMED


async def test_a_claim_without_a_session_holds_no_connection(url: str) -> None:
    async with engine_of(url) as engine, SQLInbox(engine, table=new_table()) as inbox:
        await inbox.quarantine("quarantined", "a", quarantined_delivery("quarantined"))
        assert (await inbox.claim("k", "a", lease=60)).status is CLAIMED
        assert (await inbox.claim("quarantined", "a", lease=60, quarantined=True)).status is CLAIMED
        assert in_use(engine) == 0
        assert await inbox.complete("k", "a")
        assert await inbox.complete("quarantined", "a")
        assert await inbox.entries() == []


@pytest.mark.parametrize(
    ("pool", "most"), [((1, 0), 1), ((2, 0), 1), ((5, 0), 4), ((5, 10), 12), ((20, 0), 16)], ids=str
)
async def test_claims_with_a_session_leave_connections_to_all_other_calls(
    pool: tuple[int, int], most: int, postgres: PostgresServer
) -> None:
    options = {"pool_size": pool[0], "max_overflow": pool[1]}
    async with (
        engine_of(postgres.url(), **options) as engine,
        SQLInbox(engine, table=new_table(), timeout=20) as inbox,
    ):
        claims = [asyncio.create_task(inbox.claim(str(n), "t", lease=60, transaction=True)) for n in range(most + 3)]
        async with asyncio.timeout(PATIENCE):
            while sum(claim.done() for claim in claims) < most:
                await asyncio.sleep(0.001)
        if sum(pool) > 1:
            assert await inbox.complete("other", "t"), "the pool was taken whole"
        assert sum(claim.done() for claim in claims) == most
        for number in range(most + 3):  # each that ends lets another begin
            assert (await claims[number]).status is CLAIMED
            await inbox.release(str(number), "t")
        await pruned(inbox)
        assert in_use(engine) == 0


@pytest.mark.parametrize("first", ["lease", "transaction"])
async def test_a_lease_and_a_transaction_keep_each_other_away(first: str, url: str) -> None:
    table = new_table()
    async with engine_of(url) as engine, SQLInbox(engine, table=table) as a, SQLInbox(engine, table=table) as b:
        transaction = first == "transaction"
        assert (await a.claim("k", "a", lease=60, transaction=transaction)).status is CLAIMED
        assert (await b.claim("k", "b", lease=60, transaction=not transaction)).status is BUSY
        assert not await b.complete("k", "b")
        assert await a.complete("k", "a")
        for inbox, transaction in itertools.product((a, b), (False, True)):
            assert (await inbox.claim("k", "c", lease=60, transaction=transaction)).status is DONE


async def test_a_transaction_takes_over_from_a_lease_that_expired(url: str) -> None:
    table = new_table()
    async with engine_of(url) as engine, SQLInbox(engine, table=table) as a, SQLInbox(engine, table=table) as b:
        await a.claim("k", "a", lease=0.001)
        await asyncio.sleep(0.002)
        assert (await b.claim("k", "b", lease=60, transaction=True)).status is CLAIMED
        assert not await a.complete("k", "a")
        await a.release("k", "a")
        assert await b.complete("k", "b")


async def test_a_token_that_retries_a_delivery_finds_its_key_handled(url: str) -> None:
    async with engine_of(url) as engine, SQLInbox(engine, table=new_table()) as inbox:
        await inbox.quarantine("k", "a", quarantined_delivery("k"))
        for transaction in (False, True):
            claim = await inbox.claim("k", "t", lease=60, quarantined=True, transaction=transaction)
            assert claim.status is CLAIMED
            assert (await inbox.claim("k", "t", lease=60)).status is DONE
            assert (await inbox.claim("k", "t", lease=60, transaction=True)).status is DONE
            await inbox.release("k", "t")


async def end_all_but_mine(engine: AsyncEngine) -> None:
    """End every other connection of this database, as a failover does."""
    async with engine.connect() as connection:
        await connection.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'lost'")
        )


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_lost_connection_records_nothing_and_frees_the_claim(
    driver: str, postgres: PostgresServer, engine: AsyncEngine
) -> None:
    table = new_table()
    name = {"server_settings": {"application_name": "lost"}} if driver == "asyncpg" else {"application_name": "lost"}
    async with (
        engine_of(postgres.url(driver), connect_args=name) as losing,
        SQLInbox(engine, table=table) as other,
        SQLInbox(losing, table=table) as inbox,
    ):
        await inbox.claim("k", "a", lease=60, transaction=True)
        await end_all_but_mine(engine)
        async with asyncio.timeout(PATIENCE):
            while (await other.claim("k", "b", lease=60)).status is BUSY:
                await asyncio.sleep(0.005)
        await other.release("k", "b")
        with pytest.raises(InboxError, match="the database failed"):
            await inbox.complete("k", "a")
        assert in_use(losing) == 0
        assert not await other.known(["k"])
        await end_all_but_mine(engine)
        assert (await inbox.claim("l", "a", lease=60)).status is CLAIMED, "a stale pool connects again"


async def test_the_server_ends_a_claim_whose_machine_has_vanished(inbox: SQLInbox, engine: AsyncEngine) -> None:
    other = SQLInbox(engine, table=inbox._tables.name)
    await inbox.claim("k", "a", lease=0.02, transaction=True)
    async with asyncio.timeout(PATIENCE):
        while (await other.claim("k", "b", lease=60)).status is BUSY:
            await asyncio.sleep(0.005)
    with pytest.raises(InboxError):
        await inbox.complete("k", "a")
    await other.aclose()


async def test_a_delivery_that_a_handler_with_a_session_retries_cannot_be_dropped(inbox: SQLInbox) -> None:
    await inbox.quarantine("k", "a", quarantined_delivery("k"))
    await inbox.claim("k", "a", lease=60, quarantined=True, transaction=True)
    assert await InboxCalls(inbox, 5).try_to_drop("k") is BUSY
    await inbox.release("k", "a")
    assert await InboxCalls(inbox, 5).try_to_drop("k") is CLAIMED
    assert await InboxCalls(inbox, 5).try_to_drop("k") is DONE


async def test_an_altered_delivery_is_kept_and_hides_no_other(inbox: SQLInbox, engine: AsyncEngine) -> None:
    for key in "kl":
        await inbox.quarantine(key, "a", quarantined_delivery(key))
    await run(engine, f"UPDATE {inbox._tables.name} SET entry_json = '{{' WHERE key = 'k'")
    found = await inbox.entries()
    assert [(entry.key, entry.kind) for entry in found] == [("k", "unreadable"), ("l", "delivery")]
    await inbox.claim("k", "a", lease=60, quarantined=True)
    assert await inbox.release("k", "a", failed=True) == 1
    assert await InboxCalls(inbox, 5).drop("k")


async def test_an_error_shows_neither_password_nor_values(postgres: PostgresServer) -> None:
    url = postgres.url().replace("basiq@", "basiq:hunter2@").replace(f"/{postgres.database}", "/nowhere")
    async with engine_of(url) as engine:
        inbox = SQLInbox(engine)
        with pytest.raises(InboxError, match='database "nowhere" does not exist') as caught:
            await inbox.claim("a-key-of-a-consumer", "a", lease=60)
    assert "hunter2" not in str(caught.value)
    assert "a-key-of-a-consumer" not in str(caught.value)
    assert "hunter2" not in repr(inbox)
