"""Tables that fit: columns are dropped, then rows become cards; an id is never cut. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from .._text import printable

T = TypeVar("T")
_GAP = "  "
_NARROW = 60
_LEAST_FLEXIBLE = 16


@dataclass(frozen=True)
class Column(Generic[T]):
    """One column. A ``flexible`` one may be cut, with an ellipsis, to make the table fit."""

    title: str
    cell: Callable[[T], str]
    flexible: bool = False


def table(items: Sequence[T], columns: Sequence[Column[T]], width: int, *, header: bool) -> list[str] | None:
    """Return the lines of a table at most ``width`` wide, or None where not even three columns fit.

    Columns are dropped from the end. A flexible column gives up what it can before any is dropped.
    """
    cells = [[printable(column.cell(item)) for column in columns] for item in items]
    natural = [
        max(_width(column.title), *(_width(row[index]) for row in cells)) for index, column in enumerate(columns)
    ]
    kept = len(columns)
    while (widths := _fit(natural[:kept], columns[:kept], width)) is None:
        kept -= 1
        if kept < min(3, len(columns)):
            return None
    rows = [[column.title for column in columns]] if header else []
    rows += cells
    return [_join([_pad(text, size) for text, size in zip(row, widths, strict=False)]) for row in rows]


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
            given = min(over, max(0, widths[index] - _LEAST_FLEXIBLE))
            widths[index] -= given
            over -= given
    return widths if over <= 0 else None


def _join(cells: list[str]) -> str:
    return _GAP.join(cells).rstrip()


def _pad(text: str, size: int) -> str:
    width = _width(text)
    if width <= size:
        return text + " " * (size - width)
    while _width(text) > size - 1:
        text = text[:-1]
    return text + "\u2026" + " " * (size - 1 - _width(text))


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
