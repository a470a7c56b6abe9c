from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import textwrap
from base64 import b64encode
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest

from basiq_async import InboxError
from basiq_async._work.inbox_calls import InboxCalls
from basiq_async.receiver import SQLiteInbox
from basiq_async.receiver.protocol import ClaimStatus
from basiq_async.testing import ManualClock, check_inbox
from tests.support import inbox_stress
from tests.support.deliveries import NOW, quarantined_delivery
from tests.support.frames import leaks
from tests.support.inboxes import pass_hours
from tests.support.real_time import PATIENCE

CLAIMED, DONE, BUSY = ClaimStatus.CLAIMED, ClaimStatus.DONE, ClaimStatus.BUSY


def _in_folder(folder: Path, name: str) -> SQLiteInbox:
    return SQLiteInbox(folder / f"{name}.db")


async def test_the_inbox_in_a_file_keeps_every_promise(tmp_path: Path) -> None:
    make = partial(_in_folder, tmp_path)
    await check_inbox(make, shared=True, seconds=PATIENCE)
    await inbox_stress.raced(make)
    await inbox_stress.killed(make, PATIENCE)
    assert repr(make("inbox")) == f"SQLiteInbox({str(tmp_path / 'inbox.db')!r})"


async def test_it_remembers_for_thirty_days_and_prunes_itself(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    path = tmp_path / "inbox.db"
    async with SQLiteInbox(path, clock=clock) as inbox:
        for number in range(50):
            await inbox.claim(f"old-{number}", "a", lease=60)
            await inbox.complete(f"old-{number}", "a")
        await pass_hours(clock, inbox, 29 * 24)
        assert await inbox.known(["old-1"])
        await pass_hours(clock, inbox, 5 * 24)
        assert not await inbox.known(["old-1"])
        assert (await inbox.claim("old-1", "b", lease=60)).status is CLAIMED
        for number in range(25):
            await inbox.complete(f"new-{number}", "a")
    with sqlite3.connect(path) as connection:
        keys = {key for (key,) in connection.execute("SELECT key FROM inbox")}
    assert keys == {"old-1", *(f"new-{number}" for number in range(25))}
    connection.close()


async def test_the_quarantine_and_its_counts_outlive_the_process_and_the_memory(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    path = tmp_path / "inbox.db"
    async with SQLiteInbox(path, clock=clock) as inbox:
        assert [await inbox.release("k", "a", failed=True) for _ in range(3)] == [1, 2, 3]
        assert await inbox.quarantine("k", "a", quarantined_delivery("k"))
        assert await inbox.release("forgiven", "a", failed=True) == 1
        await pass_hours(clock, inbox, 40 * 24)
    async with SQLiteInbox(path, clock=clock) as inbox:
        await inbox.claim("another", "a", lease=60)
        assert await inbox.entries() == [quarantined_delivery("k")]
        assert (await inbox.claim("k", "b", lease=60)).status is DONE
        assert (await inbox.claim("k", "b", lease=60, quarantined=True)).status is CLAIMED
        assert await inbox.release("k", "b", failed=True) == 4
        assert await inbox.release("forgiven", "a", failed=True) == 1, "a failure is forgotten as what was handled is"
        assert await inbox.complete("k", "b")
        await pass_hours(clock, inbox, 35 * 24)
        assert (await inbox.claim("k", "b", lease=60)).status is CLAIMED


def _run(path: Path, statement: str) -> list[Any]:
    """Run a statement on the file as another program does."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return connection.execute(statement).fetchall()


async def test_it_is_on_disk_before_it_says_so(tmp_path: Path) -> None:
    async with SQLiteInbox(tmp_path / "inbox.db") as inbox:
        settings = await inbox._store.run(
            lambda connection: [
                connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")
            ]
        )
        assert settings == ["wal", 2]
        await inbox.complete("k", "a")
        # What a crash at this moment would leave: the files as they are now.
        for name in ("inbox.db", "inbox.db-wal"):
            shutil.copy(tmp_path / name, tmp_path / f"copy-{name}")
    async with SQLiteInbox(tmp_path / "copy-inbox.db") as inbox:
        assert await inbox.known(["k"])


async def test_many_at_once_share_a_commit(tmp_path: Path) -> None:
    async with SQLiteInbox(tmp_path / "inbox.db") as inbox:
        commits: list[str] = []
        await inbox._store.run(lambda connection: connection.set_trace_callback(commits.append))
        commits.clear()
        await asyncio.gather(*(inbox.claim(str(number), "a", lease=60) for number in range(100)))
        assert commits.count("COMMIT") <= 3


async def test_the_event_loop_goes_on_while_the_file_is_locked(tmp_path: Path) -> None:
    path = tmp_path / "inbox.db"
    async with SQLiteInbox(path) as inbox:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        task = asyncio.create_task(inbox.claim("k", "a", lease=60))
        for _ in range(5):
            await asyncio.sleep(0.001)
        assert not task.done()
        other.execute("COMMIT")
        other.close()
        assert (await task).status is CLAIMED


async def test_a_lock_that_lasts_is_an_error_of_the_moment(tmp_path: Path) -> None:
    path = tmp_path / "inbox.db"
    async with SQLiteInbox(path, busy_timeout=0.01) as inbox:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(InboxError, match="locked") as caught:
            await inbox.claim("k", "a", lease=60)
        assert str(path) in str(caught.value)
        assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
        other.execute("COMMIT")
        other.close()
        assert (await inbox.claim("k", "a", lease=60)).status is CLAIMED


async def test_a_full_disk_is_an_error_of_the_moment_and_loses_nothing(tmp_path: Path) -> None:
    async with SQLiteInbox(tmp_path / "inbox.db") as inbox:
        await inbox.complete("k", "a")
        pages = await inbox._store.run(lambda connection: connection.execute("PRAGMA page_count").fetchone()[0])
        await inbox._store.run(lambda connection: connection.execute(f"PRAGMA max_page_count={pages}"))
        with pytest.raises(InboxError, match="full"):
            for number in range(1000):
                await inbox.complete(f"{number}-{'x' * 300}", "a")
        await inbox._store.run(lambda connection: connection.execute("PRAGMA max_page_count=1000000"))
        assert await inbox.known(["k"])
        assert await inbox.complete("after", "a")


def _text(path: Path) -> None:
    path.write_bytes(b"these are my holiday notes, and no database\n" * 100)


def _torn(path: Path) -> None:
    asyncio.run(_make(path, 2000))
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\x55" * (len(whole) - 4096))


def _cut(path: Path) -> None:
    asyncio.run(_make(path, 2000))
    path.write_bytes(path.read_bytes()[:5000])


async def _make(path: Path, entries: int = 1) -> None:
    async with SQLiteInbox(path) as inbox:
        await asyncio.gather(*(inbox.complete(f"{number}-{'x' * 50}", "a") for number in range(entries)))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_text, "no inbox at all"),
        (_torn, "damaged"),
        (_cut, "damaged"),
        (Path.mkdir, "not a regular file"),
    ],
)
def test_a_file_that_is_not_ours_or_damaged_is_refused_and_left_as_it_is(
    make: object, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "inbox.db"
    make(path)
    before = path.read_bytes() if path.is_file() else b""

    async def use() -> None:
        inbox = SQLiteInbox(path)
        try:
            for _ in range(2):
                with pytest.raises(InboxError, match=said) as caught:
                    await inbox.claim("k", "a", lease=60)
                assert str(path) in str(caught.value)
        finally:
            await inbox.aclose()

    asyncio.run(use())
    assert (path.read_bytes() if path.is_file() else b"") == before


@pytest.mark.parametrize("time", ["'later'", "x'00ff'", "1e300", "-1e17"])
async def test_a_damaged_time_is_an_error_of_the_inbox_whose_frames_show_no_body(time: str, tmp_path: Path) -> None:
    path = tmp_path / "inbox.db"
    delivery = quarantined_delivery("k")
    async with SQLiteInbox(path) as inbox:
        await inbox.quarantine("k", "t", attrs.evolve(delivery, body=b"geheim"))
        await inbox.store(attrs.evolve(delivery, key="w", body=b"geheim"))
        assert len(await inbox.entries()) == len(await inbox.entries(waiting=True)) == 1
        with closing(sqlite3.connect(path)) as other:
            other.execute(f"UPDATE inbox SET at = {time} WHERE at IS NOT NULL")
            other.execute(f"UPDATE inbox SET stored = {time}, due = {time} WHERE due IS NOT NULL")
            other.execute(f"UPDATE clock SET began = {time}")
            other.commit()
        for call in (inbox.entries, partial(inbox.entries, waiting=True), inbox.known_since):
            if call != inbox.known_since or time != "-1e17":  # a beginning so long ago says nothing
                with pytest.raises(InboxError, match="is damaged") as caught:
                    await call()
                assert leaks(caught.value, [b64encode(b"geheim").decode(), "geheim"]) == []


def test_one_inbox_serves_one_event_loop_after_another(tmp_path: Path) -> None:
    inbox = SQLiteInbox(tmp_path / "inbox.db")
    assert asyncio.run(inbox.complete("k", "a"))
    assert asyncio.run(inbox.known(["k"]))
    asyncio.run(inbox.aclose())


def test_a_loop_that_is_gone_before_the_answer_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "inbox.db"
    asyncio.run(_make(path))
    inbox = SQLiteInbox(path)
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")

    async def ask() -> None:
        task = asyncio.create_task(inbox.complete("k", "a"))
        await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(ask())
    other.execute("COMMIT")
    other.close()
    assert asyncio.run(inbox.complete("other", "a"))
    asyncio.run(inbox.aclose())


FORKED = """
    import asyncio, os, sys
    from basiq_async import InboxError
    from basiq_async.receiver import SQLiteInbox

    path, count = sys.argv[1], 200
    inbox = SQLiteInbox(path)
    assert asyncio.run(inbox.complete("parent", "a"))
    child = os.fork()
    if child == 0:
        again = SQLiteInbox(path)
        for each in (inbox, again):
            try:
                asyncio.run(each.complete("child", "a"))
            except InboxError as error:
                assert "open it after the fork" in str(error), error
            else:
                os._exit(1)
        asyncio.run(again.aclose())
        asyncio.run(inbox.aclose())
        sys.exit(0)

    async def write():
        for number in range(count):
            assert await inbox.complete(f"parent-{number}", "a")

    asyncio.run(write())
    assert os.waitpid(child, 0)[1] == 0
    asyncio.run(inbox.aclose())
    inbox = SQLiteInbox(path)
    assert asyncio.run(inbox.known(["parent"])) and not asyncio.run(inbox.known(["child"]))
    assert all(asyncio.run(inbox.known([f"parent-{number}"])) for number in range(count))
    asyncio.run(inbox.aclose())

    # Closed, or not yet opened, before the fork: each side opens it again.
    inbox = SQLiteInbox(path)
    child = os.fork()
    assert asyncio.run(inbox.complete("child" if child == 0 else "later", "a"))
    asyncio.run(inbox.aclose())
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    inbox = SQLiteInbox(path)
    assert asyncio.run(inbox.known(["child"])) and asyncio.run(inbox.known(["later"]))
    asyncio.run(inbox.aclose())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_refuses_a_file_that_was_open_and_harms_nothing(tmp_path: Path) -> None:
    code = textwrap.dedent(FORKED)
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "inbox.db")], check=True, timeout=PATIENCE)


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_file_that_is_deleted_or_replaced_under_an_open_inbox_is_noticed(
    replaced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("basiq_async._storage.sqlite._CHECK_EVERY", 0.0)
    path = tmp_path / "inbox.db"
    inbox = SQLiteInbox(path)
    await inbox.claim("k", "a", lease=60)
    kept = path.rename(tmp_path / "kept")
    if replaced:
        shutil.copy(kept, path)
    for call in (inbox.complete("k", "a"), inbox.claim("other", "a", lease=60)):
        with pytest.raises(InboxError, match=r"deleted or replaced while it was open.*put the file back"):
            await call
    kept.replace(path)
    assert await inbox.complete("later", "a"), "the file is back"
    await inbox.aclose()


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_the_files_are_their_owners_alone_from_the_start(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        path = tmp_path / "inbox.db"
        async with SQLiteInbox(path) as inbox:
            await inbox.complete("k", "a")
            assert {each.name: _mode(each) for each in tmp_path.iterdir()} == {
                "inbox.db": 0o600,
                "inbox.db-wal": 0o600,
                "inbox.db-shm": 0o600,
            }
        empty = tmp_path / "empty.db"
        empty.touch(0o666)
        async with SQLiteInbox(empty) as inbox:
            await inbox.complete("k", "a")
            assert {_mode(each) for each in tmp_path.iterdir()} == {0o600}
    finally:
        os.umask(umask)


@pytest.mark.parametrize("stored", ["'{'", "NULL", "7", "x'ff'"])
async def test_an_altered_delivery_is_kept_and_hides_no_other(tmp_path: Path, stored: str) -> None:
    async with SQLiteInbox(tmp_path / "inbox.db") as inbox:
        for key in "kl":
            await inbox.quarantine(key, "a", quarantined_delivery(key))
        _run(tmp_path / "inbox.db", f"UPDATE inbox SET entry_json = {stored} WHERE key = 'k'")
        found = await inbox.entries()
        assert [(entry.key, entry.kind) for entry in found] == [("k", "unreadable"), ("l", "delivery")]
        assert await InboxCalls(inbox, 5).drop("k")
        assert [entry.key for entry in await inbox.entries()] == ["l"]
