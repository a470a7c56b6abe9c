"""The shape of a JSON value: its fields, their types and their forms. Values are not kept."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from urllib.parse import parse_qsl, urlsplit

import attrs

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_DATE = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)?")
_WORD = re.compile(r"[A-Za-z][A-Za-z-]{0,39}")
_TYPES = {type(None): "null", bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
_VOCABULARY = frozenset({"type", "status", "code", "token_type"})
"""Fields whose values are kept, because they are words of the API and not data."""
_PATH_WORDS = frozenset(
    {
        *("notifications", "webhooks", "messages", "events", "types", "users", "accounts", "connections", "consents"),
        *("transactions", "jobs", "auth_link", "statements", "income", "expenses", "institutions", "affordability"),
    }
)


@attrs.define
class FieldShape:
    """The types and forms at one place, how often it occurred, and how often its parent did."""

    seen: int = 0
    parents: int = 0
    types: set[str] = attrs.field(factory=set[str])
    forms: set[str] = attrs.field(factory=set[str])
    values: set[str] = attrs.field(factory=set[str])

    @property
    def always(self) -> bool:
        return self.seen >= self.parents


@attrs.define
class Shape:
    """The fields of one kind of response, by place, such as ``$.data[].attempts[].status``."""

    base: str
    closed: frozenset[str] = frozenset()
    fields: dict[str, FieldShape] = attrs.field(factory=dict[str, FieldShape])

    def add(self, value: object, place: str = "$", name: str = "", parents: int = 1) -> None:
        """Add the shape of one value. Fields below a closed place, such as an event's data, are left out."""
        field = self.fields.setdefault(place, FieldShape())
        field.seen += 1
        field.types.add(_TYPES.get(type(value), "object"))
        if isinstance(value, str):
            field.forms.add(_form(value, self.base))
            if name in _VOCABULARY:
                field.values.add(value if _WORD.fullmatch(value) else "(other)")
        if place in self.closed:
            return
        if isinstance(value, Mapping):
            for key, inner in value.items():
                self.add(inner, f"{place}.{key}", str(key))
            for known, shape in self.fields.items():
                parent, _, last = known.rpartition(".")
                if parent == place and "[" not in last:
                    shape.parents = field.seen
        elif isinstance(value, list):
            for inner in value:
                self.add(inner, f"{place}[]")

    def describe(self) -> dict[str, object]:
        """Return the shape as JSON data."""
        return {
            place: {
                "types": sorted(field.types),
                "forms": sorted(field.forms),
                "values": sorted(field.values),
                "always": field.always,
            }
            for place, field in sorted(self.fields.items())
        }


def _form(text: str, base: str) -> str:
    if _UUID.fullmatch(text):
        return "uuid"
    if _DATE.fullmatch(text):
        return "date-time"
    if text.startswith("/") or "://" in text[:16]:
        return describe_link(text, base)
    return "digits" if text.isascii() and text.isdigit() else "text"


def describe_link(url: str, base: str) -> str:
    """Return the form of a link: its path with ``{}`` for identifiers, and the names of its query's parameters."""
    try:
        parts, own = urlsplit(url), urlsplit(base)
    except ValueError:
        return "link: not a URL"
    if parts.scheme and (parts.scheme, parts.netloc) != (own.scheme, own.netloc):
        return "link: elsewhere"
    kind = "absolute" if parts.scheme else "relative"
    path = parts.path.removeprefix(own.path.rstrip("/"))
    shown = "/".join(part if not part or part in _PATH_WORDS else "{}" for part in path.split("/"))
    names = "&".join(sorted({name for name, _ in parse_qsl(parts.query, keep_blank_values=True)}))
    return f"link: {kind} {shown}" + (f"?{names}" if names else "")


def places_above(place: str) -> Iterator[str]:
    """Yield the places that contain this one, the nearest first."""
    while place != "$":
        place = place.removesuffix("[]") if place.endswith("[]") else place.rpartition(".")[0]
        yield place
