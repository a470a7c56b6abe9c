"""Reading the bodies of requests: each within a size and a time, and all that are arriving within one sum."""

from __future__ import annotations

import asyncio

from aiohttp import web

MOST_BYTES = 1_048_576
MOST_TOGETHER = 16 * MOST_BYTES
SECONDS = 10.0
_FREE = 16_384
"""Bytes of each body that do not count towards the sum: few requests are larger, and none is refused for others."""


class BodyError(Exception):
    """A body that is too large or too slow, or one too many; ``status`` is what to respond with."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Bodies:
    """Reads bodies of at most 1 MiB. All that are arriving hold at most 16 MiB, apart from the first 16 KiB of each."""

    def __init__(self) -> None:
        self._held = 0

    async def read(self, request: web.BaseRequest) -> bytes | None:
        """The body, or None if there is none. Raises BodyError."""
        if not request.can_read_body:
            return None
        if (request.content_length or 0) > MOST_BYTES:
            raise BodyError(413, f"the body is larger than {MOST_BYTES} bytes")
        body = bytearray()
        held = 0
        try:
            async with asyncio.timeout(SECONDS):
                async for part in request.content.iter_any():
                    body += part
                    if len(body) > MOST_BYTES:
                        raise BodyError(413, f"the body is larger than {MOST_BYTES} bytes")
                    more = max(0, len(body) - _FREE) - held
                    if more and self._held + more > MOST_TOGETHER:
                        raise BodyError(503, f"more than {MOST_TOGETHER} bytes of bodies are arriving: try again later")
                    held += more
                    self._held += more
        except TimeoutError:
            raise BodyError(408, f"the body did not arrive within {SECONDS:g} s") from None
        finally:
            self._held -= held
        return bytes(body)


BODIES: web.AppKey[Bodies] = web.AppKey("bodies", Bodies)
