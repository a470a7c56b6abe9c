"""A body becomes a delivery, whatever JSON it is, or an error that shows nothing of it."""

from __future__ import annotations

import json
from collections.abc import Callable
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
        ({"eventTypeId": "a", "eventId": 123, "links": {"event": None}}, ("a", "123"), {}),
        ({"eventId": "\ud800", "links": [{"event": "a"}, {"eventEntity": "b"}, 3]},
         ("", "\ud800"), {"event": "a", "eventEntity": "b"}),
    ],
)  # fmt: skip
def test_what_is_missing_is_empty_and_an_id_of_another_kind_is_its_json(
    raw: dict[str, Any], ids: tuple[str, str], links: dict[str, str]
) -> None:
    delivery = read_delivery("m", SENT, json.dumps(raw).encode())
    assert (delivery.event_type_id, delivery.event_id) == ids
    assert dict(delivery.links) == links
    assert (delivery.id, delivery.raw) == ("m", raw)
    assert delivery.timestamp == datetime.fromtimestamp(SENT, UTC)


@pytest.mark.parametrize("loads", [None, json.loads], ids=["as installed", "without orjson"])
@pytest.mark.parametrize(
    "body",
    [
        '{"eventId": "é"}'.encode(),
        '{"eventId": "é"}'.encode("utf-16"),
        b'\xef\xbb\xbf{"eventId": "\xc3\xa9"}',
        b'{"eventId": "\xc3\xa9", "cut": "\\ud800", "n": NaN}',
        b'{"eventId": "x", "eventId": "\xc3\xa9", "n": 100000000000000000000000}',
    ],
    ids=["UTF-8", "UTF-16", "byte order mark", "half a surrogate pair and NaN", "a name twice, a large number"],
)
def test_json_that_only_some_decoders_accept_is_read(
    body: bytes, loads: Callable[[bytes], object] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if loads is not None:
        monkeypatch.setattr("basiq_async.receiver._delivery._quick_loads", loads)
    assert read_delivery("m", SENT, body).event_id == "é"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"3", b'"secret"', b"\xff\xfe\xff", b"{" * 50_000, b"[" * 100_000 + b"]" * 100_000,
     b'{"a": ' + b"9" * 5000 + b"}"],
    ids=lambda body: repr(body[:8]),
)  # fmt: skip
def test_what_is_no_json_object_is_an_error_that_shows_nothing_of_it(body: bytes) -> None:
    with pytest.raises(UnreadableBodyError) as caught:
        read_delivery("m", SENT, body)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_two_attempts_at_one_event_have_one_key() -> None:
    body = b'{"eventTypeId": "a", "eventId": "e"}'
    assert {read_delivery(message, SENT, body).key for message in ("1", "2")} == {"e"}


def test_it_shows_neither_body_nor_payload() -> None:
    delivery: Delivery = read_delivery("m", SENT, b'{"person": "secret", "links": {"event": "secret"}}')
    assert "secret" not in repr(delivery)
