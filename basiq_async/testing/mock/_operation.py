"""The parts of the control API's operations: checked fields, and pages of results."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, TypedDict, TypeVar

import attrs

from ..._web.guard import ControlError
from . import _shapes as shapes

if TYPE_CHECKING:
    from ..fake._fake import FakeBasiq

T = TypeVar("T")
S = TypeVar("S")
Kind = Literal["text", "whole", "number", "flag", "object", "texts"]
Json = dict[str, object]
Values = dict[str, object]
MOST_SCANNED = 5_000
"""The most items that one call looks at, so that a search of millions of items does not block the fake."""
_NUMBER = re.compile(r"[0-9]{1,15}", re.ASCII)
_PLACES = re.compile(r"[0-9]{1,15}-[0-9]{1,15}(?:\.[0-9]{1,15}-[0-9]{1,15}){0,9999}", re.ASCII)

_SCHEMAS: Mapping[Kind, Json] = {
    "text": {"type": "string"},
    "whole": {"type": "integer"},
    "number": {"type": "number"},
    "flag": {"type": "boolean"},
    "object": {"type": "object"},
    "texts": {"type": "array", "items": {"type": "string"}},
}
_NAMES: Mapping[Kind, str] = {
    "text": "a text",
    "whole": "a whole number",
    "number": "a number",
    "flag": "true or false",
    "object": "a JSON object",
    "texts": "an array of texts",
}


@attrs.frozen
class Field:
    """One field of a body, or one parameter of a query."""

    name: str
    kind: Kind
    description: str
    required: bool = False
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()

    def schema(self) -> Json:
        """Return the field's JSON schema."""
        schema: Json = {**_SCHEMAS[self.kind], "description": self.description}
        if self.least is not None:
            schema["minimum"] = self.least
        if self.most is not None:
            schema["maximum"] = self.most
        if self.choices:
            schema["enum"] = list(self.choices)
        return schema

    def check(self, value: object) -> object:
        """Return the value. Raises ``ControlError`` if it does not fit the field."""
        if not _is(self.kind, value):
            raise _invalid(f"{self.name} must be {_NAMES[self.kind]}")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if self.least is not None and value < self.least:
                raise _invalid(f"{self.name} must be at least {self.least:g}")
            if self.most is not None and value > self.most:
                raise _invalid(f"{self.name} must be at most {self.most:g}")
        if self.choices and value not in self.choices:
            raise _invalid(f"{self.name} must be one of: {', '.join(self.choices)}")
        return value

    def parse(self, text: str) -> object:
        """Parse and check the text of a query parameter. Raises ``ControlError``."""
        if self.kind == "flag" and text in ("true", "false"):
            return text == "true"
        if self.kind in ("whole", "number"):
            try:
                return self.check(int(text) if self.kind == "whole" else float(text))
            except ValueError:
                raise _invalid(f"{self.name} must be {_NAMES[self.kind]}") from None
        return self.check(text)


def read_body(fields: Sequence[Field], body: Mapping[str, object]) -> Values:
    """Check the fields of a body, and return them without nulls. Raises ``ControlError``."""
    known = {field.name: field for field in fields}
    unknown = sorted(set(body) - set(known))
    if unknown:
        raise _invalid(f"there is no field {unknown[0]!r}; the fields are: {', '.join(known) or 'none'}")
    values = {name: known[name].check(value) for name, value in body.items() if value is not None}
    return _complete(fields, values)


def read_query(fields: Sequence[Field], query: Mapping[str, str]) -> Values:
    """Parse and check the parameters of a query. Raises ``ControlError``."""
    known = {field.name: field for field in fields}
    unknown = sorted(set(query) - set(known))
    if unknown:
        raise _invalid(f"there is no parameter {unknown[0]!r}; the parameters are: {', '.join(known) or 'none'}")
    return _complete(fields, {name: known[name].parse(text) for name, text in query.items()})


def _complete(fields: Sequence[Field], values: Values) -> Values:
    for field in fields:
        if field.required and field.name not in values:
            raise _invalid(f"{field.name} is missing: {field.description}")
    return values


def _is(kind: Kind, value: object) -> bool:
    match kind:
        case "text":
            return isinstance(value, str)
        case "flag":
            return isinstance(value, bool)
        case "whole":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        case "object":
            return isinstance(value, dict)
        case "texts":
            return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _invalid(message: str) -> ControlError:
    return ControlError(400, "not-valid", message)


@attrs.define
class Control:
    """The target of a call of the control API.

    fake: the state that the call is for.
    first: the first state of the same mock.
    api_key: the key of the application that the call is for; None for the first application of ``fake``.
    """

    fake: FakeBasiq
    base_url: str
    first: FakeBasiq = attrs.field(default=attrs.Factory(lambda self: self.fake, takes_self=True))
    api_key: str | None = attrs.field(default=None, repr=False)

    def of(self, fake: FakeBasiq, api_key: str | None) -> Control:
        """Return the control for another state, or for another application of this one."""
        return Control(fake, self.base_url, self.first, api_key)

    def done(self) -> shapes.Done:
        """Return the result of a call that changed something."""
        return shapes.Done(now=self.fake.now(), next_due=self.fake.next_due)


Run = Callable[[Control, Any], Awaitable[attrs.AttrsInstance]]


@attrs.frozen
class Operation:
    """One operation: its path, its fields, its result and its function.

    ``fields`` describe the body of a POST, or the query of a GET. ``run`` receives their values by name, together with
    the parameters of the path.
    """

    name: str
    method: str
    path: str
    summary: str
    returns: type[attrs.AttrsInstance]
    run: Run
    fields: tuple[Field, ...] = ()


class Found(TypedDict, Generic[S]):
    """A page of results: the fields of its shape."""

    items: tuple[S, ...]
    total: int
    next: str | None


def page_of(
    items: Iterator[T],
    total: int,
    values: Mapping[str, Any],
    show: Callable[[T], S],
    texts: Callable[[T], Sequence[str]],
    following: Callable[[T], str],
    wanted: Callable[[T], bool] = lambda item: True,
) -> Found[S]:
    """Return a page of items. ``following`` returns the ``next`` value of a page that begins with an item.

    At most ``MOST_SCANNED`` items are looked at, so a page can be short or empty and still have a ``next``.
    """
    limit, search = values.get("limit", 100), values.get("search", "").casefold()
    shown: list[S] = []
    for looked_at, item in enumerate(items):
        if len(shown) == limit or looked_at == MOST_SCANNED:
            return {"items": tuple(shown), "total": total, "next": following(item)}
        if wanted(item) and (not search or any(search in text.casefold() for text in texts(item))):
            shown.append(show(item))
    return {"items": tuple(shown), "total": total, "next": None}


def page_of_numbered(
    items: Iterator[tuple[int, T]],
    total: int,
    values: Mapping[str, Any],
    show: Callable[[int, T], S],
    texts: Callable[[T], Sequence[str]],
) -> Found[S]:
    """Return a page of numbered items, the highest number first."""
    text = values.get("next")
    if text is not None:
        if not _NUMBER.fullmatch(text):
            raise _no_such_page()
        items = itertools.dropwhile(lambda item: item[0] > int(text), items)
    return page_of(
        items, total, values, lambda item: show(*item), lambda item: texts(item[1]), lambda item: str(item[0])
    )


def read_places(text: str | None) -> dict[int, int] | None:
    """Parse a ``next`` of the list of messages: the position up to which each webhook's history was shown."""
    if text is None:
        return None
    if not _PLACES.fullmatch(text):
        raise _no_such_page()
    return {int(serial): int(left) for serial, _, left in (each.partition("-") for each in text.split("."))}


def _no_such_page() -> ControlError:
    return ControlError(400, "not-valid", "next must be the `next` of the page before")
