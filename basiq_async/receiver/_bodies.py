"""Bodies that are still arriving: each within its limits, and all together within one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator

from ._outcome import Result

logger = logging.getLogger("basiq_async.receiver")

_FREE = 16_384
"""Bytes of each body that do not count towards the sum: a genuine delivery is smaller, and never refused for others."""


class RefusedError(Exception):
    """A request whose response is decided before its body is there."""

    def __init__(self, result: Result) -> None:
        super().__init__(result)
        self.result = result


class Bodies:
    """Reads bodies of at most ``max_size`` bytes, each within ``timeout`` seconds.

    All that are under way hold at most ``max_total`` bytes together, apart from the first 16 KiB of each.
    """

    def __init__(self, *, max_size: int, max_total: int, timeout: float) -> None:
        self._max_size = max_size
        self._max_total = max_total
        self._timeout = timeout
        self._held = 0

    def check(self, content_length: int | None, content_encoding: str | None) -> None:
        """Raise ``RefusedError`` for a body that is not to be read: too large, or compressed."""
        if content_length is not None and content_length > self._max_size:
            raise RefusedError(Result.TOO_LARGE)
        if content_encoding is not None and content_encoding.strip().lower() not in ("", "identity"):
            logger.warning("refused a delivery with a Content-Encoding: Basiq does not compress what it sends")
            raise RefusedError(Result.COMPRESSED)

    async def read(self, chunks: AsyncGenerator[bytes], content_length: int | None) -> bytes:
        """Read the whole body. Raises ``RefusedError``: too large, too slow, broken off, or one too many."""
        body = bytearray()
        held = 0
        try:
            async with asyncio.timeout(self._timeout):
                async for chunk in chunks:
                    body += chunk
                    if len(body) > self._max_size:
                        raise RefusedError(Result.TOO_LARGE)
                    more = max(0, len(body) - _FREE) - held
                    if more and self._held + more > self._max_total:
                        raise RefusedError(Result.OVERLOADED)
                    held += more
                    self._held += more
        except (TimeoutError, ConnectionError):
            logger.warning(
                "the body of a delivery broke off, or did not arrive within %g s: %d bytes of %s came; where that "
                "is so of each delivery, a middleware reads the body, and does not pass it on",
                self._timeout,
                len(body),
                "an unknown number" if content_length is None else content_length,
            )
            raise RefusedError(Result.ABORTED) from None
        finally:
            self._held -= held
        if content_length and not body:
            logger.error(
                "the body of a request was read before the receiver, and not passed on: a middleware that reads it has "
                "to keep it for what comes after it"
            )
        return bytes(body)
