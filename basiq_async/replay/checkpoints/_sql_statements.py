"""The tables of a checkpoint in a SQL database, and its statements for PostgreSQL and SQLite."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import MetaData, func
from sqlalchemy.dialects import postgresql, sqlite

from ..._storage.sql import StoreKind, StoreTables, key_type, server_seconds
from ...errors import CheckpointError
from ._base import DeadLetter

_LONGEST_KEY = 400
_KIND = StoreKind("checkpoint", 1, CheckpointError, remedy=". Fix that, then run the same again to continue")


class Tables(StoreTables):
    """The tables of a checkpoint: jobs, ids of messages done since the last cursor, dead letters, and the version."""

    def __init__(self, table: str = "basiq_checkpoint", schema: str | None = None) -> None:
        super().__init__(_KIND, table, schema)
        self.job = sa.Table(
            table,
            self.metadata,
            *_job_key(),
            # Texts from elsewhere are stored as JSON, because PostgreSQL accepts no zero bytes and no lone surrogates.
            sa.Column("webhook_id", sa.Text, nullable=False),
            sa.Column("filter", sa.Text, nullable=False),
            sa.Column("selection", sa.Text, nullable=False),
            sa.Column("cursor", sa.Text),
            sa.Column("position", sa.BigInteger, nullable=False),
            sa.Column("done", sa.Text, nullable=False),
            sa.Column("notes", sa.Text, nullable=False),
            sa.Column("handled", sa.BigInteger, nullable=False),
            sa.Column("failed", sa.BigInteger, nullable=False),
            sa.Column("interrupted", sa.BigInteger, nullable=False),
            sa.Column("dead_letters", sa.BigInteger, nullable=False),
            sa.Column("token", sa.String(40), nullable=False),
            sa.Column("holder", sa.String(200)),
            sa.Column("lease", sa.Double, nullable=False),
            sa.Column("renewed_at", sa.Double, nullable=False),
        )
        self.done = sa.Table(
            f"{table}_done",
            self.metadata,
            *_job_key(),
            sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("ids", sa.Text, nullable=False),
        )
        self.dead = sa.Table(
            f"{table}_dead",
            self.metadata,
            *_job_key(),
            sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("key", key_type(), nullable=False),
            sa.Column("id", sa.Text, nullable=False),
            sa.Column("error", sa.Text, nullable=False),
            sa.Column("failed_at", sa.Text, nullable=False),
            sa.Column("message", sa.Text, nullable=False),
            sa.UniqueConstraint("name", "source", "key"),
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

        self.read = sa.select(job, now.label("now")).where(_is_job(job))
        self.lock = self.read.with_for_update() if on_postgresql else self.read
        self.make = insert(job).on_conflict_do_nothing()
        self.save = sa.update(job).where(_is_job(job), job.c.holder == sa.bindparam("a_holder")).values(renewed_at=now)
        self.take = sa.update(job).where(_is_job(job)).values(renewed_at=now)
        self.let_go = (
            sa.update(job)
            .where(_is_job(job), job.c.holder == sa.bindparam("a_holder"))
            .values(holder=None, renewed_at=now)
        )
        self.done = sa.select(done.c.number, done.c.ids).where(_is_job(done))
        self.add_done = insert(done).on_conflict_do_nothing()
        self.clear_done = sa.delete(done).where(_is_job(done))
        self.clear_dead = sa.delete(dead).where(_is_job(dead))
        self.count_dead = sa.select(func.count()).select_from(dead).where(_is_job(dead))
        number = sa.bindparam("a_number", type_=sa.BigInteger)
        self.dead_letters = sa.select(dead).where(_is_job(dead), dead.c.number > number)
        self.dead_letters = self.dead_letters.order_by(dead.c.number).limit(
            sa.bindparam("a_limit", type_=sa.BigInteger)
        )
        new = insert(dead)
        self.put_dead_letter = new.on_conflict_do_update(
            index_elements=[dead.c.name, dead.c.source, dead.c.key],
            set_={column: new.excluded[column] for column in ("error", "failed_at", "message")},
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


def write_dead_letter(key: dict[str, str], number: int, dead_letter: DeadLetter) -> dict[str, object]:
    """Return the row of a dead letter, for ``put_dead_letter``."""
    return {
        "name": key["a_name"],
        "source": key["a_source"],
        "number": number,
        "key": key_of(dead_letter.id),
        "id": as_json(dead_letter.id),
        "error": as_json(dead_letter.error),
        "failed_at": dead_letter.failed_at.isoformat(),
        "message": json.dumps(dead_letter.message),
    }


def read_dead_letter(row: sa.RowMapping) -> DeadLetter:
    """Return the dead letter in a row."""
    failed_at, message = datetime.fromisoformat(row["failed_at"]), json.loads(row["message"])
    return DeadLetter(json.loads(row["id"]), json.loads(row["error"]), failed_at, message, row["number"])


def as_json(text: str | None) -> str | None:
    """Return a text as it is stored."""
    return None if text is None else json.dumps(text)


def from_json(text: str | None) -> str | None:
    """Return a text that was stored."""
    found: str | None = None if text is None else json.loads(text)
    return found
