"""The parts of the control API's operations: typed inputs, and pages of results."""

from __future__ import annotations

import inspect
import math
import operator
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import attrs
from cattrs import ClassValidationError, Converter, ForbiddenExtraKeysError

from ..._web.access import ControlError
from . import _results as results
from ._results import Page, camel

if TYPE_CHECKING:
    from ..fake._fake import FakeBasiq

T = TypeVar("T")
S = TypeVar("S")
JsonObject = dict[str, object]
MOST_SCANNED = 5_000
"""Maximum number of items that one call looks at, so that a search of millions of items does not block the fake."""
_NUMBER = re.compile(r"[0-9]{1,15}", re.ASCII)


@attrs.frozen
class About:
    """The description of an input and its bounds, in the annotation of an operation's parameter."""

    description: str
    least: float | None = None
    most: float | None = None


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

    def done(self) -> Any:
        """Return the result of a call that changed something."""
        return results.Done(now=self.fake.now(), next_due=self.fake.next_due)


Run = Callable[..., Awaitable[Any]]
R = TypeVar("R", bound=Run)
OPERATIONS: list[Operation] = []


@attrs.frozen
class Operation:
    """One operation of the control API.

    inputs: a class of the inputs: of the fields of a POST's body or the parameters of a GET's query, which have an
        ``About``, and of the parameters of the path.
    run: the function that carries it out. It receives the inputs by name. If it returns None, the result is ``Done``.
    """

    name: str
    method: str
    path: str
    summary: str
    returns: Any
    inputs: type[attrs.AttrsInstance]
    run: Run

    def fields(self) -> Mapping[str, attrs.Attribute[Any]]:
        """Return the fields of the body or the query, by their names in JSON."""
        return {field.name: field for field in attrs.fields(self.inputs) if "about" in field.metadata}

    def read(self, values: Mapping[str, object]) -> dict[str, Any]:
        """Return the inputs of a call by the names of the function's parameters. Raises ``ControlError``."""
        try:
            found = _converter(self.method).structure(values, self.inputs)
        except ClassValidationError as error:
            raise ControlError(400, "not-valid", self._describe(error.exceptions[0])) from None
        return {field.metadata["name"]: getattr(found, field.name) for field in attrs.fields(self.inputs)}

    def _describe(self, error: Exception) -> str:
        if isinstance(error, ForbiddenExtraKeysError):
            word = "parameter" if self.method == "GET" else "field"
            known = ", ".join(self.fields()) or "none"
            return f"there is no {word} {min(error.extra_fields)!r}; the {word}s are: {known}"
        if isinstance(error, KeyError):
            name = error.args[0]
            return f"{name} is missing: {self.fields()[name].metadata['about'].description}"
        notes = [note.name for note in getattr(error, "__notes__", ()) if hasattr(note, "name")]
        return " ".join([*notes, str(error)])


def operation(method: str, path: str, returns: Any = results.Done) -> Callable[[R], R]:
    """Register a function as an operation. Its docstring is the summary, its parameters are the inputs."""

    def register(run: R) -> R:
        hints = get_type_hints(run, include_extras=True)
        _, *parameters = inspect.signature(run).parameters.values()
        inputs = attrs.make_class(
            run.__name__, {camel(each.name): _input(each, hints[each.name]) for each in parameters}, frozen=True
        )
        summary = (run.__doc__ or "").strip().splitlines()[0].rstrip(".")
        OPERATIONS.append(Operation(run.__name__, method, path, summary, returns, inputs, run))
        return run

    return register


def _input(parameter: inspect.Parameter, hint: Any) -> Any:
    default: object = attrs.NOTHING if parameter.default is inspect.Parameter.empty else parameter.default
    about = next(iter(getattr(hint, "__metadata__", ())), None)
    if about is None:
        return attrs.field(type=hint, default=default, metadata={"name": parameter.name})
    kind = get_args(hint)[0]

    def check_bounds(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        for bound, word, fits in ((about.least, "least", operator.ge), (about.most, "most", operator.le)):
            if bound is not None and value is not None and not fits(value, bound):
                raise ValueError(f"{attribute.name} must be at {word} {bound:g}")

    metadata = {"name": parameter.name, "about": about}
    return attrs.field(type=kind, default=default, validator=check_bounds, metadata=metadata)


_KINDS: Mapping[Any, tuple[str, Callable[[Any], bool]]] = {
    str: ("a text", lambda value: isinstance(value, str)),
    bool: ("true or false", lambda value: isinstance(value, bool)),
    int: ("a whole number", lambda value: type(value) is int),
    float: ("a number", lambda value: type(value) in (int, float) and math.isfinite(value)),
    JsonObject: ("a JSON object", lambda value: isinstance(value, dict)),
    tuple[str, ...]: (
        "an array of texts",
        lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value),
    ),
}


@cache
def _converter(method: str) -> Converter:
    """Return the converter of a call's inputs. It checks values and converts none, except numbers in a query."""
    converter = Converter(forbid_extra_keys=True)
    for kind in (str, bool, int, float):
        converter.register_structure_hook(kind, _check)
    converter.register_structure_hook_func(_is_checked, _check)
    if method == "GET":
        converter.register_structure_hook(int, _read_number)
    return converter


def _is_checked(kind: Any) -> bool:
    origin: object = get_origin(kind)
    return kind in _KINDS or origin is Literal


def _check(value: Any, kind: Any) -> Any:
    choices = get_args(kind)
    name, fits = _KINDS.get(kind) or (f"one of: {', '.join(choices)}", lambda value: value in choices)
    if not fits(value):
        raise ValueError(f"must be {name}")
    return value


def _read_number(text: str, _: object) -> int:
    if not _NUMBER.fullmatch(text):
        raise ValueError("must be a whole number")
    return int(text)


def page_of(
    items: Iterable[tuple[str, T]],
    total: int,
    limit: int,
    search: str | None,
    show: Callable[[T], S],
    texts: Callable[[T], Sequence[str]],
    wanted: Callable[[T], bool] = lambda item: True,
) -> Page[S]:
    """Return a page of items, each of which has the ``next`` of a page that begins with it.

    At most ``MOST_SCANNED`` items are looked at, so a page can be short or empty and still have a ``next``.
    """
    sought = (search or "").casefold()
    shown: list[S] = []
    for looked_at, (place, item) in enumerate(items):
        if len(shown) == limit or looked_at == MOST_SCANNED:
            return Page(items=tuple(shown), total=total, next=place)
        if wanted(item) and (not sought or any(sought in text.casefold() for text in texts(item))):
            shown.append(show(item))
    return Page(items=tuple(shown), total=total, next=None)


def read_next(text: str | None, numbers: int) -> list[float]:
    """Return the numbers of a ``next``; without one, infinity. Raises ``ControlError`` if it has another form."""
    if text is None:
        return [math.inf] * numbers
    parts = text.split("-")
    if len(parts) != numbers or not all(map(_NUMBER.fullmatch, parts)):
        raise ControlError(400, "not-valid", "next must be the `next` of the page before")
    return list(map(float, parts))
