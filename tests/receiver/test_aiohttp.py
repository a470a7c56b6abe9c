"""The aiohttp handler, over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from basiq_async.receiver import WebhookReceiver
from tests.support.deliveries import OTHER_SECRET, SECRET, Service, payload, signed


@asynccontextmanager
async def serving(receiver: WebhookReceiver) -> AsyncGenerator[str]:
    app = web.Application()
    app.router.add_post("/basiq", receiver.aiohttp_handler)
    # After an early answer aiohttp goes on reading for a while (10 s by default), so that the client sees it.
    runner = web.AppRunner(app, lingering_time=0.05)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/basiq"
    finally:
        await runner.cleanup()


async def raw(url: str, request: bytes, *, then: Callable[[asyncio.StreamWriter], None] | None = None) -> bytes:
    """Send bytes as they are and read the head of the answer; empty where the server just closes."""
    port = int(url.rpartition(":")[2].partition("/")[0])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        await writer.drain()
        if then is not None:
            then(writer)
        async with asyncio.timeout(5):
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


@pytest.mark.parametrize(
    ("body", "secret", "status"),
    [
        (payload("user.created", "e-web"), SECRET, 204),
        (payload("user.created"), OTHER_SECRET, 401),
        (b"no json", SECRET, 400),
        (payload("user.broken"), SECRET, 500),
        (b"x" * 5000, SECRET, 413),
    ],
)
async def test_each_outcome_is_answered_over_http_without_a_body(body: bytes, secret: str, status: int) -> None:
    service = Service(max_body_size=4096)
    async with serving(service.receiver) as url:
        assert await post(url, body, signed(body, secret=secret)) == (status, None, b"")


async def test_a_busy_receivers_answer_says_when_to_come_again() -> None:
    service = Service()
    body = payload()
    await service.receiver.aclose()
    async with serving(service.receiver) as url:
        assert await post(url, body, signed(body)) == (503, "5", b"")


async def test_one_connection_carries_many_deliveries() -> None:
    service = Service()
    async with serving(service.receiver) as url, aiohttp.ClientSession() as session:
        for _ in range(5):
            body = payload()
            async with session.post(url, data=body, headers=signed(body)) as answer:
                assert answer.status == 204
                assert "close" not in answer.headers.get("Connection", "").lower()
    assert len(service.handled) == 5


async def test_a_body_in_chunks_is_read_whole() -> None:
    body = payload(padding="x" * 50_000)

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]
            await asyncio.sleep(0)

    service = Service()
    async with serving(service.receiver) as url:
        assert await post(url, chunks(), signed(body)) == (204, None, b"")
    assert service.handled[0].body == body


async def test_an_endless_body_is_cut_off_at_the_limit() -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 65_536
            yield b"x" * 65_536

    service = Service(max_body_size=100_000)
    async with serving(service.receiver) as url, aiohttp.ClientSession() as session:
        async with asyncio.timeout(10):
            try:
                async with session.post(url, data=endless(), headers=signed(b"")) as answer:
                    assert answer.status == 413
            except aiohttp.ClientConnectionError:
                pass  # the server closed while more was being sent
    assert [event.status for event in service.events] == [413]
    assert sent < 20_000_000


async def test_a_body_that_says_it_is_too_large_is_not_read_at_all() -> None:
    service = Service(max_body_size=100)
    async with serving(service.receiver) as url:
        answer = await raw(url, b"POST /basiq HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer.lower()


async def test_a_compressed_body_counts_as_it_comes_out() -> None:
    body = b" " * 10_000_000
    service = Service(max_body_size=100_000)
    async with serving(service.receiver) as url, aiohttp.ClientSession() as session:
        headers = {**signed(body), "Content-Encoding": "gzip"}
        async with session.post(url, data=gzip.compress(body), headers=headers) as answer:
            assert answer.status == 413


async def test_a_body_that_trickles_is_given_up_after_body_timeout() -> None:
    service = Service(body_timeout=0.04)
    async with serving(service.receiver) as url:
        answer = await raw(url, b"POST /basiq HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nx")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert [event.result for event in service.events] == ["aborted"]


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
    async with serving(service.receiver) as url:
        await raw(url, b"POST /basiq HTTP/1.1\r\nHost: x\r\n" + request_, then=lambda writer: writer.write_eof())
        async with asyncio.timeout(5):
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
    async with serving(service.receiver) as url:
        answer = await raw(url, b"POST /basiq HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + request_)
    assert answer[9:12] in {b"400", b"408"}
    assert not service.handled


async def test_headers_that_differ_are_refused_over_http_too() -> None:
    service = Service()
    body = payload()
    headers = [*signed(body).items(), ("webhook-id", "another")]
    async with serving(service.receiver) as url:
        assert await post(url, body, headers) == (401, None, b"")
    assert service.events[0].reason == "duplicate-header"


def test_the_receiver_does_not_load_aiohttp() -> None:
    code = "import sys, basiq_async.receiver; sys.exit('aiohttp' in sys.modules or 'typer' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
