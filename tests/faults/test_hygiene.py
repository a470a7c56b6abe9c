"""What a session of the client's own does not do, and what transports of others can do to it."""

from __future__ import annotations

import asyncio
import gc
import sys
import warnings
from typing import Any

import aiohttp
import pytest

from basiq_async import (
    AiohttpTransport,
    BasiqClient,
    BasiqError,
    ConfigurationError,
    ConnectionFailedError,
    Request,
    RequestTimeoutError,
    Response,
    TransportError,
    Webhook,
)
from tests.support.environment import ROOT
from tests.support.outcomes import ONCE, QUICK, client_of, outcome
from tests.support.programs import run
from tests.support.scripted import Scripted, answer
from tests.support.wire import KEY, WEBHOOK, Wire, ok, page


async def test_no_cookie_is_kept() -> None:
    async with (
        Wire(ok(WEBHOOK, "Set-Cookie: session=abc; Path=/", "Set-Cookie: b=c")) as wire,
        client_of(wire) as client,
    ):
        for _ in range(3):
            await client.webhooks.get("w1")
        assert all("cookie" not in request.headers for request in [*wire.requests, *wire.token_requests])


async def test_a_client_that_is_never_closed_warns_of_nothing_of_ours_and_one_that_did_nothing_of_nothing() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        BasiqClient(KEY)
        gc.collect()
    assert caught == []


def test_a_transport_used_from_another_loop_is_an_error_of_ours() -> None:
    transport = AiohttpTransport()
    client = BasiqClient(KEY, base_url="http://127.0.0.1:1", transport=transport, retry=ONCE)

    async def call() -> Any:
        try:
            return await client.webhooks.get("w1")
        except BasiqError as exc:
            return exc

    async def close() -> None:
        await transport.aclose()

    with asyncio.Runner() as first:
        assert type(first.run(call())) is ConnectionFailedError
        with_second = asyncio.new_event_loop()
        try:
            got = with_second.run_until_complete(call())
        finally:
            with_second.close()
        assert type(got) is ConfigurationError
        assert "event loop" in str(got)
        first.run(close())


ODD: dict[str, tuple[Any, type[Exception], int]] = {
    "OSError": (OSError("x"), ConnectionFailedError, 4),
    "TimeoutError": (TimeoutError(), RequestTimeoutError, 4),
    "aiohttp's timeout": (aiohttp.ServerTimeoutError(), RequestTimeoutError, 4),
    "aiohttp.ClientOSError": (aiohttp.ClientOSError(), ConnectionFailedError, 4),
    "aiohttp.ServerDisconnectedError": (aiohttp.ServerDisconnectedError(), TransportError, 1),
    "ValueError": (ValueError(), TransportError, 1),
    "StopAsyncIteration": (StopAsyncIteration(), TransportError, 1),
    "RecursionError": (RecursionError(), TransportError, 1),
    "MemoryError": (MemoryError(), TransportError, 1),
    "a group": (ExceptionGroup("x", [OSError()]), TransportError, 1),
    "a cancellation of its own": (asyncio.CancelledError(), ConnectionFailedError, 4),
    "TransportError": (TransportError("x"), TransportError, 1),
    "headers of None": (Response(200, None), TransportError, 1),
    "headers of numbers": (Response(200, {1: 2}), TransportError, 1),
    "never": (lambda request: asyncio.sleep(3600), RequestTimeoutError, 4),
}


@pytest.mark.parametrize(("does", "expected", "calls"), ODD.values(), ids=ODD)
async def test_whatever_a_transport_of_others_does_one_error_of_ours_comes_out(
    does: Any, expected: Any, calls: int
) -> None:
    transport = Scripted(does)
    async with BasiqClient(KEY, transport=transport, retry=QUICK, timeout=0.05) as client:
        got = await outcome(client.webhooks.get("w1"), within=2.0)
        assert type(got) is expected, got
        assert (len(transport.requests), got.attempts) == (calls, calls)
        transport.script = [answer(WEBHOOK)]
        assert isinstance(await outcome(client.webhooks.get("w1")), Webhook)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("value", [5, None, b"12", ["1"], ""], ids=repr)
async def test_a_header_of_another_type_from_a_transport_of_others_does_no_harm(value: Any) -> None:
    transport = Scripted(Response(429, {"retry-after": value, "location": value}))
    async with BasiqClient(KEY, transport=transport, retry=QUICK) as client:
        got = await outcome(client.webhooks.get("w1"))
        assert isinstance(got, BasiqError), got


async def test_a_transport_whose_send_is_not_async() -> None:
    class Sync:
        def send(self, request: Request, /) -> Response:
            return Response(200)

        async def aclose(self) -> None: ...

    async with BasiqClient(KEY, transport=Sync(), retry=ONCE) as client:
        assert type(await outcome(client.webhooks.get("w1"))) is TransportError


PROGRAM = """
import asyncio, sys
from basiq_async import BasiqClient

async def main():
    client = BasiqClient("key-of-a-program", base_url=sys.argv[1])
    items = aiter(client.messages.list("w1"))
    print((await anext(items)).id)
    if sys.argv[2] == "close":
        await client.aclose()

asyncio.run(main())
"""


@pytest.mark.parametrize("end", ["close", "leave"])
async def test_a_program_that_stops_in_the_middle_of_a_stream_ends_quietly(end: str) -> None:
    async with Wire(page([{"id": "m1"}], "/x?n=1"), page([{"id": "m2"}])) as wire:
        command = (sys.executable, "-W", "error", "-c", PROGRAM, wire.url, end)
        done = await asyncio.to_thread(run, *command, cwd=ROOT)
        assert done.stdout == "m1\n"
        if end == "close":
            assert done.stderr == ""
        assert "never retrieved" not in done.stderr
        assert "was destroyed" not in done.stderr
