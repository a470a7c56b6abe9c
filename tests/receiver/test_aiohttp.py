"""The aiohttp handler, over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web

from tests.support.deliveries import Service, payload, signed
from tests.support.real_time import PATIENCE, until
from tests.support.served import Answer, Middleware, serving


def head(length: int, headers: dict[str, str], *lines: str) -> bytes:
    named = [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(
        ["POST /basiq HTTP/1.1", "Host: x", f"Content-Length: {length}", *named, *lines, "", ""]
    ).encode()


async def raw(url: str, request: bytes, *, then: Callable[[asyncio.StreamWriter], None] | None = None) -> bytes:
    """Send bytes as they are and read the head of the answer; empty where the server just closes."""
    port = int(url.rpartition(":")[2].partition("/")[0])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        await writer.drain()
        if then is not None:
            then(writer)
        async with asyncio.timeout(PATIENCE):
            return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as exc:
        return exc.partial
    finally:
        writer.close()
        await writer.wait_closed()


async def post(url: str, data: object, headers: object) -> tuple[int, str | None, bytes]:
    """The status, the Retry-After and the body of the answer."""
    async with aiohttp.ClientSession() as session, session.post(url, data=data, headers=headers) as answer:
        return answer.status, answer.headers.get("Retry-After"), await answer.read()


async def test_one_connection_carries_many_deliveries() -> None:
    service = Service()
    async with serving(service.receiver.aiohttp_handler) as url, aiohttp.ClientSession() as session:
        for _ in range(5):
            body = payload()
            async with session.post(url, data=body, headers=signed(body)) as answer:
                assert answer.status == 204
                assert "close" not in answer.headers.get("Connection", "").lower()
    assert len(service.handled) == 5


async def test_an_endless_body_is_cut_off_at_the_limit() -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 65_536
            yield b"x" * 65_536

    service = Service(max_body_size=100_000)
    async with serving(service.receiver.aiohttp_handler) as url, aiohttp.ClientSession() as session:
        async with asyncio.timeout(PATIENCE):
            try:
                async with session.post(url, data=endless(), headers=signed(b"")) as answer:
                    assert answer.status == 413
            except aiohttp.ClientConnectionError:
                pass  # the server closed while more was being sent
    assert [event.status for event in service.events] == [413]
    assert sent < 20_000_000


async def test_a_body_that_says_it_is_too_large_is_not_read_at_all() -> None:
    service = Service(max_body_size=100)
    async with serving(service.receiver.aiohttp_handler) as url:
        answer = await raw(url, b"POST /basiq HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer.lower()


async def test_a_compressed_body_is_refused_and_a_bomb_not_decompressed_after_the_response() -> None:
    bomb = gzip.compress(b" " * 20_000_000)
    service = Service()
    produced = 0
    feed = aiohttp.StreamReader.feed_data

    def count(self: aiohttp.StreamReader, data: bytes, size: int = 0) -> object:
        nonlocal produced
        produced += len(data)
        return feed(self, data, size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aiohttp.StreamReader, "feed_data", count)
        async with serving(service.receiver.aiohttp_handler, lingering_time=10) as url:
            request_ = head(len(bomb), signed(b""), "Content-Encoding: gzip") + bomb
            answer = await raw(url, request_)
    assert answer.startswith(b"HTTP/1.1 415 ")
    assert b"connection: close" in answer.lower()
    assert [event.result for event in service.events] == ["compressed"]
    assert produced < 1_000_000


@pytest.mark.parametrize(
    ("extra", "status"),
    [
        ({}, 401),
        ({"webhook-timestamp": "1"}, 401),
        ({"webhook-timestamp": "now"}, 401),
        ({"webhook-signature": "v1," + "A" * 4096}, 401),
        ({"webhook-id": "a.b"}, 401),
    ],
    ids=["missing", "stale", "no number", "a signature of more than 4 KiB", "an id with a dot"],
)
async def test_headers_that_cannot_be_right_are_refused_before_the_body_is_read(
    extra: dict[str, str], status: int
) -> None:
    headers = {**signed(b""), **extra} if extra else {}
    service = Service()
    async with serving(service.receiver.aiohttp_handler) as url:
        answer = await raw(url, head(1000, headers) + b"x" * 10)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert [event.result for event in service.events] == ["rejected"]


async def test_after_408_the_connection_is_closed_at_once() -> None:
    service = Service(body_timeout=0.02)
    async with serving(service.receiver.aiohttp_handler, lingering_time=10) as url:
        port = int(url.rpartition(":")[2].partition("/")[0])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head(100, signed(b"")) + b"x")
        async with asyncio.timeout(PATIENCE):
            received = await reader.read()  # to the end of the connection
        writer.close()
        await writer.wait_closed()
    assert received.startswith(b"HTTP/1.1 408 ")


async def test_large_bodies_that_stall_are_refused_beyond_a_sum_and_a_genuine_delivery_is_not() -> None:
    service = Service(body_timeout=5)
    part = b"x" * 1_000_000  # 17 of them are nearly the 16 MiB that are held at once
    large = payload(filler="x" * 500_000)
    async with serving(service.receiver.aiohttp_handler) as url:
        port = int(url.rpartition(":")[2].partition("/")[0])
        connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        try:
            for _, writer in connections:
                writer.write(head(len(part) + 1, signed(b"")) + part)
            await until(lambda: len(service.events) == 3)
            body = payload()
            assert await post(url, chunked(body), signed(body)) == (204, None, b"")
        finally:
            for _, writer in connections:
                writer.close()
        await until(lambda: len(service.events) == 21)
        assert await post(url, chunked(large, 50_000), signed(large)) == (204, None, b"")
    assert [event.result for event in service.events] == [
        *["overloaded"] * 3,
        "handled",
        *["aborted"] * 17,
        "handled",
    ]


async def chunked(body: bytes, size: int = 50) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]
        await asyncio.sleep(0)


def reading(how: Callable[[web.Request], Awaitable[object]], *, first: bool) -> Middleware:
    @web.middleware
    async def read(request: web.Request, handler: Answer) -> web.StreamResponse:
        if first:
            await how(request)
        response = await handler(request)
        if not first:
            seen.append(await how(request))
        return response

    seen: list[object] = []
    read.seen = seen  # type: ignore[attr-defined]
    return read


@pytest.mark.parametrize("how", [web.Request.read, web.Request.text, web.Request.json, web.Request.post])
@pytest.mark.parametrize("in_pieces", [False, True])
async def test_a_middleware_may_read_the_body_before_the_receiver(
    how: Callable[[web.Request], Awaitable[object]], in_pieces: bool
) -> None:
    service = Service()
    body = payload()
    headers = {**signed(body), "Content-Type": "application/json"}
    async with serving(service.receiver.aiohttp_handler, middlewares=[reading(how, first=True)]) as url:
        assert await post(url, chunked(body) if in_pieces else body, headers) == (204, None, b"")
    assert service.handled[0].body == body


@pytest.mark.parametrize("in_pieces", [False, True])
async def test_the_body_is_kept_for_who_reads_it_after_the_receiver(in_pieces: bool) -> None:
    service = Service()
    body = payload()
    middleware = reading(web.Request.read, first=False)
    async with serving(service.receiver.aiohttp_handler, middlewares=[middleware]) as url:
        assert (await post(url, chunked(body) if in_pieces else body, signed(body)))[0] == 204
    assert middleware.seen == [body]  # type: ignore[attr-defined]


class WithoutKeptBody:
    """A request of a release of aiohttp that keeps a body in another place."""

    def __init__(self, request: web.Request) -> None:
        self._request = request

    def __getattr__(self, name: str) -> Any:
        if name == "_read_bytes":
            raise AttributeError(name)
        return getattr(self._request, name)


async def test_with_a_release_that_keeps_a_body_elsewhere_the_delivery_is_handled_all_the_same() -> None:
    service = Service()
    body = payload()

    @web.middleware
    async def changed(request: web.Request, handler: Answer) -> web.StreamResponse:
        return await handler(cast("web.Request", WithoutKeptBody(request)))

    async with serving(service.receiver.aiohttp_handler, middlewares=[changed]) as url:
        assert (await post(url, chunked(body), signed(body)))[0] == 204
    assert service.handled[0].body == body


@pytest.mark.parametrize("in_pieces", [False, True])
async def test_the_receivers_limit_counts_and_not_that_of_the_application(in_pieces: bool) -> None:
    service = Service(max_body_size=3 * 2**20)
    body = payload(padding="x" * 2 * 2**20)
    async with serving(service.receiver.aiohttp_handler) as url:
        assert (await post(url, chunked(body, 2**18 if in_pieces else len(body)), signed(body)))[0] == 204
    assert service.handled[0].body == body


async def test_a_body_that_was_read_and_not_kept_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    service = Service()
    body = payload()
    middleware = reading(lambda request: request.content.read(), first=True)
    async with serving(service.receiver.aiohttp_handler, middlewares=[middleware]) as url:
        assert (await post(url, body, signed(body)))[0] == 401
    assert "was read before the receiver, and not kept" in " ".join(caplog.text.split())


@pytest.mark.parametrize(
    "request_",
    [
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nabc",
        b"Content-Length: 100\r\n\r\nabc",
    ],
)
async def test_a_body_that_breaks_off_is_not_handled_and_not_an_error(
    request_: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service()
    async with serving(service.receiver.aiohttp_handler) as url:
        start = "".join(f"{name}: {value}\r\n" for name, value in signed(b"").items()).encode()
        request = b"POST /basiq HTTP/1.1\r\nHost: x\r\n" + start + request_
        await raw(url, request, then=lambda writer: writer.write_eof())
        async with asyncio.timeout(PATIENCE):
            while not service.events:
                await asyncio.sleep(0.005)
    assert [event.result for event in service.events] == ["aborted"]
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    "request_",
    [
        b"Transfer-Encoding: chunked\r\n\r\nZZZ\r\nabc\r\n0\r\n\r\n",
        b"Content-Encoding: gzip\r\nContent-Length: 9\r\n\r\nnot gzip!",
    ],
)
async def test_a_body_that_cannot_be_decoded_is_not_handled(request_: bytes, caplog: pytest.LogCaptureFixture) -> None:
    service = Service()
    async with serving(service.receiver.aiohttp_handler) as url:
        answer = await raw(url, b"POST /basiq HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + request_)
    assert answer[9:12] in {b"400", b"408", b"401", b"415"}
    assert not service.handled


def test_the_receiver_does_not_load_aiohttp() -> None:
    code = "import sys, basiq_async.receiver; sys.exit('aiohttp' in sys.modules or 'typer' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("first", ["setup", "the application's context"])
async def test_setup_serves_the_path_and_closes_the_receiver_before_what_the_application_opened(first: str) -> None:
    service = Service()
    states: list[str] = []

    async def resources(app: web.Application) -> AsyncIterator[None]:
        yield
        states.append(repr(service.receiver))

    app = web.Application()
    if first != "setup":
        app.cleanup_ctx.append(resources)
    service.receiver.setup(app, "/hooks/basiq")
    if first == "setup":
        app.cleanup_ctx.append(resources)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        body = payload()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/hooks/basiq"
        assert (await post(url, body, signed(body)))[0] == 204
    finally:
        await runner.cleanup()
    assert states == ["<WebhookReceiver: 1 patterns, closed>"]
