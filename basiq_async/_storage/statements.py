"""Statements of SQL that are kept in files."""

from __future__ import annotations

import re
from functools import cache

_HEADING = re.compile(r"^-- (\w+|\{\w+\})(?: in (\w+))? --$", re.MULTILINE)
_COMMENT = re.compile(r"^ *--.*\n", re.MULTILINE)
_PART = re.compile(r"\{\w+\}")


def read_statements(package: str, file: str, dialect: str = "", **given: object) -> dict[str, str]:
    """Return the statements of a file of a package by their names, without comments.

    ``-- NAME --`` begins a statement, and ``-- {NAME} --`` a part, which stands for ``{NAME}`` in others. With
    ``in DIALECT`` before the end of the heading, it is for that dialect alone. ``given`` are more parts.
    """
    parts = {**_read(package, file, dialect), **{f"{{{name}}}": str(text) for name, text in given.items()}}

    def expand(text: str) -> str:
        return _PART.sub(lambda found: expand(parts[found[0]]), text)

    return {name: expand(text) for name, text in parts.items() if not name.startswith("{")}


@cache
def _read(package: str, file: str, dialect: str) -> dict[str, str]:
    """Return the statements and parts of a file for a dialect, by their headings."""
    from pkgutil import get_data  # not at the import, which most programs pay for without an inbox in SQL

    text = (get_data(package, file) or b"").decode().replace("\r\n", "\n")  # Git may have changed it on Windows
    _, *found = _HEADING.split(text)
    bodies = (_COMMENT.sub("", body).strip() for body in found[2::3])
    return {name: body for name, of, body in zip(found[::3], found[1::3], bodies, strict=True) if of in (None, dialect)}
