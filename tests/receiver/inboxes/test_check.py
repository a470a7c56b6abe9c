"""Whether an inbox can be made and used, and what to do where it cannot. The suite has what holds for all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from redis.asyncio import Redis
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from basiq_async import ConfigurationError, InboxError
from basiq_async.receiver import MemoryInbox, RedisInbox, SQLInbox, SQLiteInbox
from tests.support.databases import engine_of, new_table, run, scalar
from tests.support.environment import free_port
from tests.support.servers import PostgresServer, RedisServer, redis_server

ENGINE = create_async_engine("sqlite+aiosqlite://")
REDIS = Redis()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: MemoryInbox(max_entries=1), "max_entries"),
        (lambda: MemoryInbox(max_quarantined=-1), "max_quarantined"),
        (lambda: MemoryInbox(remember=timedelta(0)), "remember"),
        (lambda: SQLiteInbox("inbox.db", remember=timedelta(0)), "remember"),
        (lambda: SQLInbox(ENGINE, table="no; DROP"), "cannot name a table"),
        (lambda: SQLInbox(ENGINE, table="x" * 60), "at most"),
        (lambda: SQLInbox(ENGINE, schema='a"b'), "cannot name a table or schema"),
        (lambda: SQLInbox(ENGINE, remember=timedelta(0)), "remember must be a finite number of seconds above 0"),
        (lambda: SQLInbox(ENGINE, timeout=0), "timeout must be a finite number of seconds above 0"),
        (lambda: SQLInbox("postgresql://localhost"), "AsyncEngine"),
        (lambda: RedisInbox(REDIS, prefix=""), "prefix must be"),
        (lambda: RedisInbox(REDIS, prefix="a{b}"), "without braces"),
        (lambda: RedisInbox(REDIS, remember=timedelta(0)), "remember must be a finite number of seconds above 0"),
        (lambda: RedisInbox(REDIS, timeout=-1), "timeout must be a finite number of seconds above 0"),
        (lambda: RedisInbox("redis://localhost"), r"client of redis\.asyncio"),
    ],
)
def test_arguments_that_cannot_be_right_are_refused(make: Callable[[], object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        make()


@pytest.mark.parametrize("kind", ["sqlite", "sql"])
async def test_a_closed_inbox_says_so_and_may_be_closed_again(kind: str, tmp_path: Path) -> None:
    async with engine_of(f"sqlite+aiosqlite:///{tmp_path}/sql.db") as engine:
        inbox = SQLiteInbox(tmp_path / "inbox.db") if kind == "sqlite" else SQLInbox(engine)
        if kind == "sqlite":
            pending = asyncio.create_task(inbox.complete("k", "a"))
            await asyncio.sleep(0)
        else:
            await inbox.claim("k", "a", lease=60)
        await inbox.aclose()
        await inbox.aclose()
        assert kind == "sql" or await pending, "what was asked for before is done"
        for call in (inbox.claim("k", "a", lease=60), inbox.known(["k"])):
            with pytest.raises(InboxError, match="closed"):
                await call


async def test_a_file_that_cannot_be_made_is_named_with_its_folder(tmp_path: Path) -> None:
    inbox = SQLiteInbox(tmp_path / "missing" / "inbox.db")
    with pytest.raises(InboxError, match=r"cannot be opened.*is there a folder .*missing"):
        await inbox.check()
    await inbox.aclose()


async def test_it_makes_the_tables_that_are_missing(url: str) -> None:
    async with engine_of(url) as engine:
        await SQLInbox(engine, table=new_table()).check()


async def test_tables_that_are_missing_are_an_error_that_says_how_to_make_them(url: str) -> None:
    async with engine_of(url) as engine:
        inbox = SQLInbox(engine, table=new_table(), create_tables=False)
        with pytest.raises(InboxError, match=r"tables are missing: run the migration .*inbox\.ddl\(\)"):
            await inbox.check()
        with pytest.raises(InboxError, match="tables are missing"):
            await inbox.claim("k", "a", lease=60)
        await run(engine, *inbox.ddl().split(";\n")[:-1])
        await inbox.check()


async def test_tables_that_were_dropped_meanwhile_are_found_missing(url: str) -> None:
    table = new_table()
    async with engine_of(url) as engine, SQLInbox(engine, table=table) as inbox:
        await run(engine, f"DROP TABLE {table}_failures")
        with pytest.raises(InboxError, match="tables are missing"):
            await inbox.check()


EARLIER = "CREATE TABLE {table} (key VARCHAR(400) PRIMARY KEY, handled_at TIMESTAMP, token TEXT)"


@pytest.mark.parametrize("create_tables", [False, True])
async def test_a_store_of_an_earlier_version_is_refused_and_left_as_it_is(create_tables: bool, url: str) -> None:
    table = new_table()
    async with engine_of(url) as engine:
        await run(engine, EARLIER.format(table=table), f"CREATE TABLE {table}_pinned (name VARCHAR(200) PRIMARY KEY)")
        inbox = SQLInbox(engine, table=table, create_tables=create_tables)
        said = (
            f"tables {table} were made by another version.*pass another table="
            if create_tables
            else "run the migration"
        )
        for call in (inbox.check(), inbox.claim("k", "a", lease=60)):
            with pytest.raises(InboxError, match=said):
                await call
        assert await scalar(engine, f"SELECT count(*) FROM {table}") == 0


@pytest.mark.parametrize("create_tables", [False, True])
async def test_tables_of_the_former_layout_are_refused_and_left_as_they_are(create_tables: bool, url: str) -> None:
    table = new_table()
    async with engine_of(url) as engine:
        async with SQLInbox(engine, table=table):
            pass
        await run(
            engine,
            f"DROP TABLE {table}_notes",
            f"ALTER TABLE {table}_version DROP COLUMN forgotten_at",
            f"UPDATE {table}_version SET version = 1",
        )
        inbox = SQLInbox(engine, table=table, create_tables=create_tables)
        with pytest.raises(InboxError, match=f"tables {table} were made by another version.*pass another table="):
            await inbox.check()
        with pytest.raises(DBAPIError):
            await scalar(engine, f"SELECT count(*) FROM {table}_notes")


async def test_a_database_that_is_away_is_an_error_that_asks_for_its_url() -> None:
    for driver in ("asyncpg", "psycopg"):
        async with engine_of(f"postgresql+{driver}://nobody@127.0.0.1:{free_port()}/x") as engine:
            with pytest.raises(InboxError, match="is the engine's url right"):
                await SQLInbox(engine).check()


async def test_a_database_that_may_only_be_read_is_an_error_that_says_so(postgres: PostgresServer) -> None:
    url = postgres.url()
    table = new_table()
    async with engine_of(url) as engine, SQLInbox(engine, table=table) as inbox:
        since = await inbox.known_since()
        await inbox.complete("k", "a")
    options = {"server_settings": {"default_transaction_read_only": "on"}}
    async with engine_of(url, connect_args=options) as engine:
        inbox = SQLInbox(engine, table=table, create_tables=False)
        with pytest.raises(InboxError, match=r"is read-only.*such as the primary"):
            await inbox.check()
        found = (await inbox.known_since(), await inbox.known(["k", "l"]), await inbox.entries())
        assert found == (since, {"k"}, []), "it can be looked at"


async def test_a_redis_that_may_only_be_read_can_be_looked_at(redis: RedisServer) -> None:
    async with Redis.from_url(redis.url) as admin:
        inbox = RedisInbox(admin, prefix="looked")
        assert await inbox.complete("k", "a")
        since = await inbox.known_since()
        await admin.execute_command("ACL", "SETUSER", "looks", "on", "nopass", "~*", "+@read", "+time", "+@scripting")
        async with Redis.from_url(redis.url.replace("redis://", "redis://looks:x@")) as client:
            looked = RedisInbox(client, prefix="looked")
            with pytest.raises(InboxError, match="the Redis user needs"):
                await looked.check()
            found = (await looked.known_since(), [*await looked.known(["k", "l"])], await looked.entries())
            assert found[1:] == (["k"], [])
            assert abs((found[0] - since).total_seconds()) < 60


async def test_a_redis_that_is_away_is_an_error_that_asks_for_its_url() -> None:
    async with Redis.from_url(f"redis://127.0.0.1:{free_port()}/0") as client:
        with pytest.raises(InboxError, match="is it running, and is the client's url right"):
            await RedisInbox(client).check()


async def test_a_redis_that_holds_something_else_below_the_prefix_is_an_error(redis: RedisServer) -> None:
    async with Redis.from_url(redis.url) as client:
        await client.set("{taken}:quarantine", "something")
        with pytest.raises(InboxError, match=r"has stored a string .* pass another prefix="):
            await RedisInbox(client, prefix="taken").check()


@pytest.mark.parametrize("rights", ["+@all -info", "+@all"])
async def test_a_server_that_does_not_tell_its_settings_is_ready_all_the_same(rights: str, redis: RedisServer) -> None:
    async with Redis.from_url(redis.url) as admin:
        await admin.execute_command("ACL", "SETUSER", "app", "on", "nopass", "~*", *rights.split())
        async with Redis.from_url(redis.url.replace("redis://", "redis://app:x@")) as client:
            await RedisInbox(client).check()
            assert await RedisInbox(client, prefix=rights).complete("k", "a")


async def test_a_server_without_the_command_info_is_no_outage(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--rename-command", "INFO", "") as server:
        async with Redis.from_url(server.url) as client:
            inbox = RedisInbox(client)
            await inbox.check()
            assert await inbox.complete("k", "a")


async def test_a_user_without_rights_is_told_what_is_needed(redis: RedisServer) -> None:
    async with Redis.from_url(redis.url) as admin:
        await admin.execute_command("ACL", "SETUSER", "mean", "on", "nopass", "~*", "+@read")
        async with Redis.from_url(redis.url.replace("redis://", "redis://mean:x@")) as client:
            with pytest.raises(InboxError, match="the Redis user needs"):
                await RedisInbox(client).check()


async def test_processes_that_make_the_tables_at_once_all_succeed(url: str) -> None:
    table = new_table()
    async with engine_of(url) as engine:
        inboxes = [SQLInbox(engine, table=table) for _ in range(5)]
        assert await asyncio.gather(*(inbox.known(["k"]) for inbox in inboxes)) == [set()] * 5
