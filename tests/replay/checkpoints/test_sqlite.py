"""The checkpoint in a SQLite file: whole after any end, and refused where it cannot be right."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from basiq_async.errors import CheckpointError, CheckpointInUseError, ConfigurationError
from basiq_async.replay import DeadLetter, SQLiteCheckpoint
from basiq_async.replay.protocol import Advance, Commit, ReplayJob, State
from basiq_async.testing import check_checkpoint
from tests.support.histories import execute
from tests.support.real_time import PATIENCE

JOB = ReplayJob("w1")


async def test_the_sqlite_checkpoint_keeps_its_promises(tmp_path: Path) -> None:
    await check_checkpoint(lambda name: SQLiteCheckpoint(tmp_path / name), seconds=PATIENCE)


# --- the file ---


async def open_and_close(path: Path, job: ReplayJob = JOB) -> State:
    checkpoint = SQLiteCheckpoint(path)
    state = await checkpoint.open(job, concurrency=2)
    await checkpoint.aclose()
    return state


async def test_a_new_file_is_its_owners_alone(tmp_path: Path) -> None:
    await open_and_close(tmp_path / "replay.db")
    assert stat.S_IMODE((tmp_path / "replay.db").stat().st_mode) == 0o600


FORKED = """
import asyncio, os, sys
from basiq_async import CheckpointError
from basiq_async.replay import SQLiteCheckpoint
from basiq_async.replay.protocol import Commit, ReplayJob

async def refused(call):
    try:
        await call
    except CheckpointError as error:
        assert "forked" in str(error), error
    else:
        os._exit(1)

async def child(checkpoint):
    await refused(checkpoint.save(Commit(done=["child"])))
    await checkpoint.aclose()
    await refused(SQLiteCheckpoint(sys.argv[1]).open(ReplayJob("w1"), concurrency=1))

async def opened(checkpoint):
    await checkpoint.open(ReplayJob("w1"), concurrency=1)

async def parent(checkpoint):
    await checkpoint.save(Commit(done=["parent"]))
    await checkpoint.aclose()
    state = await SQLiteCheckpoint(sys.argv[1]).peek(ReplayJob("w1"))
    assert state.done == {"parent"}, state

checkpoint = SQLiteCheckpoint(sys.argv[1])
asyncio.run(opened(checkpoint))
forked = os.fork()
if not forked:
    asyncio.run(child(checkpoint))
    sys.exit(0)
assert os.waitpid(forked, 0)[1] == 0
asyncio.run(parent(checkpoint))
"""


def test_a_forked_child_refuses_a_checkpoint_that_was_open(tmp_path: Path) -> None:
    path = str(tmp_path / "replay.db")
    subprocess.run([sys.executable, "-c", FORKED, path], check=True, timeout=PATIENCE)


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_file_that_is_deleted_or_replaced_while_it_is_open_is_noticed(
    replaced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("basiq_async._storage.sqlite._CHECK_EVERY", 0.0)
    checkpoint = SQLiteCheckpoint(tmp_path / "replay.db")
    await checkpoint.open(JOB, concurrency=1)
    await checkpoint.save(Commit(done=["a"]))
    gone = tmp_path / "replay.db"
    kept = gone.rename(tmp_path / "kept")
    if replaced:
        shutil.copy(kept, gone)
    with pytest.raises(CheckpointError, match=r"deleted or replaced while it was open.*put the file back"):
        await checkpoint.save(Commit(done=["b"]))
    await checkpoint.aclose()


async def test_a_checkpoint_that_others_can_open_or_a_link_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "replay.db"
    await open_and_close(path)
    path.chmod(0o644)
    with pytest.raises(CheckpointError, match=r"other users can open it \(mode 0644\): chmod 600"):
        await open_and_close(path)
    path.chmod(0o600)
    (tmp_path / "link.db").symlink_to(path)
    (tmp_path / "dangling.db").symlink_to(tmp_path / "nothing.db")
    for link in ("link.db", "dangling.db"):
        with pytest.raises(CheckpointError, match="symbolic link"):
            await open_and_close(tmp_path / link)
    assert not (tmp_path / "nothing.db").exists()


async def test_nothing_touches_the_disk_before_it_is_opened(tmp_path: Path) -> None:
    checkpoint = SQLiteCheckpoint(tmp_path / "replay.db")
    assert await checkpoint.peek(JOB) is None
    assert list(tmp_path.iterdir()) == []
    assert repr(checkpoint) == f"SQLiteCheckpoint({str(tmp_path / 'replay.db')!r})"


async def test_an_empty_file_is_a_new_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "replay.db"
    path.touch()
    assert await SQLiteCheckpoint(path).peek(JOB) is None
    assert (await open_and_close(path)).cursor is None


@pytest.mark.parametrize("path", ["", ":memory:", "a\0b", b"bytes"])
def test_a_path_that_is_no_file_is_refused(path: Any) -> None:
    with pytest.raises(ConfigurationError, match="path must be"):
        SQLiteCheckpoint(path)


@pytest.mark.parametrize(
    "content", [b"short", b"x" * 5000, b"SQLite format 3\x00" + b"\xff" * 4080, b'{"not": "a checkpoint"}\n' * 300]
)
async def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    for attempt in (SQLiteCheckpoint(path).open(JOB, concurrency=1), SQLiteCheckpoint(path).peek(JOB)):
        with pytest.raises(CheckpointError, match=r"damaged, or is no checkpoint at all.*pass another path"):
            await attempt
    assert path.read_bytes() == content
    assert [each.name for each in tmp_path.iterdir()] == ["notes.txt"]


async def test_a_database_of_something_else_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE job (name TEXT)")
    connection.commit()
    connection.close()
    content = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"SQLite file of another program.*left as it is"):
        await SQLiteCheckpoint(path).open(JOB, concurrency=1)
    assert path.read_bytes() == content


async def test_another_format_is_refused_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "replay.db"
    await open_and_close(path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 7")
    connection.commit()
    connection.close()
    with pytest.raises(CheckpointError, match=r"format 7.*format 2.*use the release that made it"):
        await open_and_close(path)


async def test_another_job_is_refused_with_both_named(tmp_path: Path) -> None:
    path = tmp_path / "replay.db"
    await open_and_close(path)
    with pytest.raises(CheckpointError, match=r"'w1' with no filter, not of webhook 'w2' with filter \"a.eq\('b'\)\""):
        await open_and_close(path, ReplayJob("w2", "a.eq('b')"))


async def test_a_torn_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "replay.db"
    checkpoint = SQLiteCheckpoint(path)
    await checkpoint.open(JOB, concurrency=1)
    for number in range(40):
        dead_letters = [DeadLetter(f"{number}-{i}", "e", _now(), {"id": "x" * 200}) for i in range(10)]
        await checkpoint.save(Commit(done=[str(number)], dead=dead_letters))
    await checkpoint.aclose()
    whole = path.read_bytes()
    for torn in (whole[: len(whole) // 2], whole[:4096], whole[:1000], whole[:4096] + b"\0" * (len(whole) - 4096)):
        path.write_bytes(torn)
        with pytest.raises(CheckpointError, match=r"damaged"):
            await open_and_close(path)
        assert path.read_bytes() == torn
    path.write_bytes(whole)
    assert len((await open_and_close(path)).done) == 40


async def test_a_database_whose_rows_make_no_sense_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "replay.db"
    await open_and_close(path)
    for statement in (
        "INSERT INTO log VALUES (1000, '{}', '[oops', 0)",
        "INSERT INTO log VALUES (1001, '{', '[]', 1)",
        """INSERT INTO log VALUES (1002, '{"handled": 1}', '[]', 1)""",
        "DELETE FROM log",
        "DELETE FROM job",
        "DROP TABLE log",
    ):
        connection = sqlite3.connect(path)
        connection.execute(statement)
        connection.commit()
        connection.close()
        with pytest.raises(CheckpointError, match="damaged"):
            await open_and_close(path)


async def test_a_folder_or_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be opened"):
        await open_and_close(tmp_path / "nowhere" / "replay.db")
    with pytest.raises(CheckpointError, match="cannot be opened"):
        await open_and_close(tmp_path)


async def test_a_full_disk_is_told_and_what_was_recorded_stays(tmp_path: Path) -> None:
    path = tmp_path / "replay.db"
    checkpoint = SQLiteCheckpoint(path)
    await checkpoint.open(JOB, concurrency=1)
    await checkpoint.save(Commit(advance=Advance("c", 3, ["a"]), handled=3))
    await execute(checkpoint, "PRAGMA max_page_count = 8")
    for big in (Commit(done=["x" * 40_000]), Commit(advance=Advance("d", 4, ["x" * 40_000]), handled=1)):
        with pytest.raises(CheckpointError, match=r"disk is full.*make room, run it again"):
            await checkpoint.save(big)
    await checkpoint.aclose()
    state = await open_and_close(path)
    assert (state.cursor, state.position, state.done, state.handled) == ("c", 3, {"a"}, 3)


async def test_a_file_that_must_not_be_written_is_told(tmp_path: Path) -> None:
    path = tmp_path / "replay.db"
    checkpoint = SQLiteCheckpoint(path)
    await checkpoint.open(JOB, concurrency=1)
    await execute(checkpoint, "PRAGMA query_only = 1")
    with pytest.raises(CheckpointError, match="cannot be written: give this user the right"):
        await checkpoint.save(Commit(done=["a"]))
    await checkpoint.aclose()


HOLD = """
import asyncio, sys
from basiq_async.replay import SQLiteCheckpoint
from basiq_async.replay.protocol import Commit, ReplayJob

async def main():
    checkpoint = SQLiteCheckpoint(sys.argv[1])
    await checkpoint.open(ReplayJob("w1"), concurrency=5)
    await checkpoint.save(Commit(done=["a"], handled=1))
    print("open", flush=True)
    sys.stdin.read()

asyncio.run(main())
"""


async def test_another_process_keeps_it_locked_until_it_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "replay.db"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == b"open\n"
        for attempt in (SQLiteCheckpoint(path).open(JOB, concurrency=1), SQLiteCheckpoint(path).peek(JOB)):
            said = rf"another run \(process {process.pid} on .*, since .* UTC\): wait for it or stop it"
            with pytest.raises(CheckpointInUseError, match=said):
                await attempt
        process.kill()
        process.wait()
    state = await open_and_close(path)
    assert (state.done, state.handled, state.interrupted) == ({"a"}, 1, 5)


async def test_one_object_cannot_be_opened_twice_nor_peeked_at_while_open(tmp_path: Path) -> None:
    checkpoint = SQLiteCheckpoint(tmp_path / "replay.db")
    await checkpoint.open(JOB, concurrency=1)
    with pytest.raises(CheckpointError, match="in use"):
        await checkpoint.open(JOB, concurrency=1)
    with pytest.raises(CheckpointError, match="in use"):
        await checkpoint.peek(JOB)
    await checkpoint.save(Commit(done=["a"]))
    await checkpoint.aclose()


async def test_it_is_closed_at_the_end_of_a_block_and_leaves_one_file(tmp_path: Path) -> None:
    path = tmp_path / "replay.db"
    async with SQLiteCheckpoint(path) as checkpoint:
        await checkpoint.open(JOB, concurrency=1)
        await checkpoint.save(Commit(done=["a"]))
    assert [each.name for each in tmp_path.iterdir()] == ["replay.db"]
    assert (await open_and_close(path)).done == {"a"}


async def test_a_close_that_is_cancelled_has_closed_it(tmp_path: Path) -> None:
    path = tmp_path / "replay.db"
    checkpoint = SQLiteCheckpoint(path)
    await checkpoint.open(JOB, concurrency=1)
    closing = asyncio.create_task(checkpoint.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await open_and_close(path)


def _now() -> Any:
    from datetime import UTC, datetime

    return datetime.now(UTC)


def test_a_process_whose_disk_hangs_can_end(tmp_path: Path) -> None:
    program = """
import asyncio, threading
from basiq_async._storage.sqlite_files import SQLiteFile
from basiq_async.errors import CheckpointError
from basiq_async.replay import SQLiteCheckpoint
from basiq_async.replay.protocol import ReplayJob
from basiq_async.replay.checkpoints import _sqlite

_sqlite._TIMEOUT = 0.05
SQLiteFile.open = lambda *_, **__: threading.Event().wait()
try:
    asyncio.run(SQLiteCheckpoint("run.db").open(ReplayJob("w1", "", "messages", ""), concurrency=1))
except CheckpointError as exc:
    print(exc)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert "did not respond within 0.05 s" in done.stdout, done.stderr
