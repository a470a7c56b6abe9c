"""Read request bodies within limits: a size and a time for each, and a total size for all that are held."""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import Literal

from .._work.limits import limit

_FREE = 16_384
"""The first bytes of each body do not count towards the total, so a small request is never refused for large ones."""


class BodyError(Exception):
    """A body was not read to its end.

    reason: it is "too-large"; it was "aborted": it broke off or did not arrive in time, and ``received`` is the number
        of bytes that arrived; or there are "too-many" bytes in all bodies that are open.
    """

    def __init__(self, reason: Literal["too-large", "aborted", "too-many"], received: int = 0) -> None:
        super().__init__(reason)
        self.reason, self.received = reason, received


class BodyReader:
    """Reads bodies of at most ``max_size`` bytes, each within ``timeout`` seconds.

    All bodies that are open hold at most ``max_total`` bytes together, not counting the first 16 KiB of each.
    """

    def __init__(self, *, max_size: int, max_total: int, timeout: float) -> None:
        self.max_size = max_size
        self.max_total = max_total
        self.timeout = timeout
        self.held = 0

    def check_length(self, content_length: int | None) -> None:
        """Raise BodyError if the Content-Length is above the limit."""
        if content_length is not None and content_length > self.max_size:
            raise BodyError("too-large")

    def open(self) -> OpenBody:
        """Return a body that is to be read, and closed when its bytes are not held for its sender any more."""
        return OpenBody(self)


class OpenBody:
    """A body whose bytes count towards the total until it is closed."""

    __slots__ = ("_held", "reader")

    def __init__(self, reader: BodyReader) -> None:
        self.reader = reader
        self._held = 0

    def hold(self, size: int) -> None:
        """Count so many bytes in all. Raises BodyError."""
        more = max(0, size - _FREE) - self._held
        if more and self.reader.held + more > self.reader.max_total:
            raise BodyError("too-many")
        self._held += more
        self.reader.held += more

    def close(self) -> None:
        """Count its bytes no more."""
        self.reader.held -= self._held
        self._held = 0

    async def read(self, chunks: AsyncIterable[bytes]) -> bytes:
        """Read it to its end. Raises BodyError."""
        body = bytearray()
        try:
            async with limit(self.reader.timeout):
                async for chunk in chunks:
                    body += chunk
                    if len(body) > self.reader.max_size:
                        raise BodyError("too-large")
                    self.hold(len(body))
        except (TimeoutError, ConnectionError):
            raise BodyError("aborted", len(body)) from None
        return bytes(body)
