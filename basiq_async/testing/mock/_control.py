"""The HTTP routes of the control API below ``/_fake/``, and its OpenAPI 3.1 document."""

from __future__ import annotations

import re
import types
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import attrs
from aiohttp import web
from cattrs import Converter
from cattrs.gen import make_dict_unstructure_fn, override

from ..._version import __version__
from ..._web.guard import TOKEN_HEADER, ControlError
from ..._web.serving import read_json, respond
from ...errors import BasiqError
from . import _shapes
from ._operation import Control, Json, Operation, Values, read_body, read_query
from ._operations import OPERATIONS

ROOT = "/_fake"
_BASIQ = Path(__file__).parents[1] / "basiq.yaml"
"""An OpenAPI document of Basiq's API as the fake implements it."""
_HOW = "send its API key, in the header Authorization: Basic KEY"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_PLAIN: Mapping[object, Json] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    datetime: {"type": "string", "format": "date-time"},
    object: {},
}


def routes(control: Control) -> list[web.RouteDef]:
    """Return the routes of all operations and of the two OpenAPI documents."""

    async def openapi(request: web.Request) -> web.Response:
        return respond(describe())

    async def basiq(request: web.Request) -> web.Response:
        return web.Response(body=_BASIQ.read_bytes(), content_type="application/yaml", charset="utf-8")

    made = [web.route(each.method, ROOT + each.path, _handler(control, each)) for each in OPERATIONS]
    return [web.get(ROOT + "/openapi.json", openapi), web.get(ROOT + "/basiq.yaml", basiq), *made]


def _handler(control: Control, operation: Operation) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        named = _find_state(control, request)
        values = await _read(request, operation)
        try:
            return respond(as_json(await operation.run(named, {**values, **request.match_info})))
        except BasiqError as error:
            raise ControlError(400, "not-valid", str(error)) from error

    return handle


def _find_state(control: Control, request: web.Request) -> Control:
    """Return the control of the state to which a call's API key belongs. Raises ``ControlError`` for an unknown key.

    A POST must have a key, because another mock may use the same port by now.
    """
    header = request.headers.get("Authorization")
    if header is None:
        if request.method == "POST" and TOKEN_HEADER not in request.headers:
            raise ControlError(401, "key-missing", f"name the mock that this call is for: {_HOW}")
        return control
    scheme, _, key = header.partition(" ")
    found = control.first.find_state(header) if scheme.lower() == "basic" else None
    if found is None:
        raise ControlError(
            403, "another-mock", f"this mock does not have that API key, so the call is for another mock: {_HOW}"
        )
    return control.of(found, key)


async def _read(request: web.Request, operation: Operation) -> Values:
    if operation.method == "GET":
        return read_query(operation.fields, dict(request.query))
    return read_body(operation.fields, await read_json(request))


def as_json(shown: attrs.AttrsInstance) -> Json:
    """Return a shape as JSON data that fits its schema."""
    found: Json = _converter().unstructure(shown)
    return found


def ref(name: str) -> Json:
    """Return a reference to the schema of a shape."""
    return {"$ref": f"#/components/schemas/{name}"}


@cache
def schemas() -> Mapping[str, Json]:
    """Return the schemas of all shapes by their names."""
    return {
        name: _schema_of_class(shape)
        for name, shape in vars(_shapes).items()
        if isinstance(shape, type) and attrs.has(shape) and shape.__module__ == _shapes.__name__
    }


def _schema_of_class(shape: type[attrs.AttrsInstance]) -> Json:
    hints = get_type_hints(shape)
    properties = {_camel(field.name): _schema_of(hints[field.name]) for field in attrs.fields(shape)}
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _schema_of(hint: Any) -> Json:
    if hint in _PLAIN:
        return dict(_PLAIN[hint])
    if isinstance(hint, type) and attrs.has(hint):
        return ref(hint.__name__)
    origin, given = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        (schema,) = [_schema_of(each) for each in given if each is not type(None)]
        if "$ref" in schema:
            return {"oneOf": [{"type": "null"}, schema]}
        return {**schema, "type": [schema["type"], "null"]}
    if origin is Literal:
        return {"enum": list(given)}
    if origin is tuple:
        return {"type": "array", "items": _schema_of(given[0])}
    return {"type": "object", "additionalProperties": _schema_of(given[1])}


@cache
def _converter() -> Converter:
    converter = Converter()
    converter.register_unstructure_hook(datetime, lambda moment: moment.isoformat(timespec="milliseconds"))
    converter.register_unstructure_hook_factory(
        attrs.has,
        lambda shape: make_dict_unstructure_fn(
            shape,
            converter,
            **{field.name: override(rename=_camel(field.name)) for field in attrs.fields(shape)},  # type: ignore[arg-type]  # of fields' names alone
        ),
    )
    return converter


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


def describe() -> Json:
    """Return the OpenAPI document of the control API."""
    paths: dict[str, Json] = {}
    for operation in OPERATIONS:
        paths.setdefault(ROOT + operation.path, {})[operation.method.lower()] = _describe(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Control API of the fake Basiq",
            "version": __version__,
            "description": "Set up and inspect a fake Basiq that is served over HTTP. All bodies are JSON. "
            "The header Authorization: Basic KEY names the mock, and the state, that a call is for. KEY is the state's "
            "API key, without further encoding. Every POST needs it. A GET without it is for the first state.",
        },
        "paths": paths,
        "security": [{"apiKey": []}, {"token": []}],
        "components": {
            "schemas": dict(schemas()),
            "securitySchemes": {
                "apiKey": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "Basic, a space, and the API key of the state that the call is for.",
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


def _describe(operation: Operation) -> Json:
    parameters: list[Json] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", operation.path)
    ]
    described: Json = {
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": {
            "200": _content("The result of the operation.", operation.returns.__name__),
            "default": _content("The call was refused.", "Error"),
        },
    }
    if operation.method == "GET":
        parameters += [
            {"name": field.name, "in": "query", "description": field.description, "schema": field.schema()}
            for field in operation.fields
        ]
    else:
        required = [field.name for field in operation.fields if field.required]
        schema: Json = {
            "type": "object",
            "properties": {field.name: field.schema() for field in operation.fields},
            "additionalProperties": False,
        }
        if required:
            schema["required"] = required
        described["requestBody"] = {
            "required": bool(required),
            "content": {"application/json": {"schema": schema}},
        }
    if parameters:
        described["parameters"] = parameters
    return described


def _content(description: str, name: str) -> Json:
    return {"description": description, "content": {"application/json": {"schema": ref(name)}}}
