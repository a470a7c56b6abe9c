"""The outcome of a delivery: the response to Basiq, the event for ``on_delivery``, and the log records."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping

import attrs

from .._redaction.text import shorten as shorten
from .._redaction.tracebacks import hide_parameters
from .._signing.signature import RESULT
from .._work.failures import correlation_id, failure_text, find_retry_after, leaves
from ..errors import (
    AuthenticationError,
    BasiqError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    TransportError,
)
from ._delivery import Delivery
from ._results import RESULTS, Meaning, Result

logger = logging.getLogger("basiq_async.receiver")

RETRY_SOON = 5.0
"""Seconds for ``Retry-After`` if no better value is known: Basiq's second attempt comes after 5 s anyway."""
_LOG_EVERY = 1.0
"""Seconds between two log records about an inbox that fails."""


@attrs.frozen(slots=False)
class Outcome:
    """The result of one delivery, and the response to it.

    The response is ``status``, which follows from the result, and ``headers``, with an empty body. A forger is told
    nothing.
    ``delivery`` is None until it was verified and read. ``reason`` is the code of a rejected signature. ``error`` is
    the exception of the handler or the inbox. ``retry_after`` is in seconds. ``handler`` is the handler's qualified
    name. ``attempt`` is the number of failures, this one included, if the receiver has ``quarantine_after``.
    """

    result: Result
    delivery: Delivery | None = None
    reason: str | None = None
    error: Exception | None = attrs.field(default=None, repr=False, eq=False)
    retry_after: float | None = None
    handler: str | None = None
    attempt: int | None = None

    @property
    def _meaning(self) -> Meaning:
        """The row of the table of results: what it means, and how a replay reads it."""
        return RESULTS[self.result]

    @property
    def status(self) -> int:
        """The status code of the response."""
        return RESULTS[self.result].status

    @property
    def acknowledged(self) -> bool:
        """Whether Basiq counts the delivery as successful, and does not send it again."""
        return 200 <= self.status <= 299

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the response: ``Retry-After`` in whole seconds, at least 1, if another attempt is asked for.

        ``basiq-async-result`` has the result of a genuine delivery that is acknowledged: whoever posted it again sees
        that it was a duplicate. A forger gets none.
        """
        found = {} if self.retry_after is None else {"Retry-After": str(max(1, math.ceil(self.retry_after)))}
        return found if self.delivery is None or not self.acknowledged else {**found, RESULT: self.result.value}


@attrs.frozen
class DeliveryEvent:
    """The argument of a receiver's ``on_delivery``, one for each delivery; ``duration`` and ``age`` are in seconds.

    ``deferred``: whether it is an attempt of a deferred handler, after the response: there is no response with its
    ``status``.
    ``age`` is the time from the signature to the response, or to the end of that attempt. ``handler`` is the handler's
    qualified name. ``attempt`` is the number of failures so far, if the receiver has ``quarantine_after``, or if it was
    deferred. ``correlation_id`` is that of the API error which the handler raised. An unknown value is None, such as
    the ids and the type of a delivery that was not verified.
    """

    result: Result
    status: int
    duration: float
    delivery_id: str | None = None
    event_type_id: str | None = None
    reason: str | None = None
    event_id: str | None = None
    handler: str | None = None
    attempt: int | None = None
    correlation_id: str | None = None
    age: float | None = None
    deferred: bool = False


OnDelivery = Callable[[DeliveryEvent], None]


def event_of(done: Outcome, duration: float, now: float, *, deferred: bool = False) -> DeliveryEvent:
    """Return the argument of ``on_delivery`` for an outcome. ``now`` is in seconds since 1970."""
    delivery = done.delivery
    return DeliveryEvent(
        result=done.result,
        status=done.status,
        duration=duration,
        delivery_id=None if delivery is None else shorten(delivery.id),
        event_type_id=None if delivery is None else shorten(delivery.event_type_id),
        reason=done.reason,
        event_id=None if delivery is None else shorten(delivery.event_id),
        handler=done.handler,
        attempt=done.attempt,
        correlation_id=correlation_id(done.error),
        age=None if delivery is None else now - delivery.timestamp.timestamp(),
        deferred=deferred,
    )


def log_fields(
    delivery: Delivery,
    *,
    handler: str | None = None,
    attempt: int | None = None,
    error: BaseException | None = None,
) -> dict[str, object]:
    """Return the ``extra`` fields of a log record about a delivery, named as in ``DeliveryEvent``."""
    return {
        "delivery_id": shorten(delivery.id),
        "event_id": shorten(delivery.event_id),
        "event_type_id": shorten(delivery.event_type_id),
        "handler": handler,
        "attempt": attempt,
        "correlation_id": correlation_id(error),
    }


_NOT_OF_THE_EVENT = (TransportError, AuthenticationError, PermissionDeniedError, RateLimitError, ServerError)


def is_of_the_event(error: BaseException) -> bool:
    """Return whether a handler's failure counts towards the quarantine.

    It does not if Basiq's API failed, refused the key or was not reached, and if the error asks for another attempt by
    its ``retry_after``: another event would have failed as well. A group counts if one of its errors does.
    """
    return any(not isinstance(each, _NOT_OF_THE_EVENT) and find_retry_after(each) is None for each in leaves(error))


class Outages:
    """Logs the failures of an inbox: the first at once, then one record a second, with how many came between.

    Those are logged at DEBUG.
    """

    def __init__(self) -> None:
        self._count = 0
        self._last: tuple[str, Exception, Mapping[str, object]] | None = None
        self._next_at = -math.inf

    def report(self, delivery_id: str, what: str, error: Exception, fields: Mapping[str, object]) -> None:
        """Log that a delivery, or without an id some, "could not be claimed" (``what``) because of an inbox's error."""
        text = f"{f'delivery {delivery_id!r}' if delivery_id else 'deliveries'} {what}: {failure_text(error)}"
        self._count += 1
        self._last = text, error, fields
        now = asyncio.get_running_loop().time()
        if now < self._next_at:
            logger.debug("%s", text, extra=dict(fields))
            return
        self._next_at = now + _LOG_EVERY
        self.flush()

    def flush(self) -> None:
        """Log the last failure that was not logged yet, with the number of all since the record before."""
        if self._last is None:
            return
        text, error, fields = self._last
        more = f"; {self._count - 1} more failures since the record before" if self._count > 1 else ""
        logger.error(
            "%s%s",
            text,
            more,
            exc_info=hide_parameters(error) if _is_unknown(error) else None,
            extra={**fields, "count": self._count},
        )
        self._count, self._last = 0, None


def _is_unknown(error: Exception) -> bool:
    """Return whether the error's traceback is worth logging: not for our own errors, and not for an OSError."""
    return not isinstance(error, (BasiqError, OSError))
