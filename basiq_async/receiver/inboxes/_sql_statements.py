"""The statements of an inbox in a SQL database, which are in ``_sql_statements.sql``.

An event is one row. It is claimed in one of two ways, which are independent:

- A handler without a session has a *lease*: its token and the end of its time are in the committed row.
- A handler with a session has a *transaction*, which enters the event as handled, and commits when the handler has
  succeeded. So it takes the statements that a hand-written ``INSERT ... ON CONFLICT`` takes, and no other.

What was quarantined or waits is stored as JSON, and is in a *queue*: the quarantine, or that of what waits. When it is
due, and what is counted, stand in one index beside it, so that what is in no queue is in two indexes alone.

Other transactions do not see the row of one that has not committed, and an ``INSERT`` of the same key would wait for
its end, with a connection. So each statement that may meet one has one condition more, the *gate*: an advisory lock of
the key, which lasts as long as its transaction, and which a statement tries and never waits for.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ..._storage.sql_tables import EntryType
from ..._storage.statements import read_statements
from ..._work.protocol import MOST_UNENDED, Claim, ClaimStatus
from ..._work.schedule import LONGEST_WAIT
from ._sql_tables import Tables

CLAIMED = Claim(ClaimStatus.CLAIMED)
DONE = Claim(ClaimStatus.DONE)
BUSY = Claim(ClaimStatus.BUSY, 1.0)
"""Another worker has the key by a transaction, whose end is unknown: try again after a second."""

_TYPES: Mapping[str, sa.types.TypeEngine[Any]] = {
    **dict.fromkeys(("key", "idle"), sa.String()),
    **dict.fromkeys(("token", "given", "event_type", "name", "text", "expected"), sa.Text()),
    **dict.fromkeys(("limit", "retries", "count", "failing", "attempts", "size"), sa.Integer()),
    **dict.fromkeys(("lease", "time", "due", "failing_since", "seconds", "shown", "believed"), sa.Double()),
    **dict.fromkeys(("acknowledged", "quarantined", "held"), sa.Boolean()),
    **dict.fromkeys(("before", "released_before", "unended_before"), sa.DateTime(timezone=True)),
}
"""The types of parameters."""
_CONVERTED: Mapping[str, sa.types.TypeEngine[Any]] = {
    **dict.fromkeys(("handled_at", "placed_at", "oldest", "last_recorded"), sa.DateTime(timezone=True)),
    **dict.fromkeys(("server_time", "began", "forgotten_at"), sa.DateTime(timezone=True)),
    "entry_json": EntryType(),
}
"""The types of parameters and columns that are not returned as the driver has them."""
_PARAMETER = re.compile(r":(\w+)")
# What a statement returns: an entry must have its type there, or the repr of its row would show it.
_RETURNED = re.compile(r"(?:^SELECT|RETURNING)(.*?)(?:FROM|$)", re.DOTALL)


class Statements:
    """The statements of an inbox by their names, built once, so that SQLAlchemy compiles each of them once."""

    def __init__(self, tables: Tables, engine: AsyncEngine) -> None:
        self.on_postgresql = engine.dialect.name == "postgresql"
        self._parameters: dict[str, sa.BindParameter[Any]] = {
            **{name: sa.bindparam(name, type_=each) for name, each in {**_TYPES, **_CONVERTED}.items()},
            "service": sa.bindparam("service", tables.service, sa.String),
            "gate": sa.bindparam("gate", f"{tables.name}:{tables.service}:", sa.String),
            "clock": sa.bindparam("clock", type_=sa.Double, callable_=time.monotonic),
        }
        if self.on_postgresql:
            self._parameters["given"] = sa.bindparam("given", type_=ARRAY(sa.Text))
        names = {
            "EVENTS": tables.events,
            "FAILURES": tables.failures,
            "NOTES": tables.notes,
            "VERSION": tables.version,
        }
        texts = read_statements(
            "basiq_async.receiver.inboxes",
            "_sql_statements.sql",
            engine.dialect.name,
            **{name: _quote(table, engine) for name, table in names.items()},
            MOST_UNENDED=MOST_UNENDED,
            LONGEST_WAIT=LONGEST_WAIT,
        )
        self.by_name = {name: self._build(text) for name, text in texts.items()}

    def __getitem__(self, name: str) -> sa.Executable:
        return self.by_name[name]

    def _build(self, text: str) -> sa.Executable:
        statement = sa.text(text).bindparams(*(self._parameters[name] for name in {*_PARAMETER.findall(text)}))
        returned = _RETURNED.search(text)
        names = _CONVERTED.keys() & set(re.findall(r"\w+", returned[1])) if returned else ()
        return statement.columns(**{name: _CONVERTED[name] for name in names}) if names else statement

    @staticmethod
    def time(now: datetime | None) -> dict[str, object]:
        """Return the parameter of the time that the caller gave."""
        return {"time": None if now is None else now.timestamp()}

    def given(self, texts: Sequence[str]) -> dict[str, object]:
        """Return the parameter of a statement that is given several texts: keys, or types."""
        return {"given": list(texts) if self.on_postgresql else json.dumps(texts)}

    async def find(self, connection: AsyncConnection, key: str) -> sa.Row[Any] | None:
        """Return the key's columns that tell its state, and the seconds ``remaining`` of its lease."""
        found: Any = await connection.execute(self["find"], {"key": key})
        row: sa.Row[Any] | None = found.first()
        return row

    async def describe(self, connection: AsyncConnection, key: str, *, quarantined: bool) -> Claim:
        """Return the claim's result for a key that cannot be claimed: DONE, or BUSY with ``retry_after``."""
        row = await self.find(connection, key)
        if (row is None or not row.in_quarantine) if quarantined else (row is not None and row.handled_at is not None):
            return DONE
        if row is not None and row.token is not None and row.remaining > 0:
            return Claim(ClaimStatus.BUSY, row.remaining, row.token)
        return BUSY


def _quote(table: sa.Table, engine: AsyncEngine) -> str:
    """Return the name of a table as the engine's statements have it."""
    quote, schemas = engine.dialect.identifier_preparer, engine.get_execution_options().get("schema_translate_map", {})
    schema = schemas.get(table.schema, table.schema)
    return quote.quote(table.name) if schema is None else f"{quote.quote_schema(schema)}.{quote.quote(table.name)}"
