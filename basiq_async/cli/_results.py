"""Show results. For every command, a terminal gets text, and a pipe gets JSON lines.

A table is made to fit the terminal: optional columns are left out, and if that is not enough, rows become cards. An id
is never cut.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from operator import attrgetter, methodcaller
from typing import Any, Generic, TypeVar, cast

import attrs

from .._redaction.text import printable
from ..errors import ConfigurationError
from ._output import (
    Part,
    Styled,
    ellipsis,
    flush,
    is_terminal,
    note,
    terminal_width,
    write,
    write_json,
    write_lines,
)

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
_BATCH = 200
_GAP = "  "
_NARROW = 60
_LEAST_FLEXIBLE = 16


@dataclass(frozen=True)
class Column(Generic[T]):
    """One column. A ``flexible`` column may be cut to ``least`` characters, an ``optional`` one may be left out."""

    title: str
    cell: Callable[[T], str]
    flexible: bool = False
    least: int = _LEAST_FLEXIBLE
    optional: bool = False


class _Absent:
    """The type of ``ABSENT``."""


ABSENT = _Absent()
"""The value of a field that an object does not have: JSON leaves the field out."""
Fields = Mapping[str, Callable[[T], Any]]


@dataclass(frozen=True)
class Shape(Generic[T]):
    """The way in which one kind of result is shown.

    fields: maps each field of the JSON to a function that reads it from an object, or a function that returns this
        mapping, if it needs slow imports. None for results that are mappings, which are shown whole.
    columns: the columns of the table, most important first. The first column holds the id, which is never cut.
    details: returns the name and value pairs for a single object in a terminal. None shows the fields.
    """

    fields: Fields[T] | Callable[[], Fields[T]] | None
    columns: Sequence[Column[T]] = ()
    details: Callable[[T], Iterable[tuple[str, Any]]] | None = None

    @cached_property
    def readers(self) -> Fields[T]:
        """The fields, each with the function that reads it. Empty for mappings that are shown whole."""
        if self.fields is None:
            return {}
        return self.fields() if callable(self.fields) else self.fields

    def row(self, item: T) -> Mapping[str, Any]:
        """Return an object as JSON shows it."""
        if self.fields is None:
            return cast("Mapping[str, Any]", item)
        row = {name: read(item) for name, read in self.readers.items()}
        if ABSENT in row.values():
            return {name: value for name, value in row.items() if value is not ABSENT}
        return row


def attributes(*names: str) -> dict[str, Callable[[Any], Any]]:
    """Return fields that are attributes of the same names."""
    return {name: attrgetter(name) for name in names}


def fields_of(kind: type[attrs.AttrsInstance]) -> dict[str, Callable[[Any], Any]]:
    """Return the fields of an attrs class."""
    return attributes(*attrs.fields_dict(kind))


def keys(*names: str) -> dict[str, Callable[[Any], Any]]:
    """Return fields that are keys of a mapping."""
    return {name: methodcaller("get", name) for name in names}


def shows(*shapes: Shape[Any]) -> Callable[[F], F]:
    """Declare the shapes of a command's results. Its ``--json`` accepts their fields."""

    def mark(command: F) -> F:
        vars(command)["shapes"] = shapes
        return command

    return mark


def shown_fields(command: object) -> set[str]:
    """Return the fields that a command's ``--json`` accepts, as declared by ``shows``."""
    return {name for shape in getattr(command, "shapes", ()) for name in shape.readers}


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

    def rows(self, items: Iterable[T], shape: Shape[T]) -> None:
        """Write any number of results, in constant memory."""
        if self.as_json:
            show = self._picker(shape)
            for item in items:
                write_json(show(item))
            flush()
            return
        rest = iter(items)
        while batch := list(islice(rest, _BATCH)):
            width = terminal_width()
            made = table(batch, shape.columns, width, ellipsis=ellipsis())
            if made is None:
                write_lines(cards(batch, shape.columns, width))
                continue
            if not self._header_shown:
                write(Styled(made.header, "bold"))
            write_lines(made.rows)
            if made.left_out and not self._header_shown:
                note(f"too wide for this terminal: {', '.join(made.left_out)}; --json shows everything")
            self._header_shown = True

    def one(self, item: T, shape: Shape[T]) -> None:
        """Write a single result, in a terminal with one line for each of its values."""
        if self.as_json:
            write_json(self._picker(shape)(item))
            flush()
            return
        pairs = shape.row(item).items() if shape.details is None else shape.details(item)
        for line in vertical(pairs, terminal_width()):
            write(*line)

    def _picker(self, shape: Shape[T]) -> Callable[[T], Mapping[str, Any]]:
        """Return a function that makes the JSON row of an object, with the fields that ``--json`` selects.

        Raises ``ConfigurationError`` for a field that the shape does not have.
        """
        names = [name for name in (self.json or "").split(",") if name]
        unknown = [name for name in names if name not in shape.readers]
        if unknown and shape.fields is not None:
            raise ConfigurationError(
                f"--json has no field {unknown[0]!r} here; the fields are {', '.join(shape.readers)}"
            )
        if not names:
            return shape.row

        def pick(item: T) -> Mapping[str, Any]:
            row = shape.row(item)
            return {name: row.get(name) for name in names}

        return pick


def vertical(pairs: Iterable[tuple[str, Any]], width: int) -> Iterator[tuple[Part, ...]]:
    """Yield a line for each name and value, with the names in a column. A long value is on its own line."""
    known = [(printable(name), printable(cell_text(value))) for name, value in pairs]
    longest = max((len(name) for name, _ in known), default=0)
    for name, value in known:
        if longest + 2 + len(value) <= width or not name:
            yield Styled(name.ljust(longest), "dim"), f"  {value}"
        else:
            yield (Styled(name, "dim"),)
            yield (f"  {value}",)


def cell_text(value: Any) -> str:
    """Return a value as text for people."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(cell_text(each) for each in value) or "-"
    if hasattr(value, "strftime"):
        return moment_text(value)
    return str(value)


def moment_text(value: Any) -> str:
    """Return a point in time in UTC, to the second."""
    from datetime import UTC

    return str(value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ"))


# --- tables ---


@dataclass(frozen=True)
class Table:
    """The lines of a table, and the titles of the columns that did not fit."""

    header: str
    rows: list[str]
    left_out: list[str]


def table(items: Sequence[T], columns: Sequence[Column[T]], width: int, *, ellipsis: str = "\u2026") -> Table | None:
    """Return a table that is at most ``width`` wide, or None if its required columns do not fit.

    First, flexible columns are cut, then optional columns are left out, both from the right.
    """
    cells = [[printable(column.cell(item)) for column in columns] for item in items]
    natural = [
        max(_width(column.title), *(_width(row[index]) for row in cells)) for index, column in enumerate(columns)
    ]
    kept = list(range(len(columns)))
    left_out: list[str] = []
    while (widths := _fit([natural[index] for index in kept], [columns[index] for index in kept], width)) is None:
        optional = [index for index in kept if columns[index].optional]
        if not optional:
            return None
        kept.remove(optional[-1])
        left_out.insert(0, columns[optional[-1]].title)

    def line(row: Sequence[str]) -> str:
        return _GAP.join(_pad(row[index], size, ellipsis) for index, size in zip(kept, widths, strict=True)).rstrip()

    return Table(line([column.title for column in columns]), [line(row) for row in cells], left_out)


def cards(items: Sequence[T], columns: Sequence[Column[T]], width: int) -> list[str]:
    """Return each item as a line with its id, followed by indented lines with its other values."""
    lines: list[str] = []
    for item in items:
        first, *rest = [printable(column.cell(item)) for column in columns]
        lines.append(first)
        line = ""
        for text in rest:
            if text in ("", "-"):
                continue
            if line and _width(line) + len(_GAP) + _width(text) > width - 2:
                lines.append("  " + line)
                line = text
            else:
                line = f"{line}{_GAP}{text}" if line else text
        if line:
            lines.append("  " + line)
    return lines


def _fit(natural: Sequence[int], columns: Sequence[Column[T]], width: int) -> list[int] | None:
    widths = list(natural)
    over = sum(widths) + len(_GAP) * (len(widths) - 1) - width
    for index in range(len(widths) - 1, -1, -1):
        if over > 0 and columns[index].flexible and width >= _NARROW:
            given = min(over, max(0, widths[index] - columns[index].least))
            widths[index] -= given
            over -= given
    return widths if over <= 0 else None


def _pad(text: str, size: int, ellipsis: str) -> str:
    width = _width(text)
    if width <= size:
        return text + " " * (size - width)
    while _width(text) > size - len(ellipsis):
        text = text[:-1]
    return text + ellipsis + " " * (size - len(ellipsis) - _width(text))


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
