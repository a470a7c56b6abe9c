"""The description of the control API, in OpenAPI 3.1."""

from __future__ import annotations

import re

from ..._version import __version__
from ..._web.guard import TOKEN_HEADER
from ._fields import Json
from ._operation import Operation
from ._operations import OPERATIONS
from ._schemas import ref, schemas

ROOT = "/_fake"


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
            "200": _content("What was asked for.", operation.returns),
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
