"""Reading a request's body, within a size and a time."""

from __future__ import annotations

import asyncio

from aiohttp import web

MOST_BYTES = 1_048_576
SECONDS = 10.0


class BodyError(Exception):
    """A body that is too large or too slow; ``status`` is what to respond with."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


async def read_body(request: web.BaseRequest, *, most: int = MOST_BYTES) -> bytes | None:
    """The body, or None where there is none. Raises BodyError."""
    if not request.can_read_body:
        return None
    if (request.content_length or 0) > most:
        raise BodyError(413, f"the body is larger than {most} bytes")
    body = bytearray()
    try:
        async with asyncio.timeout(SECONDS):
            async for part in request.content.iter_any():
                body += part
                if len(body) > most:
                    raise BodyError(413, f"the body is larger than {most} bytes")
    except TimeoutError:
        raise BodyError(408, f"the body did not arrive within {SECONDS:g} s") from None
    return bytes(body)
