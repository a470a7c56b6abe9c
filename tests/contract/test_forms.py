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
                    schema = content.get("schema", {})
                    says = dict(_parts(_sample(spec, schema)))
                    examples = [each["value"] for each in content.get("examples", {}).values()]
                    for example in (*examples, _sample(spec, schema, with_examples=True)):
                        for row in _differ(says, dict(_parts(example))):
                            yield f"{method.upper()} {path}", *row


def _differ(says: Mapping[str, str], shows: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    for part in {**says, **shows}:
        one, other = says.get(part, "-"), shows.get(part, "-")
        outer = part.rpartition(".")[0].removesuffix("[]")
        is_within = says.get(outer) != shows.get(outer)  # then the outer part is the form
        if one != other and (not is_within or " or " in other) and "links" not in part and part != "type":
            yield part, one, other


def _sample(spec: Mapping[str, Any], schema: Mapping[str, Any], *, with_examples: bool = False) -> Any:
    """Return a value of a schema; ``with_examples``: those that stand beside its properties."""
    schema = _resolve(spec, schema)
    if with_examples and "example" in schema:
        return schema["example"]
    if "items" in schema:
        return [_sample(spec, schema["items"], with_examples=with_examples)]
    if "properties" in schema:
        return {name: _sample(spec, each, with_examples=with_examples) for name, each in schema["properties"].items()}
    return {"string": "", "integer": 0, "number": 0, "boolean": True, "object": {}}.get(schema.get("type", ""))


def _parts(value: Any, part: str = "") -> Iterator[tuple[str, str]]:
    """Yield the parts of a value, such as ``data[].id``, each with its kind."""
    if part:
        yield part, _kind_of([value])
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _parts(inner, f"{part}.{name}" if part else name)
    elif isinstance(value, list):
        names = dict.fromkeys(name for each in value if isinstance(each, dict) for name in each)
        for name in names:
            inner = [each[name] for each in value if name in each]
            for each in inner:
                yield from _parts(each, f"{part}[].{name}")
            yield f"{part}[].{name}", _kind_of(inner)


def _kind_of(values: list[Any]) -> str:
    kinds = {dict: "object", str: "text", int: "number", bool: "boolean", type(None): "anything"}
    found = {f"array of {_kind_of(each)}" if isinstance(each, list) else kinds[type(each)] for each in values}
    return " or ".join(sorted(found))


def _resolve(spec: Mapping[str, Any], node: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in node:
        found: Any = spec
        for name in node["$ref"].split("/")[1:]:
            found = found[name]
        node = found
    return node
