"""The tables of an inbox in a SQL database."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import MetaData

from ..._storage.sql_tables import StoreTables, service_column

_LAYOUT = 8


class Tables(StoreTables):
    """The tables of an inbox: handled, claimed and quarantined events, numbers of failures, notes, and the version.

    Their columns have only types of SQLAlchemy, so that a migration made from them names no module of this library.
    """

    def __init__(self, table: str = "basiq_inbox", schema: str | None = None, service: str = "") -> None:
        super().__init__(_LAYOUT, table, schema, service)
        self.events = sa.Table(
            table,
            self.metadata,
            service_column(),
            sa.Column("key", _key_type(), primary_key=True),
            sa.Column("handled_at", sa.DateTime(timezone=True)),
            # The lease of the worker with this token: its length, and its end by the clock of leases, in seconds.
            sa.Column("token", sa.Text),
            sa.Column("lease", sa.Double),
            sa.Column("lease_ends", sa.Double),
            sa.Column("claimed_at", sa.DateTime(timezone=True)),
            # The attempts without an end: tokens that were still there when their lease had run out, each between two
            # line ends.
            sa.Column("unended", sa.Text, nullable=False, server_default=""),
            # What was quarantined or waits has its entry. It is handled only if it is in the quarantine and was
            # acknowledged. It was placed in its queue at a time, and is due, in seconds since 1970: in the quarantine
            # at that time. Of what waits, so many attempts were begun; if one failed, ``failing`` is 1, else 0, as in
            # the quarantine; and its entry has so many bytes.
            sa.Column("queue", sa.Text().with_variant(sa.Text(collation="C"), "postgresql")),
            sa.Column("due", sa.Double),
            sa.Column("placed_at", sa.DateTime(timezone=True)),
            sa.Column("failing", sa.Integer),
            sa.Column("failing_since", sa.Double),
            sa.Column("attempts", sa.Integer),
            sa.Column("size", sa.Integer),
            sa.Column("event_type", sa.Text),
            sa.Column("entry_json", sa.Text),
            # Also finds claims that were never ended: they have no such time.
            sa.Index(f"{table}_order", "service", "handled_at", **_where("queue IS NULL")),
            # With all that is counted, so that a count reads no entries.
            sa.Index(
                f"{table}_queue",
                *("service", "queue", "failing", "due", "key", "placed_at", "failing_since", "size"),
                **_where("queue IS NOT NULL"),
            ),
        )
        self.failures = sa.Table(
            f"{table}_failures",
            self.metadata,
            service_column(),
            sa.Column("key", _key_type(), primary_key=True),
            sa.Column("failures", sa.Integer, nullable=False),
            sa.Column("failed_at", sa.DateTime(timezone=True), nullable=False),
            sa.Index(f"{table}_failures_order", "service", "failed_at"),
        )
        self.notes = sa.Table(
            f"{table}_notes",
            self.metadata,
            service_column(),
            sa.Column("name", sa.Text, primary_key=True),
            sa.Column("text", sa.Text, nullable=False),
        )
        # When the newest of the entries was handled that have been deleted; and in SQLite, which has no clock of a
        # server, the state of the clock of retention.
        self.version.append_column(sa.Column("forgotten_at", sa.DateTime(timezone=True)))
        for name in ("shown", "believed"):
            self.version.append_column(sa.Column(name, sa.Double))


def _where(condition: str) -> dict[str, Any]:
    return {"postgresql_where": sa.text(condition), "sqlite_where": sa.text(condition)}


def inbox_metadata(table: str = "basiq_inbox", schema: str | None = None) -> MetaData:
    """Return the tables of a ``SQLInbox``, for Alembic's ``target_metadata``."""
    return Tables(table, schema).metadata


def _key_type() -> sa.String:
    """Return the type of a key column."""
    # With the order of bytes an index is smaller and faster, and every server has the same order.
    return sa.String(400).with_variant(sa.String(400, collation="C"), "postgresql")
