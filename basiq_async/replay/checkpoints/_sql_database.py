"""The database of a checkpoint: tables, statements, and transactions that are tried again during a short outage."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Dialect,
    Double,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    and_,
    bindparam,
    cast,
    delete,
    func,
    literal_column,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ..._storage.sql import (
    Transaction,
    brief,
    check_names,
    is_passing,
    key_type,
    make_ddl,
    refuse_autocommit,
    without_values,
)
from ..._work.tasks import run_to_completion
from ...errors import BasiqError, CheckpointError, ConfigurationError

T = TypeVar("T")
_LONGEST_KEY = 400
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
"""Seconds between attempts while the database is away."""
_NOT_THERE = ("42P01", "42703")
"""SQLSTATEs of a missing table and a missing column."""


class Tables:
    """The three tables of a checkpoint: jobs, ids of messages done since the last cursor, and dead letters."""

    def __init__(self, table: str = "basiq_checkpoint", schema: str | None = None) -> None:
        check_names(table, schema, what="a checkpoint")
        self.name = table if schema is None else f"{schema}.{table}"
        self.metadata = MetaData(schema=schema)
        self.job = Table(
            table,
            self.metadata,
            *_job_key(),
            # Texts from elsewhere are stored as JSON, because PostgreSQL accepts no zero bytes and no lone surrogates.
            Column("webhook_id", Text, nullable=False),
            Column("filter", Text, nullable=False),
            Column("selection", Text, nullable=False),
            Column("cursor", Text),
            Column("position", BigInteger, nullable=False),
            Column("last_id", Text),
            Column("done", Text, nullable=False),
            Column("notes", Text, nullable=False),
            Column("handled", BigInteger, nullable=False),
            Column("failed", BigInteger, nullable=False),
            Column("interrupted", BigInteger, nullable=False),
            Column("dead_letters", BigInteger, nullable=False),
            Column("token", String(40), nullable=False),
            Column("holder", String(200)),
            Column("lease", Double, nullable=False),
            Column("renewed_at", Double, nullable=False),
        )
        self.done = Table(
            f"{table}_done",
            self.metadata,
            *_job_key(),
            Column("number", BigInteger, primary_key=True, autoincrement=False),
            Column("ids", Text, nullable=False),
        )
        self.dead = Table(
            f"{table}_dead",
            self.metadata,
            *_job_key(),
            Column("number", BigInteger, primary_key=True, autoincrement=False),
            Column("key", key_type(), nullable=False),
            Column("id", Text, nullable=False),
            Column("error", Text, nullable=False),
            Column("failed_at", Text, nullable=False),
            Column("message", Text, nullable=False),
            UniqueConstraint("name", "source", "key"),
        )

    def ddl(self, dialect: Dialect) -> str:
        """Return the SQL statements that create the tables, each with its semicolon."""
        return make_ddl(self.metadata, dialect)


class Statements:
    """The statements of a checkpoint, built once, so that SQLAlchemy compiles each of them once.

    Times are in seconds, by the database's clock.
    """

    def __init__(self, tables: Tables, dialect: str) -> None:
        if dialect not in ("postgresql", "sqlite"):
            raise ConfigurationError(f"SQLCheckpoint works with PostgreSQL and SQLite, not with {dialect}")
        self.on_postgresql = dialect == "postgresql"
        insert = postgresql.insert if self.on_postgresql else sqlite.insert
        job, done, dead = tables.job, tables.done, tables.dead
        now: ColumnElement[float]
        if self.on_postgresql:  # now() would be the time when the transaction began, before it waited for a lock
            now = cast(func.extract("epoch", func.clock_timestamp()), Double)
        else:
            now = literal_column("(julianday('now') - 2440587.5) * 86400.0", Double)

        self.read = select(job, now.label("now")).where(_is_job(job))
        self.lock = self.read.with_for_update() if self.on_postgresql else self.read
        self.make = insert(job).on_conflict_do_nothing()
        self.save = update(job).where(_is_job(job), job.c.holder == bindparam("a_holder")).values(renewed_at=now)
        self.take = update(job).where(_is_job(job)).values(renewed_at=now)
        self.let_go = (
            update(job).where(_is_job(job), job.c.holder == bindparam("a_holder")).values(holder=None, renewed_at=now)
        )
        self.done = select(done.c.number, done.c.ids).where(_is_job(done))
        self.add_done = insert(done).on_conflict_do_nothing()
        self.clear_done = delete(done).where(_is_job(done))
        self.clear_dead = delete(dead).where(_is_job(dead))
        self.count_dead = select(func.count()).select_from(dead).where(_is_job(dead))
        number = bindparam("a_number", type_=BigInteger)
        self.dead_letters = select(dead).where(_is_job(dead), dead.c.number > number)
        self.dead_letters = self.dead_letters.order_by(dead.c.number).limit(bindparam("a_limit", type_=BigInteger))
        new = insert(dead)
        self.put_dead_letter = new.on_conflict_do_update(
            index_elements=[dead.c.name, dead.c.source, dead.c.key],
            set_={column: new.excluded[column] for column in ("error", "failed_at", "message")},
        )
        self.revive = delete(dead).where(_is_job(dead), dead.c.key == bindparam("a_key", type_=String))
        self.lock_tables = select(func.pg_advisory_xact_lock(func.hashtext(tables.name)))


def checkpoint_metadata(table: str = "basiq_checkpoint", schema: str | None = None) -> MetaData:
    """Return the tables of a ``SQLCheckpoint``, for Alembic's ``target_metadata``."""
    return Tables(table, schema).metadata


def key_of(text: str) -> str:
    """Return a text as the value of a key column: ASCII, at most 400 characters; otherwise a digest of it."""
    if text.isascii() and text.isprintable() and len(text) <= _LONGEST_KEY:
        return text
    return "sha256:" + hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _job_key() -> tuple[Column[Any], ...]:
    return (
        Column("name", key_type(), primary_key=True),
        Column("source", String(20), primary_key=True),
    )


def _is_job(table: Table) -> ColumnElement[bool]:
    return and_(table.c.name == bindparam("a_name"), table.c.source == bindparam("a_source"))


class NoTablesError(CheckpointError):
    """The tables of the checkpoint are missing, or of another release."""


class Calls:
    """Runs transactions on an engine, each for at most ``timeout`` seconds. No connection is held between them."""

    def __init__(
        self, engine: AsyncEngine, tables: Tables, sql: Statements, *, create_tables: bool, timeout: float
    ) -> None:
        self._engine = engine
        self._tables = tables
        self._sql = sql
        self._create_tables = create_tables
        self._timeout = timeout
        self._ready = False

    async def prepare(self) -> None:
        """Create missing tables. Raises ``ConfigurationError`` for an engine in AUTOCOMMIT mode."""

        async def work(connection: AsyncConnection) -> None:
            await refuse_autocommit(connection)
            if self._create_tables:
                if self._sql.on_postgresql:  # two processes that create the tables at once would fail
                    await connection.execute(self._sql.lock_tables)
                await connection.run_sync(self._tables.metadata.create_all)

        if not self._ready:
            await self.call(work)
            self._ready = True

    async def call(
        self, work: Callable[[AsyncConnection], Awaitable[T]], recorded: Callable[[], None] = lambda: None
    ) -> T:
        """Do ``work`` in a transaction, then call ``recorded``. Try again while the database is away or busy.

        ``work`` must be safe to repeat. A cancellation waits for the attempt that is under way.
        """

        async def once(timeout: float) -> T:
            result = await self.attempt(work, timeout=timeout)
            recorded()
            return result

        loop = asyncio.get_running_loop()
        until, pause = loop.time() + self._timeout, _FIRST_PAUSE
        while True:
            left = until - loop.time()
            try:
                return await run_to_completion(partial(once, left))
            except BasiqError:
                raise
            except Exception as exc:
                if not _may_pass(exc):
                    raise self._translate(exc) from without_values(exc)
                if until - loop.time() <= pause:
                    raise CheckpointError(
                        f"the database of the checkpoint was away for {self._timeout:g} s ({brief(exc)}): fix it, then "
                        "run the same again to continue"
                    ) from without_values(exc)
            await asyncio.sleep(pause)
            pause = min(_LONGEST_PAUSE, 2 * pause)

    async def attempt(self, work: Callable[[AsyncConnection], Awaitable[T]], *, timeout: float) -> T:
        """Do ``work`` in a transaction, once. Raises errors of SQLAlchemy and the driver, or ``CheckpointError``."""
        transaction = Transaction(self._engine, writing=None if self._sql.on_postgresql else asyncio.Lock())
        whole = False
        try:
            async with asyncio.timeout(timeout):
                if not await transaction.begin():
                    raise _LockedError("another connection holds the database's write lock, and does not finish")
                result = await work(transaction.connection)
                await transaction.commit()
                whole = True
                return result
        except TimeoutError as exc:
            raise CheckpointError(
                f"the database of the checkpoint did not respond within {timeout:.3g} s: it is unreachable, or all "
                "connections of the pool are in use. Fix that, then run the same again to continue"
            ) from without_values(exc)
        except BasiqError:
            raise
        except (ValueError, TypeError, KeyError) as exc:
            raise CheckpointError(
                f"the tables of {self._tables.name} hold data that no checkpoint has written: restore them, or pass "
                "another name to begin anew"
            ) from without_values(exc)
        except DBAPIError as exc:
            if _is_not_there(exc):
                raise self._no_tables(exc) from without_values(exc)
            raise
        finally:
            await transaction.end(broken=not whole)

    def _no_tables(self, exc: DBAPIError) -> NoTablesError:
        return NoTablesError(
            f"the tables of the checkpoint {self._tables.name} are missing, or of another release ({brief(exc)}): "
            "create them with checkpoint_metadata() in Alembic or the SQL of .ddl(), or leave create_tables on"
        )

    def _translate(self, exc: Exception) -> CheckpointError:
        return CheckpointError(f"the database of the checkpoint failed: {brief(exc)}")


class _LockedError(Exception):
    """Another connection holds SQLite's write lock."""


def _is_not_there(exc: DBAPIError) -> bool:
    code = getattr(exc.orig, "sqlstate", None)
    return code in _NOT_THERE or str(exc.orig).startswith(("no such table", "no such column"))


def _may_pass(exc: Exception) -> bool:
    """Return whether the database may work again soon: it is away, starting or busy."""
    if isinstance(exc, (OSError, _LockedError, PoolTimeoutError)):
        return True
    original = getattr(exc, "orig", exc)
    code = getattr(original, "sqlstate", None)
    if isinstance(exc, (OperationalError, InterfaceError)) and code is None:
        return "unable to open" not in str(original)
    return is_passing(exc) or (code or "").startswith(("08", "57", "53"))
