"""The receiver as a handler of ``aiohttp.web``."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import web

if TYPE_CHECKING:
    from .receiver import WebhookReceiver

__all__ = ["answer"]


async def answer(receiver: WebhookReceiver, request: web.Request) -> web.Response:
    """Read the request's body, hand it to the receiver, and give its answer."""
    outcome = await receiver.handle_stream(request.headers, _chunks(request), content_length=request.content_length)
    response = web.Response(status=outcome.status, headers=outcome.headers)
    if not request.content.at_eof():
        response.force_close()  # the rest of the body is not read
    return response


async def _chunks(request: web.Request) -> AsyncGenerator[bytes]:
    try:
        async for chunk in request.content.iter_any():
            yield chunk
    except (aiohttp.ClientError, aiohttp.http.HttpProcessingError, web.RequestPayloadError) as exc:
        raise ConnectionError("the body broke off") from exc
