"""The receiver as a handler of ``aiohttp.web``."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator

import aiohttp
from aiohttp import web

from ._aiohttp_internals import ClosingResponse, NoContent, keep_body, take_body
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
                    "with request.read(), request.text() or request.json()"
                )
            # All of it is here, as with nearly every delivery: no need for a time limit and a loop.
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
    """The body, as it arrives. Raises ``ConnectionError`` for one that breaks off."""
    try:
        async for chunk in request.content.iter_any():
            yield chunk
    except (aiohttp.ClientError, aiohttp.http.HttpProcessingError, web.RequestPayloadError) as exc:
        raise ConnectionError("the body broke off") from exc


def respond(outcome: Outcome, request: web.Request, *, whole: bool) -> web.Response:
    """The response; ``whole`` says whether all of the request's body has been read. If not, the connection ends."""
    if not whole:
        return ClosingResponse(request, status=outcome.status, headers=outcome.headers)
    if outcome.status == 204:
        return NoContent(status=204)
    return web.Response(status=outcome.status, headers=outcome.headers or None)
