"""Bodies that are still arriving: each within a size and a time, and all together within one sum."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable

_FREE = 16_384
"""Bytes of each body that do not count towards the sum: few requests are larger, and none is refused for others."""


class BodyError(Exception):
    """A body that is not read to its end."""


class BodyTooLargeError(BodyError):
    """It is larger than the limit."""


class BodyAbortedError(BodyError):
    """It broke off, or did not arrive within the time; ``received`` is how many bytes came."""

    def __init__(self, received: int) -> None:
        super().__init__(received)
        self.received = received


class TooManyBytesError(BodyError):
    """All bodies that are arriving are larger together than the limit of their sum."""


class BodyReader:
    """Reads bodies of at most ``max_size`` bytes, each within ``timeout`` seconds.

    All that are under way hold at most ``max_total`` bytes together, apart from the first 16 KiB of each.
    """

    def __init__(self, *, max_size: int, max_total: int, timeout: float) -> None:
        self.max_size = max_size
        self.max_total = max_total
        self.timeout = timeout
        self._held = 0

    def check_length(self, content_length: int | None) -> None:
        """Raise BodyTooLargeError for a body that says that it is too large."""
        if content_length is not None and content_length > self.max_size:
            raise BodyTooLargeError

    async def read(self, chunks: AsyncIterable[bytes]) -> bytes:
        """Read a whole body. Raises BodyError."""
        body = bytearray()
        held = 0
        try:
            async with asyncio.timeout(self.timeout):
                async for chunk in chunks:
                    body += chunk
                    if len(body) > self.max_size:
                        raise BodyTooLargeError
                    more = max(0, len(body) - _FREE) - held
                    if more and self._held + more > self.max_total:
                        raise TooManyBytesError
                    held += more
                    self._held += more
        except (TimeoutError, ConnectionError):
            raise BodyAbortedError(len(body)) from None
        finally:
            self._held -= held
        return bytes(body)
