"""The tables of an inbox in a SQL database."""

from __future__ import annotations

import re

from sqlalchemy import Column, DateTime, Dialect, Double, Index, Integer, MetaData, String, Table, Text, text
from sqlalchemy.schema import CreateIndex, CreateTable

from ...errors import ConfigurationError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LONGEST_NAME = 63 - len("_quarantine_order")
"""PostgreSQL cuts longer names, those of the indexes included."""


class Tables:
    """What was handled or is claimed, the failures, the letters of the quarantine, and texts kept for good."""

    def __init__(self, table: str = "basiq_inbox", schema: str | None = None) -> None:
        check_names(table, schema, what="an inbox")
        self.name = table if schema is None else f"{schema}.{table}"
        self.metadata = MetaData(schema=schema)
        claimed = text("lease_ends IS NOT NULL")
        self.handled = Table(
            table,
            self.metadata,
            Column("key", key_type(), primary_key=True),
            # None while it is only claimed, by the worker with this token; the end is in seconds of the lease's clock.
            Column("handled_at", DateTime(timezone=True)),
            Column("token", Text),
            Column("lease", Double),
            Column("lease_ends", Double),
            Index(f"{table}_order", "handled_at"),
            Index(f"{table}_claims", "lease_ends", postgresql_where=claimed, sqlite_where=claimed),
        )
        self.failures = Table(
            f"{table}_failures",
            self.metadata,
            Column("key", key_type(), primary_key=True),
            Column("failures", Integer, nullable=False),
            Column("failed_at", DateTime(timezone=True), nullable=False),
        )
        self.quarantine = Table(
            f"{table}_quarantine",
            self.metadata,
            Column("key", key_type(), primary_key=True),
            Column("quarantined_at", DateTime(timezone=True), nullable=False),
            Column("letter", Text, nullable=False),
            Index(f"{table}_quarantine_order", "quarantined_at", "key"),
        )
        self.pinned = Table(
            f"{table}_pinned",
            self.metadata,
            Column("name", String(200), primary_key=True),
            Column("value", String(200), nullable=False),
        )

    def ddl(self, dialect: Dialect) -> str:
        """The statements that make the tables, each with its semicolon."""
        return make_ddl(self.metadata, dialect)


def inbox_metadata(table: str = "basiq_inbox", schema: str | None = None) -> MetaData:
    """The tables of a ``SQLInbox``, for Alembic's ``target_metadata``."""
    return Tables(table, schema).metadata


def check_names(table: str, schema: str | None, *, what: str) -> None:
    """Raises ``ConfigurationError`` for what cannot name the tables of an inbox or a checkpoint."""
    for name in (table, schema):
        if name is not None and (not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME):
            raise ConfigurationError(
                f"{name!r} cannot name a table or schema of {what}: use letters, digits and underscores, at most "
                f"{_LONGEST_NAME}"
            )


def make_ddl(metadata: MetaData, dialect: Dialect) -> str:
    """The statements that make the tables, each with its semicolon."""
    parts: list[str] = []
    for table in metadata.sorted_tables:
        parts.append(str(CreateTable(table).compile(dialect=dialect)).strip())
        parts += [str(CreateIndex(index).compile(dialect=dialect)).strip() for index in table.indexes]
    return "".join(f"{part};\n" for part in parts)


def key_type() -> String:
    """The type of a column that rows are found by."""
    # Ordered by bytes: an index is smaller and quicker so, and the order is everywhere the same.
    return String(400).with_variant(String(400, collation="C"), "postgresql")
