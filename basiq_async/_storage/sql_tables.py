"""What the tables of inboxes and checkpoints in a SQL database have in common."""

from __future__ import annotations

import re

from sqlalchemy import Dialect, MetaData, String
from sqlalchemy.schema import CreateIndex, CreateTable

from ..errors import ConfigurationError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LONGEST_NAME = 63 - len("_quarantine_order")
"""PostgreSQL cuts longer names, those of the indexes included."""


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
