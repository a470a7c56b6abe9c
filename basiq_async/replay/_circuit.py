"""Telling a target that is down from a message that fails."""

from __future__ import annotations

import math

from ..errors import ConnectionFailedError, InboxError, TransportError

_GATEWAY_DOWN = (502, 503, 504)
_MOST_TRIES = 3
"""How often a message is tried whose target took others meanwhile."""
_MOST_TRIES_ALONE = 5
"""How often a message is tried when no other message shows whether the target works."""
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 60.0


class Circuit:
    """Counts failures that look like an outage, in a row.

    A refused connection is an outage for certain. A timeout, a broken connection and a 502, 503 or 504 can also be
    one message's fault: it is where the target takes other messages meanwhile.
    """

    def __init__(self) -> None:
        self.since: float | None = None
        """When the outage began, in the event loop's time; None if there is none."""
        self.failures = 0
        self._messages: set[str] = set()

    @property
    def next_pause(self) -> float:
        """Seconds to wait before the next attempt. They double each time."""
        return float(min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(self.failures - 1, 16)))

    def close(self) -> None:
        """The target took a message."""
        self.since = None
        self.failures = 0
        self._messages.clear()

    def is_outage(self, error: Exception, message_id: str, tries: int, *, others_succeed: bool) -> bool:
        """Return whether ``error`` is a reason to try the message again, though it was tried ``tries`` times."""
        kind = _classify(error)
        if kind is None:
            return False
        if kind == "certain":
            return True
        if others_succeed:
            return tries < _MOST_TRIES
        return tries < _MOST_TRIES_ALONE or bool(self._messages - {message_id})

    def fail(self, message_id: str, now: float) -> float:
        """Count a failure; return for how many seconds the outage has lasted."""
        if self.since is None:
            self.since = now
        self.failures += 1
        if len(self._messages) < 2:
            self._messages.add(message_id)
        return now - self.since


def _classify(error: Exception) -> str | None:
    """Return "certain", "possible", or None for an error that does not suggest an outage."""
    if isinstance(error, ConnectionFailedError):
        return "certain" if error.sent is False else "possible"
    if isinstance(error, ConnectionRefusedError):
        return "certain"
    if isinstance(error, (TransportError, ConnectionError, TimeoutError, InboxError)):
        return "possible"
    return "possible" if getattr(error, "status", None) in _GATEWAY_DOWN else None


def requested_wait(error: Exception) -> float | None:
    """Return the seconds that a target asks for with ``retry_after``, where that is a time."""
    wait = getattr(error, "retry_after", None)
    if isinstance(wait, bool) or not isinstance(wait, (int, float)) or not math.isfinite(wait) or wait < 0:
        return None
    return float(wait)
