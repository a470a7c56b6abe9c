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
from tests.support.frames import chain
from tests.support.real_time import PATIENCE
from tests.support.wire import Conn, Wire, closing, hanging, http, listening


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    async with Wire(http(200, b"ok")) as wire:
        yield wire


@pytest.fixture
async def transport() -> AsyncIterator[AiohttpTransport]:
    made = AiohttpTransport(timeout=5.0)
    yield made
    await made.aclose()


async def test_it_keeps_every_promise_of_a_transport() -> None:
    await check_transport(AiohttpTransport, make_impatient=lambda: AiohttpTransport(timeout=0.05))


async def test_a_change_of_the_protocol_is_an_answer_without_a_body_and_the_connection_is_not_used_again(
    wire: Wire, transport: AiohttpTransport
) -> None:
    switching = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: upgrade\r\n\r\n"
    wire.script = [switching, http(200, b"after")]
    async with asyncio.timeout(PATIENCE):
        response = await transport.send(Request("GET", wire.url))
    assert (response.status, response.body) == (101, b"")
    assert (await transport.send(Request("GET", wire.url))).body == b"after"
    assert wire.connections == 2, "a connection that speaks another protocol now was used again"


async def test_a_connection_is_kept_and_used_again_and_it_says_who_it_is(
    wire: Wire, transport: AiohttpTransport
) -> None:
    for _ in range(5):
        await transport.send(Request("GET", wire.url))
    assert wire.connections == 1
    assert wire.requests[-1].headers["user-agent"].startswith("basiq-async/")


async def test_a_session_of_the_caller_is_used_and_left_open(wire: Wire) -> None:
    async with aiohttp.ClientSession(headers={"X-Mine": "yes"}, raise_for_status=True) as session:
        transport = AiohttpTransport(session)
        wire.script = [http(500)]
        assert (await transport.send(Request("GET", wire.url))).status == 500
        assert wire.requests[-1].headers["x-mine"] == "yes"
        await transport.aclose()
        assert not session.closed
        with pytest.raises(ConnectionFailedError, match="the transport is closed"):
            await transport.send(Request("GET", wire.url))


async def test_a_session_that_its_owner_has_closed_is_a_typed_error(wire: Wire) -> None:
    session = aiohttp.ClientSession()
    transport = AiohttpTransport(session)
    await session.close()
    with pytest.raises(ConnectionFailedError, match="the session is closed") as caught:
        await transport.send(Request("GET", f"{wire.url}/a/b?c"))
    assert (caught.value.sent, caught.value.method, caught.value.path) == (False, "GET", "/a/b")


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_a_body_above_the_limit_is_refused_and_its_decompressed_size_counts(wire: Wire, encoding: str) -> None:
    fits, large = b"0" * 100_000, b"0" * (50_000_000 if encoding == "gzip" else 100_001)
    bodies = [gzip.compress(fits), gzip.compress(large)] if encoding == "gzip" else [fits, large]
    assert len(bodies[1]) < 100_002
    wire.script = [http(200, body, f"Content-Encoding: {encoding}") for body in bodies]
    async with contextlib.aclosing(AiohttpTransport(max_body_size=100_000)) as transport:
        assert (await transport.send(Request("GET", wire.url))).body == fits
        with pytest.raises(TransportError, match="larger than 100000 bytes; to accept it, raise max_body") as caught:
            await transport.send(Request("GET", wire.url))
    assert not isinstance(caught.value, ConnectionFailedError)


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_a_body_that_may_be_abridged_is_read_without_its_long_texts_and_what_is_left_has_the_limit(
    wire: Wire, encoding: str
) -> None:
    bodies = [b'{"response": "' + b"0" * 5_000_000 + b'", "id": "a"}', b"0" * 5_000_000]
    sent = [gzip.compress(each) if encoding == "gzip" else each for each in bodies]
    wire.script = [http(200, body, f"Content-Encoding: {encoding}") for body in sent]
    async with contextlib.aclosing(AiohttpTransport(max_body_size=100_000)) as transport:
        request = Request("GET", wire.url, abridged=True)
        assert (await transport.send(request)).body == b'{"response": null, "id": "a"}'
        with pytest.raises(TransportError, match="larger than 100000 bytes"):
            await transport.send(request)


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


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("http://127.0.0.1:{free}", "no connection to 127.0.0.1:{free}: "),
        ("http://does-not-exist.invalid", "the name does not resolve"),
        ("https://127.0.0.1:{open}", "TLS failed"),
    ],
)
async def test_what_reached_no_server_was_not_sent(place: str, said: str, transport: AiohttpTransport) -> None:
    async def speak_no_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(http(400))

    async with listening(speak_no_tls) as open_port:
        ports = {"free": free_port(), "open": open_port}
        with pytest.raises(ConnectionFailedError, match=said.format(**ports)) as caught:
            await transport.send(Request("POST", place.format(**ports) + "/a%7Eb%2Fc?key=k"))
    assert (caught.value.sent, caught.value.path) == (False, "/a%7Eb%2Fc"), "the path as it was to be sent"
    assert isinstance(caught.value.__cause__, aiohttp.ClientConnectorError)


async def test_a_proxy_of_the_environment_is_not_used(
    wire: Wire, transport: AiohttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    assert (await transport.send(Request("GET", wire.url))).body == b"ok"


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
async def test_a_connection_that_breaks_is_one_typed_error_and_is_sent_once(
    method: str, wire: Wire, transport: AiohttpTransport
) -> None:
    wire.script = [closing()]
    with pytest.raises(ConnectionFailedError, match="the connection broke") as caught:
        await transport.send(Request(method, wire.url))
    assert (caught.value.sent, len(wire.requests)) == (True, 1)


@pytest.mark.parametrize("limit", ["timeout", "deadline"])
async def test_the_earlier_of_timeout_and_deadline_ends_a_request(limit: str, wire: Wire) -> None:
    wire.script = [hanging()]
    seconds = {"timeout": 60.0, "deadline": 60.0, limit: 0.05}
    transport = AiohttpTransport(timeout=seconds["timeout"])
    deadline = asyncio.get_running_loop().time() + seconds["deadline"]
    with pytest.raises(RequestTimeoutError, match="no complete response within") as caught:
        await transport.send(Request("GET", f"{wire.url}/slow", deadline=deadline))
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.sent
    await transport.aclose()


async def test_where_only_the_status_counts_a_body_of_any_length_changes_nothing(wire: Wire) -> None:
    wire.script = [http(503, b"x" * 2**20, "Retry-After: 7")]
    transport = StatusTransport(max_body_size=10)
    for _ in range(2):
        response = await transport.send(Request("POST", wire.url, body=b"y"))
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
async def test_no_cause_shows_a_credential_that_the_server_sent_back(
    form: str, line: str, wire: Wire, transport: AiohttpTransport
) -> None:
    """aiohttp's errors quote what they cannot parse: all of it where aiohttp parses in Python."""
    wire.script = [closing((line.replace("{}", form) + "\r\n\r\n").encode())]
    with pytest.raises(TransportError) as caught:
        await transport.send(Request("GET", wire.url, {"authorization": f"Basic {KEY}"}))
    for error in chain(caught.value):
        assert form not in f"{error!r} {error} {vars(error)}"


async def test_connections_bounds_how_many_are_open_at_once(wire: Wire) -> None:
    async def slow(conn: Conn) -> None:
        await asyncio.sleep(0.01)
        await conn.say(http(200))

    wire.script = [slow]
    transport = AiohttpTransport(connections=2)
    await asyncio.gather(*(transport.send(Request("GET", wire.url)) for _ in range(6)))
    assert wire.connections == 2
    await transport.aclose()


@pytest.mark.parametrize("name", ["timeout", "connect_timeout", "max_body_size", "connections"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), True, "1"], ids=repr)
def test_a_limit_that_is_none_is_refused_by_its_name(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=name):
        AiohttpTransport(**{name: value})
    with pytest.raises(ConfigurationError, match="connections must be a whole number"):
        AiohttpTransport(connections=1.5)  # type: ignore[arg-type]


async def test_a_body_may_have_64_mib_and_one_connection_is_enough() -> None:
    assert AiohttpTransport()._max_body_size == 67_108_864, "as the documentation says"
    AiohttpTransport(connections=1, max_body_size=1, timeout=0.001, connect_timeout=0.001)


@pytest.mark.parametrize(("status", "kept"), [(200, False), (299, False), (300, True), (503, True)])
async def test_where_only_the_status_counts_the_headers_of_a_success_do_not(
    wire: Wire, status: int, kept: bool
) -> None:
    wire.script = [http(status, "", "Retry-After: 7")]
    async with contextlib.aclosing(StatusTransport()) as transport:
        response = await transport.send(Request("GET", wire.url))
    assert (response.status, response.headers.get("retry-after")) == (status, "7" if kept else None)
