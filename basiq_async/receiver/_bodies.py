"""Read the bodies of deliveries as they arrive, and name the result of a body that is refused."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator

from .._web.bodies import BodyAbortedError, BodyReader, BodyTooLargeError, TooManyBytesError
from ._results import Result

logger = logging.getLogger("basiq_async.receiver")


class RefusedError(Exception):
    """A request is refused because of its body, with this result."""

    def __init__(self, result: Result) -> None:
        super().__init__(result)
        self.result = result


def read_content_length(value: str) -> int | None:
    """Return the number in a ``Content-Length`` header; None for any other text."""
    return int(value) if value.isascii() and value.isdigit() and len(value) < 19 else None


def ends_connection(*, whole: bool, http_version: object) -> bool:
    """Return whether to close the connection after the response, because the rest of the body may still arrive.

    HTTP/2 has no ``Connection`` header: it closes streams, not connections.
    """
    return not whole and str(http_version).startswith("1")


class Bodies:
    """Reads the bodies of deliveries within the limits of a ``BodyReader``."""

    def __init__(self, reader: BodyReader) -> None:
        self._reader = reader

    def check(self, content_length: int | None, content_encoding: str | None) -> None:
        """Raise ``RefusedError`` if the headers show that the body is too large, or compressed."""
        try:
            self._reader.check_length(content_length)
        except BodyTooLargeError:
            raise RefusedError(Result.TOO_LARGE) from None
        if content_encoding is not None and content_encoding.strip().lower() not in ("", "identity"):
            logger.warning("refused a delivery with a Content-Encoding: Basiq does not compress what it sends")
            raise RefusedError(Result.COMPRESSED)

    async def read(self, chunks: AsyncGenerator[bytes], content_length: int | None) -> bytes:
        """Read the whole body.

        Raises ``RefusedError`` if it is too large, too slow or breaks off, or if too many bodies arrive at once.
        """
        try:
            body = await self._reader.read(chunks)
        except BodyTooLargeError:
            raise RefusedError(Result.TOO_LARGE) from None
        except TooManyBytesError:
            raise RefusedError(Result.OVERLOADED) from None
        except BodyAbortedError as exc:
            logger.warning(
                "the body of a delivery broke off, or did not arrive within %g s: %d bytes of %s arrived. If this "
                "happens to every delivery, a middleware reads the body and does not pass it on",
                self._reader.timeout,
                exc.received,
                "an unknown number" if content_length is None else content_length,
            )
            raise RefusedError(Result.ABORTED) from None
        if content_length and not body:
            logger.error(
                "a middleware read the body of a request, and did not pass it on to the receiver: it must keep the "
                "body for the app that it wraps"
            )
        return body
