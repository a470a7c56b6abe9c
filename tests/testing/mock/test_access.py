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
from basiq_async._redaction.credentials import prove
from basiq_async._web.access import Guard
from basiq_async.errors import ConfigurationError
from basiq_async.testing import FakeBasiq, serve
from basiq_async.testing.mock._operation import Challenges  # private: a thousand calls take long
from tests.support.served import first_line, serving

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


EMIT = ("POST", "/_fake/emit")
STATE = ("GET", "/_fake/state")
TYPES = ("GET", "/events/types")
TOKEN = {"X-Fake-Token": "t0ken"}
OWN = {"Origin": "{base}"}
KEY = {"Authorization": f"Basic {FakeBasiq.DEFAULT_API_KEY}"}
PROXIED = {"Via": "1.1 proxy"}
NAVIGATED = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
NAMED = {"allowed_hosts": ["mock", "mock.example"]}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.mark.parametrize(
    ("options", "call", "headers", "status"),
    [
        # The names of this machine, and those that are given, may stand in Host.
        *(({}, TYPES, {"Host": host}, 401) for host in ("localhost", "LOCALHOST.", "127.0.0.1:99", "[::1]:5")),
        *((NAMED, TYPES, {"Host": host}, 401) for host in ("mock", "mock:4010")),
        ({"host": "0.0.0.0"}, STATE, {"Host": "10.1.2.3:80"}, 200),
        ({"host": "0.0.0.0"}, STATE, {"Host": "a.example"}, 403),
        # Who comes through a proxy on this machine needs the token, and everybody where another machine is named.
        ({}, STATE, {}, 200),
        *(
            row
            for proxied in (
                {"Forwarded": "for=192.0.2.1"},
                {"X-Forwarded-For": "192.0.2.1"},
                {"x-forwarded-proto": "https"},
                {"X-Real-IP": "192.0.2.1"},
                PROXIED,
            )
            for row in (({}, STATE, proxied, 403), ({}, STATE, {**proxied, **TOKEN}, 200))
        ),
        (NAMED, STATE, {}, 403),
        *((NAMED, ("GET", f"/_fake/{path}"), {}, 200) for path in ("health", "challenge")),
        (NAMED, STATE, TOKEN, 200),
        ({"allowed_hosts": ["localhost", "127.0.0.2"]}, STATE, {}, 200),
        # A link or a frame of another site reaches the page and nothing else.
        *(
            ({}, ("GET", path), {**NAVIGATED, "Sec-Fetch-Site": site}, 200 if path == "/_fake/" else 403)
            for site in ("cross-site", "same-site")
            for path in ("/_fake/", "/_fake/messages?search=x", *PATHS[:3], "/_fake/ui/sections", "/events")
        ),
        # A page of its own needs the token to change anything, and a program the key.
        ({}, EMIT, OWN, 403),
        ({}, EMIT, {**OWN, "X-Fake-Token": "wrong"}, 403),
        ({}, EMIT, {**OWN, **TOKEN}, 200),
        ({}, EMIT, {"Sec-Fetch-Site": "same-origin"}, 403),
        ({}, EMIT, {**OWN, "Cookie": "fake_token=t0ken"}, 403),
        ({}, EMIT, {**OWN, **KEY}, 403),
        ({}, EMIT, KEY, 200),
        *(({}, EMIT, {**key, "X-Fake-State": "x"}, 403) for key in ({}, KEY)),
        # A form is no call of the control API.
        *(({}, EMIT, {"Content-Type": kind}, 415) for kind in ("text/plain", *FORM.values(), "multipart/form-data")),
        # An empty token, in a header or in the path, is no token.
        *(
            ({}, ("POST", f"/_fake{root}/emit"), {**header, **more}, status)
            for root in ("", "/~")
            for header in ({}, {"X-Fake-Token": ""})
            for more, status in (({}, 401), (OWN, 403), (PROXIED, 403))
        ),
        ({}, ("POST", "/_fake/~t0ken/emit"), {}, 200),
        ({}, ("POST", "/_fake/~t0ken/emit"), {"X-Fake-Token": ""}, 200),
    ],
)
async def test_who_may_call_what(
    fake: FakeBasiq, options: dict[str, Any], call: tuple[str, str], headers: dict[str, str], status: int
) -> None:
    method, path = call
    async with serve(fake, **{"control_token": "t0ken", **options}) as base_url, aiohttp.ClientSession() as session:
        base = base_url.replace("0.0.0.0", "127.0.0.1")
        known = {"{base}": base}
        sent = {"Content-Type": "application/json"} if method == "POST" else {}
        sent |= {name: known.get(text, text) for name, text in headers.items()}
        body = json.dumps({"eventTypeId": "user.created"}) if method == "POST" else None
        assert await _status(session, method, base + path, data=body, headers=sent) == status


async def test_a_proof_of_the_key_is_good_for_one_request_and_no_other(fake: FakeBasiq) -> None:
    """The program that held the mock's port before has seen a proof, and sends it again, or with another body."""
    url, body = "/_fake/webhooks", json.dumps({"url": "http://127.0.0.1:9/basiq"}).encode()
    async with serve(fake) as base_url, aiohttp.ClientSession() as session:

        async def challenge() -> str:
            async with session.get(f"{base_url}/_fake/challenge") as response:
                return str((await response.json())["challenge"])

        async def send(proof: str, path: str = url, data: bytes = body) -> int:
            headers = {"X-Fake-State": proof, "Content-Type": "application/json"}
            return await _status(session, "POST", base_url + path, data=data, headers=headers)

        def proof_of(given: str, key: str = fake.api_key) -> str:
            return f"{given}.{prove(key, given, 'POST', url, body)}"

        proof = proof_of(await challenge())
        assert [await send(proof), await send(proof)] == [200, 403]
        assert await send(proof_of(await challenge()), "/_fake/reset", b"{}") == 403
        assert await send(proof_of(await challenge()), data=body.replace(b":9/", b":8/")) == 403
        assert await send(proof_of("made-up")) == 403
        assert await send(proof_of(await challenge(), "another")) == 403
        assert await send(f"{await challenge()}.") == 403
        early = await challenge()
        for _ in range(1_000):
            await challenge()
        assert await send(proof_of(early)) == 403, "the oldest are forgotten"
        assert await send(proof_of(await challenge())) == 400, "there is a webhook of this url: it was let in"
    assert len(fake.webhooks()) == 1


async def test_a_proof_of_the_token_is_good_for_one_request_and_no_other(
    fake: FakeBasiq, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("basiq_async._web.access.is_loopback", lambda request: False)
    async with serve(fake, control_token="t0ken") as base_url, aiohttp.ClientSession() as session:

        async def headers(token: str = "t0ken", path: str = "/_fake/state") -> dict[str, str]:
            async with session.get(f"{base_url}/_fake/challenge") as response:
                given = str((await response.json())["challenge"])
            state = f"{given}.{prove(fake.api_key, given, 'GET', path, b'')}"
            return {"X-Fake-State": state, "X-Fake-Token-Proof": prove(token, given, "GET", path, b"")}

        async def send(sent: dict[str, str], path: str = "/_fake/state") -> int:
            return await _status(session, "GET", base_url + path, headers=sent)

        first = await headers()
        assert [await send(first), await send(first)] == [200, 403]
        assert await send(await headers("another")) == 403
        assert await send(await headers(), "/_fake/webhooks") == 403
        assert await send({**await headers(), "X-Fake-State": (await headers())["X-Fake-State"]}) == 403
        for name in first:
            assert await send({name: (await headers())[name]}) == 403


async def test_two_host_headers_are_refused(fake: FakeBasiq) -> None:
    async with serve(fake) as base_url:
        head = "GET /_fake/state HTTP/1.1\r\nHost: {host}\r\nHost: attacker.example\r\n\r\n"
        assert b" 40" in await first_line(base_url, head)


async def test_a_token_of_other_bytes_is_refused_as_what_is_not_valid(fake: FakeBasiq) -> None:
    async with serve(fake, control_token="t0ken") as base_url:
        for path, line in ((b"/_fake/state", b"X-Fake-Token: \xff"), (b"/_fake/~%C3%BF/state", b"X: y")):
            head = b"GET " + path + b" HTTP/1.1\r\nHost: {host}\r\n" + line + b"\r\n\r\n"
            assert b" 400 " in await first_line(base_url, head)


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


@pytest.mark.parametrize(
    ("to", "url", "goes"),
    [
        ("127.0.0.1:443", "https://127.0.0.1/hook", True),
        ("127.0.0.1:80", "http://127.0.0.1/hook", True),
        ("127.0.0.1:80", "https://127.0.0.1/hook", False),
        ("127.0.0.1:443", "http://127.0.0.1/hook", False),
        ("LOCALHOST", "http://localhost:1/hook", True),
        ("::1", "http://[::1]:1/hook", True),
        ("[::1]:1", "http://[::1]:1/hook", True),
        ("[::1]:2", "http://[::1]:1/hook", False),
    ],
)
async def test_a_place_for_deliveries_is_a_host_with_or_without_its_port(
    fake: FakeBasiq, to: str, url: str, goes: bool
) -> None:
    fake.add_webhook(url)
    async with serve(fake, deliver_to=[to]):
        await fake.emit("user.created")
    (attempt,) = fake.deliveries
    assert attempt.response.startswith("no route") is not goes


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


async def test_another_library_that_is_missing_is_no_missing_extra(
    fake: FakeBasiq, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "basiq_async._web.page", None)
    monkeypatch.delitem(sys.modules, "basiq_async.testing.mock._page", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"_web\.page"):
        async with serve(fake):
            pass


def test_the_latest_thousand_challenges_are_good_for_one_request_each() -> None:
    challenges = Challenges()
    made = [challenges.make() for _ in range(1_001)]
    asked = (made[0], made[1], made[1], made[-1], "made up")
    assert [challenges.use(each) for each in asked] == [False, True, False, True, False]
