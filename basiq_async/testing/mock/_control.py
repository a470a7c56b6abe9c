"""The HTTP routes of the control API below ``/_fake/``, and its OpenAPI 3.1 document."""

from __future__ import annotations

import re
import types
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import attrs
from aiohttp import web

from ... import __version__
from ..._redaction.credentials import fingerprint
from ..._web.access import IN_PATH, TOKEN_HEADER, ControlError, read_token
from ..._web.serving import read_json, respond
from ...errors import BasiqError
from . import _operations  # noqa: F401  # registers them
from ._declaration import OPERATIONS, Control, JsonObject, Operation
from ._results import Error, as_json, camel, several

ROOT = "/_fake"
STATE_HEADER = "X-Fake-State"
_BASIQ = Path(__file__).parents[1] / "basiq.yaml"
"""An OpenAPI document of Basiq's API as the fake implements it."""
_HOW = "send its API key, in the header Authorization: Basic KEY"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Json = dict[str, Any]
_PLAIN: Mapping[object, Json] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    datetime: {"type": "string", "format": "date-time"},
    object: {},
    JsonObject: {"type": "object"},
}
_PLURALS = {"Delivery": "Deliveries", "StateSummary": "States"}


def routes(control: Control) -> list[web.RouteDef]:
    """Return the routes of all operations and of the two OpenAPI documents."""

    async def openapi(request: web.Request) -> web.Response:
        return respond(describe())

    async def basiq(request: web.Request) -> web.Response:
        return web.Response(body=_BASIQ.read_bytes(), content_type="application/yaml", charset="utf-8")

    made = [web.route(each.method, ROOT + IN_PATH + each.path, _handler(control, each)) for each in OPERATIONS]
    return [web.get(f"{ROOT}{IN_PATH}/openapi.json", openapi), web.get(f"{ROOT}{IN_PATH}/basiq.yaml", basiq), *made]


def _handler(control: Control, operation: Operation) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        named = _find_state(control, request)
        given = dict(request.query) if operation.method == "GET" else await read_json(request)
        in_path = {name: text for name, text in request.match_info.items() if name != "token"}
        values = operation.read({**{n: v for n, v in given.items() if v is not None}, **in_path})
        try:
            result = await operation.run(named, **values)
            return respond(as_json(named.done() if result is None else result))
        except BasiqError as error:
            raise ControlError(400, "not-valid", str(error)) from error

    return handle


def _find_state(control: Control, request: web.Request) -> Control:
    """Return the control of the state to which a call's API key belongs. Raises ``ControlError`` for an unknown key.

    A POST must name a key, because another mock may use the same port by now. The commands send only its fingerprint,
    because another program may listen there.
    """
    header, named = request.headers.get("Authorization"), request.headers.get(STATE_HEADER)
    if header is None and named is None:
        if request.method == "POST" and read_token(request) is None:
            raise ControlError(401, "key-missing", f"name the mock that this call is for: {_HOW}")
        return control
    scheme, _, key = (header or "").partition(" ")
    for state in (control.first, *control.first.states.values()):
        for each in state._store.applications:
            if (scheme.lower() == "basic" and each == key) if named is None else fingerprint(each) == named:
                return Control(state, control.base_url, control.first, each)
    raise ControlError(
        403, "another-mock", f"this mock does not have that API key, so the call is for another mock: {_HOW}"
    )


def describe() -> Json:
    """Return the OpenAPI document of the control API."""
    schemas: dict[str, Json] = {}
    paths: dict[str, Json] = {}
    for operation in OPERATIONS:
        paths.setdefault(ROOT + operation.path, {})[operation.method.lower()] = _describe(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Control API of the fake Basiq",
            "version": __version__,
            "description": "Set up and inspect a fake Basiq that is served over HTTP. All bodies are JSON. "
            "The header Authorization: Basic KEY names the mock, and the state, that a call is for. KEY is the state's "
            "API key, without further encoding. Every POST needs it, or the header X-Fake-State with the key's "
            "fingerprint. A GET without both is for the first state.",
        },
        "paths": paths,
        "security": [{"apiKey": []}, {"fingerprint": []}, {"token": []}],
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "apiKey": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "Basic, a space, and the API key of the state that the call is for.",
                },
                "fingerprint": {
                    "type": "apiKey",
                    "in": "header",
                    "name": STATE_HEADER,
                    "description": "The SHA-256 of 'basiq-async:' and the API key, in hexadecimal digits.",
                },
                "token": {
                    "type": "apiKey",
                    "in": "header",
                    "name": TOKEN_HEADER,
                    "description": "The control token. Pages need it, and callers on other machines.",
                },
            },
        },
    }


def _describe(operation: Operation, schemas: dict[str, Json]) -> Json:
    parameters: list[Json] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", operation.path)
    ]
    described: Json = {
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": {
            "200": _content("The result of the operation.", _schema_of(operation.returns, schemas)),
            "default": _content("The call was refused.", _schema_of(Error, schemas)),
        },
    }
    fields = operation.fields()
    if operation.method == "GET":
        parameters += [
            {"name": name, "in": "query", "description": schema["description"], "schema": schema}
            for name, schema in ((name, _schema_of_input(field)) for name, field in fields.items())
        ]
    else:
        required = [name for name, field in fields.items() if field.default is attrs.NOTHING]
        schema: Json = {
            "type": "object",
            "properties": {name: _schema_of_input(field) for name, field in fields.items()},
            "additionalProperties": False,
        }
        if required:
            schema["required"] = required
        described["requestBody"] = {"required": bool(required), "content": {"application/json": {"schema": schema}}}
    if parameters:
        described["parameters"] = parameters
    return described


def _content(description: str, schema: Json) -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _schema_of_input(field: attrs.Attribute[Any]) -> Json:
    about = field.metadata["about"]
    bounds = {"minimum": about.least, "maximum": about.most}
    (kind,) = _without_none(field.type)
    schema = {"type": "string", **_schema_of(kind, {})}
    return {**schema, "description": about.description, **{k: v for k, v in bounds.items() if v is not None}}


def _without_none(hint: Any) -> list[Any]:
    given = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return [each for each in given if each is not type(None)]


def _schema_of(hint: Any, schemas: dict[str, Json]) -> Json:
    """Return the schema of a type. The schemas of the classes that it refers to are added to ``schemas``."""
    if hint in _PLAIN:
        return dict(_PLAIN[hint])
    origin, given = get_origin(hint), get_args(hint)
    if attrs.has(origin or hint):
        return _schema_of_class(origin or hint, given, schemas)
    if origin in (Union, types.UnionType):
        (kind,) = _without_none(hint)
        schema = _schema_of(kind, schemas)
        return (
            {"oneOf": [{"type": "null"}, schema]} if "$ref" in schema else {**schema, "type": [schema["type"], "null"]}
        )
    if origin is Literal:
        return {"enum": list(given)}
    if origin is tuple:
        return {"type": "array", "items": _schema_of(given[0], schemas)}
    return {"type": "object", "additionalProperties": _schema_of(given[1], schemas)}


def _schema_of_class(kind: type[attrs.AttrsInstance], given: tuple[Any, ...], schemas: dict[str, Json]) -> Json:
    """Return a reference to the schema of a class. A list of webhooks is called ``Webhooks``."""
    item = given[0].__name__ if given else ""
    name = _PLURALS.get(item, f"{item}s") if given else kind.__name__
    if name not in schemas:
        hints = {field.name: field.type for field in attrs.fields(attrs.resolve_types(kind))}
        if given:
            hints["items"] = several(given[0])
        properties = {camel(field): _schema_of(hint, schemas) for field, hint in hints.items()}
        schemas[name] = {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }
    return {"$ref": f"#/components/schemas/{name}"}
