"""The operations of the control API, and the OpenAPI 3.1 document that describes them."""

from __future__ import annotations

import types
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, Union, get_args, get_origin

import attrs

from ... import __version__
from ..._web.access import STATE_HEADER, TOKEN_HEADER, TOKEN_PROOF_HEADER
from . import _history, _operations  # noqa: F401  # register them
from ._operation import OPERATIONS as OPERATIONS
from ._operation import Input, Operation, camel

ROOT = "/_fake"
Schema = dict[str, Any]
_PLAIN: Mapping[object, Schema] = {
    str: {"type": "string"},
    bytes: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    datetime: {"type": "string", "format": "date-time"},
    type(None): {"type": "null"},
}
_DESCRIPTION = """\
Set up and inspect a fake Basiq that is served over HTTP. All bodies are JSON. The header Authorization: Basic KEY names
the mock, and the state, that a call is for. KEY is the state's API key, without further encoding. Every POST needs it,
or the header X-Fake-State, which proves that the caller knows the key and does not contain it. A GET without both is
for the first state.
"""
_PROOF = """\
CHALLENGE.MAC for one request: a text of GET /_fake/challenge, and the HMAC-SHA256 with the API key, in hexadecimal
digits, of four lines without a line feed at the end: the challenge, the method, the path with its query, and the
SHA-256 of the body in hexadecimal digits."""
_OTHER_PROOF = """\
The MAC of X-Fake-State, of the same request and challenge, but of an empty body, and with the control token in place of
the API key. It proves that the caller knows the token, and does not contain it."""
_KEYS = (
    ("apiKey", "Authorization", "Basic, a space, and the API key of the state that the call is for."),
    ("proof", STATE_HEADER, _PROOF),
    ("token", TOKEN_HEADER, "The control token. Pages need it, and callers on other machines, or else tokenProof."),
    ("tokenProof", TOKEN_PROOF_HEADER, _OTHER_PROOF),
)


def openapi_document() -> Schema:
    """Return the OpenAPI document of the control API."""
    paths: dict[str, Schema] = {}
    for each in OPERATIONS.values():
        paths.setdefault(ROOT + each.path, {})[each.method.lower()] = _describe_operation(each)
    keys = {key: {"type": "apiKey", "in": "header", "name": name, "description": text} for key, name, text in _KEYS}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Control API of the fake Basiq", "version": __version__, "description": _DESCRIPTION},
        "paths": paths,
        "security": [{key: []} for key in keys],
        "components": {"securitySchemes": keys},
    }


def _describe_operation(operation: Operation) -> Schema:
    inputs = {name: _schema_of_input(each) for name, each in operation.inputs.items()}
    in_path = {"in": "path", "required": True}
    responses = {
        "200": _content("The result of the operation.", _schema_of(operation.returns)),
        "default": _content("The call was refused.", _ERROR),
    }
    described: Schema = {"operationId": operation.name, "summary": operation.summary, "responses": responses}
    described["parameters"] = [
        {"name": name, "schema": schema, **({"in": "query"} if name in operation.fields else in_path)}
        for name, schema in inputs.items()
        if operation.method == "GET" or name not in operation.fields
    ]
    if operation.method == "POST":
        required = [name for name, each in operation.fields.items() if each.required]
        body = _object({name: inputs[name] for name in operation.fields}, required)
        described["requestBody"] = {"required": bool(required), **_content("The fields.", body)}
    return described


def _content(description: str, schema: Schema) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _schema_of_input(field: Input) -> Schema:
    about = {"description": field.about.description, "minimum": field.about.least, "maximum": field.about.most}
    return {**_schema_of(field.kind), **{name: value for name, value in about.items() if value is not None}}


def fields_of(hint: Any) -> list[str]:
    """Return the names of the fields of a result in JSON."""
    return list(_schema_of(hint).get("properties", ()))


def _schema_of(hint: Any) -> Schema:
    """Return the schema of the JSON of a type."""
    kind, given = get_origin(hint) or hint, get_args(hint)
    if kind in _PLAIN:
        return dict(_PLAIN[kind])
    if kind in (Union, types.UnionType):
        return {"anyOf": [_schema_of(each) for each in given]}
    if kind is Literal:
        return {"type": "string", "enum": list(given)}
    if kind is tuple:
        return {"type": "array", "items": _schema_of(given[0])}
    if not attrs.has(kind):
        return {"type": "object"}
    hints = {camel(each.name): each.type for each in attrs.fields(attrs.resolve_types(kind))}
    if given:  # the items of a list are of the class that is given to it
        hints["items"] = types.GenericAlias(tuple, (given[0], ...))
    return _object({name: _schema_of(each) for name, each in hints.items()}, list(hints))


def _object(properties: Schema, required: list[str]) -> Schema:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


_TEXT = {"type": "string"}
_ERROR = _object({"error": _object({"code": _TEXT, "message": _TEXT}, ["code", "message"])}, ["error"])
