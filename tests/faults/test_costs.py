"""Time grows no faster than the input: each loop and regular expression that sees text from outside, with much of it.

A server in the API's place, or a sender of deliveries, chooses the text; no time limit applies while the event loop is
busy. With ``make fuzz`` the inputs are as large as they can be.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from basiq_async import Event, Message, Response, ResponseDecodeError, Webhook
from basiq_async._redaction.credentials import Redactor
from basiq_async._redaction.text import json_line, printable
from basiq_async._redaction.tracebacks import cause_of
from basiq_async._wire.codec import Codec, Unreadable, _strict_loads
from basiq_async._wire.hosts import show_url
from basiq_async._wire.urls import BaseURL, LinkError
from basiq_async.models import read_datetime, read_links, read_text
from basiq_async.receiver._routes import Routes  # private: the search alone is measured
from basiq_async.transports.responses import error_from, parse_date, parse_retry_after, read_correlation_id

LARGE = int(os.environ.get("BASIQ_FUZZ_ROUNDS", "15")) >= 1000
SIZE = 2**20 if LARGE else 2**17
"""The size of an input, in bytes. An error's body is read up to 1 MiB; a page of 500 long messages is of that size."""
SECONDS = 1.0
BASE = BaseURL.parse("https://au-api.basiq.io/prefix")


def within(work: Callable[[], object], *expected: type[Exception]) -> None:
    began = time.process_time()
    with contextlib.suppress(*expected):
        work()
    taken = time.process_time() - began
    assert taken < SECONDS, f"{SIZE} bytes took {taken:.1f} s of processor time: the event loop stood still"


def much(piece: str) -> str:
    return piece * (SIZE // len(piece.encode()))


def list_of(item: str) -> bytes:
    return b'{"type":"list","data":[' + ",".join([item] * (SIZE // (len(item) + 1))).encode() + b"]}"


ODD_ITEMS = {
    "control characters": '{"id":"a","text":"\n"}',
    "many lines and control characters": '{"id":"a",\n\n\n"text":"\t"}',
    "halves of surrogate pairs": '{"id":"a","text":"\\ud800"}',
    "no JSON number": '{"id":"a","n":NaN}',
    "large numbers": '{"id":"a","n":1e999}',
    "long numbers": '{"id":"a","n":' + "9" * 5000 + "}",
    "deep": '{"id":"a","n":' + "[" * 1500 + "]" * 1500 + "}",
    "deep and wide": "[" + "[]," * 20 + "[" * 3000 + "]" * 3000 + "]",
    "an open text": '"\x1f',
    "open brackets": "[",
}


@pytest.mark.parametrize("loads", [None, _strict_loads], ids=["the usual decoder", "json"])
@pytest.mark.parametrize("item", ODD_ITEMS.values(), ids=ODD_ITEMS)
def test_a_page_of_odd_items(item: str, loads: Any) -> None:
    codec = Codec(loads=loads, clean=Redactor("an-api-key-that-is-secret").clean_body)
    within(lambda: codec.page(list_of(item)), ResponseDecodeError)
    within(lambda: codec.json(list_of(item)), ResponseDecodeError)


@pytest.mark.parametrize("names", ['"a\x1f":1,', '"a":1,', '"data":[1],', '"data":[NaN],', " "], ids=repr)
def test_an_object_of_many_members(names: str) -> None:
    within(lambda: Codec().page(b"{" + much(names).encode() + b"\x1f}"), ResponseDecodeError)


PERIODIC = {
    "one letter": "a",
    "two letters": "ab",
    "percent": "%41",
    "base64": "QUFB",
    "escapes": "\\u0041",
    "slashes": "\\/",
}


@pytest.mark.parametrize("token", [much("a")[:65_536], ("ab" * 5000)[:-1] + "c", "%41" * 20_000, "a" * 98 + "b"])
@pytest.mark.parametrize("text", [much(each) for each in PERIODIC.values()], ids=PERIODIC)
def test_redaction_of_a_token_that_a_server_chose(token: str, text: str) -> None:
    redactor = Redactor(token[:200])
    for _ in range(20):
        redactor.learn(token)
    within(lambda: redactor.text(text))
    within(lambda: redactor.clean_body(text.encode()))
    within(lambda: cause_of(ValueError(text), redactor.text))


def test_redaction_of_a_text_full_of_the_credential() -> None:
    redactor = Redactor("an-api-key")
    within(lambda: redactor.text(much("an-api-key ")))
    within(lambda: redactor.text(much("%61n-api-key ")))
    within(lambda: redactor.value({"data": [{"detail": much("an-api-key"), "code": much("bearer ")}]}))


LOOKALIKES = ("bearer ", "bearer" + " " * 50, "basic%20", "whsec_", "bearer+", "bearer " + "a" * 19 + "!")


@pytest.mark.parametrize("piece", LOOKALIKES)
def test_texts_that_nearly_look_like_a_credential(piece: str) -> None:
    within(lambda: Redactor().text(much(piece)))
    within(lambda: Redactor().text("bearer" + much(piece[-1])))


@pytest.mark.parametrize("piece", ["/%25", "/%2525", "/.", "/;", "/%3b", "%", "?", "#", "/a%2f", ":", "[", "//"])
@pytest.mark.parametrize("start", ["", "https://", "https://au-api.basiq.io/"])
def test_links(start: str, piece: str) -> None:
    link = start + much(piece)
    within(lambda: BASE.resolve(link, "https://au-api.basiq.io/prefix/events"), LinkError)
    within(lambda: show_url(link))


@pytest.mark.parametrize("piece", [".", "a.", "consent.", "a"])
def test_an_event_type_of_many_words(piece: str) -> None:
    async def handle(delivery: Any) -> None: ...

    routes = Routes()
    routes.add(("consent.*", "a.b.c.*", "*"), handle)
    within(lambda: [routes.find(much(piece) + str(number)) for number in range(20)])


VALUES = {"digits": "1", "days": "Mon, ", "points": "1:", "brackets": "(", "commas": ","}


@pytest.mark.parametrize("piece", VALUES.values(), ids=VALUES)
def test_dates_headers_and_other_texts(piece: str) -> None:
    text = much(piece)
    within(lambda: read_datetime(text), ValueError)
    within(lambda: parse_date(text))
    within(lambda: parse_retry_after(text, datetime(2026, 1, 5, tzinfo=UTC)))
    within(lambda: printable(text + "\x1b"))
    within(lambda: json_line({text: "\u202e" + text}))
    within(lambda: read_links([{text: text}] * 10))
    within(lambda: read_text([text]))


@pytest.mark.parametrize("model", [Message, Webhook, Event])
def test_a_model_of_long_texts(model: type[Any]) -> None:
    text = much("a.")
    value = {"id": text, "url": text, "payload": {"eventTypeId": text}, "attempts": [{"timestamp": None}] * 1000}
    value |= {"type": text, "entity": text, "eventType": text, "createdDate": text, "links": {"webhook": text}}
    within(lambda: repr(Codec().read(model, json.dumps(value).encode())), ResponseDecodeError, Unreadable)


def test_an_error_body() -> None:
    redactor = Redactor("an-api-key")
    entry = json.dumps({"code": much("an-api-key"), "detail": "bearer " * 100})
    body = b'{"correlationId":' + entry.encode() + b',"data":[' + entry.encode() + b"]}"
    response = Response(500, {"retry-after": much("1,")}, body)
    within(lambda: error_from(response, method="GET", path="/", redactor=redactor))
    within(lambda: read_correlation_id(response, redactor.text))
