"""A served fake is not reachable by web pages of other sites, and its deliveries go only where they may."""

from __future__ import annotations

import json
import pickle
import sys
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web

from basiq_async import BasiqClient
from basiq_async._redaction.credentials import fingerprint
from basiq_async._web.access import Guard
from basiq_async.errors import ConfigurationError
from basiq_async.testing import FakeBasiq, serve
from tests.support.served import serving

from .conftest import first_line

PATHS = ["/_fake/state", "/token", "/notifications/webhooks", "/_fake/openapi.json", "/_fake/no-such"]


async def _status(session: aiohttp.ClientSession, method: str, url: str, **options: Any) -> int:
    async with session.request(method, url, **options) as response:
        if response.status == 403:
            body = await response.json()
            assert set(body["error"]) == {"code", "message"}
        assert "Access-Control-Allow-Origin" not in response.headers
        return response.status


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "attacker.example"},
        {"Host": "attacker.example:4010"},
        {"Host": "127.0.0.1.attacker.example"},
        {"Host": "localhost@attacker.example"},
        {"Host": "127.0.0.1:4010.attacker.example"},
        {"Host": "localhost:attacker.example"},
        {"Host": "[::1].attacker.example"},
        {"Host": "10.0.0.1"},
        {"Host": ""},
        {"Origin": "https://attacker.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
    ],
    ids=str,
)
async def test_another_site_is_refused(headers: dict[str, str]) -> None:
    fake = FakeBasiq()
    async with serve(fake) as base_url, aiohttp.ClientSession() as session:
        found = {
            f"{method} {path}": await _status(session, method, base_url + path, headers=headers)
            for path in PATHS
            for method in ("GET", "POST", "OPTIONS")
        }
    assert set(found.values()) == {403}, found
    assert not fake.requests


async def test_two_host_headers_are_refused(fake: FakeBasiq) -> None:
    async with serve(fake) as base_url:
        head = "GET /_fake/state HTTP/1.1\r\nHost: {host}\r\nHost: attacker.example\r\n\r\n"
        assert b" 40" in await first_line(base_url, head)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "127.0.0.1:99", "[::1]:5", "mock", "mock:4010"])
async def test_the_names_of_this_machine_and_those_that_are_given_are_allowed(fake: FakeBasiq, host: str) -> None:
    async with serve(fake, allowed_hosts=["mock"]) as base_url, aiohttp.ClientSession() as session:
        assert await _status(session, "GET", f"{base_url}/events/types", headers={"Host": host}) == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Forwarded": "for=192.0.2.1"},
        {"X-Forwarded-For": "192.0.2.1"},
        {"x-forwarded-proto": "https"},
        {"X-Real-IP": "192.0.2.1"},
        {"Via": "1.1 proxy"},
    ],
    ids=str,
)
async def test_who_comes_through_a_proxy_on_this_machine_needs_the_token(
    fake: FakeBasiq, headers: dict[str, str]
) -> None:
    token = {"X-Fake-Token": "t0ken"}
    async with serve(fake, control_token="t0ken") as base_url, aiohttp.ClientSession() as session:
        url = f"{base_url}/_fake/state"
        assert await _status(session, "GET", url) == 200
        assert await _status(session, "GET", url, headers=headers) == 403
        assert await _status(session, "GET", url, headers={**headers, **token}) == 200


async def test_where_a_name_of_another_machine_is_allowed_everybody_needs_the_token(fake: FakeBasiq) -> None:
    async with (
        serve(fake, control_token="t0ken", allowed_hosts=["mock.example"]) as base_url,
        aiohttp.ClientSession() as session,
    ):
        url = f"{base_url}/_fake/state"
        assert await _status(session, "GET", url) == 403
        assert await _status(session, "GET", url, headers={"X-Fake-Token": "t0ken"}) == 200
    async with serve(fake, allowed_hosts=["localhost", "127.0.0.2"]) as base_url, aiohttp.ClientSession() as session:
        assert await _status(session, "GET", f"{base_url}/_fake/state") == 200


@pytest.mark.parametrize("mode", ["cross-site", "same-site"])
async def test_a_link_or_a_frame_of_another_site_reaches_the_page_and_nothing_else(fake: FakeBasiq, mode: str) -> None:
    headers = {"Sec-Fetch-Site": mode, "Sec-Fetch-Mode": "navigate"}
    async with serve(fake) as base_url, aiohttp.ClientSession() as session:
        assert await _status(session, "GET", f"{base_url}/_fake/", headers=headers) == 200
        for path in ("/_fake/messages?search=x", "/_fake/state", "/_fake/ui/sections", "/events", "/token"):
            assert await _status(session, "GET", base_url + path, headers=headers) == 403


async def test_a_token_of_other_bytes_is_refused_as_what_is_not_valid(fake: FakeBasiq) -> None:
    async with serve(fake, control_token="t0ken") as base_url:
        for path, line in ((b"/_fake/state", b"X-Fake-Token: \xff"), (b"/_fake/~%C3%BF/state", b"X: y")):
            head = b"GET " + path + b" HTTP/1.1\r\nHost: {host}\r\n" + line + b"\r\n\r\n"
            assert b" 400 " in await first_line(base_url, head)


@pytest.mark.parametrize(
    ("bound", "host", "allowed"), [("0.0.0.0", "10.1.2.3:80", True), ("0.0.0.0", "a.example", False)]
)
async def test_a_server_on_every_address_takes_any_address_but_no_name(bound: str, host: str, allowed: bool) -> None:
    fake = FakeBasiq()
    async with serve(fake, bound) as base_url, aiohttp.ClientSession() as session:
        url = base_url.replace("0.0.0.0", "127.0.0.1")
        status = await _status(session, "GET", f"{url}/_fake/state", headers={"Host": host})
    assert status == (200 if allowed else 403)


async def test_a_page_of_its_own_needs_the_token_to_change_anything(fake: FakeBasiq) -> None:
    async with serve(fake, control_token="t0ken") as base_url, aiohttp.ClientSession() as session:
        url = f"{base_url}/_fake/emit"
        body = {"eventTypeId": "user.created"}
        own = {"Origin": base_url}
        assert await _status(session, "POST", url, json=body, headers=own) == 403
        assert await _status(session, "POST", url, json=body, headers={**own, "X-Fake-Token": "wrong"}) == 403
        assert await _status(session, "POST", url, json=body, headers={**own, "X-Fake-Token": "t0ken"}) == 200
        assert await _status(session, "POST", url, json=body, headers={"Sec-Fetch-Site": "same-origin"}) == 403
        cookies = {"Cookie": "fake_token=t0ken"}
        assert await _status(session, "POST", url, json=body, headers={**own, **cookies}) == 403
        key = {"Authorization": f"Basic {fake.api_key}"}
        assert await _status(session, "POST", url, json=body, headers=key) == 200
        assert await _status(session, "POST", url, json=body, headers={**key, **own}) == 403


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_a_form_is_no_call_of_the_control_api(fake: FakeBasiq, content_type: str) -> None:
    async with serve(fake) as base_url, aiohttp.ClientSession() as session:
        data = json.dumps({"eventTypeId": "user.created"})
        url, headers = f"{base_url}/_fake/emit", {"Content-Type": content_type}
        assert await _status(session, "POST", url, data=data, headers=headers) == 415


async def test_who_is_not_on_this_machine_needs_the_token(fake: FakeBasiq, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("basiq_async._web.access.is_loopback", lambda request: False)
    async with serve(fake, control_token="t0ken") as base_url, aiohttp.ClientSession() as session:
        url = f"{base_url}/_fake/state"
        assert await _status(session, "GET", url) == 403
        assert await _status(session, "GET", url, headers={"X-Fake-Token": "t0ken"}) == 200
        assert await _status(session, "GET", f"{base_url}/_fake/~t0ken/state") == 200
        assert await _status(session, "GET", f"{base_url}/_fake/~wrong/state") == 403
        assert await _status(session, "GET", url, headers={"Cookie": "fake_token=t0ken"}) == 403
        # The API itself has keys of its own.
        assert await _status(session, "GET", f"{base_url}/events/types") == 401


def test_a_token_that_is_not_given_cannot_be_guessed_and_does_not_show() -> None:
    one, other = (Guard.make("127.0.0.1", (), None) for _ in range(2))
    assert one.token != other.token
    assert len(one.token) >= 32
    assert one.token not in repr(one)
    with pytest.raises(TypeError, match="holds a credential"):
        pickle.dumps(one)
    assert FakeBasiq.make_api_key() != FakeBasiq.make_api_key()


async def test_a_body_that_does_not_arrive_has_a_time_limit(fake: FakeBasiq, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("basiq_async._web.serving.SECONDS", 0.05)
    async with serve(fake) as base_url:
        for path in ("/token", "/_fake/emit"):
            head = f"POST {path} HTTP/1.1\r\nHost: {{host}}\r\nContent-Type: application/json\r\n"
            head += f"Authorization: Basic {fake.api_key}\r\nContent-Length: 9\r\n\r\n"
            assert b" 408 " in await first_line(base_url, head)
    assert not fake.requests


async def test_the_log_is_capped_in_bytes(fake: FakeBasiq) -> None:
    body, most = b"x" * 1_000_000, 64 * 2**20
    async with serve(fake) as base_url, aiohttp.ClientSession() as session:
        for _ in range(most // len(body) + 5):
            async with session.post(f"{base_url}/token", data=body) as response:
                await response.read()
    assert sum(len(request.body or b"") for request in fake.requests) <= most
    assert len(fake.requests) > 60
    assert fake.request_log[-1].number > len(fake.requests)


async def test_deliveries_go_only_where_they_may(fake: FakeBasiq) -> None:
    calls: list[str] = []

    async def hook(request: web.Request) -> web.Response:
        calls.append(request.path)
        return web.Response()

    async with serving(hook) as url:
        port = urlsplit(url).port or 0
        fake.add_webhook(f"http://127.0.0.1:{port}/allowed")
        fake.add_webhook(f"http://localhost:{port}/other-host")
        fake.add_webhook(f"http://127.0.0.1:{port + 1}/other-port")
        async with serve(fake, deliver_to=[f"127.0.0.1:{port}"]):
            await fake.emit("user.created")
    assert calls == ["/allowed"]
    assert sorted(attempt.response.startswith("no route") for attempt in fake.deliveries) == [False, True, True]


async def test_two_answers_to_where_deliveries_go_are_refused(fake: FakeBasiq) -> None:
    with pytest.raises(ConfigurationError, match="deliver_to or deliver_anywhere"):
        async with serve(fake, deliver_to=["a"], deliver_anywhere=True):
            pass


async def test_a_client_is_let_in_as_before(fake: FakeBasiq) -> None:
    async with serve(fake) as base_url, BasiqClient(fake.api_key, base_url=base_url) as basiq:
        await basiq.event_types.get("user.created")
    assert fake.request_log[-1].duration > 0


async def test_a_browser_on_another_machine_comes_in_with_the_token_in_the_path_and_gets_no_cookie(
    fake: FakeBasiq, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("basiq_async._web.access.is_loopback", lambda request: False)
    jar = aiohttp.CookieJar(unsafe=True)
    async with serve(fake, control_token="t0ken /") as base_url, aiohttp.ClientSession(cookie_jar=jar) as session:
        assert await _status(session, "GET", f"{base_url}/_fake/") == 403
        assert await _status(session, "GET", f"{base_url}/_fake/~wrong/") == 403
        async with session.get(f"{base_url}/_fake/~t0ken%20%2F/") as response:
            assert response.status == 200
            assert "Set-Cookie" not in response.headers
            assert 'data-root="/_fake/~t0ken%20%2F"' in await response.text()
        assert await _status(session, "POST", f"{base_url}/_fake/~t0ken%20%2F/next", json={}) == 200


async def test_no_program_gets_the_token_from_the_server(fake: FakeBasiq) -> None:
    async with serve(fake, control_token="t0ken") as base_url, aiohttp.ClientSession() as session:
        for path in ("ui/token", "", "state", "states", "openapi.json", "ui/sections", "ui/page.js"):
            async with session.get(f"{base_url}/_fake/{path}", headers={"X-Fake-Page": "1"}) as response:
                assert response.status == (404 if path == "ui/token" else 200)
                assert "t0ken" not in f"{await response.text()} {response.headers}"


async def test_without_the_extra_the_page_says_how_to_get_it(fake: FakeBasiq, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp_jinja2", None)
    monkeypatch.delitem(sys.modules, "basiq_async.testing.mock._page", raising=False)
    monkeypatch.delitem(sys.modules, "basiq_async._web.page", raising=False)
    async with serve(fake) as base_url, aiohttp.ClientSession() as session:
        async with session.get(f"{base_url}/_fake/") as response:
            assert response.status == 200
            assert "pip install '/path/to/the/clone[ui]'" in await response.text()
        assert await _status(session, "GET", f"{base_url}/_fake/state") == 200


@pytest.mark.parametrize("header", [{}, {"X-Fake-Token": ""}], ids=["absent", "empty"])
@pytest.mark.parametrize("root", ["/_fake", "/_fake/~"], ids=["no path", "empty path"])
async def test_an_empty_token_is_no_token(fake: FakeBasiq, header: dict[str, str], root: str) -> None:
    body = {"eventTypeId": "user.created"}
    async with serve(fake, control_token="t0ken") as base_url, aiohttp.ClientSession() as session:
        url = f"{base_url}{root}/emit"
        assert await _status(session, "POST", url, json=body, headers=header) == 401
        assert await _status(session, "POST", url, json=body, headers={**header, "Origin": base_url}) == 403
        assert await _status(session, "POST", url, json=body, headers={**header, "Via": "1.1 proxy"}) == 403
        token = {"X-Fake-Token": "t0ken"}
        assert await _status(session, "POST", f"{base_url}/_fake/emit", json=body, headers=token) == 200
        assert await _status(session, "POST", f"{base_url}/_fake/~t0ken/emit", json=body, headers=header) == 200


async def test_a_key_is_named_by_its_fingerprint_and_another_one_is_refused(fake: FakeBasiq) -> None:
    body = {"eventTypeId": "user.created"}
    async with serve(fake) as base_url, aiohttp.ClientSession() as session:
        for key, status in ((fake.api_key, 200), (FakeBasiq.make_api_key(), 403), ("", 403)):
            headers = {"X-Fake-State": fingerprint(key)}
            assert await _status(session, "POST", f"{base_url}/_fake/emit", json=body, headers=headers) == status
        for text in ("", fake.api_key):
            headers = {"X-Fake-State": text}
            assert await _status(session, "POST", f"{base_url}/_fake/emit", json=body, headers=headers) == 403
