"""Filter expressions: ``event.entity.eq('consent'),event.date.bt('2024-01-01','2024-02-01')``.

A comma joins expressions that must all hold, `` OR `` (in the reference's example) joins alternatives and
binds more closely. A quoted value takes a backslash before ``'`` and ``\\``; an unquoted one ends at a comma
or at the closing parenthesis.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Generic, TypeVar

T = TypeVar("T")
Value = str | datetime
Check = Callable[[T], bool]

_FIELD = re.compile(r"\s*([A-Za-z][A-Za-z0-9]*(?:\.[A-Za-z][A-Za-z0-9]*)*)\.([a-z]+)\(", re.ASCII)
# Possessive: what is only spaces would be tried from each of them.
_VALUE = re.compile(r"\s*+(?:'((?:[^'\\]|\\.)*+)'|([^'(),]*[^'(),\s]))\s*+", re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_COMPARE: dict[str, Callable[[Value, Value], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "gt": operator.gt,
    "gteq": operator.ge,
    "lt": operator.lt,
    "lteq": operator.le,
}


class FilterError(ValueError):
    """A filter that does not parse, or names what cannot be filtered by."""


class Fields(Generic[T]):
    """What one kind of item can be filtered by.

    ``texts`` give all the spellings of a value and take ``eq`` and ``ne``; ``dates`` take those and
    ``gt``, ``gteq``, ``lt``, ``lteq``, ``bt``.
    """

    def __init__(
        self,
        texts: Mapping[str, Callable[[T], tuple[str, ...]]],
        dates: Mapping[str, Callable[[T], datetime]],
    ) -> None:
        self._texts = texts
        self._dates = dates

    def compile(self, text: str) -> Check[T]:
        """A filter's check; raises FilterError."""
        groups: list[list[Check[T]]] = [[]]
        position = 0
        while True:
            check, position = self._expression(text, position)
            groups[-1].append(check)
            rest = text[position:].lstrip()
            if not rest:
                return lambda item: all(any(check(item) for check in group) for group in groups)
            if rest.startswith(","):
                groups.append([])
                position = len(text) - len(rest) + 1
            elif rest[:3].upper() == "OR ":
                position = len(text) - len(rest) + 3
            else:
                raise FilterError(f"expected a comma at {rest[:20]!r}")

    def _expression(self, text: str, position: int) -> tuple[Check[T], int]:
        head = _FIELD.match(text, position)
        if head is None:
            raise FilterError(f"expected field.op('value') at {text[position : position + 20]!r}")
        values: list[str] = []
        position = head.end()
        while True:
            value = _VALUE.match(text, position)
            if value is None:
                raise FilterError(f"expected a value at {text[position : position + 20]!r}")
            quoted, bare = value.groups()
            values.append(bare if quoted is None else _ESCAPE.sub(r"\1", quoted))
            position = value.end()
            end, position = text[position : position + 1], position + 1
            if end == ")":
                return self._check(head[1], head[2], values), position
            if end != ",":
                raise FilterError(f"expected a closing parenthesis at {text[position - 1 : position + 19]!r}")

    def _check(self, field: str, op: str, values: list[str]) -> Check[T]:
        if len(values) != (2 if op == "bt" else 1):
            raise FilterError(f"{op} takes {'two values' if op == 'bt' else 'one value'}, not {len(values)}")
        if field in self._dates:
            date = self._dates[field]
            moments = [_moment(value) for value in values]
            if op == "bt":
                return lambda item: moments[0] <= date(item) <= moments[1]
            if op in _COMPARE:
                compare = _COMPARE[op]
                return lambda item: compare(date(item), moments[0])
        elif field in self._texts:
            get = self._texts[field]
            if op in ("eq", "ne"):
                return lambda item: (values[0] in get(item)) == (op == "eq")
        else:
            raise FilterError(f"there is no field {field!r}")
        raise FilterError(f"{field!r} has no operator {op!r}")


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise FilterError(f"not a date: {text[:40]!r}") from None
