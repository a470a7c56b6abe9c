"""Kept connections: with the parts of aiohttp that the transport looks at, and with a release that lacks them."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from typing import Any
from unittest import mock

import aiohttp
import pytest
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

from basiq_async import AiohttpTransport, ConnectionFailedError, Request
from tests.support.wire import Conn, Wire, closing, http

OK = http(200, b"ok")


@pytest.fixture
async def breaking() -> AsyncIterator[Wire]:
    """A server that breaks a kept connection at the second request, and answers the next one."""
    async with Wire(OK, closing(), OK) as wire:
        yield wire


async def test_aiohttp_by_itself_sends_a_get_again_where_a_kept_connection_breaks(breaking: Wire) -> None:
    async with aiohttp.ClientSession() as session:
        await (await session.get(breaking.url)).read()
        assert (await session.get(breaking.url)).status == 200
    assert len(breaking.requests) == 3


async def test_with_our_response_class_it_does_not(breaking: Wire) -> None:
    transport = AiohttpTransport()
    await transport.send(Request("GET", breaking.url))
    with pytest.raises(ConnectionFailedError) as caught:
        await transport.send(Request("GET", breaking.url))
    assert (caught.value.sent, len(breaking.requests)) == (True, 2)
    await transport.aclose()


@pytest.mark.parametrize("later", [False, True], ids=["at once", "while the connection is idle"])
async def test_a_response_without_a_request_is_not_read_by_the_next_request(later: bool) -> None:
    said = asyncio.Event()

    async def answer_twice(conn: Conn) -> None:
        await conn.say(OK)
        if later:
            await asyncio.sleep(0.005)
        await conn.say(http(200, b"no"))
        said.set()
        await conn.hang()

    transport = AiohttpTransport()
    async with Wire(answer_twice) as wire:
        for _ in range(3):
            assert (await transport.send(Request("GET", wire.url))).body == b"ok"
            await said.wait()  # however busy the machine is: then the client's turn to receive it
            said.clear()
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
    breaking: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aiohttp, "ClientSession", changed_session)
    transport = AiohttpTransport()
    for _ in range(2):
        assert (await transport.send(Request("GET", breaking.url))).body == b"ok"
    assert len(breaking.requests) == 3  # the second request was sent twice, as aiohttp does by itself
    await transport.aclose()
