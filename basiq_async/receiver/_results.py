"""The results of a delivery: the one table of their statuses, their meaning, and how a replay reads them."""

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
    """It failed too often, and was set aside for a person to look at."""
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
    """What a result means.

    ``what`` and ``advice`` are sentences of the documentation, without a full stop. ``word`` is the reason
    for which a replay skips the message.
    """

    status: int
    what: str
    in_replay: InReplay = "refused"
    word: str | None = None
    advice: str = ""


RESULTS: Mapping[Result, Meaning] = {
    Result.HANDLED: Meaning(204, "the handler succeeded", "handled"),
    Result.IGNORED: Meaning(204, "the type has no handler", "skipped", "no-handler"),
    Result.DUPLICATE: Meaning(200, "it was handled before", "skipped", "handled-before"),
    Result.QUARANTINED: Meaning(
        200,
        "the handler failed `quarantine_after` times",
        "skipped",
        "quarantined",
        "the delivery is kept for `retry_quarantined`",
    ),
    Result.DEFERRED: Meaning(
        202, "it was stored, and is handled after the response", "skipped", "deferred", "`receiver.waiting()` counts it"
    ),
    Result.UNREADABLE: Meaning(400, "it is genuine, but not a JSON object"),
    Result.REJECTED: Meaning(
        401,
        "it is forged, stale, or has no signature",
        advice="the log has the [reason](troubleshooting.md#refused-deliveries)",
    ),
    Result.ABORTED: Meaning(
        408,
        "the body did not arrive within `body_timeout` (10 s)",
        advice="if every delivery gets 408, a middleware reads the body and does not pass it on",
    ),
    Result.TOO_LARGE: Meaning(413, "the body has more than `max_body_size` bytes (1 MiB)"),
    Result.COMPRESSED: Meaning(
        415, "the request has a `Content-Encoding`, which Basiq never sends", advice="a proxy adds it"
    ),
    Result.FAILED: Meaning(500, "the handler raised", "failed", advice="its error is in the log"),
    Result.TIMED_OUT: Meaning(
        500, "the handler took longer than `handler_timeout` (10 s)", "failed", advice="it was cancelled"
    ),
    Result.BUSY: Meaning(
        503,
        "another worker holds the event, and did not end within 0.3 s",
        advice="if this lasts, a worker has died, and its lease must run out",
    ),
    Result.UNAVAILABLE: Meaning(
        503,
        "the inbox failed or exceeded `inbox_timeout` (5 s), or the handler's error has a `retry_after`",
        advice="a replay pauses for as long",
    ),
    Result.FULL: Meaning(
        503,
        "too many deferred deliveries wait (`max_waiting`, `max_waiting_bytes`)",
        advice="look at what fails, or have more processes work",
    ),
    Result.OVERLOADED: Meaning(503, "too many large bodies arrive at once"),
    Result.CLOSED: Meaning(
        503,
        "the receiver is closing or closed",
        "ends",
        advice="the process is stopping, or the receiver was closed too early or started a second time, for example by "
        "a second `TestClient`: make a new application and receiver for each start",
    ),
}
