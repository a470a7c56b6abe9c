"""What the receiver needs of ``aiohttp.web``."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from email.utils import formatdate

import aiohttp
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import SERVER_SOFTWARE, HttpVersion11

from ._outcome import Outcome

__all__ = ["chunks", "response"]


async def chunks(request: web.Request) -> AsyncGenerator[bytes]:
    """The body, as it arrives. Raises ``ConnectionError`` for one that breaks off."""
    try:
        async for chunk in request.content.iter_any():
            yield chunk
    except (aiohttp.ClientError, aiohttp.http.HttpProcessingError, web.RequestPayloadError) as exc:
        raise ConnectionError("the body broke off") from exc


def response(outcome: Outcome, *, whole: bool) -> web.Response:
    """The answer; ``whole`` says whether all of the request's body has been read."""
    if outcome.status == 204 and whole:
        return _NoContent(status=204)
    answer = web.Response(status=outcome.status, headers=outcome.headers or None)
    if not whole:
        answer.force_close()  # the rest of the body is not read
    return answer


class _NoContent(web.Response):
    """A 204 whose bytes are made once a second, unless the application has something to add to it.

    Nearly every delivery is answered by it, and to make the same head each time is a fifth of all that aiohttp does.
    """

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        # What would be sent is known, unless a middleware, a signal or the connection asks for something else.
        if (
            self._headers
            or self._cookies
            or self._status != 204
            or self._reason != "No Content"
            or self._keep_alive is not None  # also where it has been prepared
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
    """The head of a 204, made anew when another second has begun."""

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
