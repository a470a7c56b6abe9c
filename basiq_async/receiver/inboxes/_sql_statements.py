"""The tables of an inbox in a SQL database, and its statements for PostgreSQL and SQLite.

An event is one row. It is claimed in one of two ways, which need not know of each other:

- A handler without a session has a *lease*: its token and the end of its time are in the committed row.
- A handler with a session has a *transaction*, which enters the event as handled, and commits when the handler has
  succeeded. So it takes the statements that a hand-written ``INSERT ... ON CONFLICT`` takes, and no other.

Nobody sees the row of a transaction that has not committed, and an ``INSERT`` of the same key would wait for its end,
with a connection. So each statement that may meet one has one condition more, the *gate*: an advisory lock of the key,
which lasts as long as its transaction, and which a statement tries and never waits for.
"""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    DateTime,
    Double,
    Executable,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    and_,
    bindparam,
    case,
    cast,
    delete,
    exists,
    func,
    literal_column,
    not_,
    null,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from ..._storage.sql import StoreKind, StoreTables, key_type, server_seconds
from ..._work.calls import CLOSED
from ...errors import InboxError

_KIND = StoreKind("inbox", 1, InboxError, CLOSED)


class Tables(StoreTables):
    """The tables of an inbox: handled, claimed and quarantined events, numbers of failures, and the version."""

    def __init__(self, table: str = "basiq_inbox", schema: str | None = None) -> None:
        super().__init__(_KIND, table, schema)
        self.events = Table(
            table,
            self.metadata,
            Column("key", key_type(), primary_key=True),
            Column("handled_at", DateTime(timezone=True)),
            # The lease of the worker with this token: its length, and its end by the clock of leases, in seconds.
            Column("token", Text),
            Column("lease", Double),
            Column("lease_ends", Double),
            Column("quarantined_at", DateTime(timezone=True)),
            Column("letter", Text),
            Index(f"{table}_order", "handled_at", **_where("quarantined_at IS NULL")),
            Index(f"{table}_claims", "lease_ends", **_where("handled_at IS NULL")),
            Index(f"{table}_quarantine_order", "quarantined_at", "key", **_where("quarantined_at IS NOT NULL")),
        )
        self.failures = Table(
            f"{table}_failures",
            self.metadata,
            Column("key", key_type(), primary_key=True),
            Column("failures", Integer, nullable=False),
            Column("failed_at", DateTime(timezone=True), nullable=False),
            Index(f"{table}_failures_order", "failed_at"),
        )


def _where(condition: str) -> dict[str, Any]:
    return {"postgresql_where": text(condition), "sqlite_where": text(condition)}


def inbox_metadata(table: str = "basiq_inbox", schema: str | None = None) -> MetaData:
    """Return the tables of a ``SQLInbox``, for Alembic's ``target_metadata``."""
    return Tables(table, schema).metadata


_KEY = bindparam("a_key", type_=String)
_TOKEN = bindparam("a_token", type_=Text)
_LEASE = bindparam("a_lease", type_=Double)
_LIMIT = bindparam("a_limit", type_=Integer)
_ABANDONED = 86_400.0
"""Seconds after which the row of an expired claim is deleted."""


class Statements:
    """The statements of an inbox, built once, so that SQLAlchemy compiles each of them once."""

    def __init__(self, tables: Tables, dialect: str) -> None:
        self.on_postgresql = dialect == "postgresql"
        insert = postgresql.insert if self.on_postgresql else sqlite.insert
        events, failures = tables.events, tables.failures
        here = events.c.key == _KEY
        now = func.now()
        gate: ColumnElement[bool] = literal_column("1 = 1", type_=Boolean)  # SQLite has one writer at a time
        clock: ColumnElement[float] = bindparam("a_now", callable_=time.monotonic, type_=Double)
        live = and_(
            events.c.lease_ends > clock, events.c.lease_ends - events.c.lease <= clock
        )  # a restart sets it back
        ends: list[ColumnElement[Any]] = []
        if self.on_postgresql:
            # Two keys have the same number once in 2^64; then one is BUSY for a moment.
            gate = func.pg_try_advisory_xact_lock(func.hashtextextended(tables.name + ":" + _KEY, 0), type_=Boolean)
            clock = server_seconds(dialect)
            live = events.c.lease_ends > clock
            # A machine that vanishes does not close its connections. The server ends its transactions after this time.
            idle = bindparam("a_idle", type_=String)
            ends = [func.set_config("idle_in_transaction_session_timeout", idle, True)]
        unclaimed = or_(events.c.token.is_(None), not_(live))
        free = or_(unclaimed, events.c.token == _TOKEN)
        no_claim = {name: cast(null(), events.c[name].type) for name in ("token", "lease", "lease_ends")}
        no_letter = {name: cast(null(), events.c[name].type) for name in ("quarantined_at", "letter")}
        claimed = {"token": _TOKEN, "lease": _LEASE, "lease_ends": clock + _LEASE}
        handled = {"handled_at": now, **no_claim}
        moment = bindparam("a_moment", type_=events.c.quarantined_at.type)

        def enter(values: dict[str, Any], before: ColumnElement[bool], upon: ColumnElement[bool]) -> Any:
            new = insert(events).from_select(["key", *values], select(_KEY, *values.values()).where(before))
            return new.on_conflict_do_update(
                index_elements=[events.c.key], set_={name: new.excluded[name] for name in values}, where=upon
            ).returning(events.c.key)

        def change(values: dict[str, Any], *conditions: ColumnElement[bool]) -> Any:
            return update(events).where(here, *conditions).values(values).returning(events.c.key, events.c.letter)

        in_quarantine = events.c.quarantined_at.is_not(None)
        not_handled = events.c.handled_at.is_(None)
        self.lease = enter(claimed, gate, and_(not_handled, free))
        self.lease_letter = change(claimed, in_quarantine, free, gate)
        self.begin = enter(handled, gate, and_(not_handled, unclaimed)).returning(*ends)
        self.begin_letter = change({**handled, **no_letter}, in_quarantine, unclaimed, gate).returning(*ends)
        # A worker whose lease has not expired needs no gate: no transaction has its row.
        mine = or_(exists().where(here, events.c.token == _TOKEN, live), gate)
        mine_or_free = or_(events.c.token == _TOKEN, and_(not_handled, unclaimed))
        retried = and_(bindparam("a_retry", type_=Boolean), in_quarantine, unclaimed)
        letter = {"quarantined_at": moment, "letter": bindparam("a_letter", type_=Text)}
        self.complete = enter({**handled, **no_letter}, mine, mine_or_free)
        self.quarantine = enter({**handled, **letter}, mine, or_(mine_or_free, retried))
        self.release = change({**no_claim, "lease_ends": clock}, events.c.token == _TOKEN, or_(live, gate))
        self.drop = change({**handled, **no_letter}, in_quarantine, gate)

        remaining = case((live, events.c.lease_ends - clock), else_=0.0).label("remaining")
        self.find = select(events.c.handled_at, events.c.letter, events.c.token, remaining).where(here)
        count = bindparam("a_count", type_=Integer)
        more = case((failures.c.failures > count, failures.c.failures), else_=count) + 1
        first = insert(failures).values(key=_KEY, failures=count + 1, failed_at=now)
        self.count_failure = first.on_conflict_do_update(
            index_elements=[failures.c.key], set_={"failures": more, "failed_at": now}
        ).returning(failures.c.failures)
        order = (events.c.quarantined_at, events.c.key)
        self.letters = select(events.c.letter).where(in_quarantine).order_by(*order).limit(_LIMIT)
        self.letters_after = self.letters.where(tuple_(*order) > tuple_(moment, _KEY))

        kept = events.c.quarantined_at.is_(None)
        old = select(events.c.key).where(events.c.handled_at < moment, kept).order_by(events.c.handled_at)
        abandoned = select(events.c.key).where(not_handled, events.c.lease_ends < clock - _ABANDONED)
        stale = select(failures.c.key).where(failures.c.failed_at < moment)
        self.prune: list[Executable] = []
        for table, keys in ((events, old), (events, abandoned), (failures, stale)):
            some = keys.limit(_LIMIT)
            some = some.with_for_update(skip_locked=True) if self.on_postgresql else some
            self.prune.append(delete(table).where(table.c.key.in_(some)))
