"""The store of inboxes in a SQL database: short transactions, within a time, with errors of ours."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from basiq_async import ConfigurationError, InboxError
from basiq_async._storage.sql import BusyError, SQLStore
from basiq_async._storage.sql_tables import EntryType, StoreTables
from tests.support.databases import engine_of, new_table, scalar
from tests.support.real_time import PATIENCE
from tests.support.servers import PostgresServer


class Tables(StoreTables):
    def __init__(self, table: str = "shelf", layout: int = 3) -> None:
        super().__init__(layout, table, None, "")
        self.entries = sa.Table(f"{table}_entries", self.metadata, sa.Column("entry_json", EntryType, primary_key=True))


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/shelf.db")
    yield engine
    await engine.dispose()


@pytest.fixture
def store(engine: AsyncEngine) -> SQLStore:
    return SQLStore(engine, Tables(), create_tables=True, timeout=5)


def put(text: str) -> Any:
    async def work(connection: AsyncConnection) -> None:
        await connection.execute(sa.text("INSERT INTO shelf_entries VALUES (:text)"), {"text": text})

    return work


async def count(connection: AsyncConnection) -> int:
    return int((await connection.execute(sa.text("SELECT count(*) FROM shelf_entries"))).scalar_one())


async def test_only_a_write_is_committed_and_only_if_all_of_it_succeeds(store: SQLStore) -> None:
    async def half(connection: AsyncConnection) -> None:
        await put("half")(connection)
        raise ValueError

    await store.run(put("a"), write=True)
    with pytest.raises(InboxError, match="hold data that no inbox has written"):
        await store.run(half, write=True)
    await store.run(put("read only"))
    assert await store.run(count) == 1


async def test_a_call_whose_time_ends_while_its_connection_is_given_back_leaves_the_turn_to_others(
    store: SQLStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = AsyncConnection.close

    async def hang(self: AsyncConnection) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await close(self)

    await store.run(put("a"), write=True)
    store.timeout = 0.02
    with monkeypatch.context() as patch, pytest.raises(InboxError, match="did not respond"):
        patch.setattr(AsyncConnection, "close", hang)
        await store.run(put("b"), write=True)
    store.timeout = 5
    await store.run(put("c"), write=True, wait_for_writer=False)


async def test_a_write_whose_commit_lost_the_connection_is_not_made_again(
    store: SQLStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    async def write(connection: AsyncConnection) -> None:
        made.append("once")
        await put("a")(connection)

    async def lose(self: AsyncConnection) -> None:
        raise OperationalError("COMMIT", {}, ConnectionError("gone"), connection_invalidated=True)

    assert await store.run(count) == 0
    with monkeypatch.context() as patch:
        patch.setattr(AsyncConnection, "commit", lose)
        with pytest.raises(InboxError):
            await store.run(write, write=True)
    assert (made, await store.run(count)) == (["once"], 0)


async def test_a_call_that_takes_too_long_is_an_error_that_says_so(store: SQLStore) -> None:
    async def hang(connection: AsyncConnection) -> None:
        await asyncio.Event().wait()

    await store.run(count)
    store.timeout = 0.02
    with pytest.raises(InboxError, match=r"the database did not respond within 0\.02 s"):
        await store.run(hang)
    store.timeout = 5
    assert await store.run(count) == 0


async def test_a_call_whose_time_ends_while_it_connects_leaves_no_connection_open(
    store: SQLStore, engine: AsyncEngine
) -> None:
    """SQLAlchemy sets up each new connection, and would drop it there."""
    await store.run(count)
    await engine.dispose()
    made, gate = list[Any](), asyncio.Event()

    @sa.event.listens_for(engine.sync_engine, "connect")
    def hold(connection: Any, record: object) -> None:
        made.append(connection.driver_connection)
        connection.run_async(lambda _: gate.wait())

    store.timeout = 0.02
    calling = asyncio.create_task(store.run(count))
    await asyncio.wait({calling}, timeout=0.05)
    assert (len(made), calling.done()) == (1, False)
    gate.set()
    with pytest.raises(InboxError, match="did not respond"):
        await calling
    await engine.dispose()
    assert made[0]._connection is None, "it is closed"


async def test_a_connection_whose_setting_up_does_not_end_is_cancelled_and_has_ended_before_its_call(
    store: SQLStore, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.run(count)
    await engine.dispose()
    ended = list[str]()

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            ended.append("set up")

    @sa.event.listens_for(engine.sync_engine, "connect")
    def hold(connection: Any, record: object) -> None:
        connection.run_async(lambda _: hang())

    monkeypatch.setattr("basiq_async._storage.sql._CLOSE", 0.5)
    store.timeout = 0.02
    with pytest.raises(InboxError, match="did not respond"):
        await store.run(count)
    assert ended == ["set up"]


async def test_a_writer_that_is_not_patient_leaves_a_lock_that_another_holds(
    store: SQLStore, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("basiq_async._storage.sql._LOCK_WAIT", 0.02)
    await store.run(count)
    async with engine.connect() as other:
        await other.execution_options(isolation_level="AUTOCOMMIT")
        await other.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(BusyError):
            await store.run(put("a"), write=True, wait_for_writer=False)
        await other.exec_driver_sql("ROLLBACK")
    await store.run(put("a"), write=True, wait_for_writer=False)


@pytest.mark.parametrize("call", ["first", "run", "rows", "impatient"])
async def test_a_patient_writer_waits_for_a_lock_at_its_first_use_too_and_any_other_one_briefly(
    call: str, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("basiq_async._storage.sql._LOCK_WAIT", PATIENCE if call == "impatient" else 0.0)
    store = SQLStore(engine, Tables(), create_tables=True, timeout=PATIENCE)
    if call != "first":
        await store.run(count)
    insert = sa.text("INSERT INTO shelf_entries VALUES ('a') RETURNING entry_json")
    async with engine.connect() as other:
        await other.execution_options(isolation_level="AUTOCOMMIT")
        await other.exec_driver_sql("BEGIN IMMEDIATE")
        options = {"wait_for_writer": False} if call == "impatient" else {}
        begun = store.rows(insert, write=True) if call == "rows" else store.run(put("a"), write=True, **options)
        tries = list[float]()

        @sa.event.listens_for(engine.sync_engine, "before_cursor_execute")
        def see(connection: Any, cursor: Any, statement: str, *more: object) -> None:
            if statement == "BEGIN IMMEDIATE":
                tries.append(time.monotonic())

        writing: asyncio.Task[object] = asyncio.ensure_future(begun)
        await asyncio.wait((writing,), timeout=0.05)
        assert not writing.done()
        await other.exec_driver_sql("ROLLBACK")
    await writing
    assert all(later - before > 0.004 for before, later in pairwise(tries)), "it pauses between two tries"


async def test_what_a_server_is_to_do_in_several_statements_it_does_whole_or_not(postgres: PostgresServer) -> None:
    table = new_table()
    async with engine_of(postgres.url()) as engine:
        store = SQLStore(engine, Tables(table), create_tables=True, timeout=PATIENCE)

        async def half(connection: AsyncConnection) -> None:
            await connection.execute(sa.text(f"INSERT INTO {table}_entries VALUES ('half')"))
            raise OSError("in the middle")

        with pytest.raises(InboxError, match="in the middle"):
            await store.run(half, write=True)
        await store.prepare()
        assert await scalar(engine, f"SELECT count(*) FROM {table}_entries") == 0


async def test_tables_of_another_version_are_refused(store: SQLStore, engine: AsyncEngine) -> None:
    await store.run(count)
    later = SQLStore(engine, Tables(layout=4), create_tables=True, timeout=5)
    with pytest.raises(InboxError, match="The inbox's tables shelf were made by another version"):
        await later.run(count)


async def test_a_store_that_is_closed_is_refused(store: SQLStore) -> None:
    await store.run(count)
    store.closed = True
    with pytest.raises(InboxError, match="the inbox shelf is closed"):
        await store.run(count)


async def test_a_row_shows_nothing_of_an_entry(store: SQLStore) -> None:
    async def read(connection: AsyncConnection) -> object:
        return (await connection.execute(sa.select(Tables().entries))).one()

    await store.run(put("secret"), write=True)
    row: Any = await store.run(read)
    assert row.entry_json == "secret"
    assert "secret" not in repr(row)


@pytest.mark.parametrize("name", ["", "a b", "1a", "a;b", "x" * 60])
def test_a_name_that_sql_would_not_keep_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot name a table or schema of the inbox"):
        Tables(name)
