"""Tables of a store in a SQL database: their names, their version, and the types that several have."""

from __future__ import annotations

import re

import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, CreateTable

from .._redaction.tracebacks import UnshownText
from ..errors import ConfigurationError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LONGEST_NAME = 63 - len("_failures_order")
"""PostgreSQL truncates longer names, and the names of the indexes are made from the table's."""
LONGEST_SERVICE = 100


class StoreTables:
    """The tables of an inbox, whose names begin with ``table``. One of them has their version, and when it began.

    layout: the version of the tables. service: whose rows are meant; several services may share the tables.
    """

    def __init__(self, layout: int, table: str, schema: str | None, service: str) -> None:
        for name in (table, schema):
            if name is not None and (not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME):
                raise ConfigurationError(
                    f"{name!r} cannot name a table or schema of the inbox: use letters, digits and underscores, at "
                    f"most {_LONGEST_NAME}"
                )
        self.layout = layout
        self.name = table if schema is None else f"{schema}.{table}"
        self.metadata = sa.MetaData(schema=schema)
        self.service = service
        self.version = sa.Table(
            f"{table}_version",
            self.metadata,
            service_column(),
            sa.Column("version", sa.Integer, nullable=False),
            sa.Column("began", sa.DateTime(timezone=True), nullable=False),
        )

    def ddl(self, dialect: sa.Dialect) -> str:
        """Return the SQL statements that create the tables, each with its semicolon."""
        parts: list[str] = []
        for table in self.metadata.sorted_tables:
            parts.append(str(CreateTable(table).compile(dialect=dialect)).strip())
            parts += [str(CreateIndex(index).compile(dialect=dialect)).strip() for index in table.indexes]
        return "".join(f"{part};\n" for part in parts)


def service_column() -> sa.Column[str]:
    """Return the first column of each primary key: the service whose row it is."""
    kind = sa.String(LONGEST_SERVICE).with_variant(sa.String(LONGEST_SERVICE, collation="C"), "postgresql")
    return sa.Column("service", kind, primary_key=True)


class EntryType(sa.types.TypeDecorator[str]):
    """The type of a column with a delivery or a message as JSON, which no ``repr`` of a row shows."""

    impl = sa.Text
    cache_ok = True

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> str | None:
        """Return a text of the database."""
        return None if value is None else UnshownText(value)
