"""Kept connections: with the parts of aiohttp that the transport looks at, and with a release that lacks them."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from unittest import mock

import aiohttp
import pytest
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

from basiq_async import AiohttpTransport, ConnectionFailedError, Request

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
async def listen() -> AsyncIterator[Callable[[Serve], Awaitable[str]]]:
    servers: list[asyncio.Server] = []

    async def start(serve: Serve) -> str:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        servers.append(server)
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"

    yield start
    for server in servers:
        server.close()
        await server.wait_closed()


class Breaking:
    """Answers the first request of a connection, and breaks the connection at the second."""

    def __init__(self) -> None:
        self.requests = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.requests += 1
        writer.write(OK)
        await reader.readuntil(b"\r\n\r\n")
        self.requests += 1
        writer.close()


async def test_aiohttp_by_itself_sends_a_get_again_where_a_kept_connection_breaks(
    listen: Callable[[Serve], Awaitable[str]],
) -> None:
    serve = Breaking()
    url = await listen(serve)
    async with aiohttp.ClientSession() as session:
        await (await session.get(url)).read()
        assert (await session.get(url)).status == 200
    assert serve.requests == 3


async def test_with_our_response_class_it_does_not(listen: Callable[[Serve], Awaitable[str]]) -> None:
    serve = Breaking()
    url = await listen(serve)
    transport = AiohttpTransport()
    await transport.send(Request("GET", url))
    with pytest.raises(ConnectionFailedError) as caught:
        await transport.send(Request("GET", url))
    assert caught.value.sent
    assert serve.requests == 2
    await transport.aclose()


async def test_a_response_that_nobody_asked_for_is_not_read_by_the_next_request(
    listen: Callable[[Serve], Awaitable[str]],
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await writer.drain()
        writer.write(OK.replace(b"ok", b"no"))
        await reader.read()
        writer.close()

    url = await listen(serve)
    transport = AiohttpTransport()
    for _ in range(3):
        assert (await transport.send(Request("GET", url))).body == b"ok"
        await asyncio.sleep(0.01)
    await transport.aclose()


def test_the_parts_of_aiohttp_that_are_overridden_and_read_are_there() -> None:
    assert list(inspect.signature(aiohttp.ClientResponse.start).parameters) == ["self", "connection"]
    assert list(inspect.signature(aiohttp.ClientRequest.send).parameters) == ["self", "conn"]
    for owner, name in ((Connection, "protocol"), (ResponseHandler, "should_close")):
        assert hasattr(owner, name), name


usual_session = aiohttp.ClientSession
usual_send = aiohttp.ClientRequest.send


def changed_session(*, request_class: Any, response_class: Any, **options: Any) -> aiohttp.ClientSession:
    """A session of a release that has no ``start``, and hands ``send`` something without ``protocol``."""

    class Changed(request_class):  # type: ignore[misc]
        def send(self, conn: Any) -> Any:
            with mock.patch.object(aiohttp.ClientRequest, "send", lambda self, other: usual_send(self, conn)):
                return super().send(object())

    return usual_session(request_class=Changed, response_class=aiohttp.ClientResponse, **options)


async def test_a_release_without_these_parts_means_what_aiohttp_does_by_itself_and_never_an_error(
    listen: Callable[[Serve], Awaitable[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aiohttp, "ClientSession", changed_session)
    serve = Breaking()
    url = await listen(serve)
    transport = AiohttpTransport()
    for _ in range(2):
        assert (await transport.send(Request("GET", url))).body == b"ok"
    assert serve.requests == 3  # the second request was sent twice, as aiohttp does by itself
    await transport.aclose()
