"""Tables that fit: what is optional is left out, then rows become cards; an id is never cut. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from .._redaction.text import printable

T = TypeVar("T")
_GAP = "  "
_NARROW = 60
_LEAST_FLEXIBLE = 16


@dataclass(frozen=True)
class Column(Generic[T]):
    """One column. A ``flexible`` one may be cut, with an ellipsis, to ``least``; an ``optional`` one left out."""

    title: str
    cell: Callable[[T], str]
    flexible: bool = False
    least: int = _LEAST_FLEXIBLE
    optional: bool = False


@dataclass(frozen=True)
class Table:
    """The lines of a table, and the titles of the columns that there was no room for."""

    header: str
    rows: list[str]
    left_out: list[str]


def table(items: Sequence[T], columns: Sequence[Column[T]], width: int, *, ellipsis: str = "\u2026") -> Table | None:
    """Return a table at most ``width`` wide, or None where the columns that matter do not fit.

    A flexible column gives up what it can before an optional one is left out, the last one first.
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
    """Return each item as its id on a line of its own and its other values, indented, below."""
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
