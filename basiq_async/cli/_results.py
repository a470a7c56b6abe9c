"""Show results. For every command, a terminal gets text, and a pipe gets JSON lines.

The JSON has the fields of the attrs class that is shown. rich draws a table where it fits the terminal: first, optional
columns are left out, and if that is not enough, each item is shown in lines of its own. An id is never cut.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Generic, TypeVar

import attrs

from .._redaction.text import printable
from ..errors import ConfigurationError
from ._output import Styled, flush, is_terminal, note, takes_unicode, write, write_drawing, write_json, write_lines

T = TypeVar("T")
_BATCH = 200
_GAP = 2


V = TypeVar("V", bound=attrs.AttrsInstance)


def view_of(kind: type[V], shown: object, **more: Any) -> V:
    """Make a view of an object: from its attributes of the same names as the fields of ``kind``, and ``more``."""
    return kind(**{name: more[name] if name in more else getattr(shown, name) for name in _fields(kind)})


class _Absent:
    """The type of ``ABSENT``."""


ABSENT = _Absent()
"""The value of a field that an object does not have: JSON leaves the field out."""


@dataclass(frozen=True)
class Column(Generic[T]):
    """One column. A ``flexible`` column may be cut to so many characters, an ``optional`` one may be left out."""

    title: str
    cell: Callable[[T], object]
    flexible: int = 0
    optional: bool = False


@dataclass
class Output:
    """Writes the results of one command, as text in a terminal, and as JSON lines in a pipe or with ``--json``."""

    json: str | None = None
    """The value of ``--json``: None if it was not given, else field names separated by commas; empty for all."""
    json_only: bool = False
    _header_shown: bool = field(default=False, init=False)

    @property
    def as_json(self) -> bool:
        """Whether results are JSON lines."""
        return self.json is not None or self.json_only or not is_terminal(sys.stdout)

    def rows(self, items: Iterable[T], columns: Sequence[Column[T]] = (), kind: type[T] | None = None) -> None:
        """Write any number of results, in constant memory. The first column holds the id.

        kind: their attrs class, so that ``--json`` is checked without an item too.
        """
        if self.as_json and kind is not None:
            self._check(_fields(kind))
        rest = iter(items)
        while batch := list(islice(rest, _BATCH)):
            if self.as_json:
                write_json(*map(self._picked, batch))
            else:
                self._draw(batch, columns)
        if self.as_json:
            flush()

    def one(self, item: object, details: Iterable[tuple[str, Any]] | None = None) -> None:
        """Write a single result, in a terminal with a line for each pair of ``details``, or for each field."""
        if self.as_json:
            write_json(self._picked(item))
            flush()
        else:
            show_details(as_row(item).items() if details is None else details)

    def _picked(self, item: object) -> Mapping[str, Any]:
        row = as_row(item)
        if not self._names:
            return row
        self._check(_fields(type(item)) or list(row))
        return {name: row.get(name) for name in self._names}

    def _check(self, known: Sequence[str]) -> None:
        for name in self._names:
            if name not in known:
                raise ConfigurationError(f"--json has no field {name!r} here; the fields are {', '.join(known)}")

    @property
    def _names(self) -> list[str]:
        return [name for name in (self.json or "").split(",") if name]

    def _draw(self, items: Sequence[T], columns: Sequence[Column[T]]) -> None:
        """Draw a table, or the items one by one if its required columns do not fit."""
        from rich.cells import cell_len
        from rich.table import Table
        from rich.text import Text

        width = terminal_width()
        cells = {column: [printable(cell_text(column.cell(item))) for item in items] for column in columns}
        kept = list(columns)

        def longest(column: Column[T]) -> int:
            # A longer cell does not fit in any case, so only its beginning is measured.
            return max(cell_len(column.title), *(cell_len(text[: width + 1]) for text in cells[column]))

        def least(column: Column[T]) -> int:
            return min(longest(column), column.flexible) if column.flexible else longest(column)

        while sum(map(least, kept)) + _GAP * (len(kept) - 1) > width:
            optional = [column for column in kept if column.optional]
            if not optional:
                for row in zip(*(cells[column] for column in columns), strict=True):
                    rest = [text for text in row[1:] if text not in ("", "-")]
                    whole = "  ".join(rest)
                    write_lines([row[0], *(f"  {line}" for line in ([whole] if len(whole) <= width - 2 else rest))])
                return
            kept.remove(optional[-1])
        table = Table(box=None, show_header=not self._header_shown, padding=(0, _GAP, 0, 0), pad_edge=False)
        overflow: Any = "ellipsis" if takes_unicode(sys.stdout) else "crop"
        for column in kept:
            table.add_column(column.title, no_wrap=not column.flexible, min_width=least(column))
        for row in zip(*(cells[column] for column in kept), strict=True):
            # Cut before rich measures it: a cell is never wider than the terminal.
            table.add_row(*(Text(text[: width + 1], no_wrap=True, overflow=overflow) for text in row))
        write_drawing(table)
        left_out = [column.title for column in columns if column not in kept]
        if left_out and not self._header_shown:
            note(f"too wide for this terminal: {', '.join(left_out)}; --json shows everything")
        self._header_shown = True


_known_fields: dict[type[Any], tuple[str, ...]] = {}


def _fields(kind: type[Any]) -> tuple[str, ...]:
    found = _known_fields.get(kind)
    if found is None:
        found = _known_fields[kind] = tuple(attrs.fields_dict(kind)) if attrs.has(kind) else ()
    return found


def as_row(item: Any) -> Mapping[str, Any]:
    """Return a mapping as it is, and an object of an attrs class as a mapping of its fields."""
    if isinstance(item, Mapping):
        return item
    values = {name: getattr(item, name) for name in _fields(type(item))}
    return {name: _as_json(value) for name, value in values.items() if value is not ABSENT}


def _as_json(value: Any) -> Any:
    if value is None or isinstance(value, (str, int, datetime)):  # most are
        return value
    if _fields(type(value)):
        return as_row(value)
    if isinstance(value, (list, tuple)):
        return [_as_json(each) for each in value]
    if isinstance(value, Mapping):
        return {name if isinstance(name, str) else str(name or "unknown"): each for name, each in value.items()}
    return value


def show_details(pairs: Iterable[tuple[str, Any]]) -> None:
    """Write a line for each name and value, with the names in a column. A long value is on its own line."""
    known = [(printable(name), printable(cell_text(value))) for name, value in pairs]
    longest = max((len(name) for name, _ in known), default=0)
    for name, value in known:
        if longest + _GAP + len(value) <= terminal_width() or not name:
            write(Styled(name.ljust(longest), "dim"), f"  {value}")
        else:
            write(Styled(name, "dim"))
            write(f"  {value}")


def count_details(item: Any, *left_out: str) -> Iterable[tuple[str, Any]]:
    """Yield the names and values of a report's fields: one for each key of a mapping and each item of a list."""
    for name, value in as_row(item).items():
        words = name.replace("_", " ")
        if name in left_out or value is None:
            continue
        if isinstance(value, Mapping):
            yield from ((f"{words} {key}", _number(each)) for key, each in value.items())
        elif isinstance(value, list):
            yield from ((words, each) for each in value)
        else:
            yield words, _number(value)


def _number(value: Any) -> Any:
    return f"{value:,}" if type(value) is int else f"{value:,.1f}" if type(value) is float else value


def cell_text(value: Any) -> str:
    """Return a value as text for people."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(cell_text(each) for each in value) or "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {cell_text(each)}" for name, each in value.items()) or "-"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    return str(value)


def terminal_width() -> int:
    """Return the number of columns of the terminal."""
    from shutil import get_terminal_size

    return get_terminal_size((80, 24)).columns
