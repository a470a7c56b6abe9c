"""Reading never writes: a command that looks makes nothing, refuses what is no inbox, and says how new it is."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from basiq_async._work.inbox_kinds import kind_of
from basiq_async.receiver import SQLiteInbox

from ..support.databases import engine_of
from ..support.databases import run as run_statements
from ..support.deliveries import Service, payload
from .conftest import TYPE, CommandResult, Run, World, make_inbox, receive, write_service

DAYS_AGO = 0
LOOKS: tuple[tuple[str, ...], ...] = (
    ("inbox", "check"),
    ("inbox", "waiting"),
    ("inbox", "get", "e-1"),
    ("quarantine", "list"),
    ("quarantine", "show", "e-1"),
    ("quarantine", "export", "export.jsonl"),
    ("quarantine", "drop", "e-1", "--yes"),
    ("webhooks", "doctor", "W"),
    ("replay", "W", "--dry-run"),
)
READS = [line for line in LOOKS if line[:2] not in (("inbox", "check"), ("quarantine", "drop"))]
"""Those that only read: a check tries a write, and a drop is one."""

NOTHING = ("no inbox has written to it", "tables are missing", "does not exist")


def folder() -> dict[str, bytes]:
    """Each file of this folder with its content; but the -shm file of SQLite, which has who reads."""
    files = [each for each in Path().iterdir() if each.is_file() and each.suffix != ".py"]
    return {str(each): b"" if each.name.endswith("-shm") else each.read_bytes() for each in files}


def look(
    w: World, webhook_id: str, *at: str, lines: Sequence[tuple[str, ...]] = LOOKS
) -> list[tuple[tuple[str, ...], CommandResult]]:
    return [(line, w.run(*(webhook_id if word == "W" else word for word in line), *at)) for line in lines]


def refuse(w: World, webhook_id: str, *at: str, beside: Sequence[str] = ()) -> None:
    """Each command that looks is refused, and leaves all files as they are.

    beside: the files that SQLite's own mode=ro makes for a URL of SQLite whose last user has left.
    """
    before = folder()
    for line, done in look(w, webhook_id, *at):
        code = 2 if "ConfigurationError" in done.stderr else 3
        assert (done.exit_code, done.stdout) == (code, ""), (line, done.output)
        assert any(text in done.stderr for text in NOTHING), (line, done.stderr)
        assert {name: each for name, each in folder().items() if name not in beside} == before, line


def _copied_without_log() -> None:
    """Copy the file of a running service without its -wal, which has all tables."""

    async def copy() -> None:
        async with SQLiteInbox("service.db") as inbox:
            await inbox.check()
            shutil.copyfile("service.db", "inbox.db")
            Path("inbox.db").chmod(0o600)

    asyncio.run(copy())


@pytest.mark.parametrize("case", ["empty", "copied without its log"])
def test_a_file_that_is_no_inbox_is_refused_and_left_as_it_is(world: World, case: str) -> None:
    w, webhook_id = world, world.webhook()
    if case == "empty":
        Path("inbox.db").touch(0o600)
    else:
        _copied_without_log()
    refuse(w, webhook_id, "--inbox", "inbox.db")
    beside = [f"inbox.db{name}" for name in ("-shm", "-wal")]
    refuse(w, webhook_id, "--inbox", f"sqlite+aiosqlite:///{Path('inbox.db').absolute()}", beside=beside)
    for name in beside:
        Path(name).unlink(missing_ok=True)
    place = write_service(webhook_id)
    refuse(w, webhook_id, "--receiver", place)
    assert w.run("recover", webhook_id, "--receiver", place).exit_code in (0, 3), "a recovery may begin an inbox"


@pytest.mark.parametrize("place", ["sqlite+aiosqlite", "postgresql", "redis"], indirect=True)
def test_a_database_without_an_inbox_is_refused_and_none_is_made(world: World, place: str) -> None:
    w, webhook_id = world, world.webhook()
    refuse(w, webhook_id, "--inbox", place)
    refuse(w, webhook_id, "--inbox", place)  # the first time made nothing


@pytest.mark.parametrize("is_running", [False, True], ids=["stopped", "beside a service"])
def test_looking_changes_no_file_and_reads_what_a_running_service_has_written(world: World, is_running: bool) -> None:
    w, webhook_id = world, world.webhook()
    make_inbox(webhook_id)
    receive(webhook_id, "e-1", "e-2", bad=("e-1", "e-2"), quarantine_after=1)

    async def looked() -> list[tuple[tuple[str, ...], CommandResult]]:
        async with SQLiteInbox("inbox.db") as inbox:
            service = Service(inbox=inbox, webhook_id=webhook_id, quarantine_after=1)
            service.broken = True
            if is_running:
                await service.post(payload(TYPE, "e-3"))
            else:
                await inbox.aclose()
            before = folder()
            assert len(before) == (4 if is_running else 2), [*before]
            found = await asyncio.to_thread(look, w, webhook_id, "--inbox", "inbox.db", lines=READS)
            Path("export.jsonl").unlink()
            assert folder() == before
            return found

    for line, done in asyncio.run(looked()):
        if line == ("quarantine", "list"):
            assert len(done.rows) == (3 if is_running else 2)


def test_each_answer_says_when_the_inbox_last_recorded_something(
    world: World,
) -> None:
    """A copy without its log can have all tables and lack the last rows."""
    w, webhook_id = world, world.webhook()
    make_inbox(webhook_id)
    receive(webhook_id, "e-0")
    shutil.copyfile("inbox.db", "copy.db")
    Path("copy.db").chmod(0o600)
    receive(webhook_id, "e-1", bad=("e-1",), quarantine_after=1)
    newest = [w.run("inbox", "check", "--inbox", place).row["last_recorded"] for place in ("copy.db", "inbox.db")]
    assert newest[0] < newest[1]
    for line, done in look(w, webhook_id, "--inbox", "inbox.db", lines=READS):
        if line[0] != "replay":  # it would post, and has a record of its own
            assert f"last recorded something at {newest[1][:19].replace('T', ' ')}" in done.stderr, (line, done.output)
    assert look(w, webhook_id, "--inbox", "copy.db", lines=[("quarantine", "list")])[0][1].stdout == ""


@pytest.mark.parametrize("place", ["sqlite+aiosqlite", "postgresql", "redis"], indirect=True)
def test_each_kind_of_inbox_knows_when_it_last_recorded_something(run: Run, place: str) -> None:
    async def receive_one(bad: bool, event_id: str) -> None:
        async with AsyncExitStack() as stack:
            inbox = kind_of(place).open(stack, place, make=True, remember=None)
            service = Service(inbox=inbox, webhook_id="w1", quarantine_after=1)
            service.broken = bad
            await service.post(payload(TYPE, event_id), message_id=f"m-{event_id}")

    found = []
    for number, bad in enumerate([False, True]):
        asyncio.run(receive_one(bad, f"e-{number}"))
        found.append(run("inbox", "check", "--inbox", place).row["last_recorded"])
    assert found[0] < found[1]


def test_a_database_that_only_reads_is_named_by_doctor(world: World, database: str) -> None:
    w, webhook_id = world, world.webhook()

    async def make(*statements: str) -> None:
        async with AsyncExitStack() as stack:
            inbox = kind_of(database).open(stack, database, make=True, remember=None)
            await inbox.check()
        async with engine_of(database, isolation_level="AUTOCOMMIT") as engine:
            await run_statements(engine, *statements)

    asyncio.run(make())
    at = ("webhooks", "doctor", webhook_id, "--inbox", database)
    assert w.run(*at).exit_code == 0
    name = database.rpartition("/")[2]
    asyncio.run(make(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
    done = w.run(*at)
    assert (done.exit_code, "the inbox's database is read-only" in done.stderr) == (1, True), done.output


def test_an_inbox_that_was_emptied_is_told_since_when_it_has_records(world: World) -> None:
    w, webhook_id = world, world.webhook()
    w.emit(2)
    w.pass_time(hours=1)
    make_inbox(webhook_id)
    done = w.run("webhooks", "doctor", webhook_id, "--inbox", "inbox.db")
    assert done.row["passed_over"] == 2, done.output
    assert "the inbox has records since 20" in done.stderr
    assert "what waited or was in its quarantine is gone" in done.stderr
