"""What became of a delivery: the answer to Basiq, and what is told to a hook."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping

import attrs

from ._delivery import Delivery

__all__ = ["DeliveryEvent", "OnDelivery", "Outcome", "Result"]


class Result(enum.StrEnum):
    """What became of a delivery, in a word fit for a metric."""

    HANDLED = "handled"
    DUPLICATE = "duplicate"
    IGNORED = "ignored"
    REJECTED = "rejected"
    UNREADABLE = "unreadable"
    TOO_LARGE = "too-large"
    FAILED = "failed"
    TIMED_OUT = "timed-out"
    BUSY = "busy"
    UNAVAILABLE = "unavailable"
    CLOSED = "closed"
    ABORTED = "aborted"
    """The request's body never came whole: too slow, or the connection broke."""


STATUS: Mapping[Result, int] = {
    Result.HANDLED: 204,
    Result.DUPLICATE: 200,
    Result.IGNORED: 204,
    Result.REJECTED: 401,
    Result.UNREADABLE: 400,
    Result.TOO_LARGE: 413,
    Result.FAILED: 500,
    Result.TIMED_OUT: 500,
    Result.BUSY: 503,
    Result.UNAVAILABLE: 503,
    Result.CLOSED: 503,
    Result.ABORTED: 408,
}


@attrs.frozen
class Outcome:
    """What became of one delivery, and the answer to it.

    The answer is ``status`` and ``headers``, and an empty body: it holds nothing that helps a forger.
    ``delivery`` is there once it was verified and read; ``reason`` is the code of a rejected signature;
    ``error`` is what a handler or the inbox raised.
    """

    result: Result
    status: int
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str], hash=False)
    delivery: Delivery | None = None
    reason: str | None = None
    error: Exception | None = attrs.field(default=None, repr=False, eq=False)

    @property
    def acknowledged(self) -> bool:
        """Whether Basiq takes the delivery as done, and does not send it again."""
        return 200 <= self.status <= 299


@attrs.frozen
class DeliveryEvent:
    """What a receiver's ``on_delivery`` is told of each delivery; ``duration`` is in seconds.

    ``delivery_id`` and ``event_type_id`` are None where the delivery was not verified or not read.
    """

    result: Result
    status: int
    duration: float
    delivery_id: str | None = None
    event_type_id: str | None = None
    reason: str | None = None


OnDelivery = Callable[[DeliveryEvent], None]


def outcome(
    result: Result,
    delivery: Delivery | None = None,
    *,
    reason: str | None = None,
    error: Exception | None = None,
    retry_after: int | None = None,
) -> Outcome:
    """The answer that goes with a result."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return Outcome(result, STATUS[result], headers, delivery, reason, error)
