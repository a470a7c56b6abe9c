"""Read the bytes of a response into models. The only module that uses ``cattrs``.

A fault that makes an object useless, such as a missing id, is an error. Other deviations are tolerated: see ``models``.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Generic, NoReturn, TypeVar

import attrs
import cattrs
from cattrs.gen import make_dict_structure_fn, override

from ..errors import ResponseDecodeError
from ..models import JSON, JSON_NAME, KIND, RAW, Event, Message, Secret, Webhook, read_datetime, read_links, read_text
from .broken_items import BrokenItem, mend, mend_list

T = TypeVar("T")
Loads = Callable[[bytes], Any]
_BOM = b"\xef\xbb\xbf"
_SMALL = 4 * 2**20
_MAX_WEIGHT = 2**28
_read_iso = datetime.fromisoformat
_new = object.__new__
_set_id: Callable[[Message, str], None] = vars(Message)["id"].__set__
_set_raw: Callable[[Message, Mapping[str, Any]], None] = vars(Message)["raw"].__set__


def default_loads() -> Loads:
    """Return orjson's JSON decoder if it is installed (extra ``speed``), else the standard library's."""
    try:
        import orjson
    except ImportError:
        return _strict_loads
    return orjson.loads


def _strict_loads(body: bytes) -> Any:
    """Decode JSON with the standard library's decoder, but as strictly as orjson.

    It raises ValueError for ``NaN``, for numbers too large for a float, and for halves of surrogate pairs, which cannot
    be printed or sent.
    """
    value = json.loads(body.decode(), parse_constant=_refuse_constant, parse_float=_finite)
    # Most bodies have no escapes at all, and a search for one character shows that in a twentieth of the time.
    if b"\\" in body and (b"\\ud" in body or b"\\uD" in body):
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("a number too large")
    return value


class Unreadable(ValueError):
    """A value cannot be read as a model. ``at`` is the path from the value to the fault, such as ``.id``."""

    def __init__(self, message: str, at: str = "") -> None:
        super().__init__(message)
        self.at = at


@attrs.frozen
class ListPage:
    """A page of a list: its items as JSON, not yet read into models, and its next link, which may be of any type."""

    items: list[Any] = attrs.field(repr=False)
    next_link: Any = attrs.field(repr=False)


@attrs.frozen
class Reader(Generic[T]):
    """Reads JSON values as one model."""

    model: type[T]
    hook: Callable[[Any, type[T]], T]
    """Called with the value and the model; returns the object or raises ``Unreadable``."""

    def explain(self, exc: Unreadable, index: int | None = None) -> ResponseDecodeError:
        """Return the error to raise for an ``Unreadable`` of the hook, with the place of the fault."""
        place = "$" if index is None else f"$.data[{index}]"
        return ResponseDecodeError(str(exc), location=place + exc.at)


class Codec:
    """Reads responses. Each client has one, with a cattrs converter that no other client shares.

    ``clean`` is the boundary where a body becomes objects: it removes credentials that the server sent back.
    """

    def __init__(self, *, loads: Loads | None = None, clean: Callable[[bytes], bytes] = bytes) -> None:
        self._loads = loads or default_loads()
        self._clean = clean
        self.converter = cattrs.Converter()
        self._readers: dict[type[Any], Reader[Any]] = {}

    def json(self, body: bytes) -> JSON:
        """Return the JSON value of a body. Raises ``ResponseDecodeError``, which shows nothing of the body."""
        value: JSON = self._decode(body, mend)
        return value

    def page(self, body: bytes) -> ListPage:
        """Return a page of a list. A single object in place of a list of items counts as a list of one item.

        An item that is not valid JSON becomes a ``BrokenItem``, for which every reader raises.
        """
        value = self._decode(body, mend_list)
        if not isinstance(value, dict):
            raise ResponseDecodeError(f"expected a list object, got {_kind(value)}")
        items, links = value.get("data"), value.get("links")
        if isinstance(items, dict):
            items = [items]
        elif items is None and ("data" in value or str(value.get("type")).lower() == "list"):
            items = []
        if not isinstance(items, list):
            raise ResponseDecodeError(f"expected a list of items, got {_kind(items)}", location="$.data")
        if isinstance(links, list):
            links = {name: link for entry in links if isinstance(entry, dict) for name, link in entry.items()}
        if links and not isinstance(links, dict):  # a next page may be missed
            raise ResponseDecodeError(f"expected an object, got {_kind(links)}", location="$.links")
        return ListPage(items, links.get("next") if isinstance(links, dict) else None)

    def read(self, model: type[T], body: bytes) -> T:
        """Read a response's body as one model. Raises ``ResponseDecodeError`` with the place of the fault."""
        reader = self.reader(model)
        value = self._decode(body, mend)
        try:
            return reader.hook(value, model)
        except Unreadable as exc:
            failure = reader.explain(exc)
        del value, body  # error reporters show local variables
        raise failure

    def reader(self, model: type[T]) -> Reader[T]:
        """Return the reader of a model, or of ``dict[str, Any]`` for any object."""
        reader = self._readers.get(model)
        if reader is None:
            special: dict[type[Any], Callable[[Any, Any], Any]] = {Message: read_message, dict[str, Any]: _read_object}
            hook = special.get(model) or _make_hook(self.converter, model)
            reader = self._readers[model] = Reader(model, hook)
        return reader

    def _decode(self, body: bytes, mend: Callable[[bytes], Any]) -> Any:
        """Return the JSON value of a body. ``mend`` is called for a body that the decoder refuses."""
        body = body.removeprefix(_BOM)
        if len(body) > _SMALL and _weight(body) > _MAX_WEIGHT:
            error = ResponseDecodeError("decoding the response's body would need too much memory")
            error._too_large = True
            raise error
        body = self._clean(body)
        try:
            return self._loads(body)
        except (ValueError, RecursionError) as exc:
            fault = "is empty" if not body.strip() else f"is not JSON of UTF-8 text ({_place(exc)})"
        try:
            return mend(body)
        except (ValueError, RecursionError):
            pass
        raise ResponseDecodeError(f"the response's body {fault}")


def read_message(value: Any, _: object = None) -> Message:
    """Read a message. Raises ``Unreadable`` here for any part that could not be read later, when it is used."""
    try:
        message_id = value["id"]
        attempts = value["attempts"]
        if type(message_id) is str and message_id and type(value["payload"]) is dict and type(attempts) is list:
            for attempt in attempts:
                _read_iso(attempt["timestamp"])
            # The same as Message(message_id, value), in half the time: a history can have millions of messages.
            message = _new(Message)
            _set_id(message, message_id)
            _set_raw(message, value)
            return message
    except (KeyError, TypeError, ValueError):
        pass
    return _read_odd_message(value)


def _read_odd_message(value: Any) -> Message:
    """Read a message of an unusual shape. Raises ``Unreadable``, which says where the fault is and why."""
    if type(value) is not dict:
        raise _make_unreadable("a message object", value)
    message_id = value.get("id")
    if type(message_id) is not str or not message_id:
        message_id = _identifier(message_id, ".id")
    payload = value.get("payload")
    if payload is not None and type(payload) is not dict:
        raise Unreadable(f"expected an object, got {_kind(payload)}", ".payload")
    attempts = value.get("attempts")
    if attempts is not None:
        if type(attempts) is not list:
            raise Unreadable(f"expected a list, got {_kind(attempts)}", ".attempts")
        _check_timestamps(attempts)
    return Message(message_id, value)


def _make_unreadable(expected: str, value: Any) -> Unreadable:
    if isinstance(value, BrokenItem):
        return Unreadable(f"is not JSON of UTF-8 text ({value.fault})")
    return Unreadable(f"expected {expected}, got {_kind(value)}")


def _check_timestamps(attempts: list[Any]) -> None:
    for index, attempt in enumerate(attempts):
        if isinstance(attempt, dict):
            _at(f".attempts[{index}].timestamp", read_datetime, attempt.get("timestamp"))


def _at(place: str, read: Callable[[Any], T], value: Any) -> T:
    try:
        return read(value)
    except ValueError as exc:
        raise Unreadable(str(exc), place) from None


def _identifier(value: Any, at: str = "") -> str:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise Unreadable(f"expected an id, got {'an empty text' if value == '' else _kind(value)}", at)


def _read_required_text(value: Any) -> str:
    if isinstance(value, str) and value:
        return value
    raise Unreadable(f"expected text, got {'an empty one' if value == '' else _kind(value)}")


def _read_event_type_ids(value: Any) -> tuple[str, ...]:
    """Read event type ids: a list, or a single text as in the examples of the vendor's reference."""
    if isinstance(value, str):
        return (value,) if value else ()
    if value is not None and not (isinstance(value, list) and all(isinstance(entry, str) for entry in value)):
        raise Unreadable("expected a list of event type ids")
    return tuple(value or ())


def _read_secret(value: Any) -> Secret | None:
    if value is None or isinstance(value, Secret):
        return value
    raise Unreadable(f"expected text, got {_kind(value)}")


def _read_object(value: Any, _: object = None) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise _make_unreadable("an object", value)


_READ: Mapping[str, Callable[[Any], Any]] = {
    "id": _identifier,
    "required text": _read_required_text,
    "text": read_text,
    "event types": _read_event_type_ids,
    "secret": _read_secret,
    "time": read_datetime,
    "links": read_links,
    "json": lambda value: value,
}
"""The function that reads each kind of field of ``models``."""


def _hide_secret(value: dict[str, Any]) -> dict[str, Any]:
    """Return the object with its secret hidden. ``Secret``, in any other case, is hidden too, but is not the secret."""
    for name in value:
        if len(name) == len("secret") and name.lower() == "secret":
            return {name: _hidden(name, part) for name, part in value.items()}
    return value


def _hidden(name: str, part: Any) -> Any:
    return (Secret(part) if part else None) if name.lower() == "secret" and isinstance(part, str) else part


def event_type_of(value: dict[str, Any]) -> str:
    """Return the dotted event type of an event's JSON, made from those of its three fields that it has; or ""."""
    entity, kind = read_text(value.get("entity")), read_text(value.get("eventType"))
    dotted = f"{entity}.{kind}" if entity and kind and "." not in kind else kind or ""
    return read_text(value.get("eventTypeId")) or dotted


def _add_event_type(value: dict[str, Any]) -> dict[str, Any]:
    """Return the object with ``type`` in its dotted form, see ``event_type_of``."""
    entity, kind = read_text(value.get("entity")), read_text(value.get("eventType"))
    dotted = event_type_of(value)
    left, dot, right = dotted.partition(".")
    if dot:
        entity, kind = entity or left, kind or right
    return {**value, "type": dotted, "entity": entity, "eventType": kind}


_PREPARE: Mapping[type[Any], Callable[[dict[str, Any]], dict[str, Any]]] = {
    Webhook: _hide_secret,
    Event: _add_event_type,
}


def _without_type(read: Callable[[Any], Any]) -> Callable[[Any, object], Any]:
    return lambda value, _: read(value)


def _make_hook(converter: cattrs.Converter, model: type[T]) -> Callable[[Any, type[T]], T]:
    """Return the function that reads a model, from the metadata of its fields."""
    fields = {
        field.name: (field.metadata[JSON_NAME], _READ[field.metadata[KIND]], field.default is attrs.NOTHING)
        for field in attrs.fields(model)  # type: ignore[arg-type]  # each model is an attrs class
    }
    prepare = _PREPARE.get(model, dict)

    @functools.cache
    def structure() -> Callable[[Any, object], T]:  # takes longer than all else that a client does at its start
        overrides = {
            name: override(rename=json_name, struct_hook=_without_type(read))
            for name, (json_name, read, _) in fields.items()
        }
        return make_dict_structure_fn(model, converter, _cattrs_detailed_validation=False, **overrides)  # type: ignore[arg-type]  # overrides by name

    def hook(value: Any, _: object) -> T:
        prepared = prepare(_read_object(value))
        # ``raw`` is the object as received, but a webhook's secret in it is hidden.
        values = {**prepared, RAW: prepared if model is Webhook else value}
        try:
            return structure()(values, model)
        except Exception:
            for json_name, read, required in fields.values():
                if required and json_name not in values:
                    raise Unreadable("is missing", f".{json_name}") from None
                _at(f".{json_name}", read, values.get(json_name))
            raise

    return hook


def _weight(body: bytes) -> int:
    """Estimate the memory of the decoded body, in bytes. A body of brackets needs twenty times its size."""
    values = body.count(b",") + body.count(b"[") + body.count(b"{")
    width = 1 if body.isascii() and b"\\u" not in body else 4
    return values * 200 + len(body) * width * 2


def _place(exc: Exception) -> str:
    position = getattr(exc, "pos", getattr(exc, "start", None))
    if position is not None:
        return f"at offset {position}"
    return "nested too deeply" if isinstance(exc, RecursionError) else "a value that JSON does not allow"


def _kind(value: Any) -> str:
    """Return the name of a value's JSON type, for errors, which never show the value."""
    if value is None:
        return "null"
    names = {
        bool: "a boolean",
        str: "text",
        list: "a list",
        dict: "an object",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), type(value).__name__)
