"""A server that sends a credential back does not have it shown: the boundary where a response becomes objects."""

from __future__ import annotations

import base64
import json
import logging
import urllib.parse
from typing import Any

import pytest

from basiq_async import BasiqClient, BasiqError, Event, Message, Response, RetryPolicy, Webhook
from basiq_async._redaction.credentials import REDACTED
from basiq_async.hooks import RequestEvent
from tests.support.scripted import API_KEY, TOKEN, Scripted, answer, client

ECHOED = f"{TOKEN}-1"
FORMS = {
    "as it is": lambda text: text,
    "percent-encoded": lambda text: urllib.parse.quote(text, safe=""),
    "percent-encoded whole": lambda text: "".join(f"%{ord(char):02X}" for char in text),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 of a header": lambda text: base64.b64encode(f"Basic {text}".encode()).decode(),
}


def escape(text: str) -> str:
    return "".join(f"\\u{ord(char):04x}" for char in text)


def body_of(value: Any, *, escaped: bool) -> Response:
    """A response whose ``§…§`` stand in it as JSON escapes."""
    parts = json.dumps(value, ensure_ascii=False).split("§")
    texts = [escape(part) if escaped and index % 2 else part for index, part in enumerate(parts)]
    return Response(200, {}, "".join(texts).encode())


def objects(shown: str) -> dict[str, Any]:
    text = f"§{shown}§"
    return {
        "id": f"id-{text}",
        "url": f"https://a/{text}",
        "name": text,
        "status": text,
        "entity": "consent",
        "dataRef": text,
        "payload": {"eventTypeId": text},
        "data": {text: 1},
    }


@pytest.mark.parametrize("escaped", [False, True], ids=["plain", "escaped"])
@pytest.mark.parametrize("credential", [API_KEY, ECHOED], ids=["key", "token"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
async def test_no_object_holds_a_credential_that_came_back(form: Any, credential: str, *, escaped: bool) -> None:
    shown = form(credential)
    one = body_of(objects(shown), escaped=escaped)
    many = body_of({"type": "list", "data": [objects(shown)] * 2}, escaped=escaped)
    basiq = client(Scripted(answer({"id": "w", "url": "x"}), one, one, one, one, many, many, many))
    await basiq.webhooks.get("w")
    found: list[Any] = [
        await basiq.webhooks.get("w"),
        await basiq.events.get("e"),
        await basiq.messages.get("w", "m"),
        await basiq.get("/users/1"),
        *await basiq.messages.list("w").collect(),
        *await basiq.webhooks.list().collect(),
        *await basiq.list("/users").collect(),
    ]
    assert {type(each) for each in found} == {Webhook, Event, Message, dict}
    for each in found:
        text = repr(each) + json.dumps(getattr(each, "raw", each), default=str)
        assert shown.rstrip("=") not in text
        assert REDACTED in text


async def test_an_item_that_is_no_json_shows_none_either() -> None:
    text = "x" * 65_530 + ECHOED  # would be cut within the credential
    broken = b'{"type":"list","data":[{"id":"a","text":"\n%s"},{"id":"b"}]}' % text.encode()
    basiq = client(Scripted(answer({"id": "w", "url": "x"}), Response(200, {}, broken)))
    await basiq.webhooks.get("w")
    seen: list[Any] = []
    found = await basiq.messages.list("w", on_unreadable=seen.append).collect()
    assert [message.id for message in found] == ["b"]
    assert TOKEN[:6] not in seen[0].raw


def test_other_bodies_are_returned_as_they_came() -> None:
    basiq = BasiqClient(API_KEY, transport=Scripted(answer({})))
    clean = basiq._api.redactor.clean_body
    for body in (b"{}", b'{"a":"100 %"}', b'{"a":"\\u0026 \\/ %41"}', '{"a":"é"}'.encode(), b"\xff\xfe"):
        assert clean(body) is body


async def test_a_correlation_id_is_cut_after_it_was_redacted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    long = "x" * (500 - 8) + API_KEY
    events: list[RequestEvent] = []
    failed = answer({"correlationId": long, "data": [{"code": long, "detail": long}]}, 503)
    basiq = client(Scripted(failed), on_request=events.append, retry=RetryPolicy(max_retries=1, base=0))
    with pytest.raises(BasiqError) as caught:
        await basiq.webhooks.get("w")
    shown = [repr(events), repr(vars(caught.value)), *(repr(vars(record)) for record in caplog.records)]
    assert all(API_KEY[:8] not in text for text in shown)
