"""The transport over real sockets: what it sends, what it keeps to itself, and what it leaves open."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import socket
import urllib.parse
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from basiq_async import (
    AiohttpTransport,
    ConfigurationError,
    ConnectionFailedError,
    Request,
    RequestTimeoutError,
    TransportError,
)
from basiq_async.testing import check_transport
from basiq_async.transports.aiohttp import StatusTransport
from tests.support.environment import free_port
from tests.support.real_time import PATIENCE


class Server:
    """Answers with whatever a test sets, and remembers what it was asked."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.connections: set[Any] = set()
        self.answer: Any = lambda request: web.Response(body=b"ok")
        self.url = ""

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        self.requests.append((request.method, request.raw_path, dict(request.headers), body))
        self.connections.add(request.transport)
        answer = self.answer(request) if callable(self.answer) else self.answer
        result: web.StreamResponse = await answer if asyncio.iscoroutine(answer) else answer
        return result

    def asked(self) -> tuple[str, str, dict[str, str], bytes]:
        return self.requests[-1]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    served = Server()
    runner = web.ServerRunner(web.Server(served.handle), shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    served.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield served
    await runner.cleanup()


@pytest.fixture
async def transport() -> AsyncIterator[AiohttpTransport]:
    made = AiohttpTransport(timeout=5.0)
    yield made
    await made.aclose()


async def test_it_keeps_every_promise_of_a_transport() -> None:
    await check_transport(AiohttpTransport, make_impatient=lambda: AiohttpTransport(timeout=0.05))


async def test_a_change_of_the_protocol_is_an_answer_without_a_body_and_the_connection_is_not_used_again(
    server: Server, transport: AiohttpTransport
) -> None:
    server.answer = lambda request: web.Response(status=101, headers={"Upgrade": "other", "Connection": "upgrade"})
    async with asyncio.timeout(PATIENCE):
        response = await transport.send(Request("GET", server.url))
    assert (response.status, response.body) == (101, b"")
    server.answer = web.Response(body=b"after")
    assert (await transport.send(Request("GET", server.url))).body == b"after"
    assert len(server.connections) == 2, "a connection that speaks another protocol now was used again"


async def test_a_connection_is_kept_and_used_again(server: Server, transport: AiohttpTransport) -> None:
    for _ in range(5):
        await transport.send(Request("GET", server.url))
    assert len(server.connections) == 1


async def test_it_says_who_it_is(server: Server, transport: AiohttpTransport) -> None:
    await transport.send(Request("GET", server.url))
    assert server.asked()[2]["User-Agent"].startswith("basiq-async/")


async def test_a_session_of_the_caller_is_used_and_left_open(server: Server) -> None:
    async with aiohttp.ClientSession(headers={"X-Mine": "yes"}, raise_for_status=True) as session:
        transport = AiohttpTransport(session)
        server.answer = web.Response(status=500)
        assert (await transport.send(Request("GET", server.url))).status == 500
        assert server.asked()[2]["X-Mine"] == "yes"
        await transport.aclose()
        assert not session.closed
        with pytest.raises(ConnectionFailedError, match="the transport is closed"):
            await transport.send(Request("GET", server.url))


async def test_a_session_that_its_owner_has_closed_is_a_typed_error(server: Server) -> None:
    session = aiohttp.ClientSession()
    transport = AiohttpTransport(session)
    await session.close()
    with pytest.raises(ConnectionFailedError, match="the session is closed") as caught:
        await transport.send(Request("GET", f"{server.url}/a/b?c"))
    assert (caught.value.sent, caught.value.method, caught.value.path) == (False, "GET", "/a/b")


async def test_a_body_above_the_limit_is_refused(server: Server) -> None:
    transport = AiohttpTransport(max_body_size=1000)
    server.answer = lambda request: web.Response(body=b"x" * (1000 if request.path == "/fits" else 1001))
    assert len((await transport.send(Request("GET", f"{server.url}/fits"))).body) == 1000
    with pytest.raises(TransportError, match="larger than 1000 bytes; to accept it, raise max_body_size") as caught:
        await transport.send(Request("GET", f"{server.url}/large"))
    assert not isinstance(caught.value, ConnectionFailedError)
    await transport.aclose()


async def test_the_decompressed_size_counts(server: Server) -> None:
    transport = AiohttpTransport(max_body_size=100_000)
    small, large = (gzip.compress(b"0" * size) for size in (100_000, 50_000_000))
    assert len(large) < 100_000
    server.answer = lambda request: web.Response(
        body=small if request.path == "/fits" else large, headers={"Content-Encoding": "gzip"}
    )
    assert (await transport.send(Request("GET", f"{server.url}/fits"))).body == b"0" * 100_000
    with pytest.raises(TransportError, match="larger than 100000 bytes"):
        await transport.send(Request("GET", f"{server.url}/large"))
    await transport.aclose()


async def test_a_connection_that_is_not_made_in_time_was_not_sent() -> None:
    # A listener whose backlog is full takes no further connection.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
            transport = AiohttpTransport(timeout=5.0, connect_timeout=0.05)
            with pytest.raises(RequestTimeoutError, match="no connection within connect_timeout") as caught:
                await transport.send(Request("POST", f"http://127.0.0.1:{port}/x"))
            assert not caught.value.sent
            await transport.aclose()
        finally:
            for filler in fillers:
                filler.close()


async def test_a_refused_connection_was_not_sent(transport: AiohttpTransport) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(ConnectionFailedError, match=f"no connection to 127.0.0.1:{port}: ") as caught:
        await transport.send(Request("POST", f"http://127.0.0.1:{port}/x"))
    assert not caught.value.sent
    assert isinstance(caught.value.__cause__, aiohttp.ClientConnectorError)


async def test_a_proxy_of_the_environment_is_not_used(
    server: Server, transport: AiohttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    assert (await transport.send(Request("GET", server.url))).body == b"ok"


async def test_an_error_names_the_path_as_it_was_to_be_sent(transport: AiohttpTransport) -> None:
    with pytest.raises(ConnectionFailedError) as caught:
        await transport.send(Request("GET", f"http://127.0.0.1:{free_port()}/a%7Eb%2Fc?key=k"))
    assert caught.value.path == "/a%7Eb%2Fc"


async def test_a_name_that_does_not_resolve_was_not_sent(transport: AiohttpTransport) -> None:
    with pytest.raises(ConnectionFailedError, match="the name does not resolve") as caught:
        await transport.send(Request("POST", "http://does-not-exist.invalid/x"))
    assert not caught.value.sent


async def test_tls_that_is_not_tls_was_not_sent(server: Server, transport: AiohttpTransport) -> None:
    with pytest.raises(ConnectionFailedError, match="TLS failed") as caught:
        await transport.send(Request("POST", server.url.replace("http:", "https:")))
    assert not caught.value.sent


async def test_a_connection_that_breaks_is_one_typed_error_and_is_sent_once(
    server: Server, transport: AiohttpTransport
) -> None:
    def drop(request: web.BaseRequest) -> web.Response:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    server.answer = drop
    for method in ("GET", "DELETE", "POST"):
        before = len(server.requests)
        with pytest.raises(ConnectionFailedError, match="the connection broke") as caught:
            await transport.send(Request(method, server.url))
        assert caught.value.sent
        assert len(server.requests) == before + 1


@pytest.mark.parametrize("limit", ["timeout", "deadline"])
async def test_the_earlier_of_timeout_and_deadline_ends_a_request(limit: str, server: Server) -> None:
    async def never(request: web.BaseRequest) -> web.Response:
        await asyncio.sleep(60)
        raise AssertionError

    server.answer = never
    seconds = {"timeout": 60.0, "deadline": 60.0, limit: 0.05}
    transport = AiohttpTransport(timeout=seconds["timeout"])
    deadline = asyncio.get_running_loop().time() + seconds["deadline"]
    with pytest.raises(RequestTimeoutError, match="no complete response within") as caught:
        await transport.send(Request("GET", f"{server.url}/slow", deadline=deadline))
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.sent
    await transport.aclose()


async def test_where_only_the_status_counts_a_body_of_any_length_changes_nothing(server: Server) -> None:
    server.answer = lambda request: web.Response(status=503, body=b"x" * 2**20, headers={"Retry-After": "7"})
    transport = StatusTransport(max_body_size=10)
    for _ in range(2):
        response = await transport.send(Request("POST", server.url, body=b"y"))
        assert (response.status, response.headers["retry-after"], response.body) == (503, "7", b"")
    await transport.aclose()


HALVES = "0b1f0c6e-key:that-must-not-show"
KEY = base64.b64encode(HALVES.encode()).decode()


@pytest.mark.parametrize(
    "form",
    [
        KEY,
        urllib.parse.quote(KEY, safe=""),
        base64.b64encode(f"x{KEY}".encode()).decode(),
        "0b1f0c6e-key:that-must-not-show",
    ],
    ids=["as it is", "percent-encoded", "in base64", "decoded"],
)
@pytest.mark.parametrize("line", ["{} is not HTTP", "HTTP/1.1 2{} OK", "HTTP/1.1 200 OK\r\nContent-Length: {}"])
async def test_no_cause_shows_a_credential_that_the_server_sent_back(form: str, line: str) -> None:
    """aiohttp's errors quote what they cannot parse: all of it where aiohttp parses in Python."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write((line.replace("{}", form) + "\r\n\r\n").encode())
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"
    transport = AiohttpTransport()
    try:
        with pytest.raises(TransportError) as caught:
            await transport.send(Request("GET", url, {"authorization": f"Basic {KEY}"}))
    finally:
        await transport.aclose()
        listening.close()
    error: BaseException | None = caught.value
    while error is not None:
        assert form not in f"{error!r} {error} {vars(error)}"
        error = error.__cause__ or error.__context__


async def test_connections_bounds_how_many_are_open_at_once(server: Server) -> None:
    async def slow(request: web.BaseRequest) -> web.Response:
        await asyncio.sleep(0.01)
        return web.Response()

    server.answer = slow
    transport = AiohttpTransport(connections=2)
    await asyncio.gather(*(transport.send(Request("GET", server.url)) for _ in range(6)))
    assert len(server.connections) == 2
    await transport.aclose()


@pytest.mark.parametrize("connections", [0, -1, 1.5, True, "3"], ids=repr)
def test_a_number_of_connections_that_cannot_be_is_refused(connections: Any) -> None:
    with pytest.raises(ConfigurationError, match="connections must be a whole number"):
        AiohttpTransport(connections=connections)


@pytest.mark.parametrize("name", ["timeout", "connect_timeout", "max_body_size", "connections"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), "1"], ids=repr)
def test_a_limit_that_is_none_is_refused_by_its_name(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=name):
        AiohttpTransport(**{name: value})


async def test_a_body_may_have_64_mib_and_one_connection_is_enough() -> None:
    assert AiohttpTransport()._max_body_size == 67_108_864, "as the documentation says"
    AiohttpTransport(connections=1, max_body_size=1, timeout=0.001, connect_timeout=0.001)


@pytest.mark.parametrize(("status", "kept"), [(200, False), (299, False), (300, True), (503, True)])
async def test_where_only_the_status_counts_the_headers_of_a_success_do_not(
    server: Server, status: int, kept: bool
) -> None:
    server.answer = lambda request: web.Response(status=status, headers={"Retry-After": "7"})
    async with contextlib.aclosing(StatusTransport()) as transport:
        response = await transport.send(Request("GET", server.url))
    assert (response.status, response.headers.get("retry-after")) == (status, "7" if kept else None)
