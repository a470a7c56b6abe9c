"""The forms of answers in which the vendor's reference contradicts itself, and what shows each of them.

The table is this project's own. A test compares it with the reference, where that is (see ``test_vendor_spec``): a form
that is new there, or gone, fails it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from basiq_async.testing import Quirks

from .test_vendor_spec import FOLDER, PATHS

FILES = ("webhooks.openapi.json", "core.openapi.json")
TABLE = """
operation | part | schema | example | shown by
POST /notifications/webhooks | subscribedEvents | - | text | subscribed_events=string
GET /notifications/webhooks | data | array of object | object | list_data=object
POST /notifications/webhooks/{webhookId} | subscribedEvents | - | text | subscribed_events=string
GET /notifications/webhooks/{webhookId} | secret | text | - | signing_key_in=everywhere
GET /notifications/webhooks/{webhookId} | subscribedEvents | - | text | subscribed_events=string
GET /notifications/webhooks/{webhookId}/messages | data[].attempts | array of text | - | attempts=strings, attempts=absent
GET /notifications/webhooks/{webhookId}/messages | data[].event | text | - | not read
GET /notifications/webhooks/{webhookId}/messages | data[].eventId | text | - | message_ids=top
GET /notifications/webhooks/{webhookId}/messages | data[].eventTypeId | text | - | message_ids=top
GET /notifications/webhooks/{webhookId}/messages | data[].webhookId | text | - | message_ids=top
GET /notifications/webhooks/{webhookId}/messages/{messageId} | attempts | array of text | array of object | attempts_by_id=strings
GET /notifications/webhooks/{webhookId}/messages/{messageId} | attempts[].responseStatusCode | - | number or text | status_code=string
GET /notifications/webhooks/{webhookId}/messages/{messageId} | event | text | - | not read
GET /notifications/webhooks/{webhookId}/messages/{messageId} | eventId | text | - | message_ids=top
GET /notifications/webhooks/{webhookId}/messages/{messageId} | eventTypeId | text | - | message_ids=top
GET /notifications/webhooks/{webhookId}/messages/{messageId} | webhookId | text | - | message_ids=top
GET /events | data[].data | text | array of object | event_data=list
"""  # noqa: E501  # a table
ROWS = [tuple(cell.strip() for cell in line.split("|")) for line in TABLE.strip().splitlines()[1:]]


def test_each_form_is_shown_by_a_quirk_of_the_fake() -> None:
    known = {f"{name}={form}" for name, forms in Quirks.forms().items() for form in forms}
    shown = {each for *_, by in ROWS for each in by.split(", ")}
    assert shown - {"not read"} <= known


@pytest.mark.skipif(not (FOLDER / FILES[0]).is_file(), reason="the vendor's reference is not here; set BASIQ_SPEC_DIR")
def test_the_table_has_each_form_of_the_reference() -> None:
    found = {row for name in FILES for row in contradictions(json.loads((FOLDER / name).read_text()))}
    assert found == {row[:4] for row in ROWS}


# --- a script that finds the forms ---


def contradictions(spec: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yield each part of an answer that the schema and the examples of its operation show in two ways."""
    for path, operations in spec["paths"].items():
        for method, operation in operations.items():
            if method not in ("get", "post") or not path.startswith(PATHS):
                continue
            for status, response in operation["responses"].items():
                for content in _resolve(spec, response).get("content", {}).values() if status.startswith("2") else ():
                    schema = dict(_schema_parts(spec, content.get("schema", {}), ""))
                    for example in content.get("examples", {}).values():
                        shown = dict(_example_parts(example["value"], ""))
                        yield from _compare(f"{method.upper()} {path}", schema, shown)
                    beside = dict(_examples_beside(spec, content.get("schema", {}), ""))
                    yield from _compare(f"{method.upper()} {path}", {part: schema[part] for part in beside}, beside)


def _compare(
    operation: str, schema: Mapping[str, str], shown: Mapping[str, str]
) -> Iterator[tuple[str, str, str, str]]:
    for part in {**schema, **shown}:
        says, shows = schema.get(part, "-"), shown.get(part, "-")
        outer = part.rpartition(".")[0].removesuffix("[]")
        is_within = schema.get(outer) != shown.get(outer)  # then the outer part is the form
        if says != shows and (not is_within or " or " in shows) and "links" not in part and part != "type":
            yield operation, part, says, shows


def _schema_parts(spec: Mapping[str, Any], schema: Mapping[str, Any], part: str) -> Iterator[tuple[str, str]]:
    schema = _resolve(spec, schema)
    if part:
        yield part, _kind_of_schema(spec, schema)
    for name, inner in schema.get("properties", {}).items():
        yield from _schema_parts(spec, inner, f"{part}.{name}" if part else name)
    if (items := _resolve(spec, schema.get("items", {}))).get("properties"):
        for name, inner in items["properties"].items():
            yield from _schema_parts(spec, inner, f"{part}[].{name}")


def _examples_beside(spec: Mapping[str, Any], schema: Mapping[str, Any], part: str) -> Iterator[tuple[str, str]]:
    """Yield the kinds of the examples that stand beside the properties of a schema."""
    schema = _resolve(spec, schema)
    if "example" in schema and part:
        yield part, _kind_of_value([schema["example"]])
    for name, inner in schema.get("properties", {}).items():
        yield from _examples_beside(spec, inner, f"{part}.{name}" if part else name)
    for name, inner in _resolve(spec, schema.get("items", {})).get("properties", {}).items():
        yield from _examples_beside(spec, inner, f"{part}[].{name}")


def _kind_of_schema(spec: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    if "items" in schema:
        return f"array of {_kind_of_schema(spec, _resolve(spec, schema['items']))}"
    kind = schema.get("type") or ("object" if "properties" in schema else "anything")
    return {"string": "text", "integer": "number"}.get(kind, kind)


def _example_parts(value: Any, part: str) -> Iterator[tuple[str, str]]:
    if part:
        yield part, _kind_of_value([value])
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _example_parts(inner, f"{part}.{name}" if part else name)
    elif isinstance(value, list):
        names = dict.fromkeys(name for each in value if isinstance(each, dict) for name in each)
        for name in names:
            inner = [each[name] for each in value if name in each]
            yield f"{part}[].{name}", _kind_of_value(inner)
            for each in inner:
                if isinstance(each, (dict, list)):
                    yield from _example_parts(each, f"{part}[].{name}")


def _kind_of_value(values: list[Any]) -> str:
    kinds = set()
    for value in values:
        if isinstance(value, list):
            kinds.add(f"array of {_kind_of_value(value)}")
        else:
            kinds.add({dict: "object", str: "text", int: "number", bool: "boolean"}[type(value)])
    return " or ".join(sorted(kinds))


def _resolve(spec: Mapping[str, Any], node: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in node:
        found: Any = spec
        for name in node["$ref"].split("/")[1:]:
            found = found[name]
        node = found
    return node
