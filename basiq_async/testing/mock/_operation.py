"""What an operation of the control API is: a function, with the schema of its inputs."""

from __future__ import annotations

import inspect
import math
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin, get_type_hints

import attrs
from cattrs import Converter
from cattrs.gen import make_dict_unstructure_fn, override

from ..._web.access import ControlError
from ..fake._fake import FakeBasiq

T = TypeVar("T")
S = TypeVar("S")
Run = Callable[..., Awaitable[object]]
F = TypeVar("F", bound=Run)
JsonObject = dict[str, object]
_SHOWN = 64 * 1024
_NUMBER = re.compile(r"[0-9]{1,15}", re.ASCII)
_MOST_CHALLENGES = 1_000


class Challenges:
    """Random texts, each of which is good for the proof of one request. The oldest are dropped."""

    def __init__(self) -> None:
        self._open: dict[str, None] = {}

    def make(self) -> str:
        """Return a new challenge."""
        made = secrets.token_urlsafe(24)
        self._open[made] = None
        if len(self._open) > _MOST_CHALLENGES:
            del self._open[next(iter(self._open))]
        return made

    def use(self, text: str) -> bool:
        """Return whether a text is a challenge that was not used yet, and use it."""
        return self._open.pop(text, False) is None


@attrs.define
class Control:
    """The target of a call of the control API: the state that the call is for, and the first state of the same mock."""

    fake: FakeBasiq
    base_url: str
    first: FakeBasiq
    challenges: Challenges = attrs.field(factory=Challenges)


@attrs.frozen
class About:
    """The description of an input, and its bounds. It stands in the input's annotation."""

    description: str
    least: float | None = None
    most: float | None = None


@attrs.frozen
class Input:
    """One input of an operation: its type without None, what it is, and whether it must be sent.

    ``parameter`` is its name in Python.
    """

    kind: Any
    about: About
    required: bool
    parameter: str


@attrs.frozen
class Operation:
    """One operation of the control API.

    run: the function that carries it out.
    returns: the class of its result.
    inputs: its inputs by their names in JSON. Those that ``path`` does not name are sent in the body of a POST, or in
        the query of a GET.
    """

    name: str
    method: str
    path: str
    summary: str
    run: Run
    returns: Any
    inputs: Mapping[str, Input]

    @property
    def fields(self) -> Mapping[str, Input]:
        """The inputs that are not part of the path."""
        return {name: each for name, each in self.inputs.items() if f"{{{name}}}" not in self.path}

    async def call(self, control: Control, given: Mapping[str, object]) -> dict[str, Any]:
        """Carry the operation out, and return its result as JSON data. Raises ``ControlError`` for invalid inputs."""
        result = await self.run(control, **self._read(given))
        return as_json(done(control) if result is None else result)

    def _read(self, given: Mapping[str, object]) -> dict[str, object]:
        """Return the arguments of the function."""
        if unknown := given.keys() - self.inputs.keys():
            word = "parameter" if self.method == "GET" else "field"
            known = ", ".join(self.fields) or "none"
            raise _not_valid(f"there is no {word} {min(unknown)!r}; the {word}s are: {known}")
        arguments: dict[str, object] = {}
        for name, each in self.inputs.items():
            if name not in given:
                if each.required:
                    raise _not_valid(f"{name} is missing: {each.about.description}")
                continue
            value = arguments[each.parameter] = _check(name, given[name], each.kind)
            least, most = each.about.least, each.about.most
            if least is not None and most is not None and not least <= value <= most:
                raise _not_valid(f"{name} must be from {least:g} to {most:g}")
        return arguments


def _not_valid(message: str) -> ControlError:
    return ControlError(400, "not-valid", message)


OPERATIONS: dict[str, Operation] = {}
"""The operations by their names."""


def operation(method: str, path: str, *, name: str | None = None) -> Callable[[F], F]:
    """Make an async function an operation, by its name or another one. Its docstring is the summary.

    Its first argument is the ``Control``. Each other one is an input, with ``About`` in its annotation.
    """

    def register(function: F) -> F:
        hints, inputs = get_type_hints(function, include_extras=True), {}
        _, *parameters = inspect.signature(function).parameters.values()
        for each in parameters:
            hint, about = get_args(hints[each.name])
            inputs[camel(each.name)] = Input(without_none(hint), about, each.default is each.empty, each.name)
        returns = Done if hints["return"] is type(None) else hints["return"]
        summary = (inspect.getdoc(function) or "").partition("\n")[0].rstrip(".")
        known_as = name or camel(function.__name__)
        OPERATIONS[known_as] = Operation(known_as, method, path, summary, function, returns, inputs)
        return function

    return register


def without_none(hint: Any) -> Any:
    """Return ``int`` for ``int | None``, and any other type as it is."""
    return get_args(hint)[0] if type(None) in get_args(hint) else hint


# --- JSON ---

_KINDS: Mapping[object, tuple[str, tuple[type, ...]]] = {
    str: ("a text", (str,)),
    bool: ("true or false", (bool,)),
    int: ("a whole number", (int,)),
    float: ("a number", (int, float)),
    dict: ("a JSON object", (dict,)),
    tuple: ("an array of texts", (list,)),
}


def _check(field: str, value: Any, kind: Any) -> Any:
    """Return a value of JSON if it has exactly this type. Only numbers may be texts, because those of a query are."""
    if get_origin(kind) is Literal:
        name, fits = f"one of: {', '.join(get_args(kind))}", value in get_args(kind)
    else:
        name, kinds = _KINDS[get_origin(kind) or kind]
        if kind is int and isinstance(value, str) and _NUMBER.fullmatch(value):
            value = int(value)
        fits = type(value) in kinds and (not isinstance(value, float) or math.isfinite(value))
        fits = fits and (not isinstance(value, list) or all(type(each) is str for each in value))
    if not fits:
        raise _not_valid(f"{field} must be {name}")
    return tuple(value) if isinstance(value, list) else value


def camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


def _names(kind: Any) -> dict[str, Any]:
    return {field.name: override(rename=camel(field.name)) for field in attrs.fields(kind)}


_CONVERTER = Converter()
_CONVERTER.register_unstructure_hook_factory(
    attrs.has, lambda kind: make_dict_unstructure_fn(kind, _CONVERTER, **_names(kind))
)
_CONVERTER.register_unstructure_hook(datetime, lambda moment: moment.isoformat(timespec="milliseconds"))
_CONVERTER.register_unstructure_hook(bytes, lambda body: body[:_SHOWN].decode(errors="replace"))


def as_json(result: object) -> dict[str, Any]:
    """Return a result as JSON data that fits its schema. A body is cut at 64 KiB."""
    found: dict[str, Any] = _CONVERTER.unstructure(result)
    return found


# --- results ---


@attrs.frozen
class Done:
    """The result of a call that changed something."""

    now: datetime
    next_due: datetime | None


def done(control: Control) -> Done:
    return Done(control.fake.now(), control.fake.next_due)


@attrs.frozen
class Items(Generic[T]):
    """A whole list."""

    items: tuple[T, ...]


@attrs.frozen
class Newest(Items[T]):
    """The newest items of a list, and the number of all."""

    total: int


@attrs.frozen
class ItemPage(Newest[T]):
    """A page of a list. ``next`` is the input of the call for the next page."""

    next: str | None


def take(kind: Callable[..., T], *sources: object, **more: object) -> T:
    """Make a result from the values in ``more`` and, for its other fields, from the attributes of the sources."""

    def value(name: str) -> object:
        if name in more:
            return more[name]
        return next(getattr(source, name) for source in sources if hasattr(source, name))

    return kind(**{name: value(name) for name in inspect.signature(kind).parameters})


def has(search: str | None, texts: Iterable[str]) -> bool:
    """Return whether one of the texts contains what is searched for."""
    sought = (search or "").casefold()
    return not sought or any(sought in text.casefold() for text in texts)


def newest_of(
    log: Sequence[T],
    limit: int,
    search: str | None,
    show: Callable[[T], S],
    texts: Callable[[T], Sequence[str]],
) -> Newest[S]:
    """Return the newest items of a log that contain what is searched for."""
    found = (show(each) for each in reversed(log) if has(search, texts(each)))
    return Newest(tuple(islice(found, limit)), len(log))
