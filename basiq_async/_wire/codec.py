"""Read the bytes of a response into models. The only module that uses ``cattrs``.

A fault that makes an object useless, such as a missing id, is an error. Other deviations are tolerated: see ``models``.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Generic, NoReturn, TypeVar

import attrs
import cattrs
from cattrs.errors import AttributeValidationNote, BaseValidationError
from cattrs.gen import make_dict_structure_fn, override

from ..errors import ResponseDecodeError
from ..models import Event, EventType, Message, Secret, Webhook, read_datetime, read_links, read_text
from .lenient import BrokenItem, mend, mend_list

T = TypeVar("T")
Loads = Callable[[bytes], Any]
_BOM = b"\xef\xbb\xbf"
_RAW = "(raw)"
_NO_IDS = "expected a list of event type ids"
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

    items: list[Any]
    next_link: Any


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
    """Reads responses. Each client has one, with a cattrs converter that no other client shares."""

    def __init__(self, *, loads: Loads | None = None, converter: cattrs.Converter | None = None) -> None:
        self._loads = loads or default_loads()
        self.converter = converter or make_converter()
        self._readers: dict[type[Any], Reader[Any]] = {}

    # The methods below delete the body from their frame before they raise: error reporters show local variables.

    def json(self, body: bytes) -> Any:
        """Return the JSON value of a body. Raises ``ResponseDecodeError``, which shows nothing of the body."""
        value = self._decode(body)
        del body
        if isinstance(value, ResponseDecodeError):
            raise value
        return value

    def page(self, body: bytes) -> ListPage:
        """Return a page of a list. A single object in place of a list of items counts as a list of one item.

        An item that is not valid JSON becomes a ``BrokenItem``, for which every reader raises.
        """
        page = _list_page(self._decode(body, mend_list))
        del body
        if isinstance(page, ResponseDecodeError):
            raise page
        return page

    def read(self, model: type[T], body: bytes) -> T:
        """Read a response's body as one model. Raises ``ResponseDecodeError`` with the place of the fault."""
        found = self._read(self.reader(model), body)
        del body
        if isinstance(found, ResponseDecodeError):
            raise found
        return found

    def reader(self, model: type[T]) -> Reader[T]:
        """Return the reader of a model."""
        reader = self._readers.get(model)
        if reader is None:
            reader = self._readers[model] = Reader(model, self.converter.get_structure_hook(model))
        return reader

    def _read(self, reader: Reader[T], body: bytes) -> T | ResponseDecodeError:
        value = self._decode(body)
        if isinstance(value, ResponseDecodeError):
            return value
        try:
            return reader.hook(value, reader.model)
        except Unreadable as exc:
            return reader.explain(exc)

    def _decode(self, body: bytes, mend: Callable[[bytes], Any] = mend) -> Any:
        """Return the JSON value of a body, or the ``ResponseDecodeError`` to raise.

        ``mend`` is called for a body that the decoder refuses.
        """
        body = body.removeprefix(_BOM)
        if len(body) > _SMALL and _weight(body) > _MAX_WEIGHT:
            return ResponseDecodeError("decoding the response's body would need too much memory")
        try:
            return self._loads(body)
        except (ValueError, RecursionError) as exc:
            fault = "is empty" if not body.strip() else f"is not JSON of UTF-8 text ({_place(exc)})"
        try:
            return mend(body)
        except (ValueError, RecursionError):
            pass
        return ResponseDecodeError(f"the response's body {fault}")


def make_converter() -> cattrs.Converter:
    """Return a new converter that reads the models. No global converter is changed."""
    converter = cattrs.Converter(detailed_validation=True)
    converter.register_structure_hook(Message, read_message)
    for model, fields, prepare in _OBJECTS:
        converter.register_structure_hook(model, _object_reader(converter, model, fields, prepare))
    return converter


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
        raise _unexpected("a message object", value)
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


def _unexpected(expected: str, value: Any) -> Unreadable:
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


def _id_hook(value: Any, _: object) -> str:
    return value if type(value) is str and value else _identifier(value)


def _required_text_hook(value: Any, _: object) -> str:
    if isinstance(value, str) and value:
        return value
    raise Unreadable(f"expected text, got {'an empty one' if value == '' else _kind(value)}")


def _text_hook(value: Any, _: object) -> str | None:
    return value if value is None or type(value) is str else read_text(value)


def _event_type_ids_hook(value: Any, _: object) -> tuple[str, ...]:
    """Read event type ids: a list, or a single text as in the examples of the vendor's reference."""
    if isinstance(value, list):
        for entry in value:
            if not isinstance(entry, str):
                raise Unreadable(_NO_IDS)
        return tuple(value)
    if isinstance(value, str):
        return (value,) if value else ()
    if value is None:
        return ()
    raise Unreadable(_NO_IDS)


def _secret_hook(value: Any, _: object) -> Secret | None:
    if value is None or isinstance(value, Secret):
        return value
    raise Unreadable(f"expected text, got {_kind(value)}")


def _links_hook(value: Any, _: object) -> dict[str, str]:
    return read_links(value)


def _datetime_hook(value: Any, _: object) -> datetime | None:
    return read_datetime(value)


def _as_it_is_hook(value: Any, _: object) -> Any:
    return value


def _hide_secret(value: dict[str, Any]) -> dict[str, Any]:
    """Return the object with its secret hidden. ``Secret``, in any other case, is hidden too, but is not the secret."""
    for name in value:
        if len(name) == len("secret") and name.lower() == "secret":
            return {name: _hidden(name, part) for name, part in value.items()}
    return value


def _hidden(name: str, part: Any) -> Any:
    return (Secret(part) if part else None) if name.lower() == "secret" and isinstance(part, str) else part


def _add_event_type(value: dict[str, Any]) -> dict[str, Any]:
    """Return the object with ``type`` in its dotted form, made from those of its three fields that it has."""
    entity, kind = read_text(value.get("entity")), read_text(value.get("eventType"))
    dotted = read_text(value.get("eventTypeId"))
    if not dotted:
        dotted = f"{entity}.{kind}" if entity and kind and "." not in kind else kind or ""
    left, dot, right = dotted.partition(".")
    if dot:
        entity, kind = entity or left, kind or right
    return {**value, "type": dotted, "entity": entity, "eventType": kind}


def _leave(value: dict[str, Any]) -> dict[str, Any]:
    return value


_Fields = Mapping[str, tuple[str, Callable[[Any, object], Any]]]
_Prepare = Callable[[dict[str, Any]], dict[str, Any]]
_COMMON: _Fields = {"id": ("id", _id_hook), "links": ("links", _links_hook), "raw": (_RAW, _as_it_is_hook)}
_OBJECTS: tuple[tuple[type[Any], _Fields, _Prepare], ...] = (
    (
        Webhook,
        {
            **_COMMON,
            "url": ("url", _required_text_hook),
            "status": ("status", _text_hook),
            "subscribed_events": ("subscribedEvents", _event_type_ids_hook),
            "name": ("name", _text_hook),
            "description": ("description", _text_hook),
            "secret": ("secret", _secret_hook),
        },
        _hide_secret,
    ),
    (EventType, {**_COMMON, "description": ("description", _text_hook)}, _leave),
    (
        Event,
        {
            **_COMMON,
            "type": ("type", _as_it_is_hook),
            "entity": ("entity", _as_it_is_hook),
            "event_type": ("eventType", _as_it_is_hook),
            "user_id": ("userId", _text_hook),
            "created": ("createdDate", _datetime_hook),
            "data_ref": ("dataRef", _text_hook),
            "data": ("data", _as_it_is_hook),
        },
        _add_event_type,
    ),
)


def _object_reader(
    converter: cattrs.Converter, model: type[Any], fields: _Fields, prepare: _Prepare
) -> Callable[[Any, object], Any]:
    overrides = {name: override(rename=json_name, struct_hook=hook) for name, (json_name, hook) in fields.items()}

    # The fast function reads. If it fails, the detailed function finds what is wrong, and where. Making one takes
    # longer than all else that a client does at its start, so each is made when it is first needed.
    @functools.cache
    def structure(detailed: bool) -> Callable[[Any, object], Any]:
        return make_dict_structure_fn(model, converter, _cattrs_detailed_validation=detailed, **overrides)  # type: ignore[arg-type]  # overrides by name

    def read(value: Any, _: object) -> Any:
        if not isinstance(value, dict):
            raise _unexpected("an object", value)
        prepared = prepare(value)
        # ``raw`` is the object as received, but a webhook's secret in it is hidden.
        values = {**prepared, _RAW: prepared if model is Webhook else value}
        try:
            return structure(False)(values, model)
        except Exception:
            try:
                return structure(True)(values, model)
            except BaseValidationError as exc:
                at, said = next(_explain(exc))
        raise Unreadable(said, at)

    return read


def _explain(error: BaseValidationError) -> Iterator[tuple[str, str]]:
    """Yield the place and the text of each error that cattrs has collected."""
    for exc in error.exceptions:
        notes = [note for note in getattr(exc, "__notes__", ()) if isinstance(note, AttributeValidationNote)]
        at = "".join(f".{_json_name(error, note.name)}" for note in notes)
        if isinstance(exc, KeyError):
            yield f".{exc.args[0]}", "is missing"
        else:
            yield at + getattr(exc, "at", ""), str(exc)


def _json_name(error: BaseValidationError, attribute: str) -> str:
    fields = next(fields for model, fields, _ in _OBJECTS if model is error.cl)
    return fields[attribute][0]


def _list_page(value: Any) -> ListPage | ResponseDecodeError:
    if isinstance(value, ResponseDecodeError):
        return value
    if not isinstance(value, dict):
        return ResponseDecodeError(f"expected a list object, got {_kind(value)}")
    items = value.get("data")
    if isinstance(items, dict):
        items = [items]
    elif items is None and ("data" in value or str(value.get("type")).lower() == "list"):
        items = []
    if not isinstance(items, list):
        return ResponseDecodeError(f"expected a list of items, got {_kind(items)}", location="$.data")
    return ListPage(items, _next_link(value.get("links")))


def _next_link(links: Any) -> Any:
    if isinstance(links, list):
        links = {name: link for entry in links if isinstance(entry, dict) for name, link in entry.items()}
    return links.get("next") if isinstance(links, dict) else None


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
