"""From bytes to models: tolerant of what the reference contradicts itself in, strict about ids."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import attrs
import pytest

from basiq_async import DeliveryAttempt, Event, EventType, Message, ResponseDecodeError, Secret, Webhook
from basiq_async._wire.broken_items import BrokenItem
from basiq_async._wire.codec import Codec, Loads, Unreadable, _strict_loads, _weight, default_loads

CODEC = Codec()
either_decoder = pytest.mark.parametrize("loads", [_strict_loads, default_loads()], ids=["json", "default"])
WHEN = datetime(2024, 4, 17, 23, 57, 17, tzinfo=UTC)


def read(model: type[Any], value: Any) -> Any:
    return CODEC.read(model, json.dumps(value).encode())


MESSAGE = {
    "id": "m-1",
    "payload": {
        "eventTypeId": "user.created",
        "eventId": "e-1",
        "links": {"event": "https://au-api.basiq.io/events/e-1", "eventEntity": "https://au-api.basiq.io/users/u-1"},
    },
    "attempts": [
        {
            "id": "a-1",
            "url": "https://example.com/hook",
            "response": "OK",
            "responseStatusCode": 200,
            "timestamp": "2024-04-17T23:57:17Z",
            "status": "Success",
        },
        {"id": "a-2", "responseStatusCode": "500", "timestamp": "2024-04-17T23:57:17Z", "status": "Failed"},
    ],
    "links": {"self": "https://au-api.basiq.io/notifications/webhooks/w-1/messages/m-1", "webhook": "https://x/w-1"},
    "somethingNew": {"kept": True},
}


def test_a_message_in_the_form_of_the_examples() -> None:
    message = read(Message, MESSAGE)
    assert (message.id, message.event_type_id, message.event_id) == ("m-1", "user.created", "e-1")
    assert message.webhook_id == "w-1"
    assert message.payload["links"]["event"] == "https://au-api.basiq.io/events/e-1"
    assert message.links["webhook"] == "https://x/w-1"
    assert message.attempts == (
        DeliveryAttempt("a-1", "https://example.com/hook", "OK", 200, WHEN, "Success"),
        DeliveryAttempt("a-2", None, None, 500, WHEN, "Failed"),
    )
    assert message.delivered is True
    assert message.raw["somethingNew"] == {"kept": True}


def test_a_message_in_the_form_of_the_schema() -> None:
    message = read(
        Message,
        {"id": "m", "webhookId": "w", "eventTypeId": "t", "eventId": 5, "attempts": ["one", "two"], "links": []},
    )
    assert (message.event_type_id, message.event_id, message.webhook_id) == ("t", "5", "w")
    assert [attempt.id for attempt in message.attempts] == ["one", "two"]
    assert message.delivered is None


def test_a_message_with_nothing_but_its_id() -> None:
    message = read(Message, {"id": "m"})
    assert (message.event_type_id, message.event_id, message.webhook_id) == (None, None, None)
    assert (message.payload, message.attempts, message.links, message.delivered) == ({}, (), {}, None)


@pytest.mark.parametrize(
    ("attempts", "delivered"),
    [
        ([], False),
        (None, None),
        (["one"], None),
        ([{"id": "one"}], None),
        ([{"id": "one", "timestamp": "2026-03-01T00:00:00Z"}], None),
        ([{"status": "Failed"}, "two"], None),
        ([{"status": "Failed"}, {"status": "Sending"}], None),
        (["one", {"status": "Success"}], True),
        ([{"status": "Failed"}, {"responseStatusCode": 500}], False),
    ],
    ids=repr,
)
def test_what_the_attempts_do_not_tell_is_neither_delivered_nor_undelivered(
    attempts: Any, delivered: bool | None
) -> None:
    assert read(Message, {"id": "m", "attempts": attempts}).delivered is delivered


@pytest.mark.parametrize(
    ("attempt", "code", "succeeded"),
    [
        ({"responseStatusCode": 200}, 200, True),
        ({"responseStatusCode": "204"}, 204, True),
        ({"responseStatusCode": 200.0}, 200, True),
        ({"responseStatusCode": " 404 "}, 404, False),
        ({"responseStatusCode": 302}, 302, False),
        ({"responseStatusCode": "x"}, None, None),
        ({"responseStatusCode": True}, None, None),
        ({"responseStatusCode": "9" * 5000}, None, None),
        ({"status": "Failed", "responseStatusCode": 0}, None, False),
        ({"status": "Sending", "responseStatusCode": 200}, 200, True),
        ({"status": "Success"}, None, True),
        ({"status": "success", "responseStatusCode": 500}, 500, True),
        ({"status": "Failed", "responseStatusCode": 200}, 200, False),
        ({"status": "Unheard-of", "responseStatusCode": None}, None, None),
        ({}, None, None),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_the_status_code_of_an_attempt_is_a_number_or_text_and_whether_it_succeeded(
    attempt: dict[str, Any], code: int | None, succeeded: bool | None
) -> None:
    message = read(Message, {"id": "m", "attempts": [attempt]})
    assert (message.attempts[0].status_code, message.delivered) == (code, succeeded)


def test_a_webhook_and_its_secret() -> None:
    value = {
        "id": "w",
        "type": "Webhook",
        "url": "https://example.com",
        "status": "active",
        "secret": "whsec_c2VjcmV0",
        "subscribedEvents": ["user.created", "user.deleted"],
        "name": "n",
        "description": None,
        "links": {"self": "s"},
        "new": 1,
    }
    webhook = read(Webhook, value)
    assert webhook.secret == Secret("whsec_c2VjcmV0")
    assert webhook.secret.reveal() == "whsec_c2VjcmV0"
    assert webhook.subscribed_events == ("user.created", "user.deleted")
    assert (webhook.name, webhook.description, webhook.status) == ("n", None, "active")
    assert webhook.raw["new"] == 1
    shown = repr(webhook) + str(webhook) + repr(webhook.raw) + f"{webhook.secret} {webhook.secret:>20}"
    shown += json.dumps(webhook.raw, default=str) + repr(attrs.asdict(webhook))
    assert "c2VjcmV0" not in shown


@pytest.mark.parametrize(
    ("value", "found"), [("user.created", ("user.created",)), ("", ()), (None, ()), ([], ()), (["a"], ("a",))], ids=repr
)
def test_subscribed_events_come_as_a_list_or_one_text(value: Any, found: tuple[str, ...]) -> None:
    assert read(Webhook, {"id": "w", "url": "u", "subscribedEvents": value}).subscribed_events == found


@pytest.mark.parametrize(
    ("model", "value", "place"),
    [
        *((Message, value, "$.id") for value in ({}, *({"id": id} for id in (None, "", True, ["m"])))),
        (Message, {"id": "m", "payload": "text"}, "$.payload"),
        (Message, {"id": "m", "payload": []}, "$.payload"),
        (Message, {"id": "m", "attempts": {}}, "$.attempts"),
        (Message, {"id": "m", "attempts": [{}, {"timestamp": "yesterday"}]}, "$.attempts[1].timestamp"),
        (Message, {"id": "m", "attempts": [{"timestamp": True}]}, "$.attempts[0].timestamp"),
        *((Message, value, "$") for value in ("m", None)),
        (Webhook, {"url": "u"}, "$.id"),
        (Webhook, {"id": None, "url": "u"}, "$.id"),
        (Webhook, {"id": "w"}, "$.url"),
        (Webhook, {"id": "w", "url": ""}, "$.url"),
        (Webhook, {"id": "w", "url": 5}, "$.url"),
        (Webhook, {"id": "w", "url": "u", "subscribedEvents": [1]}, "$.subscribedEvents"),
        (Webhook, {"id": "w", "url": "u", "subscribedEvents": {}}, "$.subscribedEvents"),
        (Webhook, {"id": "w", "url": "u", "secret": ["top-secret"]}, "$.secret"),
        (Webhook, [], "$"),
        (EventType, {"description": "x"}, "$.id"),
    ],
)
def test_what_cannot_be_read_says_where_and_shows_nothing(model: type[Any], value: Any, place: str) -> None:
    with pytest.raises(ResponseDecodeError) as caught:
        read(model, value)
    assert caught.value.location == place
    assert "top-secret" not in str(caught.value)
    missing = model is not Message and isinstance(value, dict) and place.removeprefix("$.") not in value
    assert ("is missing" in str(caught.value)) == missing


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"entity": "consent", "eventType": "revoked"}, ("consent.revoked", "consent", "revoked")),
        ({"eventTypeId": "consent.revoked"}, ("consent.revoked", "consent", "revoked")),
        ({"entity": "consent", "eventType": "consent.revoked"}, ("consent.revoked", "consent", "consent.revoked")),
        ({"eventType": "consent.revoked"}, ("consent.revoked", "consent", "consent.revoked")),
        ({"entity": "consent"}, ("", "consent", None)),
        ({"type": "event"}, ("", None, None)),
    ],
)
def test_the_type_of_an_event_is_the_dotted_form(value: dict[str, Any], found: tuple[str, Any, Any]) -> None:
    event = read(Event, {"id": "e", **value})
    assert (event.type, event.entity, event.event_type) == found
    assert event.raw == {"id": "e", **value}


@pytest.mark.parametrize("data", [{"a": 1}, [{"a": 1}], None, "text"], ids=repr)
def test_an_event_keeps_its_data_as_it_came(data: Any) -> None:
    event = read(
        Event,
        {"id": 61723, "userId": "u", "dataRef": "https://x", "data": data, "links": [{"self": "a"}, {"more": "b"}, 5]},
    )
    assert (event.id, event.user_id, event.data_ref, event.data) == ("61723", "u", "https://x", data)
    assert event.links == {"self": "a", "more": "b"}


def test_an_event_type() -> None:
    kind = read(EventType, {"id": "user.created", "description": "when", "links": {"self": "s", "odd": 5}})
    assert (kind.id, kind.description, kind.links) == ("user.created", "when", {"self": "s"})


def test_a_text_of_another_type_is_given_as_its_json() -> None:
    kind = read(EventType, {"id": "t", "description": {"en": "when", "n": [1, None]}})
    assert kind.description == '{"en":"when","n":[1,null]}'


@pytest.mark.parametrize("model", [DeliveryAttempt, Event, EventType, Message, Webhook])
def test_models_are_frozen_and_slotted(model: type[Any]) -> None:
    value = DeliveryAttempt("a") if model is DeliveryAttempt else read(model, {"id": "x", "url": "u"})
    assert not hasattr(value, "__dict__")
    for name in ("id", "links", "raw", "attempts"):
        with pytest.raises(AttributeError):
            setattr(value, name, None)
    assert isinstance(hash(value), int)
    assert copy.deepcopy(value) == value == pickle.loads(pickle.dumps(value))
    assert repr(value).startswith(model.__name__ + "(")


@pytest.mark.parametrize("name", ["secret", "Secret", "SECRET"])
def test_a_secret_is_shown_by_no_part_of_its_webhook(name: str) -> None:
    webhook = read(Webhook, {"id": "w", "url": "u", name: "top-secret"})
    assert "top-secret" not in repr((webhook, dict(webhook.raw)))
    assert (webhook.secret is not None) == (name == "secret")


def test_a_secret_compares_without_showing() -> None:
    secret = Secret("whsec_x")
    assert secret == Secret("whsec_x")
    assert hash(secret) == hash(Secret("whsec_x"))
    assert secret != Secret("whsec_y")
    assert secret != "whsec_x"
    assert Secret("é\ud800") == Secret("é\ud800")


PLAIN = '{"id":"w1","url":"https://example.com"}'


def named(name: str) -> bytes:
    """A webhook whose name is this JSON text."""
    return b'{"id":"w1","url":"https://example.com","name":' + name.encode() + b"}"


def deep(depth: int, opening: str = "[", closing: str = "]") -> str:
    return opening * depth + closing * depth


UNREADABLE: dict[str, bytes] = {
    "nothing": b"",
    "white space": b"  \r\n ",
    "a half object": b'{"id": "w1", "url',
    "two objects": b"{}{}",
    "a NUL after it": PLAIN.encode() + b"\0",
    "single quotes": b"{'id': 'w1'}",
    "a comma at the end": b'{"id": "w1",}',
    "a comment": b'{"id": "w1" /* one */}',
    "NaN": named("NaN"),
    "Infinity": named("Infinity"),
    "minus Infinity": named("-Infinity"),
    "1e999": named("1e999"),
    "5,000 digits": named("1" * 5000),
    "nested 100,000 deep": named(deep(100_000)),  # Python 3.14 reads what is nested 10,000 deep
    "nested 100,000 deep, never closed": b"[" * 100_000,
    "a control character": named('"\x01"'),
    "UTF-16": PLAIN.encode("utf-16"),
    "UTF-16 without a mark": PLAIN.encode("utf-16-le"),
    "UTF-32": PLAIN.encode("utf-32"),
    "Latin-1": named('"caf\xe9"').replace("é".encode(), b"\xe9"),
    "an overlong form": named('"X"').replace(b"X", b"\xc0\xaf"),
    "a surrogate in UTF-8": named('"X"').replace(b"X", b"\xed\xa0\x80"),
    "two byte order marks": b"\xef\xbb\xbf\xef\xbb\xbf" + PLAIN.encode(),
    "JSON with a prefix": b")]}',\n" + PLAIN.encode(),
    "XML": b"<?xml version='1.0'?><webhook/>",
    "an image": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
}


@either_decoder
@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE)
def test_a_body_that_is_not_json_is_a_decode_error(loads: Loads, body: bytes) -> None:
    codec = Codec(loads=loads)
    for use in (codec.json, codec.page, partial(codec.read, Webhook)):
        with pytest.raises(ResponseDecodeError, match=r"^\$: the response's body is") as caught:
            use(body)
        assert caught.value.__cause__ is None
        assert len(str(caught.value)) < 300


EXACT: dict[str, tuple[bytes, Any]] = {
    "a byte order mark": (b"\xef\xbb\xbf" + named('"n"'), "n"),
    "white space around it": (b"\r\n\t " + named('"n"') + b" \n", "n"),
    "a pair of surrogates": (named('"\\ud83d\\ude00"'), "\U0001f600"),
    "half a surrogate pair": (named('"\\ud800"'), "\\ud800"),
    "the other half, in capitals": (named('"cut\\uDC00"'), "cut\\udc00"),
    "a half and a pair": (named('"\\ud83d\\ud83d\\ude00"'), "\\ud83d\U0001f600"),
    "half a surrogate pair in a key": (b'{"id":"w1","url":"https://example.com","\\ud800":1}', None),
    "an emoji": (named('"\U0001f600"'), "\U0001f600"),
    "an escaped NUL": (named('"\\u0000"'), "\0"),
    "a separator of lines": (named('"\u2028"'), "\u2028"),
    "the last of two equal keys": (b'{"id":"w0","id":"w1","url":"https://example.com","name":"a","name":"b"}', "b"),
    "an escaped solidus": (named('"\\/"'), "/"),
    "a number with an exponent": (named("1e3"), "1000.0"),
    "a number as a name": (named("12"), "12"),
    "a megabyte of a name": (named('"' + "x" * 1_000_000 + '"'), "x" * 1_000_000),
}


@either_decoder
@pytest.mark.parametrize(("body", "name"), EXACT.values(), ids=EXACT)
def test_unusual_json_is_read_exactly(loads: Loads, body: bytes, name: str) -> None:
    webhook = Codec(loads=loads).read(Webhook, body)
    assert (webhook.id, webhook.name) == ("w1", name)
    assert isinstance(repr(webhook), str)
    assert json.dumps(webhook.raw, ensure_ascii=False).encode()


@either_decoder
def test_half_a_surrogate_pair_in_an_id_is_a_decode_error(loads: Loads) -> None:
    with pytest.raises(ResponseDecodeError):
        Codec(loads=loads).read(Webhook, b'{"id":"w\\ud800","url":"https://example.com"}')


@either_decoder
@pytest.mark.parametrize("depth", [100, 950, 1000, 9000])
@pytest.mark.parametrize("nested", [deep, lambda depth: deep(depth, '{"a":', "}").replace(":}", ":1}")])
def test_depth_just_below_what_decoders_take_does_no_harm_later(
    loads: Loads, depth: int, nested: Callable[[int], str]
) -> None:
    value = nested(depth)
    body = f'{{"id":"m1","payload":{{"eventId":{value},"x":{value}}},"attempts":[{value}],"webhookId":{value}}}'
    try:
        one, other = (Codec(loads=loads).read(Message, body.encode()) for _ in range(2))
    except ResponseDecodeError:
        return
    assert one == other
    assert hash(one) == hash(other)
    for shown in (repr(one), str(one.attempts), str(one.links), str(one.webhook_id), one.event_id):
        assert shown is None or isinstance(shown, str)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"a": x}', "at offset 6"),
        (b"\xff", "at offset 0"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b"[NaN]", "a value that JSON does not allow"),
    ],
)
def test_a_body_that_is_not_json_is_said_to_be_so_with_the_place_or_the_reason(body: bytes, said: str) -> None:
    with pytest.raises(ResponseDecodeError) as caught:
        Codec(loads=_strict_loads).json(body)
    assert said in str(caught.value)


@pytest.mark.parametrize("half", [r"\ud800", r"\uD800", r"\udc00", r"\uDC00"])
def test_the_standard_librarys_decoder_is_as_strict_as_orjson_about_halves_of_pairs(half: str) -> None:
    with pytest.raises(ValueError, match="surrogates not allowed"):
        _strict_loads(f'["{half}"]'.encode())
    assert _strict_loads(rb'["\ud83d\ude00", "\u00e9", "\n"]') == ["\U0001f600", "é", "\n"]


@pytest.mark.parametrize(
    ("body", "weight"),
    [
        (b"[" * 1_000, 202_000), (b"{" * 1_000, 202_000), (b"," * 1_000, 202_000), (b"x" * 1_000, 2_000),
        ("é".encode() * 500, 8_000), (b"\\u00e9" * 100, 4_800),
    ],
    ids=["lists", "objects", "values", "text", "other text", "escaped text"],
)  # fmt: skip
def test_a_body_weighs_what_its_values_and_texts_need_in_memory(body: bytes, weight: int) -> None:
    assert _weight(body) == weight


@pytest.mark.parametrize(("values", "heavy"), [(1_200_000, False), (1_300_000, True)])
def test_a_body_that_would_need_more_than_256_mib_is_not_decoded(values: int, heavy: bool) -> None:
    said = "would need too much memory" if heavy else "is not JSON"
    with pytest.raises(ResponseDecodeError, match=said):
        CODEC.read(Webhook, (b"," * values).rjust(5 * 2**20))
    assert CODEC.read(dict[str, Any], b'{"a": "%s"}' % (b"x" * 5 * 2**20))["a"]


def test_without_orjson_the_standard_library_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "orjson", None)
    assert default_loads() is _strict_loads


@pytest.mark.parametrize(
    ("answer", "items"),
    [
        ({"data": [1, 2]}, [1, 2]),
        ({"data": {"id": "x"}}, [{"id": "x"}]),
        ({"data": None}, []),
        ({"type": "list"}, []),
        ({"type": "List"}, []),
    ],
    ids=repr,
)
def test_the_items_of_a_list_come_in_several_forms(answer: Any, items: list[Any]) -> None:
    assert CODEC.page(json.dumps(answer).encode()).items == items


@pytest.mark.parametrize(
    ("links", "found"),
    [
        *((none, None) for none in ({}, None, [], "", {"next": None}, [{"next": None}], {"self": "y"})),
        *((links, "/n") for links in ({"next": "/n"}, [{"self": "/s"}, {"next": "/n"}, 5])),
        ({"next": ""}, ""),
        ({"next": 5}, 5),
    ],
    ids=repr,
)
def test_the_next_link_of_a_list_comes_in_several_forms(links: Any, found: Any) -> None:
    assert CODEC.page(json.dumps({"data": [], "links": links}).encode()).next_link == found


@pytest.mark.parametrize(
    ("answer", "place"),
    [
        ({"data": [], "links": "/n"}, "$.links"),
        ({"data": [], "links": 5}, "$.links"),
        *((answer, "$") for answer in ([], "x", None)),
        *((answer, "$.data") for answer in ({}, *({"data": data} for data in ("x", "", 5, True, False)))),
    ],
    ids=repr,
)
def test_what_is_no_list_is_a_decode_error(answer: Any, place: str) -> None:
    with pytest.raises(ResponseDecodeError) as caught:
        CODEC.page(json.dumps(answer).encode())
    assert caught.value.location == place


def list_of(*items: bytes, data: str = '"data"') -> bytes:
    listed = b" ,\n".join(items)
    return b'\xef\xbb\xbf { "type":"list", %b : [ %b ], "links":{"next":"/n"} } ' % (data.encode(), listed)


@either_decoder
def test_an_item_that_is_not_json_is_the_only_one_of_its_page(loads: Loads) -> None:
    """test_broken_items.py has every fault."""
    codec = Codec(loads=loads)
    good = [b'{"id":"m0"}', b'{"id":"m1","text":"\xc3\xa9 \\ud83d\\ude00"}', b'{"id":"m3"}']
    found = codec.page(list_of(good[0], good[1], b'{"id":"m2","text":"\xe2\x98"}', good[2]))
    broken = found.items.pop(2)
    assert isinstance(broken, BrokenItem)
    assert (broken.fault, broken.id) == ("not UTF-8", "m2")
    assert (found.items, found.next_link) == ([json.loads(one) for one in good], "/n")
    for model in (Message, Event):
        with pytest.raises(Unreadable, match="not JSON"):
            codec.reader(model).hook(broken, model)


@either_decoder
@pytest.mark.parametrize("depth", [900, 1_100, 5_000, 20_000])
def test_an_item_of_any_depth_is_read_or_is_the_only_one_that_is_not(depth: int, loads: Loads) -> None:
    """How deep a decoder reads depends on the decoder, and on the version of Python."""
    deep = b'{"id":"m2","text":%b}' % (b"[" * depth + b"]" * depth)
    found = Codec(loads=loads).page(list_of(b'{"id":"m1"}', deep, b'{"id":"m3"}')).items
    assert (found[0], found[2]) == ({"id": "m1"}, {"id": "m3"})
    assert isinstance(found[1], BrokenItem) or found[1]["id"] == "m2"


@either_decoder
def test_half_a_surrogate_pair_is_escaped_in_its_item(loads: Loads) -> None:
    cut = b'{"id":"m","attempts":[{"response":"Thanks \\uD83D"}],"\\udc00":["\\ude00\\ud83d\\ude00",1,null]}'
    found = Codec(loads=loads).page(list_of(b'{"id":"a"}', cut, b'{"id":"\\ud800"}', data='"d\\u0061ta"'))
    assert found.items[:2] == [
        {"id": "a"},
        {"id": "m", "attempts": [{"response": "Thanks \\ud83d"}], "\\udc00": ["\\ude00\U0001f600", 1, None]},
    ]
    assert isinstance(found.items[2], BrokenItem)  # two ids could become one


def test_many_items_that_are_nested_too_deeply_are_not_all_walked_through() -> None:
    """Finding the end of such an item is a loop of our own: a page of nothing else would stop the program."""
    with pytest.raises(ResponseDecodeError, match="not JSON"):
        Codec().page(list_of(*[b"[" * 100_000 + b"]" * 100_000] * 8))


def test_a_good_page_is_decoded_once_and_nothing_else_looks_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: bytes) -> Any:
        raise AssertionError("a good page was read again")

    monkeypatch.setattr("basiq_async._wire.codec.mend_list", fail)
    assert len(Codec().page(list_of(b'{"id":"\\ud83d\\ude00"}')).items) == 1


def test_each_codec_has_a_converter_of_its_own() -> None:
    assert Codec().converter is not Codec().converter
