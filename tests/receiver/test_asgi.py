"""The ASGI app: by itself, as a route of Starlette and FastAPI, mounted, and under uvicorn."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from basiq_async.receiver import Delivery, WebhookReceiver
from tests.support.deliveries import Service, payload, signed
from tests.support.real_time import PATIENCE


async def call(
    service: Service, *events: dict[str, Any], headers: Sequence[tuple[bytes, bytes]] = (), **scope: Any
) -> list[Any]:
    sent: list[Any] = []
    incoming = iter(events)

    async def receive() -> dict[str, Any]:
        try:
            return next(incoming)
        except StopIteration:
            await asyncio.Event().wait()
            raise AssertionError from None

    async def send(event: Any) -> None:
        sent.append(event)

    async with asyncio.timeout(PATIENCE):
        await service.receiver.asgi({"type": "http", "method": "POST", "headers": headers, **scope}, receive, send)
    return sent


def as_bytes(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def request(body: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


async def test_a_body_in_pieces_is_read_whole_and_answered_without_a_body() -> None:
    service = Service()
    body = payload()
    pieces = [request(body[:10], more=True), {"type": "http.request", "more_body": True}, request(body[10:])]
    assert await call(service, *pieces, headers=as_bytes(signed(body))) == [
        {"type": "http.response.start", "status": 204, "headers": [(b"basiq-async-result", b"handled")]},
        {"type": "http.response.body", "body": b""},
    ]
    assert service.handled[0].body == body


async def test_an_endless_body_is_cut_off_at_the_limit() -> None:
    service = Service(max_body_size=100)
    start, _ = await call(service, *[request(b"x" * 60, more=True)] * 3, headers=as_bytes(signed(b"")))
    assert start["status"] == 413
    assert (b"connection", b"close") in start["headers"]


async def test_a_receiver_that_was_closed_does_not_read_the_body() -> None:
    service = Service()
    await service.receiver.aclose()
    start, _ = await call(service)
    assert (start["status"], dict(start["headers"])) == (
        503,
        {b"retry-after": b"5", b"connection": b"close", b"content-length": b"0"},
    )


@pytest.mark.parametrize("length", [b"101", b"9" * 18])
async def test_a_body_that_says_it_is_too_large_is_not_read_at_all(length: bytes) -> None:
    start, _ = await call(Service(max_body_size=100), headers=[(b"content-length", length)])
    assert start["status"] == 413
    assert (b"connection", b"close") in start["headers"]


async def test_a_content_length_that_is_no_number_is_passed_over() -> None:
    body = payload()
    headers = [(b"content-length", b"-1"), *as_bytes(signed(body))]
    start, _ = await call(Service(), request(body), headers=headers)
    assert start["status"] == 204


async def test_a_body_that_trickles_is_given_up_after_body_timeout() -> None:
    start, _ = await call(Service(body_timeout=0.02), request(b"x", more=True), headers=as_bytes(signed(b"")))
    assert start["status"] == 408
    assert (b"connection", b"close") in start["headers"]


async def test_a_client_that_goes_away_is_an_aborted_delivery() -> None:
    service = Service()
    await call(service, request(b"x", more=True), {"type": "http.disconnect"}, headers=as_bytes(signed(b"")))
    assert [event.result for event in service.events] == ["aborted"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "OPTIONS"])
async def test_other_methods_get_405(method: str) -> None:
    start, _ = await call(Service(), method=method)
    assert (start["status"], dict(start["headers"])[b"allow"]) == (405, b"POST")


async def test_a_websocket_is_closed() -> None:
    assert await call(Service(), type="websocket") == [{"type": "websocket.close", "code": 1003}]


async def test_a_server_that_shuts_down_closes_the_receiver() -> None:
    service = Service()
    events = [{"type": "lifespan.startup"}, {"type": "lifespan.tomorrow"}, {"type": "lifespan.shutdown"}]
    assert [event["type"] for event in await call(service, *events, type="lifespan")] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert repr(service.receiver) == "<WebhookReceiver: 1 patterns, closed>"


def starlette_app(receiver: WebhookReceiver) -> Any:
    return Starlette(routes=[Route("/basiq", receiver.asgi, methods=["POST"])])


def mounted_app(receiver: WebhookReceiver) -> Any:
    return Starlette(routes=[Mount("/basiq", receiver.asgi)])


@pytest.mark.parametrize("make_app", [starlette_app, mounted_app])
async def test_it_works_within_a_framework(make_app: Any) -> None:
    service = Service()
    app = make_app(service.receiver)
    path = "/basiq/" if make_app is mounted_app else "/basiq"
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        body = payload()
        assert (await client.post(path, content=body, headers=signed(body))).status_code == 204
        assert (await client.post(path, content=body, headers=signed(body))).status_code == 200
        assert (await client.post(path, content=body)).status_code == 401
        assert (await client.get(path)).status_code == 405
    assert len(service.handled) == 1


async def test_mounted_it_is_reached_with_a_slash_at_the_end_and_starlette_redirects_the_path_without() -> None:
    service = Service()
    transport = httpx.ASGITransport(mounted_app(service.receiver))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        body = payload()
        redirected = await client.post("/basiq", content=body, headers=signed(body))
        assert (redirected.status_code, redirected.headers["location"]) == (307, "http://test/basiq/")
    assert not service.handled


@asynccontextmanager
async def under_uvicorn(app: Any) -> AsyncGenerator[tuple[str, uvicorn.Server]]:
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on", ws="none"))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        task = asyncio.create_task(server._serve([listening]))
        try:
            async with asyncio.timeout(PATIENCE):
                while not server.started:
                    await asyncio.sleep(0.005)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/", server
        finally:
            server.should_exit = True
            await task


async def test_it_works_under_uvicorn_which_finishes_what_was_begun() -> None:
    service = Service(max_body_size=100_000)
    begun, go_on = asyncio.Event(), asyncio.Event()

    @service.receiver.on("user.slow")
    async def slow(delivery: Delivery) -> None:
        begun.set()
        await go_on.wait()
        service.handled.append(delivery)

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65_536
            await asyncio.sleep(0)

    async def post(body: bytes) -> int:
        async with session.post(url, data=body, headers=signed(body)) as answer:
            return answer.status

    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        async with under_uvicorn(service.receiver.asgi) as (url, server):
            assert await post(payload()) == 204
            assert await post(b"[]") == 400
            async with session.get(url) as answer:
                assert answer.status == 405
            try:
                async with session.post(url, data=endless(), headers=signed(b"")) as answer:
                    assert answer.status == 413
            except aiohttp.ClientConnectionError:
                pass  # the server closed while more was being sent
            in_flight = group.create_task(post(payload("user.slow")))
            await begun.wait()
            server.should_exit = True
            go_on.set()
        assert await in_flight == 204
    assert len(service.handled) == 2
    assert repr(service.receiver).endswith("closed>")


@pytest.mark.parametrize(
    ("length", "headers", "status"),
    [
        (10_000_000, {}, 413),
        (100, {"Content-Encoding": "gzip"}, 415),
        (100, {"webhook-timestamp": "1"}, 401),
        (100, {}, 408),
    ],
    ids=["too large", "compressed", "stale", "stalled"],
)
async def test_under_uvicorn_the_connection_ends_where_the_body_is_not_read(
    length: int, headers: dict[str, str], status: int
) -> None:
    service = Service(body_timeout=0.02)
    lines = {"Host": "x", "Content-Length": str(length), **signed(b""), **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    async with under_uvicorn(service.receiver.asgi) as (url, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2].strip("/")))
        writer.write(f"POST / HTTP/1.1\r\n{head}\r\nx".encode())
        async with asyncio.timeout(PATIENCE):
            received = await reader.read()  # to the end of the connection
        writer.close()
        await writer.wait_closed()
    assert received.startswith(f"HTTP/1.1 {status} ".encode())


async def test_over_http_2_a_response_has_no_connection_header() -> None:
    start, _ = await call(Service(max_body_size=100), headers=[(b"content-length", b"101")], http_version="2")
    assert (start["status"], start["headers"]) == (413, [(b"content-length", b"0")])
