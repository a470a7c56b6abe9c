"""The tables of a checkpoint in a SQL database, and its statements for PostgreSQL and SQLite."""

from __future__ import annotations

import hashlib
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Double,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    and_,
    bindparam,
    delete,
    func,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from ..._storage.sql import StoreKind, StoreTables, key_type, server_seconds
from ...errors import CheckpointError

_LONGEST_KEY = 400
_KIND = StoreKind("checkpoint", 1, CheckpointError, remedy=". Fix that, then run the same again to continue")


class Tables(StoreTables):
    """The tables of a checkpoint: jobs, ids of messages done since the last cursor, dead letters, and the version."""

    def __init__(self, table: str = "basiq_checkpoint", schema: str | None = None) -> None:
        super().__init__(_KIND, table, schema)
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


class Statements:
    """The statements of a checkpoint, built once, so that SQLAlchemy compiles each of them once.

    Times are in seconds, by the database's clock.
    """

    def __init__(self, tables: Tables, dialect: str) -> None:
        on_postgresql = dialect == "postgresql"
        insert = postgresql.insert if on_postgresql else sqlite.insert
        job, done, dead = tables.job, tables.done, tables.dead
        now = server_seconds(dialect)

        self.read = select(job, now.label("now")).where(_is_job(job))
        self.lock = self.read.with_for_update() if on_postgresql else self.read
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
