"""A server that plays our credentials back, wherever it can: nothing that is shown has them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from basiq_async import BasiqClient, BasiqError, Request, Response, Secret, TransportError
from basiq_async.transports.auth import ApiKey, Authenticated
from tests.faults.conftest import assert_quiet
from tests.support.outcomes import ONCE, QUICK, assert_hidden, client_of, outcome, texts_of
from tests.support.wire import KEY, MARK, SIGNING, TOKEN, Step, Wire, closing, http, ok, page, resetting

BOTH = f"Authorization: Bearer {TOKEN} and Basic {KEY} and {SIGNING}"


def escaped(text: str) -> str:
    return "".join(f"\\u{ord(char):04x}" for char in text)


def error_with(detail: str, **more: Any) -> str:
    entry = {"code": detail, "title": detail, "detail": detail, "source": {"parameter": detail}, **more}
    return json.dumps({"correlationId": detail, "data": [entry, {"x": [{"y": detail, detail: 1}]}]})


ECHOES: dict[str, Step] = {
    "the error's texts": http(400, error_with(BOTH)),
    "the error's texts, long": http(400, error_with("x" * 490 + BOTH)),
    "the error's texts, escaped": http(400, f'{{"data":[{{"code":"{escaped(TOKEN)}","detail":"{escaped(KEY)}"}}]}}'),
    "the error's texts, UTF-16": http(400, error_with(BOTH).encode("utf-16")),
    "a body that is no json": http(200, BOTH),
    "half a json": http(200, f'{{"id": "{BOTH}'),
    "an id that is none": http(200, json.dumps({"id": [BOTH], "url": [BOTH]})),
    "a url that is none": http(200, json.dumps({"id": "x", "url": {"x": BOTH}, "secret": [SIGNING]})),
    "a date": http(200, json.dumps({"id": "x", "createdDate": BOTH})),
    "the reason": f"HTTP/1.1 400 {BOTH}\r\nContent-Length: 0\r\n\r\n".encode(),
    "a header": http(400, "{}", f"X-Echo: {BOTH}"),
    "a header without a colon": closing(f"HTTP/1.1 200 OK\r\n{TOKEN} {KEY}\r\n\r\n".encode()),
    "no HTTP": closing(f"{TOKEN} {KEY}\r\n\r\n".encode()),
    "a huge header": closing(f"HTTP/1.1 200 OK\r\nX: {TOKEN * 1000}\r\n\r\n".encode()),
    "a chunk's size": closing(f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{TOKEN}\r\n".encode()),
    "an encoding": http(200, "{}", f"Content-Encoding: {TOKEN}"),
    "headers and then a reset": resetting(f"HTTP/1.1 200 OK\r\nX: {BOTH}\r\n\r\n".encode()),
    "a cookie": http(400, "{}", f"Set-Cookie: {TOKEN}={KEY}; Domain={TOKEN}", "Set-Cookie: \x01={0}"),
    "a cookie that is none": http(400, "{}", f'Set-Cookie: a="{TOKEN}\\', f"Set-Cookie: {TOKEN}@@@={KEY};;;="),
    "a redirect": http(302, "{}", f"Location: https://evil.example/?token={TOKEN}&key={KEY}"),
    "a wait": http(429, "{}", f"Retry-After: {TOKEN}"),
    "a charset": http(200, b"\xff", f"Content-Type: text/html; charset={TOKEN}"),
    "a trailer": closing(f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{TOKEN}\r\n\r\n".encode()),
    "an upgrade": closing(f"HTTP/1.1 101 {TOKEN}\r\nUpgrade: {TOKEN}\r\nConnection: upgrade\r\n\r\n".encode()),
}
CALLS: dict[str, Callable[[BasiqClient], Any]] = {
    "get": lambda client: client.webhooks.get("w1"),
    "create": lambda client: client.webhooks.create(url="https://example.com", subscribed_events=["user.created"]),
    "list": lambda client: client.messages.list("w1").collect(),
}


@pytest.mark.parametrize("step", ECHOES.values(), ids=ECHOES)
async def test_an_echo_in_any_part_of_an_answer_is_not_shown(step: Step) -> None:
    async with Wire(step) as wire, client_of(wire, retry=QUICK) as client:
        for name, call in CALLS.items():
            got = await outcome(call(client))
            assert isinstance(got, BasiqError) or got == [], (name, got)


@pytest.mark.parametrize("step", ECHOES.values(), ids=ECHOES)
async def test_an_echo_in_any_part_of_a_token_answer_is_not_shown(step: Step) -> None:
    async with Wire(http(401), tokens=[ok({"access_token": TOKEN}), step]) as wire, client_of(wire) as client:
        assert isinstance(await outcome(client.webhooks.get("w1")), BasiqError)


LINKS = [
    f"https://evil.example/?t={TOKEN}",
    f"https://{TOKEN}.example/{KEY}",
    f"javascript:{TOKEN}",
    f"/../{TOKEN}",
    f"http://{TOKEN}@x/",
]


@pytest.mark.parametrize("link", LINKS)
async def test_an_echo_in_a_link_is_not_shown(link: str) -> None:
    async with Wire(page([], link)) as wire, client_of(wire) as client:
        got = await outcome(client.messages.list("w1").collect())
        assert isinstance(got, BasiqError)


async def test_an_echo_in_a_link_of_our_own_is_not_logged() -> None:
    async with Wire(page([], f"/{TOKEN}/x?key={KEY}"), http(500)) as wire, client_of(wire) as client:
        got = await outcome(client.messages.list("w1").collect())
        assert (got.status, got.path) == (500, "/[redacted]/x")


async def test_an_echo_of_a_token_that_has_been_renewed_is_not_shown() -> None:
    old = f"{TOKEN}-the-first"
    script: list[Step] = [http(401), http(400, error_with(f"not any more: {old}"))]
    tokens = [ok({"access_token": old}), ok({"access_token": f"{TOKEN}-the-second"})]
    async with Wire(*script, tokens=tokens) as wire, client_of(wire) as client:
        assert (await outcome(client.webhooks.get("w1"))).status == 400


@pytest.mark.parametrize(
    "raised",
    [RuntimeError, OSError, TimeoutError, ValueError, KeyError, TransportError, ExceptionGroup],
    ids=lambda c: c.__name__,
)
async def test_what_a_transport_of_others_raises_does_not_show_the_token(raised: Any) -> None:
    class Talkative:
        async def send(self, request: Request, /) -> Response:
            if request.url.endswith("/token") and raised is not KeyError:
                return Response(200, {}, json.dumps({"access_token": TOKEN}).encode())
            said = f"could not send {dict(request.headers)}"
            if raised is TransportError:
                try:
                    raise RuntimeError(said)
                except RuntimeError as exc:
                    raise TransportError("failed") from exc
            raise raised(said, [ValueError(said)]) if raised is ExceptionGroup else raised(said)

        async def aclose(self) -> None: ...

    async with BasiqClient(KEY, transport=Talkative(), retry=ONCE) as client:
        got = await outcome(client.webhooks.get("w1"))
        assert isinstance(got, TransportError)


def test_nothing_that_holds_a_credential_shows_it() -> None:
    client = BasiqClient(KEY)
    request = Request("GET", "https://x", {"authorization": f"Bearer {TOKEN}"}, TOKEN.encode())
    response = Response(200, {"x": TOKEN}, TOKEN.encode())
    api = client.webhooks._api
    for thing in (
        client,
        ApiKey(KEY),
        Secret(SIGNING),
        request,
        response,
        api,
        api.redactor,
        api.transport,
        client.webhooks,
        vars(client),
    ):
        for text in (repr(thing), str(thing), f"{thing}"):
            assert MARK not in text
    assert isinstance(api.transport, Authenticated)


def test_the_helpers_of_these_tests_find_a_secret_that_is_shown() -> None:
    hidden = ValueError("x")
    hidden.__context__ = ValueError(TOKEN)
    with pytest.raises(AssertionError):
        assert_hidden(hidden)
    assert any(MARK in text for text in texts_of(hidden))


def test_a_secret_that_is_logged_is_found() -> None:
    for record in (
        ("x", logging.DEBUG, "f", 1, "%s", (TOKEN,), None),
        ("asyncio", logging.ERROR, "f", 1, "", (), None),
    ):
        with pytest.raises(AssertionError):
            assert_quiet([logging.LogRecord(*record)])
