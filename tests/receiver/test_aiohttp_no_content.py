"""The answer 204 over aiohttp: prepared bytes where nobody asks for more, aiohttp's own where anybody does."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from unittest.mock import create_autospec

import pytest
from aiohttp import ClientConnectionResetError, StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.base_protocol import BaseProtocol
from aiohttp.test_utils import make_mocked_request
from aiohttp.web_log import AccessLogger
from aiohttp.web_request import BaseRequest

from tests.support.deliveries import Service, payload, signed

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Exchange = Callable[[bytes], Awaitable[bytes]]


async def plain(request: web.Request) -> web.StreamResponse:
    """What the receiver answers, as aiohttp writes it."""
    await request.read()
    return web.Response(status=204)


def delivery(version: str = "1.1", **more: str) -> bytes:
    body = payload()
    headers = {"Host": "localhost", "Content-Length": str(len(body)), **signed(body), **more}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST /basiq HTTP/{version}\r\n{head}\r\n".encode() + body


@asynccontextmanager
async def connected(server: web.BaseRunner) -> AsyncGenerator[Exchange]:
    """One connection; each call sends a request and gives the head of its answer, without the time of the day."""
    await server.setup()
    await web.TCPSite(server, "127.0.0.1", 0).start()
    reader, writer = await asyncio.open_connection(*server.addresses[0][:2])

    async def exchange(request: bytes) -> bytes:
        writer.write(request)
        async with asyncio.timeout(5):
            head = await reader.readuntil(b"\r\n\r\n")
        return re.sub(rb"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", b"Date: then", head)

    try:
        yield exchange
    finally:
        writer.close()
        await writer.wait_closed()
        await server.cleanup()


async def answered(handler: Handler, request: bytes, change: Callable[[web.Application], None] | None = None) -> bytes:
    app = web.Application()
    app.router.add_post("/basiq", handler)
    if change is not None:
        change(app)
    async with connected(web.AppRunner(app)) as exchange:
        return await exchange(request)


def a_header_by_a_signal(app: web.Application) -> None:
    async def add(request: web.Request, response: web.StreamResponse) -> None:
        response.headers["X-Request"] = "7"

    app.on_response_prepare.append(add)


def changed_by_a_middleware(change: Callable[[web.StreamResponse], object]) -> Callable[[web.Application], None]:
    @web.middleware
    async def after(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        change(response)
        return response

    return lambda app: app.middlewares.append(after)


@pytest.mark.parametrize(
    ("version", "headers"),
    [
        ("1.1", {}),
        ("1.1", {"Connection": "keep-alive"}),
        ("1.1", {"Connection": "close"}),
        ("1.0", {}),
        ("1.0", {"Connection": "keep-alive"}),
        ("1.1", {"Accept-Encoding": "gzip"}),
    ],
)
async def test_it_is_what_aiohttp_would_send(version: str, headers: dict[str, str]) -> None:
    request_ = delivery(version, **headers)  # signed now: a signature is fresh for five minutes
    head = await answered(Service().receiver.aiohttp_handler, request_)
    assert head == await answered(plain, request_)
    assert b" 204 No Content\r\n" in head
    assert b"Date: then\r\n" in head


@pytest.mark.parametrize(
    ("change", "shows"),
    [
        (a_header_by_a_signal, b"X-Request: 7\r\n"),
        (changed_by_a_middleware(lambda response: response.headers.add("X-Request", "7")), b"X-Request: 7\r\n"),
        (changed_by_a_middleware(lambda response: response.set_cookie("a", "b")), b"Set-Cookie: a=b; Path=/\r\n"),
        (changed_by_a_middleware(lambda response: response.set_status(202)), b"HTTP/1.1 202 Accepted\r\n"),
        (
            changed_by_a_middleware(lambda response: response.set_status(202, "No Content")),
            b"HTTP/1.1 202 No Content\r\n",
        ),
        (changed_by_a_middleware(lambda response: response.set_status(204, "Done")), b"HTTP/1.1 204 Done\r\n"),
        (changed_by_a_middleware(web.StreamResponse.force_close), b"Connection: close\r\n"),
    ],
)
async def test_what_the_application_adds_to_it_is_sent(change: Callable[[web.Application], None], shows: bytes) -> None:
    head = await answered(Service().receiver.aiohttp_handler, delivery(), change)
    assert shows in head
    assert head == await answered(plain, delivery(), change)


async def test_a_middleware_may_prepare_and_end_it_itself() -> None:
    @web.middleware
    async def itself(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        for _ in range(2):
            await response.prepare(request)
        await response.write_eof()
        assert response.prepared
        return response

    service = Service()
    app = web.Application(middlewares=[itself])
    app.router.add_post("/basiq", service.receiver.aiohttp_handler)
    async with connected(web.AppRunner(app)) as exchange:
        heads = [await exchange(delivery()) for _ in range(3)]
    assert len(service.handled) == 3
    assert {head[:24] for head in heads} == {b"HTTP/1.1 204 No Content\r"}


async def test_a_subapplication_and_its_signals_are_heard_too() -> None:
    app, inner = web.Application(), web.Application()
    inner.router.add_post("/basiq", Service().receiver.aiohttp_handler)
    a_header_by_a_signal(inner)
    app.add_subapp("/hooks", inner)
    async with connected(web.AppRunner(app)) as exchange:
        assert b"X-Request: 7\r\n" in await exchange(delivery().replace(b"/basiq", b"/hooks/basiq", 1))


async def test_a_server_without_an_application_sends_it() -> None:
    service = Service()

    async def handler(request: BaseRequest) -> web.StreamResponse:
        return await service.receiver.aiohttp_handler(request)  # it has all that is asked for

    async with connected(web.ServerRunner(web.Server(handler))) as exchange:
        assert (await exchange(delivery())).startswith(b"HTTP/1.1 204 No Content\r\n")
    assert len(service.handled) == 1


async def test_the_access_log_has_its_size(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "aiohttp.access")
    sizes: list[int] = []
    for handler in (Service().receiver.aiohttp_handler, plain):
        app = web.Application()
        app.router.add_post("/basiq", handler)
        async with connected(web.AppRunner(app, access_log_format="%s %b", access_log_class=AccessLogger)) as exchange:
            await exchange(delivery())
        status, size = caplog.messages[-1].split()
        assert status == "204"
        sizes.append(int(size))
    assert sizes[0] == sizes[1]


def mocked(transport: asyncio.Transport, writer: AbstractStreamWriter | None = None) -> web.Request:
    """A request that has come whole, on a connection that writes nowhere."""
    body = payload()
    content = StreamReader(create_autospec(BaseProtocol, instance=True), 2**16)
    content.feed_data(body)
    content.feed_eof()
    writer = create_autospec(AbstractStreamWriter, instance=True) if writer is None else writer
    return make_mocked_request("POST", "/", headers=signed(body), payload=content, writer=writer, transport=transport)


def transport_of(*, is_closing: bool = False) -> asyncio.Transport:
    transport = create_autospec(asyncio.Transport, instance=True)
    transport.is_closing.return_value = is_closing
    return transport


async def test_it_waits_for_a_client_that_does_not_read() -> None:
    transport, writer = transport_of(), create_autospec(AbstractStreamWriter, instance=True)
    request = mocked(transport, writer)
    response = await Service().receiver.aiohttp_handler(request)
    await response.prepare(request)
    transport.write.assert_called_once()
    writer.drain.assert_awaited_once()


async def test_to_a_client_that_has_gone_nothing_is_written() -> None:
    transport = transport_of(is_closing=True)
    request = mocked(transport)
    response = await Service().receiver.aiohttp_handler(request)
    with pytest.raises(ClientConnectionResetError):
        await response.prepare(request)
    transport.write.assert_not_called()


async def test_the_date_is_that_of_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    service, transport = Service(), transport_of()
    for now in (1_000_000_000.2, 1_000_000_000.9, 1_000_000_001.0):
        request = mocked(transport)
        response = await service.receiver.aiohttp_handler(request)
        with monkeypatch.context() as patch:
            patch.setattr("time.time", lambda now=now: now)
            await response.prepare(request)
    heads = [call.args[0] for call in transport.write.call_args_list]
    dates = [each.partition(b"Date: ")[2].partition(b"\r")[0] for each in heads]
    assert dates == [b"Sun, 09 Sep 2001 01:46:40 GMT"] * 2 + [b"Sun, 09 Sep 2001 01:46:41 GMT"]
