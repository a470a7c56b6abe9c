"""The receiver as a handler of ``aiohttp.web``.

``take_body``, ``keep_body`` and the response classes use internals of aiohttp's server: they send a prepared 204, keep
a body for later readers of the request, and close a connection without waiting for the rest of a body. Therefore
pyproject.toml has an upper bound on aiohttp, and tests in ``tests/receiver`` fail if these internals change.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator
from email.utils import formatdate
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import SERVER_SOFTWARE, HttpVersion11

from ._outcome import Outcome, Receives

logger = logging.getLogger("basiq_async.receiver")


class AiohttpAdapter:
    """Hands requests of ``aiohttp.web`` to a receiver."""

    def __init__(self, receiver: Receives) -> None:
        self._receiver = receiver

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Handle one request."""
        encoding = request.headers.get("Content-Encoding")
        body = take_body(request) if encoding is None else None
        if body is not None:
            if not body and request.content.total_bytes:
                logger.error(
                    "the body of the request was read before the receiver, and not kept: a middleware must read it "
                    "with request.read(), request.text() or request.json(), which keep it"
                )
            # The whole body has arrived, as for nearly every delivery: it needs no time limit and no loop.
            return respond(await self._receiver.handle(request.headers, body), request, whole=True)
        outcome = await self._receiver.handle_stream(
            request.headers,
            _chunks(request),
            content_length=request.content_length,
            content_encoding=encoding,
        )
        if outcome.delivery is not None:
            keep_body(request, outcome.delivery.body)
        return respond(outcome, request, whole=request.content.at_eof())


async def _chunks(request: web.Request) -> AsyncGenerator[bytes]:
    """Yield the body as it arrives. Raises ``ConnectionError`` if it breaks off."""
    try:
        async for chunk in request.content.iter_any():
            yield chunk
    except (aiohttp.ClientError, aiohttp.http.HttpProcessingError, web.RequestPayloadError) as exc:
        raise ConnectionError("the body broke off") from exc


def respond(outcome: Outcome, request: web.Request, *, whole: bool) -> web.Response:
    """Make the response. Unless the ``whole`` request body has been read, the connection is closed after it."""
    if not whole:
        return ClosingResponse(request, status=outcome.status, headers=outcome.headers)
    if outcome.status == 204:
        return NoContent(status=204)
    return web.Response(status=outcome.status, headers=outcome.headers or None)


def take_body(request: web.BaseRequest) -> bytes | None:
    """Return the body of a request if it has arrived, else None.

    A middleware may have read it before with ``request.read()``, which keeps it. This function keeps it too, for later
    readers.
    """
    kept = request._read_bytes
    if kept is not None:
        return kept
    content = request.content
    if not content.is_eof() or content.exception() is not None:
        return None
    body: bytes = content.read_nowait()
    request._read_bytes = body
    return body


def keep_body(request: web.BaseRequest, body: bytes) -> None:
    """Keep the body of a request for later readers, as ``request.read()`` does."""
    request._read_bytes = body


class ClosingResponse(web.Response):
    """A response that closes the connection as soon as it is written.

    Otherwise aiohttp reads and decompresses the rest of the request's body after the response, for 10 seconds by
    default, and a flood of large bodies would keep it busy.
    """

    def __init__(self, request: web.BaseRequest, **options: Any) -> None:
        super().__init__(**options)
        self._ending = request.protocol
        self.force_close()

    async def write_eof(self, data: bytes = b"") -> None:
        await super().write_eof(data)
        self._ending.force_close()


class NoContent(web.Response):
    """A 204 whose bytes are made once a second, unless the application adds headers or cookies to it.

    Nearly every delivery gets this response, and making its head is a fifth of aiohttp's work on a request.
    """

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        # The prepared bytes are right unless a middleware, a signal or the connection changes the response.
        if (
            self._headers
            or self._cookies
            or self._status != 204
            or self._reason != "No Content"
            or self._keep_alive is not None  # also set when the response has been prepared
            or not request.keep_alive
            or request.version != HttpVersion11
        ):
            return await super().prepare(request)
        if isinstance(request, web.Request):
            for app in request.match_info.apps:
                if app.on_response_prepare:
                    return await super().prepare(request)
        transport = request.transport
        if transport is None or transport.is_closing():
            raise aiohttp.ClientConnectionResetError("the client has closed the connection")
        head = _head.at(time.time())
        transport.write(head)
        self._keep_alive = True
        self._body_length = len(head)
        self._eof_sent = True
        writer = request.writer
        await writer.drain()
        return writer


class _Head:
    """The head of a 204, made anew for each second because of its ``Date``."""

    def __init__(self) -> None:
        self._second = 0
        self._bytes = b""

    def at(self, now: float) -> bytes:
        second = int(now)
        if second != self._second:
            date = formatdate(second, usegmt=True)
            self._bytes = f"HTTP/1.1 204 No Content\r\nDate: {date}\r\nServer: {SERVER_SOFTWARE}\r\n\r\n".encode()
            self._second = second
        return self._bytes


_head = _Head()
