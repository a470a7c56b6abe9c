"""The tables of an inbox in a SQL database, and its statements for PostgreSQL and SQLite."""

from __future__ import annotations

import hashlib
import math
import time
from typing import Any
from typing import cast as cast_type

from sqlalchemy import (
    BigInteger,
    BindParameter,
    Boolean,
    ClauseElement,
    Column,
    ColumnElement,
    CursorResult,
    DateTime,
    Dialect,
    Double,
    Executable,
    Index,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    Text,
    and_,
    bindparam,
    case,
    cast,
    delete,
    exists,
    extract,
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
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.visitors import iterate

from ..._storage.sql import check_names, key_type, make_ddl
from ...errors import ConfigurationError


class Tables:
    """The four tables of an inbox: handled and claimed keys, failures, quarantined deliveries, and pinned texts."""

    def __init__(self, table: str = "basiq_inbox", schema: str | None = None) -> None:
        check_names(table, schema, what="an inbox")
        self.name = table if schema is None else f"{schema}.{table}"
        self.metadata = MetaData(schema=schema)
        claimed = text("lease_ends IS NOT NULL")
        self.handled = Table(
            table,
            self.metadata,
            Column("key", key_type(), primary_key=True),
            # NULL while the key is only claimed, by the worker with this token. ``lease`` and ``lease_ends`` are in
            # seconds; ``lease_ends`` is a time of the lease's clock.
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
            Index(f"{table}_failures_order", "failed_at"),
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
        """Return the SQL statements that create the tables, each with its semicolon."""
        return make_ddl(self.metadata, dialect)


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
        if dialect not in ("postgresql", "sqlite"):
            raise ConfigurationError(f"SQLInbox works with PostgreSQL and SQLite, not with {dialect}")
        self.on_postgresql = dialect == "postgresql"
        self._name = tables.name
        self._names: dict[Executable, frozenset[str]] = {}
        insert = postgresql.insert if self.on_postgresql else sqlite.insert
        handled, failures, quarantine, pinned = tables.handled, tables.failures, tables.quarantine, tables.pinned
        now = func.now()

        known_failures = select(failures.c.failures).where(failures.c.key == _KEY).scalar_subquery()
        known_letter = select(quarantine.c.letter).where(quarantine.c.key == _KEY).scalar_subquery()
        found = (known_failures.label("failures"), known_letter.label("letter"))

        values = {name: bindparam(f"a_{name}", type_=String) for name in ("name", "value")}
        pin = insert(pinned).values(values)
        # On a conflict, write the stored value again: RETURNING then returns it, also if it was committed meanwhile.
        self.pin = pin.on_conflict_do_update(index_elements=[pinned.c.name], set_={"value": pinned.c.value}).returning(
            pinned.c.value
        )
        self.pinned = select(pinned.c.value).where(pinned.c.name == values["name"])
        # A claim is a lease in the row, or an open transaction. The row does not show an open transaction, but its
        # advisory lock, the gate, does, so that no other worker waits for the row. Without an open transaction, the
        # row decides: a row committed meanwhile is a conflict, even if a statement's snapshot does not show it.
        gate: ColumnElement[bool] = literal_column("1 = 1", type_=Boolean)
        clock: ColumnElement[float] = bindparam("a_now", type_=Double)
        if self.on_postgresql:
            gate = func.pg_try_advisory_xact_lock(bindparam("a_gate", type_=BigInteger), type_=Boolean)
            clock = cast(extract("epoch", func.clock_timestamp()), Double)
        live = handled.c.lease_ends > clock
        if not self.on_postgresql:  # SQLite's leases use the machine's monotonic clock, which a restart sets back
            live = and_(live, handled.c.lease_ends - handled.c.lease <= clock)
        free = or_(handled.c.token.is_(None), handled.c.token == _TOKEN, not_(live))
        no_claim = {"token": None, "lease": None, "lease_ends": None}
        claimed = {"token": _TOKEN, "lease": _LEASE, "lease_ends": clock + _LEASE}

        def enter(values: dict[str, Any]) -> Any:
            new = insert(handled).from_select(["key", *values], select(_KEY, *values.values()).where(gate))
            return new.on_conflict_do_update(
                index_elements=[handled.c.key],
                set_={name: new.excluded[name] for name in values},
                where=and_(handled.c.handled_at.is_(None), free),
            )

        mine = and_(handled.c.key == _KEY, handled.c.token == _TOKEN, or_(live, gate))
        self.lease = enter(claimed).returning(*found)
        entry = {"handled_at": now, **{name: cast(null(), handled.c[name].type) for name in no_claim}}
        self.enter = enter(entry).returning(*found)
        self.begin = enter(entry).returning(*found, *self._end_when_idle())
        lease_letter = (
            update(handled).where(handled.c.key == _KEY, known_letter.is_not(None), free, gate).values(claimed)
        )
        self.lease_letter = lease_letter.returning(*found)
        self.begin_letter = lease_letter.returning(*found, *self._end_when_idle())
        self.record = update(handled).where(mine).values(handled_at=now, **no_claim).returning(*found)
        self.free = delete(handled).where(mine, handled.c.handled_at.is_(None)).returning(*found)
        self.free_letter = update(handled).where(mine).values(no_claim).returning(*found)
        remaining = case((live, handled.c.lease_ends - clock), else_=0.0)
        self.holder = select(handled.c.handled_at, handled.c.token, remaining.label("remaining")).where(
            handled.c.key == _KEY
        )

        self.is_recorded = select(handled.c.key).where(handled.c.key == _KEY, handled.c.handled_at.is_not(None))
        self.has_letter = select(quarantine.c.key).where(quarantine.c.key == _KEY)
        self.renew = update(handled).where(handled.c.key == _KEY).values(handled_at=now, **no_claim)
        self.forgive = delete(failures).where(failures.c.key == _KEY)
        self.remove_letter = delete(quarantine).where(quarantine.c.key == _KEY)
        self.drop_letter = self.remove_letter.where(gate).returning(quarantine.c.key)

        count = bindparam("a_count", type_=Integer)
        more = case((failures.c.failures > count, failures.c.failures), else_=count) + 1
        first = insert(failures).values(key=_KEY, failures=count + 1, failed_at=now)
        self.count_failure = first.on_conflict_do_update(
            index_elements=[failures.c.key], set_={"failures": more, "failed_at": now}
        ).returning(failures.c.failures)

        new = insert(quarantine).values(
            key=_KEY,
            quarantined_at=bindparam("a_moment", type_=quarantine.c.quarantined_at.type),
            letter=bindparam("a_letter", type_=String),
        )
        self.put_letter = new.on_conflict_do_update(
            index_elements=[quarantine.c.key],
            set_={"quarantined_at": new.excluded.quarantined_at, "letter": new.excluded.letter},
        )
        order = (quarantine.c.quarantined_at, quarantine.c.key)
        self.letters = select(quarantine.c.letter).order_by(*order).limit(_LIMIT)
        place = tuple_(bindparam("a_moment", type_=quarantine.c.quarantined_at.type), _KEY)
        self.letters_after = self.letters.where(tuple_(*order) > place)

        self.look = tuple(select(*table.columns).limit(0) for table in tables.metadata.sorted_tables)
        self.is_read_only = select(func.current_setting("transaction_read_only"))
        self.now = select(now)
        self.lock_tables = select(func.pg_advisory_xact_lock(func.hashtext(tables.name)))
        before = bindparam("a_moment", type_=handled.c.handled_at.type)
        old = select(handled.c.key).where(handled.c.handled_at < before)
        old = old.where(~exists().where(quarantine.c.key == handled.c.key)).order_by(handled.c.handled_at).limit(_LIMIT)
        abandoned = select(handled.c.key).where(
            handled.c.handled_at.is_(None), handled.c.lease_ends < clock - _ABANDONED
        )
        abandoned = abandoned.limit(_LIMIT)
        stale = select(failures.c.key).where(failures.c.failed_at < before).limit(_LIMIT)
        if self.on_postgresql:
            old = old.with_for_update(skip_locked=True, of=handled)
            stale = stale.with_for_update(skip_locked=True)
            abandoned = abandoned.with_for_update(skip_locked=True)
        self.prune = (
            delete(handled).where(handled.c.key.in_(old)),
            delete(failures).where(failures.c.key.in_(stale)),
            delete(handled).where(handled.c.key.in_(abandoned)),
        )

    async def first(
        self, connection: AsyncConnection, statement: Executable, key: str, *, token: str = "", lease: float = 0.0
    ) -> Row[Any] | None:
        """Run a statement about one key, and return its first row."""
        return (await self.run(connection, statement, key, token=token, lease=lease)).first()

    async def run(
        self,
        connection: AsyncConnection,
        statement: Executable,
        key: str = "",
        *,
        token: str = "",
        lease: float = 0.0,
        **more: object,
    ) -> CursorResult[Any]:
        """Run a statement with the parameters that it contains, and those derived from the key and the lease."""
        parameters: dict[str, object] = {"a_key": key, "a_token": token, "a_lease": lease, **more}
        if self.on_postgresql:
            # Two keys have the same number once in 2^64; then one is BUSY for a moment.
            digest = hashlib.blake2b(f"{self._name}\0{key}".encode(), digest_size=8).digest()
            parameters["a_gate"] = int.from_bytes(digest, "big", signed=True)
            parameters["a_idle"] = f"{math.ceil(lease * 1000)}ms"
        else:
            parameters["a_now"] = time.monotonic()
        names = self._names.get(statement)
        if names is None:
            names = self._names[statement] = frozenset(
                each.key for each in iterate(cast_type(ClauseElement, statement)) if isinstance(each, BindParameter)
            )
        return await connection.execute(statement, {name: parameters[name] for name in parameters if name in names})

    def _end_when_idle(self) -> list[ColumnElement[Any]]:
        # A machine that vanishes does not close its connections. The server ends its transactions after this time.
        if not self.on_postgresql:
            return []
        limit = bindparam("a_idle", type_=String)
        return [func.set_config("idle_in_transaction_session_timeout", limit, True)]
