"""The store of inboxes in a SQLite file: a thread, and batches of commits."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from basiq_async import InboxError
from basiq_async._storage.sqlite import SQLiteStore
from basiq_async._storage.sqlite_files import FileKind

KIND = FileKind(0x1234, 1, ("CREATE TABLE notes (text TEXT)",))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[SQLiteStore]:
    store = SQLiteStore(tmp_path / "notes.db", KIND)
    yield store
    await store.aclose()


def insert(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO notes VALUES ('a')")


def count(connection: sqlite3.Connection) -> int:
    found: int = connection.execute("SELECT count(*) FROM notes").fetchone()[0]
    return found


async def test_work_that_raises_undoes_its_batch_and_tells_each(store: SQLiteStore) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        insert(connection)
        raise LookupError("of its own")

    await store.run(insert)
    with pytest.raises(LookupError, match="of its own"):
        await store.run(fail)
    assert await store.run(count) == 1


async def test_of_more_calls_than_a_batch_holds_each_is_done_once(store: SQLiteStore) -> None:
    def numbered(number: int) -> asyncio.Future[int]:
        def work(connection: sqlite3.Connection) -> int:
            insert(connection)
            return number

        return store.run(work)

    assert await asyncio.gather(*map(numbered, range(1_000))) == list(range(1_000))
    assert await store.run(count) == 1_000


async def test_work_that_was_cancelled_before_its_turn_is_not_done(store: SQLiteStore) -> None:
    begun, ended = threading.Event(), threading.Event()

    def hold(connection: sqlite3.Connection) -> None:
        begun.set()
        ended.wait(30)

    held = store.run(hold)
    await asyncio.to_thread(begun.wait, 30)
    dropped = store.run(insert)
    dropped.cancel()
    ended.set()
    await held
    assert await store.run(count) == 0


async def test_its_name_says_whether_it_is_closed(store: SQLiteStore) -> None:
    assert repr(store) == f"<inbox {store.path!r}>"
    await store.aclose()
    assert repr(store).endswith("closed>")
    with pytest.raises(InboxError, match="is closed"):
        store.run(insert)
