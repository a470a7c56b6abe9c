"""Verify and read requests: a genuine delivery, or the outcome of what is not one."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable

from .._arguments import Duration, check_seconds, check_whole
from .._signing.signature import CheckedHeaders, Headers, check_headers
from .._web.bodies import BodyError, BodyReader
from ..errors import SignatureVerificationError
from ._bodies import overloaded, read_body, refuse
from ._delivery import Delivery, UnreadableBodyError, read_delivery
from ._outcome import Outcome, shorten
from ._results import Result
from ._secrets import Secrets

logger = logging.getLogger("basiq_async.receiver")

_BODIES = 16 * 2**20


class RequestReader:
    """Verifies and reads the requests of one receiver.

    tolerance, body_timeout: in seconds. clock: seconds since 1970. Raises ``ConfigurationError`` for invalid arguments.
    """

    def __init__(
        self,
        secrets: Secrets,
        *,
        tolerance: Duration,
        max_body_size: int,
        body_timeout: Duration,
        clock: Callable[[], float],
    ) -> None:
        self._secrets = secrets
        self._tolerance = check_seconds("tolerance", tolerance, from_zero=True)
        self._max_body_size = check_whole("max_body_size", max_body_size, least=1)
        self._bodies = BodyReader(
            max_size=max_body_size,
            max_total=max(_BODIES, 2 * max_body_size),
            timeout=check_seconds("body_timeout", body_timeout),
        )
        self._clock = clock

    async def read(self, headers: Headers, body: bytes) -> Delivery | Outcome:
        """Return the delivery of a request whose body has arrived, or the outcome of one that is not genuine."""
        if len(body) > self._max_body_size:
            return Outcome(Result.TOO_LARGE)
        try:
            checked = check_headers(headers, self._tolerance, self._clock())
        except SignatureVerificationError as exc:
            return _reject(exc)
        mismatch = None
        secrets = self._secrets
        if not (secrets.can_change and secrets.are_due()):
            mismatch = secrets.keys.find_mismatch(checked, body)
            if mismatch is None:
                return _read(checked, body)
        # A sender who is not known to be Basiq may wait for a slow store of secrets: the bytes count meanwhile.
        arriving = self._bodies.open()
        try:
            arriving.hold(len(body))
            return await self._verify_and_read(checked, body, mismatch)
        except BodyError:  # too many bytes
            return overloaded()
        finally:
            arriving.close()

    async def read_stream(
        self,
        headers: Headers,
        chunks: AsyncGenerator[bytes],
        content_length: int | None,
        content_encoding: str | None,
    ) -> Delivery | Outcome:
        """Do the same, but read the body only after the headers have passed every check that needs no body."""
        refused = refuse(content_length, content_encoding, self._max_body_size)
        if refused is not None:
            return refused
        try:
            checked = check_headers(headers, self._tolerance, self._clock())
        except SignatureVerificationError as exc:
            return _reject(exc)
        arriving = self._bodies.open()
        try:
            body = await read_body(arriving, chunks, content_length)
            return body if isinstance(body, Outcome) else await self._verify_and_read(checked, body)
        finally:  # not earlier: see ``read``
            arriving.close()

    async def _verify_and_read(
        self, checked: CheckedHeaders, body: bytes, mismatch: SignatureVerificationError | None = None
    ) -> Delivery | Outcome:
        """Verify a body, if need be with what the store of secrets has now. ``mismatch``: with those at hand."""
        secrets = self._secrets
        if mismatch is None:
            if secrets.can_change and secrets.are_due():
                await secrets.read_again()
            mismatch = secrets.keys.find_mismatch(checked, body)
        if mismatch is not None and mismatch.reason == "no-match" and await secrets.read_again():
            mismatch = secrets.keys.find_mismatch(checked, body)
        return _read(checked, body) if mismatch is None else _reject(mismatch)


def _read(checked: CheckedHeaders, body: bytes) -> Delivery | Outcome:
    """Parse a genuine body."""
    message_id, _, _, sent = checked
    try:
        return read_delivery(message_id, sent, body)
    except UnreadableBodyError as exc:
        shown = shorten(message_id)
        logger.warning("delivery %r is genuine but unreadable: %s", shown, exc, extra={"delivery_id": shown})
        return Outcome(Result.UNREADABLE)


def _reject(exc: SignatureVerificationError) -> Outcome:
    logger.warning("refused a delivery (%s): %s", exc.reason, exc, extra={"reason": exc.reason})
    return Outcome(Result.REJECTED, reason=exc.reason)
