"""Bodies that are still arriving: each within its limits, and all together within one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from ._outcome import Result

_FREE = 16_384
"""Bytes of each body that do not count towards the sum: a genuine delivery is smaller, and never refused for others."""


class RefusedError(Exception):
    """A request whose response is decided before its body is there; ``received`` is how many bytes came."""

    def __init__(self, result: Result, received: int = 0) -> None:
        super().__init__(result)
        self.result = result
        self.received = received


class Bodies:
    """Reads bodies of at most ``max_size`` bytes, each within ``timeout`` seconds.

    All that are under way hold at most ``max_total`` bytes together, apart from the first 16 KiB of each.
    """

    def __init__(self, *, max_size: int, max_total: int, timeout: float) -> None:
        self._max_size = max_size
        self._max_total = max_total
        self.timeout = timeout
        self._held = 0

    async def read(self, chunks: AsyncGenerator[bytes]) -> bytes:
        """The whole body. Raises ``RefusedError``: too large, too slow, broken off, or one too many."""
        body = bytearray()
        held = 0
        try:
            async with contextlib.aclosing(chunks), asyncio.timeout(self.timeout):
                async for chunk in chunks:
                    body += chunk
                    if len(body) > self._max_size:
                        raise RefusedError(Result.TOO_LARGE)
                    more = max(0, len(body) - _FREE) - held
                    if more and self._held + more > self._max_total:
                        raise RefusedError(Result.OVERLOADED)
                    held += more
                    self._held += more
            return bytes(body)
        except (TimeoutError, ConnectionError):
            raise RefusedError(Result.ABORTED, len(body)) from None
        finally:
            self._held -= held
