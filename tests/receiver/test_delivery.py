"""A body becomes a delivery, whatever JSON it is, or an error that shows nothing of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from basiq_async.receiver import Delivery
from basiq_async.receiver._delivery import (  # private: a body that cannot be read never leaves the receiver
    UnreadableBodyError,
    read_delivery,
)

SENT = 1_767_614_400


@pytest.mark.parametrize(
    ("raw", "ids", "links"),
    [
        ({"eventTypeId": "a.b", "eventId": "e", "links": {"event": "u"}}, ("a.b", "e"), {"event": "u"}),
        ({}, ("", ""), {}),
        ({"eventTypeId": None, "eventId": None, "links": None}, ("", ""), {}),
        ({"eventTypeId": ["x"], "eventId": {}, "links": "u"}, ('["x"]', "{}"), {}),
    ],
)
def test_what_is_missing_is_empty_and_an_id_of_another_kind_is_its_json(
    raw: dict[str, Any], ids: tuple[str, str], links: dict[str, str]
) -> None:
    delivery = read_delivery("m", SENT, json.dumps(raw).encode(), "w")
    assert (delivery.event_type_id, delivery.event_id) == ids
    assert dict(delivery.links) == links
    assert (delivery.id, delivery.webhook_id, delivery.raw) == ("m", "w", raw)
    assert delivery.timestamp == datetime.fromtimestamp(SENT, UTC)


@pytest.mark.parametrize("body", ['{"eventId": "é"}'.encode("utf-16"), b'\xef\xbb\xbf{"eventId": "\xc3\xa9"}'])
def test_json_in_other_encodings_is_read(body: bytes) -> None:
    assert read_delivery("m", SENT, body).event_id == "é"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"secret"', b"\xff\xfe\xff", b"[" * 100_000])
def test_what_is_no_json_object_is_an_error_that_shows_nothing_of_it(body: bytes) -> None:
    with pytest.raises(UnreadableBodyError) as caught:
        read_delivery("m", SENT, body)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_two_attempts_at_one_event_have_one_key_and_two_webhooks_have_two() -> None:
    body = b'{"eventTypeId": "a", "eventId": "e"}'
    keys = [read_delivery(message, SENT, body, webhook).key for message in ("1", "2") for webhook in ("w", "v")]
    assert keys[0] == keys[2] != keys[1] == keys[3]


def test_it_shows_neither_body_nor_payload() -> None:
    delivery: Delivery = read_delivery("m", SENT, b'{"person": "secret", "links": {"event": "secret"}}')
    assert "secret" not in repr(delivery)
