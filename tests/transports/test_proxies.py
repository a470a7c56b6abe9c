"""Requests through a proxy: which one, over TLS, and what is said of one that refuses."""

from __future__ import annotations

import asyncio
import pickle
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import aiohttp
import pytest
import trustme
from yarl import URL

from basiq_async import (
    AiohttpTransport,
    BasiqClient,
    ConfigurationError,
    ConnectionFailedError,
    InMemoryTransport,
    Request,
    RequestTimeoutError,
    RetryPolicy,
    Webhook,
)
from basiq_async.transports.proxies import Proxies
from tests.support.command_line import COLD
from tests.support.environment import free_port
from tests.support.frames import leaks
from tests.support.outcomes import client_of, outcome
from tests.support.programs import run
from tests.support.proxy import Proxy, a_proxy
from tests.support.wire import KEY, Wire, listening, page

API = "https://basiq.example"
QUICK = RetryPolicy(max_retries=1, base=0.001)
VARIABLES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "REQUEST_METHOD")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def api(authority: trustme.CA) -> AsyncIterator[Wire]:
    """An API at ``https://basiq.example``, which no name server knows: only a proxy leads to it."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("basiq.example").configure_cert(context)
    async with Wire(tls=context) as wire:
        yield wire


@pytest.fixture
async def session(authority: trustme.CA) -> AsyncIterator[aiohttp.ClientSession]:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        yield session
    await asyncio.sleep(0.01)


@asynccontextmanager
async def through(proxy: str, session: aiohttp.ClientSession | None = None) -> AsyncIterator[BasiqClient]:
    transport = AiohttpTransport(session, proxy=proxy)
    try:
        async with BasiqClient(KEY, base_url=API, transport=transport, retry=QUICK, timeout=2.0) as basiq:
            yield basiq
    finally:
        await transport.aclose()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return monkeypatch


@pytest.mark.parametrize("login", [None, "ann:p%40ss"])
async def test_a_request_over_tls_goes_through_a_tunnel_of_the_proxy(
    api: Wire, session: aiohttp.ClientSession, login: str | None
) -> None:
    async with (
        a_proxy(api.port, login=login and "ann:p@ss") as proxy,
        through(with_login(proxy, login), session) as basiq,
    ):
        assert isinstance(await outcome(basiq.webhooks.get("w1")), Webhook)
        assert proxy.asked == ["CONNECT basiq.example:443 HTTP/1.1"], "one connection, for the token too"
    assert [request.headers["host"] for request in api.requests] == ["basiq.example"]
    assert "proxy-authorization" not in api.requests[0].headers


def with_login(proxy: Proxy, login: str | None) -> str:
    return proxy.url if login is None else proxy.url.replace("//", f"//{login}@")


async def test_a_refusal_names_the_proxy_without_its_password_and_nothing_was_sent(api: Wire) -> None:
    async with a_proxy(api.port, refuses="403 Forbidden") as proxy, through(with_login(proxy, "ann:pw")) as basiq:
        got = await outcome(basiq.webhooks.get("w1"))
        assert (type(got), got.sent) == (ConnectionFailedError, False)
        assert f"the proxy {proxy.url} refused a connection to basiq.example: status 403" in str(got)
        assert "pw" not in f"{got!s}{got!r}{got.__cause__!r}"
        assert len(proxy.asked) == 2, "it is tried again, as any connection"
    assert not api.token_requests


@pytest.mark.parametrize(("login", "said"), [("", "wants a user"), ("ann:wrong@", "refuses the user")])
async def test_407_says_what_the_proxy_wants_and_is_not_repeated(login: str, said: str) -> None:
    async with a_proxy(login="ann:right") as proxy, through(proxy.url.replace("//", f"//{login}")) as basiq:
        got = await outcome(basiq.webhooks.get("w1"))
        assert type(got) is ConfigurationError
        assert f"the proxy {proxy.url} {said}" in str(got)
        assert "wrong" not in f"{got!s}{got!r}{got.__cause__!r}"
        assert len(proxy.asked) == 1


async def test_407_to_a_request_without_tls_is_not_taken_for_the_api_s() -> None:
    async with a_proxy(login="ann:right") as proxy, client_of("http://basiq.example", proxy=proxy.url) as basiq:
        got = await outcome(basiq.webhooks.get("w1"))
        assert type(got) is ConfigurationError
        assert proxy.asked == ["POST http://basiq.example/token HTTP/1.1"]


async def test_a_proxy_that_is_not_there_is_named() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    async with through(url.replace("//", "//ann:pw@")) as basiq:
        got = await outcome(basiq.webhooks.get("w1"))
        assert (type(got), got.sent) == (ConnectionFailedError, False)
        assert f"no connection to the proxy {url}: Connect" in str(got)
        assert "pw" not in f"{got!s}{got!r}{got.__cause__!r}"


async def test_a_proxy_that_accepts_a_connection_and_does_not_respond_is_named_and_nothing_was_sent() -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with listening(say_nothing) as port:
        transport = AiohttpTransport(proxy=f"http://ann:pw@127.0.0.1:{port}", timeout=5.0, connect_timeout=0.05)
        said = f"^no connection through the proxy http://127.0.0.1:{port} within connect_timeout"
        with pytest.raises(RequestTimeoutError, match=said) as caught:
            await transport.send(Request("POST", f"{API}/x"))
        assert not caught.value.sent
        await transport.aclose()


async def test_a_certificate_that_is_refused_behind_a_proxy_says_so(api: Wire) -> None:
    async with a_proxy(api.port) as proxy, through(proxy.url) as basiq:
        got = await outcome(basiq.webhooks.get("w1"), within=5.0)
        assert f"through the proxy {proxy.url}: TLS failed" in str(got)
        assert "SSL_CERT_FILE" in str(got)


async def test_the_command_line_uses_the_proxy_of_the_environment(
    api: Wire, authority: trustme.CA, tmp_path: Path
) -> None:
    api.script = [page([{"id": "user.created"}])]
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with a_proxy(api.port) as proxy:
        settings = {"BASIQ_API_KEY": KEY, "BASIQ_BASE_URL": API, "HTTPS_PROXY": proxy.url}
        trusted = str(tmp_path / "ca.pem")
        call = partial(run, *COLD, "events", "types", cwd=tmp_path, SSL_CERT_FILE=trusted, **settings)
        done = await asyncio.to_thread(call)
        assert (done.returncode, "user.created" in done.stdout) == (0, True), done.stderr
        assert proxy.asked == ["CONNECT basiq.example:443 HTTP/1.1"]


@pytest.mark.parametrize(
    ("variables", "url", "proxy"),
    [
        ({"HTTPS_PROXY": "http://p:3128"}, "https://api.example/x", "http://p:3128"),
        ({"https_proxy": "http://p:3128", "HTTPS_PROXY": "http://q"}, "https://api.example", "http://p:3128"),
        ({"HTTPS_PROXY": "p.example:3128"}, "https://api.example", "http://p.example:3128"),
        ({"HTTPS_PROXY": "http://p:3128/"}, "http://api.example", None),
        ({"HTTP_PROXY": "http://p:3128"}, "http://api.example", "http://p:3128"),
        ({"HTTP_PROXY": "http://p:3128", "REQUEST_METHOD": "GET"}, "http://api.example", None),
        ({"ALL_PROXY": "https://p:3128"}, "https://api.example", "https://p:3128"),
        ({"ALL_PROXY": "http://p", "HTTPS_PROXY": "http://q"}, "https://api.example", "http://q"),
        ({"HTTPS_PROXY": "", "ALL_PROXY": ""}, "https://api.example", None),
        ({"HTTPS_PROXY": "http://p", "NO_PROXY": "*"}, "https://api.example", None),
        ({"HTTPS_PROXY": "http://p", "NO_PROXY": "a.test, API.example"}, "https://api.example", None),
        ({"HTTPS_PROXY": "http://p", "NO_PROXY": ".example"}, "https://api.example", None),
        ({"HTTPS_PROXY": "http://p", "NO_PROXY": "*.example"}, "https://api.example", None),
        ({"HTTPS_PROXY": "http://p", "NO_PROXY": "ample"}, "https://api.example", "http://p"),
        ({"HTTPS_PROXY": "http://p", "NO_PROXY": "api.example:443"}, "https://api.example", None),
        ({"HTTPS_PROXY": "http://p", "NO_PROXY": "api.example:8443"}, "https://api.example", "http://p"),
        ({"HTTPS_PROXY": "http://p", "NO_PROXY": "10.0.0.0/8"}, "https://10.1.2.3", None),
        ({"HTTPS_PROXY": "http://p", "NO_PROXY": "10.0.0.0/8"}, "https://11.1.2.3", "http://p"),
        ({"HTTP_PROXY": "http://p"}, "http://127.0.0.1:4010", None),
        ({"HTTP_PROXY": "http://p"}, "http://localhost:4010", None),
    ],
)
def test_which_proxy_the_environment_names(
    variables: dict[str, str], url: str, proxy: str | None, environment: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)
    proxies = Proxies.read("environment")
    found = None if proxies is None else proxies.find(URL(url))
    assert (found and str(found.url.origin())) == (proxy and str(URL(proxy).origin()))


def test_netrc_is_not_read(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine p.example login ann password from-netrc")
    environment.setenv("NETRC", str(tmp_path / "netrc"))
    environment.setenv("HTTPS_PROXY", "http://p.example:3128")
    found = Proxies.read("environment")
    assert found is not None
    assert str(found.find(URL(API))) == "http://p.example:3128"


@pytest.mark.parametrize("proxy", ["", "ftp://p:21", "http://", "http://ann:pw@:x", "socks5://ann:pw@p:1080", 7])
def test_what_is_no_http_proxy_is_refused_without_its_password(proxy: str, environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="proxy") as caught:
        BasiqClient(KEY, proxy=proxy)
    assert "pw" not in str(caught.value)
    assert leaks(caught.value, ["ann:pw"]) == []
    environment.setenv("HTTPS_PROXY", str(proxy))
    if proxy not in ("", 7):
        with pytest.raises(ConfigurationError, match="HTTPS_PROXY"):
            BasiqClient(KEY, proxy="environment")


def test_a_transport_that_is_passed_has_its_own_proxy() -> None:
    with pytest.raises(ConfigurationError, match="pass it to AiohttpTransport"):
        BasiqClient(KEY, transport=InMemoryTransport(), proxy="environment")


def test_the_proxies_show_no_password() -> None:
    proxies = Proxies.read("http://ann:pw@p:3128")
    assert repr(proxies) == "Proxies(http://p:3128)"
    with pytest.raises(TypeError, match="credential"):
        pickle.dumps(proxies)


FAILURES = {
    "refuses the login": {"login": "ann:other"},
    "refuses the connection": {"refuses": "403 Forbidden"},
    "no listener": None,
}


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("failure", FAILURES)
async def test_no_frame_of_a_transport_without_a_client_shows_the_proxys_password(failure: str, scheme: str) -> None:
    async with a_proxy(**(FAILURES[failure] or {})) as proxy:
        port = proxy.url.rpartition(":")[2] if FAILURES[failure] else str(free_port())
        transport = AiohttpTransport(proxy=f"http://ann:geheim@127.0.0.1:{port}")
        send = partial(transport.send, Request("GET", f"{scheme}://basiq.example/events"))
        if scheme == "http" and failure == "refuses the connection":
            assert (await send()).status == 403
        else:
            with pytest.raises((ConfigurationError, ConnectionFailedError)) as caught:
                await send()
            assert leaks(caught.value, ["geheim"]) == []
            assert "geheim" not in f"{caught.value!s}{caught.value!r}"
        cancelled = asyncio.create_task(send())
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.wait({cancelled})
        with pytest.raises(asyncio.CancelledError) as ended:
            await cancelled
        ours = [each for each in leaks(ended.value, ["geheim"]) if "basiq_async" in each]
        assert ours == []
        await transport.aclose()
