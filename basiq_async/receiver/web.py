"""The receiver as a handler of ``aiohttp.web``."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import aiohttp
from aiohttp import web

from .port import ReceiverPort

__all__ = ["answer"]


async def answer(receiver: ReceiverPort, request: web.Request) -> web.Response:
    """Read the request's body, hand it to the receiver, and give its answer."""
    content = request.content
    if content.is_eof() and content.exception() is None:
        # All of it is here, as with nearly every delivery: no need for a time limit and a loop.
        outcome = await receiver.handle(request.raw_headers, content.read_nowait())
    else:
        outcome = await receiver.handle_stream(request.headers, _chunks(request), content_length=request.content_length)
    response = web.Response(status=outcome.status, headers=outcome.headers or None)
    if not content.at_eof():
        response.force_close()  # the rest of the body is not read
    return response


async def _chunks(request: web.Request) -> AsyncGenerator[bytes]:
    try:
        async for chunk in request.content.iter_any():
            yield chunk
    except (aiohttp.ClientError, aiohttp.http.HttpProcessingError, web.RequestPayloadError) as exc:
        raise ConnectionError("the body broke off") from exc
