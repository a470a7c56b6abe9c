"""The results of a delivery: the one table of their statuses, and how a replay reads them."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Literal

import attrs


class Result(enum.StrEnum):
    """The result of a delivery, as a word for a label of a metric."""

    HANDLED = "handled"
    IGNORED = "ignored"
    """No handler is registered for its event type."""
    DUPLICATE = "duplicate"
    QUARANTINED = "quarantined"
    """It failed too often, and was quarantined for a person to look at."""
    DEFERRED = "deferred"
    """It was stored, and is handled after the response."""
    UNREADABLE = "unreadable"
    REJECTED = "rejected"
    ABORTED = "aborted"
    """The body did not arrive completely: it was too slow, or the connection broke."""
    TOO_LARGE = "too-large"
    COMPRESSED = "compressed"
    """The body has a ``Content-Encoding``; Basiq sends none."""
    FAILED = "failed"
    TIMED_OUT = "timed-out"
    BUSY = "busy"
    """Another worker holds it."""
    UNAVAILABLE = "unavailable"
    """The inbox failed, did not respond in time, or the handler's error asks for another attempt."""
    FULL = "full"
    """Too many deferred deliveries wait."""
    OVERLOADED = "overloaded"
    """Too many large bodies are arriving at once."""
    CLOSED = "closed"


InReplay = Literal["handled", "skipped", "failed", "refused", "ends"]
"""How a replay that hands a message to a receiver reads the result. "failed" has the handler's error."""


@attrs.frozen
class Meaning:
    """What a result means: the ``status`` of the response, and how a replay reads it.

    ``word`` is the reason for which a replay skips the message.
    """

    status: int
    in_replay: InReplay = "refused"
    word: str | None = None


RESULTS: Mapping[Result, Meaning] = {
    Result.HANDLED: Meaning(204, "handled"),
    Result.IGNORED: Meaning(204, "skipped", "no-handler"),
    Result.DUPLICATE: Meaning(200, "skipped", "handled-before"),
    Result.QUARANTINED: Meaning(200, "skipped", "quarantined"),
    Result.DEFERRED: Meaning(202, "skipped", "deferred"),
    Result.UNREADABLE: Meaning(400),
    Result.REJECTED: Meaning(401),
    Result.ABORTED: Meaning(408),
    Result.TOO_LARGE: Meaning(413),
    Result.COMPRESSED: Meaning(415),
    Result.FAILED: Meaning(500, "failed"),
    Result.TIMED_OUT: Meaning(500, "failed"),
    Result.BUSY: Meaning(503),
    Result.UNAVAILABLE: Meaning(503),
    Result.FULL: Meaning(503),
    Result.OVERLOADED: Meaning(503),
    Result.CLOSED: Meaning(503, "ends"),
}
