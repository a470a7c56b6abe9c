"""No redirect is followed: the token never leaves the API's own origin."""

from __future__ import annotations

import pytest

from basiq_async import APIError
from tests.support.outcomes import client_of, outcome
from tests.support.wire import TOKEN, Wire, http, ok

LOCATIONS = {
    "another host": "http://127.0.0.1:{other}/stolen",
    "the same host, another port": "http://127.0.0.1:{other}/",
    "another scheme": "https://127.0.0.1:{own}/",
    "itself": "http://127.0.0.1:{own}/notifications/webhooks/w1",
    "a path": "/elsewhere",
    "relative": "elsewhere",
    "no scheme": "//127.0.0.1:{other}/",
    "user info": "http://127.0.0.1:{own}@127.0.0.1:{other}/",
    "empty": "",
    "not a url": "\x01 ::: nonsense",
    "echo of the token": "http://127.0.0.1:{other}/?token={token}",
}
CALLS = {
    "GET": lambda client: client.webhooks.get("w1"),
    "POST": lambda client: client.webhooks.update("w1", url="https://example.com"),
    "DELETE": lambda client: client.webhooks.delete("w1"),
    "list": lambda client: client.messages.list("w1").collect(),
}


@pytest.mark.parametrize("location", LOCATIONS.values(), ids=LOCATIONS)
async def test_a_redirect_of_any_call_is_an_error_and_nothing_reaches_the_other_side(location: str) -> None:
    async with Wire(ok({})) as other, Wire() as wire, client_of(wire) as client:
        target = location.format(other=other.port, own=wire.port, token=TOKEN)
        for number, status in enumerate((301, 302, 303, 307, 308, 300)):
            wire.script = [http(status, "", f"Location: {target}", "Set-Cookie: a=b")]
            name, call = list(CALLS.items())[number % len(CALLS)]
            got = await outcome(call(client))
            assert (type(got), got.status) == (APIError, status), name
            assert "redirect" in str(got)
        assert len(wire.requests) == 6
        assert other.connections == 0


async def test_a_redirect_of_the_token_call_does_not_take_the_key_along() -> None:
    async with Wire(ok({})) as other, Wire() as wire, client_of(wire) as client:
        for status in (301, 302, 303, 307, 308):
            wire.tokens = [http(status, "", f"Location: {other.url}/token")]
            got = await outcome(client.webhooks.get("w1"))
            assert (type(got), got.status, got.path) == (APIError, status, "/token")
        assert other.connections == 0


async def test_a_redirect_without_a_location_is_an_error() -> None:
    async with Wire(http(302)) as wire, client_of(wire) as client:
        assert (await outcome(client.webhooks.get("w1"))).status == 302


@pytest.mark.parametrize(
    "header",
    [
        "Refresh: 0; url=http://127.0.0.1:{other}/",
        "Content-Location: http://127.0.0.1:{other}/",
        "Link: <http://127.0.0.1:{other}/>; rel=next",
        'Alt-Svc: h2="127.0.0.1:{other}"',
    ],
)
async def test_no_other_header_leads_anywhere(header: str) -> None:
    async with Wire(ok({})) as other, Wire() as wire, client_of(wire) as client:
        wire.script = [http(200, '{"id": "w1", "url": "https://example.com"}', header.format(other=other.port))]
        for _ in range(2):
            assert (await outcome(client.webhooks.get("w1"))).id == "w1"
        assert other.connections == 0
