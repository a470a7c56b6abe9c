"""Filters, pages and cursors of lists."""

from __future__ import annotations

import base64
import binascii
import json
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Literal, TypeVar

import attrs

from ._histories import digest
from ._responses import Refusal

T = TypeVar("T")
Matches = Callable[[object], bool]
MAX_LIMIT = 500
MOST_SCANNED = 20_000
"""Maximum number of items for one request, so that a filter over millions of items does not block the fake."""

_FIELD = re.compile(r"\s*([A-Za-z][A-Za-z0-9]*(?:\.[A-Za-z][A-Za-z0-9]*)*)\.([a-z]+)\(", re.ASCII)
# Possessive: otherwise a long run of spaces would be tried from each of its characters.
_VALUE = re.compile(r"\s*+(?:'((?:[^'\\]|\\.)*+)'|([^'(),]*[^'(),\s]))\s*+", re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_COMPARE: dict[str, Callable[[datetime, datetime], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "gt": operator.gt,
    "gteq": operator.ge,
    "lt": operator.lt,
    "lteq": operator.le,
}


class FilterError(ValueError):
    """A filter cannot be parsed, or names an unknown field or operator."""


@attrs.frozen
class Field:
    """A field that can be filtered.

    get: returns the field's value in an item: a text, a tuple with all spellings of a text, a datetime, or None.
    is_date: whether it accepts ``gt``, ``gteq``, ``lt``, ``lteq`` and ``bt``. Any field accepts ``eq`` and ``ne``.
    """

    get: Callable[[Any], Any]
    is_date: bool = False


Fields = Callable[[str], Field | None]
"""Returns the field of a name; None for an unknown one."""


def attributes(names: Mapping[str, str]) -> Fields:
    """Return the fields of records, from the names of their attributes. The date is ``created``."""

    def find(name: str) -> Field | None:
        attribute = names.get(name)
        return None if attribute is None else Field(operator.attrgetter(attribute), attribute == "created")

    return find


def properties(kind: str, items: Sequence[Mapping[str, object]]) -> Fields:
    """Return the fields of JSON objects of a kind, such as ``account``: their properties.

    ``account.status`` and ``status`` are its own; ``connection.id`` is what its property ``connection`` says.
    """

    def find(name: str) -> Field | None:
        owner, _, key = name.rpartition(".")
        if owner not in ("", kind):
            if key != "id":
                return None
            key = owner
        if items and not any(key in item for item in items):
            return None
        if key.lower().endswith(("date", "updated")):
            return Field(lambda item: _moment(str(item[key])) if item.get(key) else None, is_date=True)
        return Field(lambda item: _as_text(item.get(key)))

    return find


def _as_text(value: object) -> object:
    if isinstance(value, Mapping):
        value = value.get("id")
    return None if value is None else str(value)


def compile_filter(text: str, fields: Fields) -> Matches:
    """Return a function that checks an item against a filter. Raises ``FilterError``."""
    groups: list[list[Matches]] = [[]]
    position = 0
    while True:
        check, position = _expression(text, position, fields)
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


def _expression(text: str, position: int, fields: Fields) -> tuple[Matches, int]:
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
            return _check(fields, head[1], head[2], values), position
        if end != ",":
            raise FilterError(f"expected a closing parenthesis at {text[position - 1 : position + 19]!r}")


def _check(fields: Fields, name: str, op: str, values: list[str]) -> Matches:
    if len(values) != (2 if op == "bt" else 1):
        raise FilterError(f"{op} needs {'two values' if op == 'bt' else 'one value'}, not {len(values)}")
    field = fields(name)
    if field is None:
        raise FilterError(f"there is no field {name!r}")
    get = field.get
    if field.is_date:
        moments = [_moment(value) for value in values]
        if op == "bt":
            return lambda item: (found := get(item)) is not None and bool(moments[0] <= found <= moments[1])
        if op in _COMPARE:
            compare = _COMPARE[op]
            return lambda item: (found := get(item)) is not None and compare(found, moments[0])
    elif op in ("eq", "ne"):

        def matches(item: object) -> bool:
            found = get(item)
            return (values[0] in found if isinstance(found, tuple) else values[0] == found) is (op == "eq")

        return matches
    raise FilterError(f"{name!r} has no operator {op!r}")


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise FilterError(f"not a date: {text[:40]!r}") from None


def page_of(
    scope: str,
    query: Mapping[str, str],
    page_size: int,
    items: Callable[[int | None], Iterable[tuple[int, T]]],
    fields: Fields | None,
    paging: Literal["item", "offset", "last-item"],
) -> tuple[list[T], str | None]:
    """Return the items of the page that a query asks for, and a cursor if more items are left.

    At most ``MOST_SCANNED`` items are looked at. If few of them match, the page is short or empty and has a cursor.

    scope: names the list. A cursor of another list is refused.
    items: returns the items from a position on, each with its position; for None, from the beginning.
    fields: the fields that can be filtered; None if the list ignores a filter.
    paging: what a cursor names: the position of the next item, a number of matching items to skip, or the position of
        the last item that was looked at.
    """
    start, limit, expression = _read(scope, query["next"]) if "next" in query else (None, page_size, None)
    limit = min(_limit(query["limit"]) if "limit" in query else limit, page_size)
    expression = query.get("filter", expression)
    matches: Matches = lambda item: True  # noqa: E731  # the same name for a filter
    if fields is not None and expression is not None:
        try:
            matches = compile_filter(expression, fields)
        except FilterError as error:
            raise Refusal("parameter-not-valid", f"The filter is not valid: {error}.", "filter") from None
    by_offset, by_last = paging == "offset", paging == "last-item"
    found = items(start)
    if by_last and start is not None:
        found = (each for each in found if each[0] != start)
    if by_offset:
        found = islice(enumerate(item for _, item in items(None) if matches(item)), start, None)
    taken: list[T] = []
    last = start
    for looked_at, (position, item) in enumerate(found):
        matching = by_offset or matches(item)
        if looked_at == MOST_SCANNED or (matching and len(taken) == limit):
            state = json.dumps([last if by_last else position, limit, expression], separators=(",", ":")).encode()
            return taken, base64.urlsafe_b64encode(_seal(scope, state) + state).decode().rstrip("=")
        if matching:
            taken.append(item)
        last = position
    return taken, None


def _seal(scope: str, state: bytes) -> bytes:
    return digest(scope, state.hex(), size=6)


def _read(scope: str, cursor: str) -> tuple[int, int, str | None]:
    refusal = Refusal("parameter-not-valid", "The cursor is not from this list.", "next")
    try:
        raw = base64.urlsafe_b64decode((cursor + "=" * (-len(cursor) % 4)).encode("ascii"))
    except (ValueError, binascii.Error):
        raise refusal from None
    if raw[:6] != _seal(scope, raw[6:]):
        raise refusal
    position, limit, expression = json.loads(raw[6:])
    return position, limit, expression


def _limit(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= MAX_LIMIT:
        return int(text)
    raise Refusal("parameter-not-valid", f"The limit must be a whole number from 1 to {MAX_LIMIT}.", "limit")
