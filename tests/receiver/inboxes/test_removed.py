"""What was removed is in no file of SQLite any more: within a minute while the inbox is open, and after its end."""

from __future__ import annotations

import asyncio
import sqlite3
from base64 import b64encode
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import attrs
import pytest

from basiq_async._storage import sqlite
from basiq_async.receiver import SQLiteInbox
from tests.support.deliveries import quarantined_delivery
from tests.support.real_time import PATIENCE, until

COUNT = 200


@pytest.fixture(autouse=True)
def build_without_secure_delete(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections begin as in a build of SQLite that does not overwrite what is deleted, as on macOS."""
    usual: Callable[..., sqlite3.Connection] = sqlite3.connect

    def connect(*args: Any, **options: Any) -> sqlite3.Connection:
        connection = usual(*args, **options)
        connection.execute("PRAGMA secure_delete=OFF")
        return connection

    monkeypatch.setattr("sqlite3.connect", connect)


def mark(number: int) -> bytes:
    """The beginning of a body, in whole groups of base64, as an entry has it."""
    return b"<%04d>" % number


def found(file: Path) -> int:
    """Count the bodies in the file and in those beside it."""
    data = b"".join(each.read_bytes() for each in file.parent.glob(f"{file.name}*"))
    return sum(b64encode(mark(number)) in data for number in range(COUNT))


@asynccontextmanager
async def emptied(file: Path) -> AsyncGenerator[SQLiteInbox]:
    """An inbox from which 200 deliveries were removed, some of which were larger than a page."""
    async with SQLiteInbox(file) as inbox:
        for number in range(COUNT):
            body = mark(number) + b"x" * (100 if number % 3 else 5_000)
            await inbox.quarantine(f"k{number}", "t", attrs.evolve(quarantined_delivery(f"k{number}"), body=body))
        for number in range(COUNT):
            await inbox.complete(f"k{number}", "t")
        yield inbox


async def test_a_removed_body_is_in_no_file_after_the_end(tmp_path: Path) -> None:
    file = tmp_path / "inbox.db"
    async with emptied(file):
        assert found(file), "the write-ahead log still has them"
    assert found(file) == 0


async def test_it_would_be_noticed_if_sqlite_did_not_overwrite(tmp_path: Path) -> None:
    file = tmp_path / "inbox.db"
    async with emptied(file):
        pass
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE bodies (body TEXT)")
        connection.executemany("INSERT INTO bodies VALUES (?)", [(b64encode(mark(number)),) for number in range(COUNT)])
        connection.execute("DELETE FROM bodies")
        connection.commit()
    assert found(file) > COUNT / 2


async def test_a_removed_body_is_gone_within_the_minute_while_the_inbox_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "inbox.db"
    monkeypatch.setattr(sqlite, "_CLEAR_AFTER", 0.1)  # private: a minute of real time
    async with emptied(file) as inbox:
        async with asyncio.timeout(PATIENCE):
            while found(file):  # never quiet
                await inbox.known(["k"])
                await inbox.complete("other", "t")
        await inbox.complete("another", "t")
        await until(lambda: not found(file))


async def test_a_process_that_reads_holds_up_the_end_of_the_log_and_no_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "inbox.db"
    with closing(sqlite3.connect(file)) as reader:
        async with emptied(file) as inbox:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM inbox").fetchone()
            monkeypatch.setattr(sqlite, "_CLEAR_AFTER", 0.05)  # private: a minute of real time
            loop = asyncio.get_running_loop()
            for _ in range(5):
                began = loop.time()
                await inbox.complete("other", "t")
                assert loop.time() - began < 2
                await asyncio.sleep(0.03)
            assert found(file)
            reader.execute("ROLLBACK")
            await until(lambda: not found(file))
