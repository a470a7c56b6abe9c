"""The body that Basiq posts for a message."""

from __future__ import annotations

import json
from typing import Any

import pytest

from basiq_async import Message
from basiq_async._wire.payloads import delivered_payload, encode_payload, payload_bytes

IDS = {"eventTypeId": "user.created", "eventId": "e-1"}


def message(payload: dict[str, Any], **fields: Any) -> Message:
    return Message("m", {"id": "m", "payload": payload, **fields})


@pytest.mark.parametrize(
    ("payload", "fields", "delivered"),
    [
        ({**IDS, "links": {}}, {}, {**IDS, "links": {}}),
        ({**IDS, "x": 1}, {"eventTypeId": "other", "eventId": "other"}, {**IDS, "x": 1}),
        ({"x": 1}, IDS, {"x": 1, **IDS}),
        ({"eventId": "e-1"}, IDS, {"eventId": "e-1", "eventTypeId": "user.created"}),
        ({"eventTypeId": "", "eventId": None}, IDS, IDS),
        ({"x": 1}, {}, {"x": 1}),
        ({"x": 1}, {"eventId": "e-1"}, {"x": 1, "eventId": "e-1"}),
        ({}, {}, {}),
    ],
)
def test_ids_that_the_payload_lacks_come_from_the_message(
    payload: dict[str, Any], fields: dict[str, Any], delivered: dict[str, Any]
) -> None:
    one = message(payload, **fields)
    assert delivered_payload(one) == delivered
    assert json.loads(payload_bytes(one)) == delivered


def test_what_needs_no_id_is_the_payload_itself() -> None:
    for payload in (IDS, {"x": 1}):
        one = message(payload)
        assert delivered_payload(one) is one.payload


@pytest.mark.parametrize(
    ("payload", "body"),
    [
        ({"a": [1, {"b": None}]}, b'{"a":[1,{"b":null}]}'),
        ({"a": "\u00e9\U0001f600"}, '{"a":"\u00e9\U0001f600"}'.encode()),
        ({"a": "\ud800", "b": [1]}, b'{"a":"\\ud800","b":[1]}'),
    ],
)
def test_the_body_is_compact_json(payload: dict[str, Any], body: bytes) -> None:
    assert encode_payload(payload) == body
