"""What the receiver needs of ``aiohttp.web``."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import aiohttp
from aiohttp import web

from .outcome import Outcome

__all__ = ["chunks", "response"]


async def chunks(request: web.Request) -> AsyncGenerator[bytes]:
    """The body, as it arrives. Raises ``ConnectionError`` for one that breaks off."""
    try:
        async for chunk in request.content.iter_any():
            yield chunk
    except (aiohttp.ClientError, aiohttp.http.HttpProcessingError, web.RequestPayloadError) as exc:
        raise ConnectionError("the body broke off") from exc


def response(request: web.Request, outcome: Outcome) -> web.Response:
    """The answer to a request."""
    answer = web.Response(status=outcome.status, headers=outcome.headers or None)
    if not request.content.at_eof():
        answer.force_close()  # the rest of the body is not read
    return answer
