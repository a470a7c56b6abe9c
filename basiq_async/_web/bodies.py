"""Read request bodies within limits: a size and a time for each, and a total size for all that are arriving."""

from __future__ import annotations

from collections.abc import AsyncIterable

from .._work.limits import limit

_FREE = 16_384
"""The first bytes of each body do not count towards the total, so a small request is never refused for large ones."""


class BodyError(Exception):
    """A body was not read to its end."""


class BodyTooLargeError(BodyError):
    """The body is larger than the limit."""


class BodyAbortedError(BodyError):
    """The body broke off or did not arrive in time. ``received`` is the number of bytes that arrived."""

    def __init__(self, received: int) -> None:
        super().__init__(received)
        self.received = received


class TooManyBytesError(BodyError):
    """The bodies that are arriving are together larger than the limit for their total."""


class BodyReader:
    """Reads bodies of at most ``max_size`` bytes, each within ``timeout`` seconds.

    All bodies that are arriving hold at most ``max_total`` bytes together, not counting the first 16 KiB of each.
    """

    def __init__(self, *, max_size: int, max_total: int, timeout: float) -> None:
        self.max_size = max_size
        self.max_total = max_total
        self.timeout = timeout
        self._held = 0

    def check_length(self, content_length: int | None) -> None:
        """Raise BodyTooLargeError if the Content-Length is above the limit."""
        if content_length is not None and content_length > self.max_size:
            raise BodyTooLargeError

    async def read(self, chunks: AsyncIterable[bytes]) -> bytes:
        """Read a whole body. Raises BodyError."""
        body = bytearray()
        held = 0
        try:
            async with limit(self.timeout):
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
