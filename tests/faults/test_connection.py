"""Every way in which a connection can fail."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import trustme

from basiq_async import (
    AiohttpTransport,
    APIError,
    BasiqClient,
    ConfigurationError,
    ConnectionFailedError,
    NotFoundError,
    RequestTimeoutError,
    ResponseDecodeError,
    Webhook,
)
from tests.support.outcomes import ONCE, QUICK, client_of, outcome
from tests.support.wire import (
    KEY,
    WEBHOOK,
    Conn,
    Step,
    Wire,
    closing,
    error,
    hanging,
    http,
    ok,
    resetting,
    trickling,
)

BODY = json.dumps(WEBHOOK).encode()
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def sized(size: int, body: bytes = BODY) -> bytes:
    return HEAD + f"Content-Length: {size}\r\n\r\n".encode() + body


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def gzipped(body: bytes, *, cut: int = 0, name: str = "gzip") -> bytes:
    packed = gzip.compress(body)
    packed = packed[: len(packed) - cut]
    return http(200, packed, "Content-Type: application/json", f"Content-Encoding: {name}")


BROKEN: dict[str, Step] = {
    "closed without a word": closing(),
    "reset without a word": resetting(),
    "closed in the headers": closing(HEAD),
    "reset after the headers": resetting(sized(len(BODY), b"")),
    "a body shorter than its length": closing(sized(len(BODY) + 1)),
    "closed between chunks": closing(CHUNKED + chunk(BODY)),
    "a chunk size that is none": closing(CHUNKED + b"xyz\r\n" + BODY),
    "a chunk size beyond 64 bits": closing(CHUNKED + b"f" * 40 + b"\r\n" + BODY),
    "TLS in place of HTTP": closing(b"\x15\x03\x01\x00\x02\x02\x46"),
    "HTTP/0.9": closing(b"<html>hello</html>"),
    "a length that is no number": closing(HEAD + b"Content-Length: many\r\n\r\n" + BODY),
    "two lengths": closing(HEAD + b"Content-Length: 3\r\nContent-Length: 5\r\n\r\n" + BODY),
    "a header with a NUL": closing(HEAD + b"X: a\0b\r\n\r\n" + BODY),
    "a huge header": closing(HEAD + b"X: " + b"a" * 100_000 + b"\r\nContent-Length: 2\r\n\r\n{}"),
    "a thousand headers": closing(HEAD + b"X: a\r\n" * 1000 + b"Content-Length: 2\r\n\r\n{}"),
    "a huge reason": closing(b"HTTP/1.1 200 " + b"a" * 100_000 + b"\r\nContent-Length: 2\r\n\r\n{}"),
    "gzip that is not": http(200, BODY, "Content-Encoding: gzip"),
    "br that is not": http(200, BODY, "Content-Encoding: br"),
}


@pytest.mark.parametrize("step", BROKEN.values(), ids=BROKEN)
async def test_a_broken_answer_is_a_failed_connection_and_the_next_call_works(step: Step) -> None:
    async with Wire(step, ok(WEBHOOK)) as wire, client_of(wire) as client:
        got = await outcome(client.webhooks.get("w1"))
        assert type(got) is ConnectionFailedError, got
        assert got.attempts == 1
        assert isinstance(await outcome(client.webhooks.get("w1")), Webhook)
        assert len(wire.requests) == 2


SLOW: dict[str, Step] = {
    "accepts and never answers": hanging(),
    "stops in the headers": hanging(HEAD),
    "stops in the body": hanging(sized(len(BODY), BODY[:10])),
    "a trickle of a body": trickling(sized(10_000_000, b""), b" ", every=0.005),
    "a trickle of a chunk's extension": trickling(CHUNKED + b"5;a=", b"a", every=0.005),
    "gzip that never ends": hanging(
        HEAD + b"Content-Encoding: gzip\r\nContent-Length: 999\r\n\r\n" + gzip.compress(BODY)
    ),
}


@pytest.mark.parametrize("step", SLOW.values(), ids=SLOW)
async def test_an_answer_that_does_not_come_to_an_end_is_a_timeout(step: Step) -> None:
    async with Wire(step, ok(WEBHOOK)) as wire, client_of(wire, timeout=0.1) as client:
        got = await outcome(client.webhooks.get("w1"))
        assert type(got) in (RequestTimeoutError, ConnectionFailedError), got
        assert isinstance(got, TimeoutError) or "head is too large" in str(got) or wire.script == [ok(WEBHOOK)]
        assert isinstance(await outcome(client.webhooks.get("w1")), Webhook)


EXACT: dict[str, Step] = {
    "chunks": CHUNKED + b"".join(chunk(BODY[i : i + 7]) for i in range(0, len(BODY), 7)) + b"0\r\n\r\n",
    "chunks with extensions and a trailer": CHUNKED
    + f"{len(BODY):X};a=b\r\n".encode()
    + BODY
    + b"\r\n0;last\r\nX-Trailer: 1\r\n\r\n",
    "byte by byte": trickling(ok(WEBHOOK)),
    "ended by closing": closing(HEAD + b"\r\n" + BODY),
    "a length with zeros before it": HEAD + f"Content-Length: 000{len(BODY)}\r\n\r\n".encode() + BODY,
    "the same length twice, closed": closing(sized(len(BODY))),
    "no reason": b"HTTP/1.1 200\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY,
    "gzip": gzipped(BODY),
    "gzip without its checksum": gzipped(BODY, cut=8),
    "gzip in two members": http(
        200,
        gzip.compress(BODY[:20]) + gzip.compress(BODY[20:]),
        "Content-Type: application/json",
        "Content-Encoding: gzip",
    ),
    "identity": http(200, BODY, "Content-Encoding: identity"),
    "headers of other bytes": http(200, BODY, "X-Name: caf\xe9"),
    "closes and says so": closing(http(200, BODY, "Connection: close")),
}


@pytest.mark.parametrize("step", EXACT.values(), ids=EXACT)
async def test_an_unusual_but_right_answer_is_the_exact_result(step: Step) -> None:
    async with Wire(step) as wire, client_of(wire, retry=QUICK) as client:
        for _ in range(2):
            got = await outcome(client.webhooks.get("w1"))
            assert isinstance(got, Webhook), got
            assert got.raw == WEBHOOK


@pytest.mark.parametrize("cut", [12, 40])
async def test_gzip_that_is_cut_short_is_an_answer_that_cannot_be_understood(cut: int) -> None:
    async with Wire(gzipped(BODY, cut=cut), ok(WEBHOOK)) as wire, client_of(wire) as client:
        assert type(await outcome(client.webhooks.get("w1"))) is ResponseDecodeError
        assert isinstance(await outcome(client.webhooks.get("w1")), Webhook)


async def test_an_unknown_encoding_is_not_guessed_at() -> None:
    async with Wire(http(200, b"\x01\x02\x03", "Content-Encoding: rot13")) as wire, client_of(wire) as client:
        assert type(await outcome(client.webhooks.get("w1"))) is ResponseDecodeError


async def test_a_kept_connection_that_the_server_closes_between_two_calls_is_replaced() -> None:
    async def then_closes(conn: Conn) -> None:
        await conn.say(ok(WEBHOOK))
        await asyncio.sleep(0.005)
        await conn.close()

    async with Wire(then_closes) as wire, client_of(wire, retry=QUICK) as client:
        for pause in (0.0, 0.01, 0.0, 0.01, 0.0):
            assert isinstance(await outcome(client.webhooks.get("w1")), Webhook)
            await asyncio.sleep(pause)


@pytest.mark.parametrize("host", ["127.1", "a..b", "no-such-host.invalid", f"{'a' * 64}.invalid"])
async def test_a_host_that_is_none_is_one_of_our_errors(host: str) -> None:
    try:
        async with client_of(f"http://{host}:9") as client:
            got = await outcome(client.webhooks.get("w1"), within=6.0)
    except ConfigurationError as exc:
        got = exc
    assert type(got) in (ConfigurationError, ConnectionFailedError, RequestTimeoutError), got


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def tls_server(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(context)
    return context


async def test_a_certificate_of_an_unknown_authority_is_refused(authority: trustme.CA) -> None:
    async with Wire(tls=tls_server(authority, "127.0.0.1")) as wire, client_of(wire) as client:
        got = await outcome(client.webhooks.get("w1"))
        assert (type(got), got.sent) == (ConnectionFailedError, False)
        assert "certificate" in str(got)
        assert not wire.token_requests


async def test_http_at_the_port_of_tls_and_tls_at_the_port_of_http(authority: trustme.CA) -> None:
    async with Wire() as wire, client_of(wire.url.replace("http:", "https:")) as client:
        got = await outcome(client.webhooks.get("w1"))
        assert type(got) in (ConnectionFailedError, RequestTimeoutError)
    async with Wire(tls=tls_server(authority, "127.0.0.1")) as wire:
        async with client_of(wire.url.replace("https:", "http:")) as client:
            assert type(await outcome(client.webhooks.get("w1"))) in (ConnectionFailedError, APIError)
        await wire.quiet()


@pytest.fixture
async def trusting(authority: trustme.CA) -> AsyncIterator[Any]:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        yield session
    await asyncio.sleep(0.01)


async def test_over_tls_with_an_authority_of_the_users(authority: trustme.CA, trusting: Any) -> None:
    wire = Wire(ok(WEBHOOK), closing(b"HTTP/1.1 2"), ok(WEBHOOK), tls=tls_server(authority, "127.0.0.1"))
    async with wire:
        transport = AiohttpTransport(trusting)
        async with BasiqClient(KEY, base_url=wire.url, transport=transport, retry=QUICK, timeout=1.0) as client:
            for _ in range(2):
                assert isinstance(await outcome(client.webhooks.get("w1")), Webhook)
        await transport.aclose()
        assert not trusting.closed
        await trusting.close()


async def test_a_certificate_for_another_name_is_refused(authority: trustme.CA, trusting: Any) -> None:
    async with Wire(tls=tls_server(authority, "other.example")) as wire:
        client = BasiqClient(KEY, base_url=wire.url, transport=AiohttpTransport(trusting), retry=ONCE)
        assert type(await outcome(client.webhooks.get("w1"))) is ConnectionFailedError
        assert not wire.token_requests
        await client.aclose()
        await trusting.close()


async def test_a_server_that_never_finishes_the_tls_handshake_is_a_timeout() -> None:
    class Mute(Wire):
        async def _serve(self, conn: Conn) -> None:
            await conn.hang()

    async with Mute() as wire:
        async with client_of(wire.url.replace("http:", "https:")) as client:
            assert type(await outcome(client.webhooks.get("w1"))) is RequestTimeoutError
        await wire.quiet()


async def test_fifty_calls_at_a_server_that_hangs_all_time_out_together() -> None:
    async with Wire(hanging()) as wire, client_of(wire, timeout=0.1) as client:
        await outcome(client.webhooks.get("w0"))
        got = await outcome(asyncio.gather(*(client.webhooks.get(f"w{i}") for i in range(50)), return_exceptions=True))
        assert {type(one) for one in got} == {RequestTimeoutError}


async def test_closing_the_client_ends_calls_that_are_under_way() -> None:
    async with Wire(hanging()) as wire, client_of(wire, timeout=30.0, retry=QUICK) as client:
        call = asyncio.create_task(client.webhooks.get("w1"))
        while not wire.requests:
            await asyncio.sleep(0.001)
        await client.aclose()
        got = await outcome(call)
        assert type(got) is ConnectionFailedError
        assert type(await outcome(client.webhooks.get("w1"))) is ConnectionFailedError
        assert len(wire.requests) == 1


async def test_a_session_of_the_users_with_odd_defaults_changes_nothing() -> None:
    session = aiohttp.ClientSession(
        raise_for_status=True,
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=0.001),
        headers={"Accept": "x/y"},
    )
    async with (
        session,
        Wire(gzipped(BODY), http(302, "", "Location: /x"), error(404)) as wire,
        BasiqClient(KEY, base_url=wire.url, transport=AiohttpTransport(session), retry=ONCE) as client,
    ):
        assert isinstance(await outcome(client.webhooks.get("w1")), Webhook)
        assert type(await outcome(client.webhooks.get("w1"))) is APIError
        assert type(await outcome(client.webhooks.get("w1"))) is NotFoundError
