"""What an operation of the control API is: a class of its inputs, with a method that carries it out."""

from __future__ import annotations

import inspect
import math
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, Generic, Literal, TypeVar, dataclass_transform, get_args, get_origin, get_type_hints

import attrs
from cattrs import ClassValidationError, Converter, ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from ..._web.access import ControlError
from ..fake._fake import FakeBasiq

T = TypeVar("T")
S = TypeVar("S")
Kind = TypeVar("Kind", bound=type[Any])
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
    """One input of an operation: its type without None, what it is, and whether it must be sent."""

    kind: Any
    about: About
    required: bool


@attrs.frozen
class Operation:
    """One operation of the control API.

    kind: the class of its inputs, with the method ``run``.
    returns: the class of its result.
    inputs: its inputs by their names in JSON. Those that ``path`` does not name are sent in the body of a POST, or in
        the query of a GET.
    """

    name: str
    method: str
    path: str
    summary: str
    kind: Any
    returns: Any
    inputs: Mapping[str, Input]

    @property
    def fields(self) -> Mapping[str, Input]:
        """The inputs that are not part of the path."""
        return {name: each for name, each in self.inputs.items() if f"{{{name}}}" not in self.path}

    async def call(self, control: Control, given: Mapping[str, object]) -> dict[str, Any]:
        """Carry the operation out, and return its result as JSON data. Raises ``ControlError`` for invalid inputs."""
        result = await self._read(given).run(control)
        return as_json(done(control) if result is None else result)

    def _read(self, given: Mapping[str, object]) -> Any:
        try:
            found = _CONVERTER.structure(given, self.kind)
        except ClassValidationError as error:
            raise ControlError(400, "not-valid", self._explain(error.exceptions[0])) from None
        for (name, each), value in zip(self.inputs.items(), attrs.astuple(found, recurse=False), strict=True):
            least, most = each.about.least, each.about.most
            if None not in (value, least, most) and not least <= value <= most:
                raise ControlError(400, "not-valid", f"{name} must be from {least:g} to {most:g}")
        return found

    def _explain(self, error: Exception) -> str:
        if isinstance(error, ForbiddenExtraKeysError):
            word = "parameter" if self.method == "GET" else "field"
            return (
                f"there is no {word} {min(error.extra_fields)!r}; the {word}s are: {', '.join(self.fields) or 'none'}"
            )
        if isinstance(error, KeyError):
            return f"{error.args[0]} is missing: {self.inputs[error.args[0]].about.description}"
        return " ".join([*(camel(note.name) for note in getattr(error, "__notes__", ())), str(error)])


OPERATIONS: dict[str, Operation] = {}
"""The operations by their names."""


@dataclass_transform(frozen_default=True, kw_only_default=True)
def operation(method: str, path: str) -> Callable[[Kind], Kind]:
    """Make an attrs class of inputs an operation, whose method ``run`` carries it out. Its docstring is the summary."""

    def register(declared: Kind) -> Kind:
        kind = attrs.frozen(kw_only=True)(declared)
        hints, inputs = get_type_hints(kind, include_extras=True), {}
        for field in attrs.fields(kind):
            hint, about = get_args(hints[field.name])
            inputs[camel(field.name)] = Input(without_none(hint), about, field.default is attrs.NOTHING)
        returns = get_type_hints(kind.run)["return"]
        name, summary = kind.__name__, (inspect.getdoc(kind) or "").partition("\n")[0].rstrip(".")
        name = name[0].lower() + name[1:]
        OPERATIONS[name] = Operation(
            name, method, path, summary, kind, Done if returns is type(None) else returns, inputs
        )
        return kind

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


def _check(value: Any, kind: Any) -> Any:
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
        raise ValueError(f"must be {name}")
    return tuple(value) if isinstance(value, list) else value


def _is_checked(kind: Any) -> bool:
    origin: object = get_origin(kind)
    return origin in (dict, tuple, Literal)


def camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


def _names(kind: Any) -> dict[str, Any]:
    return {field.name: override(rename=camel(field.name)) for field in attrs.fields(kind)}


_CONVERTER = Converter(forbid_extra_keys=True)
for _kind in (str, bool, int, float):
    _CONVERTER.register_structure_hook(_kind, _check)
_CONVERTER.register_structure_hook_func(_is_checked, _check)
_CONVERTER.register_structure_hook_factory(
    attrs.has, lambda kind: make_dict_structure_fn(kind, _CONVERTER, _cattrs_forbid_extra_keys=True, **_names(kind))
)
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


def given(inputs: Any) -> dict[str, Any]:
    """Return the inputs of a call by their names in Python."""
    return attrs.asdict(inputs, recurse=False)


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
class Page(Newest[T]):
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
