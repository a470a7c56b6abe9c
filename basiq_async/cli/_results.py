"""Show results. For every command, a terminal gets text, and a pipe gets JSON lines.

A ``View`` names the fields of the JSON. rich draws a table where it fits the terminal: first, optional columns are left
out, and if that is not enough, each item is shown in lines of its own. An id is never cut.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from operator import attrgetter
from typing import Any, Generic, TypeVar, cast

import attrs

from .._redaction.text import printable
from ..errors import ConfigurationError
from ._output import Styled, flush, is_terminal, say, takes_unicode, write, write_drawing, write_json, write_lines

T = TypeVar("T")
Row = Mapping[str, Any]
_BATCH = 200
_GAP = 2


@dataclass(frozen=True)
class Column:
    """One column: the field of a row, or a function of the row.

    A ``flexible`` column may be cut to so many characters, an ``optional`` one may be left out.
    """

    title: str
    cell: str | Callable[[Row], object]
    flexible: int = 0
    optional: bool = False

    def text(self, row: Row) -> str:
        """Return the text of the cell."""
        return printable(cell_text(row.get(self.cell) if isinstance(self.cell, str) else self.cell(row)))


class View(Generic[T]):
    """What is shown of an object: the fields of its JSON, and the columns of a table, of which the first holds the id.

    names: the names of the fields, separated by spaces. A field is the attribute of that name, or it is computed by the
        function of that name. Without names, the rows are mappings, and are shown whole.
    id_below: where the columns do not fit, the id has a line of its own below the others, so that it can be copied.
    read: returns the row of an object, in place of these: for long lists.
    """

    def __init__(
        self,
        names: str,
        *columns: Column,
        id_below: bool = False,
        read: Callable[[T], Row] | None = None,
        **computed: Callable[[T], Any],
    ) -> None:
        self.names = tuple(names.split())
        self.columns = columns
        self.id_below = id_below
        fields = [(name, computed.get(name) or attrgetter(name)) for name in self.names]
        self._read = read or (lambda item: {name: read_field(item) for name, read_field in fields})

    def row(self, item: T | Row) -> Row:
        """Return the fields of an object. A dictionary is a row already."""
        return item if isinstance(item, dict) else self._read(cast(T, item))


ROWS: View[Row] = View("")


@dataclass
class Output:
    """Writes the results of one command, as text in a terminal, and as JSON lines in a pipe or with ``--json``."""

    json: str | None = None
    """The value of ``--json``: None if it was not given, else field names separated by commas; empty for all."""
    raw: bool = False
    """Show the API's own JSON in place of the views."""
    known: Sequence[str] = field(default=(), init=False)
    """The fields that ``--json`` may name; empty before they are known."""
    _header_shown: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._names = [name for name in (self.json or "").split(",") if name]
        if self.raw and self._names:
            raise ConfigurationError("--raw shows the API's own JSON whole: pass --json without names, or leave it out")

    def expect(self, *views: View[Any]) -> None:
        """Raise ``ConfigurationError`` if ``--json`` names a field that is in none of these views."""
        self.known = list(dict.fromkeys(name for view in views for name in view.names))
        for name in self._names:
            if name not in self.known:
                raise ConfigurationError(f"--json has no field {name!r} here; the fields are {', '.join(self.known)}")

    @property
    def as_json(self) -> bool:
        """Whether results are JSON lines."""
        return self.json is not None or self.raw or not is_terminal(sys.stdout)

    def rows(self, items: Iterable[T | Row], view: View[T]) -> None:
        """Write any number of results, in constant memory."""
        rest = iter(items)
        while batch := list(islice(rest, _BATCH)):
            rows = [self._row(item, view) for item in batch]
            if self.as_json:
                write_json(*rows)
            else:
                self._draw(rows, view.columns, id_below=view.id_below)
        if self.as_json:
            flush()

    async def stream(
        self, items: AsyncIterator[T], view: View[T], *, wanted: Callable[[T], bool | None] | None = None
    ) -> int:
        """Write results as they come, some at once, and return their number."""
        count = 0
        batch: list[T] = []
        try:
            async for item in items:
                if wanted is None or wanted(item):
                    batch.append(item)
                if len(batch) == _BATCH:
                    count += len(batch)
                    shown, batch = batch, []
                    self.rows(shown, view)
        finally:  # what was read before an error or a signal is shown too
            self.rows(batch, view)
        return count + len(batch)

    def one(self, item: Any, view: View[Any] = ROWS, details: Iterable[tuple[str, Any]] | None = None) -> None:
        """Write a single result, in a terminal with a line for each pair of ``details``, or for each field."""
        row = self._row(item, view)
        if self.as_json:
            write_json(row)
            flush()
        else:
            show_details(row.items() if details is None else details)

    def _row(self, item: Any, view: View[Any]) -> Row:
        row = item.raw if self.raw else view.row(item) if view.names else as_row(item)
        return {name: row.get(name) for name in self._names} if self._names else row

    def _draw(self, rows: Sequence[Row], columns: Sequence[Column], *, id_below: bool) -> None:
        """Draw a table, or the rows one by one if its required columns do not fit."""
        from rich.cells import cell_len
        from rich.table import Table
        from rich.text import Text

        width = terminal_width()
        cells = {column: [column.text(row) for row in rows] for column in columns}
        kept = list(columns)

        def longest(column: Column) -> int:
            # A longer cell does not fit in any case, so only its beginning is measured.
            return max(cell_len(column.title), *(cell_len(text[: width + 1]) for text in cells[column]))

        def least(column: Column) -> int:
            return min(longest(column), column.flexible) if column.flexible else longest(column)

        below: Sequence[str] | None = None
        while sum(map(least, kept)) + _GAP * (len(kept) - 1) > width:
            optional = [column for column in kept if column.optional]
            if not optional and id_below and below is None:
                below = cells[kept.pop(0)]
                continue
            if not optional:
                for first, *others in zip(*cells.values(), strict=True):
                    rest = [text for text in others if text not in ("", "-")]
                    whole = "  ".join(rest)
                    write_lines([first, *(f"  {line}" for line in ([whole] if len(whole) <= width - 2 else rest))])
                return
            kept.remove(optional[-1])
        table = Table(box=None, show_header=not self._header_shown, padding=(0, _GAP, 0, 0), pad_edge=False)
        overflow: Any = "ellipsis" if takes_unicode(sys.stdout) else "crop"
        for column in kept:
            table.add_column(column.title, no_wrap=not column.flexible, min_width=least(column))
        for texts in zip(*(cells[column] for column in kept), strict=True):
            # Cut before rich measures it: a cell is never wider than the terminal.
            table.add_row(*(Text(text[: width + 1], no_wrap=True, overflow=overflow) for text in texts))
        write_drawing(table, below)
        left_out = [column.title for column in columns[below is not None :] if column not in kept]
        if left_out and not self._header_shown:
            say(f"too wide for this terminal: {', '.join(left_out)}; --json shows everything")
        self._header_shown = True


def as_row(item: Any) -> Row:
    """Return a mapping as it is, and an object of an attrs class as a mapping of its fields."""
    return item if isinstance(item, Mapping) else attrs.asdict(item, value_serializer=_name_keys)


def _name_keys(_: object, __: object, value: Any) -> Any:
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


def short_time(moment: datetime | None) -> str:
    """Return a time for a narrow column: the day and the minute, in UTC."""
    return "-" if moment is None else f"{moment.astimezone(UTC):%m-%d %H:%M}"


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
