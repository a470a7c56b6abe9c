"""Filter expressions, in Basiq's syntax: ``entity.property.op('value')``, joined by commas.

The syntax and the operators are those of the vendor's reference. It does not say how to write a quote inside a value.
This module escapes quotes and backslashes with a backslash.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime

import attrs

from .errors import ConfigurationError

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)*", re.ASCII)

Value = str | int | float | bool | date | datetime


@attrs.frozen
class Filter:
    """A complete filter. ``a & b`` requires both filters to match. ``str(a)`` is the text that is sent."""

    text: str

    def __and__(self, other: Filter) -> Filter:
        if not isinstance(other, Filter):
            return NotImplemented
        return Filter(f"{self.text},{other.text}")

    def __str__(self) -> str:
        return self.text


class F:
    """A field to filter by: ``F("event.entity").eq("consent") & F("user.id").eq(user_id)``.

    A value can be text, a number, a boolean, a date or a datetime (sent as UTC). Values are quoted and escaped, so
    that no value can become a part of the expression. Raises ``ConfigurationError`` for an invalid field name, for a
    value of another type, and for a value with control characters.
    """

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigurationError("the name of a filter's field must be words joined by dots, such as event.entity")
        self._name = name

    def __repr__(self) -> str:
        return f"F({self._name!r})"

    def eq(self, value: Value) -> Filter:
        """Equal to the value."""
        return self._apply("eq", value)

    def ne(self, value: Value) -> Filter:
        """Not equal to the value."""
        return self._apply("ne", value)

    def gt(self, value: Value) -> Filter:
        """Greater or later than the value."""
        return self._apply("gt", value)

    def gteq(self, value: Value) -> Filter:
        """Greater or later than the value, or equal to it."""
        return self._apply("gteq", value)

    def lt(self, value: Value) -> Filter:
        """Less or earlier than the value."""
        return self._apply("lt", value)

    def lteq(self, value: Value) -> Filter:
        """Less or earlier than the value, or equal to it."""
        return self._apply("lteq", value)

    def bt(self, first: Value, last: Value) -> Filter:
        """Between the two values."""
        return self._apply("bt", first, last)

    def _apply(self, operator: str, *values: Value) -> Filter:
        return Filter(f"{self._name}.{operator}({','.join(_quote(value) for value in values)})")


def _quote(value: Value) -> str:
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, datetime):
        text = _utc(value).isoformat().replace("+00:00", "Z")
    elif isinstance(value, date):
        text = value.isoformat()
    elif isinstance(value, (str, int, float)):
        text = _plain(value)
    else:
        raise ConfigurationError(f"a filter's value must be text, a number or a date, not {type(value).__name__}")
    if any(ord(char) < 32 or ord(char) == 127 or 0xD800 <= ord(char) <= 0xDFFF for char in text):
        raise ConfigurationError("a filter's value must not hold control characters")
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _utc(value: datetime) -> datetime:
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except (OverflowError, ValueError):
        raise ConfigurationError("a filter's datetime must be within the years 1 to 9999 in UTC") from None


def _plain(value: str | int | float) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigurationError("a filter's number must be finite")
    try:
        return str(value)
    except ValueError:
        raise ConfigurationError("a filter's number has too many digits") from None


def filter_text(value: str | Filter | None) -> str | None:
    """Return a filter argument as the text to send: plain text unchanged, and None for None or an empty text."""
    if value is None or isinstance(value, (str, Filter)):
        text = str(value or "")
        try:
            text.encode()
        except UnicodeEncodeError as exc:
            raise ConfigurationError("filter holds characters that cannot be encoded as UTF-8") from exc
        return text or None
    raise ConfigurationError(f"filter must be text or built with F, not {type(value).__name__}")
