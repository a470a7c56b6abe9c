"""The statements of an inbox in a SQL database, for the databases it knows."""

from __future__ import annotations

import hashlib
import math
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    String,
    bindparam,
    delete,
    exists,
    func,
    literal_column,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from ...errors import ConfigurationError
from ._sql_tables import Tables

__all__ = ["Statements"]

_KEY = bindparam("a_key", type_=String)
_LIMIT = bindparam("a_limit", type_=Integer)


class Statements:
    """Built once, so that SQLAlchemy compiles each of them once."""

    def __init__(self, tables: Tables, dialect: str) -> None:
        if dialect not in ("postgresql", "sqlite"):
            raise ConfigurationError(f"SQLInbox works with PostgreSQL and SQLite, not with {dialect}")
        self.on_postgresql = dialect == "postgresql"
        self._name = tables.name
        insert = postgresql.insert if self.on_postgresql else sqlite.insert
        handled, failures, quarantine, pinned = tables.handled, tables.failures, tables.quarantine, tables.pinned
        now = func.now()

        known_failures = select(failures.c.failures).where(failures.c.key == _KEY).scalar_subquery()
        row = select(_KEY.label("key"), now.label("handled_at"))
        if self.on_postgresql:
            # The lock, the entry and its check in one statement. The lock is of the transaction: it ends with the
            # connection. An entry that another transaction has committed meanwhile is a conflict whatever this
            # statement's snapshot shows.
            row = row.where(func.pg_try_advisory_xact_lock(bindparam("a_lock", type_=BigInteger)))
        else:
            row = row.where(literal_column("1") == 1)  # SQLite's grammar needs it before ON CONFLICT
        self.claim = (
            insert(handled)
            .from_select(["key", "handled_at"], row)
            .on_conflict_do_nothing()
            .returning(known_failures.label("failures"), *self._end_when_idle())
        )
        letter = select(quarantine.c.letter, known_failures.label("failures"), *self._end_when_idle())
        letter = letter.where(quarantine.c.key == _KEY)
        self.claim_letter = letter.with_for_update(skip_locked=True, of=quarantine) if self.on_postgresql else letter

        values = {name: bindparam(f"a_{name}", type_=String) for name in ("name", "value")}
        pin = insert(pinned).values(values)
        # What is there is written once more, so that it is returned, whatever another transaction did meanwhile.
        self.pin = pin.on_conflict_do_update(index_elements=[pinned.c.name], set_={"value": pinned.c.value}).returning(
            pinned.c.value
        )
        self.pinned = select(pinned.c.value).where(pinned.c.name == values["name"])
        self.is_recorded = select(handled.c.key).where(handled.c.key == _KEY)
        self.has_letter = select(quarantine.c.key).where(quarantine.c.key == _KEY)
        self.renew = update(handled).where(handled.c.key == _KEY).values(handled_at=now)
        self.forgive = delete(failures).where(failures.c.key == _KEY)
        self.remove_letter = delete(quarantine).where(quarantine.c.key == _KEY)

        first = insert(failures).values(key=_KEY, failures=bindparam("a_count", type_=Integer) + 1, failed_at=now)
        self.count_failure = first.on_conflict_do_update(
            index_elements=[failures.c.key], set_={"failures": failures.c.failures + 1, "failed_at": now}
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
        stale = select(failures.c.key).where(failures.c.failed_at < before).limit(_LIMIT)
        if self.on_postgresql:
            old = old.with_for_update(skip_locked=True, of=handled)
            stale = stale.with_for_update(skip_locked=True)
        self.prune = (
            delete(handled).where(handled.c.key.in_(old)),
            delete(failures).where(failures.c.key.in_(stale)),
        )

    def for_claim(self, key: str, lease: float) -> dict[str, object]:
        """The parameters of ``claim``."""
        parameters = self.for_letter(key, lease)
        if self.on_postgresql:
            # Another key has the same number once in 2^64, and is BUSY then for a moment.
            digest = hashlib.blake2b(f"{self._name}\0{key}".encode(), digest_size=8).digest()
            parameters["a_lock"] = int.from_bytes(digest, "big", signed=True)
        return parameters

    def for_letter(self, key: str, lease: float) -> dict[str, object]:
        """The parameters of ``claim_letter``."""
        parameters: dict[str, object] = {"a_key": key}
        if self.on_postgresql:
            parameters["a_idle"] = f"{math.ceil(lease * 1000)}ms"
        return parameters

    def _end_when_idle(self) -> list[ColumnElement[Any]]:
        # A machine that vanishes does not close its connections: the server ends such a transaction by itself.
        if not self.on_postgresql:
            return []
        limit = bindparam("a_idle", type_=String)
        return [func.set_config("idle_in_transaction_session_timeout", limit, True)]
