"""Read the bodies of deliveries as they arrive, and name the result of a body that is refused."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterable

from .._web.bodies import BodyError, OpenBody
from ._outcome import RETRY_SOON, Outcome
from ._results import Result

logger = logging.getLogger("basiq_async.receiver")


def read_content_length(value: str) -> int | None:
    """Return the number in a ``Content-Length`` header; None for any other text."""
    return int(value) if value.isascii() and value.isdigit() and len(value) < 19 else None


def join_encodings(values: Iterable[str]) -> str | None:
    """Return all ``Content-Encoding`` headers as one, or None without any: a server may obey any of several."""
    return ",".join(values) or None


def ends_connection(*, fully_read: bool, http_version: object) -> bool:
    """Return whether to close the connection after the response, because the rest of the body may still arrive.

    HTTP/2 has no ``Connection`` header: it closes streams, not connections.
    """
    return not fully_read and str(http_version).startswith("1")


def refuse(content_length: int | None, content_encoding: str | None, max_size: int) -> Outcome | None:
    """Return the outcome of a request whose headers show that its body is too large or compressed, else None."""
    if content_length is not None and content_length > max_size:
        return Outcome(Result.TOO_LARGE)
    if content_encoding is not None and content_encoding.strip().lower() not in ("", "identity"):
        logger.warning("refused a delivery with a Content-Encoding: Basiq does not compress what it sends")
        return Outcome(Result.COMPRESSED)
    return None


def overloaded() -> Outcome:
    """Return the outcome of a request while too many bytes are held for senders who are not known to be Basiq."""
    return Outcome(Result.OVERLOADED, retry_after=RETRY_SOON)


async def read_body(arriving: OpenBody, chunks: AsyncGenerator[bytes], content_length: int | None) -> bytes | Outcome:
    """Read a whole body. Return the outcome if it is too large, too slow or breaks off, or if too many are arriving."""
    try:
        body = await arriving.read(chunks)
    except BodyError as exc:
        if exc.reason == "too-large":
            return Outcome(Result.TOO_LARGE)
        if exc.reason == "too-many":
            return overloaded()
        logger.warning(
            "the body of a delivery broke off, or did not arrive within %g s: %d bytes of %s arrived. If this "
            "happens to every delivery, a middleware reads the body and does not pass it on",
            arriving.reader.timeout,
            exc.received,
            "an unknown number" if content_length is None else content_length,
        )
        return Outcome(Result.ABORTED)
    if content_length and not body:
        logger.error(
            "a middleware read the body of a request, and did not pass it on to the receiver: it must keep the "
            "body for the app that it wraps"
        )
    return body
