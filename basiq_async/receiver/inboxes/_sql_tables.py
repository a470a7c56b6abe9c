"""The tables of an inbox in a SQL database."""

from __future__ import annotations

from sqlalchemy import Column, DateTime, Dialect, Double, Index, Integer, MetaData, String, Table, Text, text

from ..._storage.sql import check_names, key_type, make_ddl


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
