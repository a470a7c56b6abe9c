"""The control API over HTTP, below ``/_fake/``, and its description in OpenAPI 3.1."""

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
"""Basiq's API, as the fake speaks it."""
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
    """The routes of every operation, and of the description."""

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
    """The control of the state whose API key a call has. Raises ControlError for a key of another mock.

    A call that changes something has to name its mock: on a port that was this mock's there may be another one.
    """
    header = request.headers.get("Authorization")
    if header is None:
        if request.method == "POST" and TOKEN_HEADER not in request.headers:
            raise ControlError(401, "key-missing", f"say which mock is meant: {_HOW}")
        return control
    scheme, _, key = header.partition(" ")
    found = control.first.find_state(header) if scheme.lower() == "basic" else None
    if found is None:
        raise ControlError(
            403, "another-mock", f"this mock does not have that API key, so another one is meant: {_HOW}"
        )
    return control.of(found, key)


async def _read(request: web.Request, operation: Operation) -> Values:
    if operation.method == "GET":
        return read_query(operation.fields, dict(request.query))
    return read_body(operation.fields, await read_json(request))


def as_json(shown: attrs.AttrsInstance) -> Json:
    """A shape as the JSON object that it is described as."""
    found: Json = _converter().unstructure(shown)
    return found


def ref(name: str) -> Json:
    """A reference to the schema of a shape."""
    return {"$ref": f"#/components/schemas/{name}"}


@cache
def schemas() -> Mapping[str, Json]:
    """The schema of every shape, by its name."""
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
    """The OpenAPI document."""
    paths: dict[str, Json] = {}
    for operation in OPERATIONS:
        paths.setdefault(ROOT + operation.path, {})[operation.method.lower()] = _describe(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Control API of the fake Basiq",
            "version": __version__,
            "description": "Arrange and inspect a fake Basiq that is served over HTTP. All bodies are JSON. "
            "Authorization: Basic KEY says which mock, and which of its states, is meant: KEY is the API key, as it "
            "is. What changes something needs it; without it the other calls are for the first state.",
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
                    "description": "Basic, a space, and the API key of the state that is meant.",
                },
                "token": {
                    "type": "apiKey",
                    "in": "header",
                    "name": TOKEN_HEADER,
                    "description": "The control token: for pages, and for callers that are not on this machine.",
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
            "200": _content("What was asked for.", operation.returns.__name__),
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
