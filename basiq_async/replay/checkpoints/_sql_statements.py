"""The tables of a checkpoint in a SQL database, and its statements for PostgreSQL and SQLite."""

from __future__ import annotations

import hashlib
from typing import Any

import sqlalchemy as sa
from sqlalchemy import MetaData, func
from sqlalchemy.dialects import postgresql, sqlite

from ..._storage.sql import LetterType, StoreKind, StoreTables, key_type, server_seconds
from ...errors import CheckpointError

_LONGEST_KEY = 400
_KIND = StoreKind("checkpoint", 1, CheckpointError, remedy=". Fix that, then run the same again to continue")


class Tables(StoreTables):
    """The tables of a checkpoint: jobs and their leases, the log of each, dead letters, and the version."""

    def __init__(self, table: str = "basiq_checkpoint", schema: str | None = None) -> None:
        super().__init__(_KIND, table, schema)
        self.job = sa.Table(
            table,
            self.metadata,
            *_job_key(),
            # Texts from elsewhere are stored as JSON, because PostgreSQL accepts no zero bytes and no lone surrogates.
            sa.Column("job", sa.Text, nullable=False),
            sa.Column("dead_letters", sa.BigInteger, nullable=False),
            sa.Column("holder", sa.String(200)),
            sa.Column("lease", sa.Double, nullable=False),
            sa.Column("renewed_at", sa.Double, nullable=False),
        )
        self.log = sa.Table(
            f"{table}_log",
            self.metadata,
            *_job_key(),
            sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("fields", sa.Text, nullable=False),
            sa.Column("done", sa.Text, nullable=False),
        )
        self.dead = sa.Table(
            f"{table}_dead",
            self.metadata,
            *_job_key(),
            sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("key", key_type(), nullable=False),
            sa.Column("letter", LetterType, nullable=False),
            sa.UniqueConstraint("name", "source", "key"),
        )


class Statements:
    """The statements of a checkpoint, built once, so that SQLAlchemy compiles each of them once.

    Times are in seconds, by the database's clock.
    """

    def __init__(self, tables: Tables, dialect: str) -> None:
        on_postgresql = dialect == "postgresql"
        insert = postgresql.insert if on_postgresql else sqlite.insert
        job, log, dead = tables.job, tables.log, tables.dead
        now = server_seconds(dialect)
        number = sa.bindparam("a_number", type_=sa.BigInteger)

        self.read = sa.select(job, now.label("now")).where(_is_job(job))
        self.lock = self.read.with_for_update() if on_postgresql else self.read
        self.make = insert(job).values(renewed_at=0.0, dead_letters=0).on_conflict_do_nothing()
        self.take = sa.update(job).where(_is_job(job)).values(renewed_at=now)
        self.renew = self.take.where(job.c.holder == sa.bindparam("a_holder"))
        self.let_go = self.renew.values(holder=None)
        self.log = sa.select(log.c.number, log.c.fields, log.c.done).where(_is_job(log)).order_by(log.c.number)
        self.add = insert(log).on_conflict_do_nothing()
        self.cut = sa.delete(log).where(_is_job(log), log.c.number < number)
        self.clear = [sa.delete(table).where(_is_job(table)) for table in (log, dead)]
        self.count_dead = sa.select(func.count()).select_from(dead).where(_is_job(dead))
        most = sa.bindparam("a_limit", type_=sa.BigInteger)
        later = sa.select(dead.c.letter, dead.c.number).where(_is_job(dead), dead.c.number > number)
        self.dead_letters = later.order_by(dead.c.number).limit(most)
        new = insert(dead)
        self.put_dead_letter = new.on_conflict_do_update(
            index_elements=[dead.c.name, dead.c.source, dead.c.key], set_={"letter": new.excluded.letter}
        )
        self.revive = sa.delete(dead).where(_is_job(dead), dead.c.key == sa.bindparam("a_key", type_=sa.String))


def checkpoint_metadata(table: str = "basiq_checkpoint", schema: str | None = None) -> MetaData:
    """Return the tables of a ``SQLCheckpoint``, for Alembic's ``target_metadata``."""
    return Tables(table, schema).metadata


def key_of(text: str) -> str:
    """Return a text as the value of a key column: ASCII, at most 400 characters; otherwise a digest of it."""
    if text.isascii() and text.isprintable() and len(text) <= _LONGEST_KEY:
        return text
    return "sha256:" + hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _job_key() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("name", key_type(), primary_key=True),
        sa.Column("source", sa.String(20), primary_key=True),
    )


def _is_job(table: sa.Table) -> sa.ColumnElement[bool]:
    return sa.and_(table.c.name == sa.bindparam("a_name"), table.c.source == sa.bindparam("a_source"))
