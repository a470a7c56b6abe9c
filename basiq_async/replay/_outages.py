"""Decide what a failure of the target means: the target asks for a pause, it is down, or the message has failed."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

from .._redaction.text import printable
from ..errors import ConnectionFailedError, InboxError, ReplayError, TransportError
from ..models import Message
from ._throttle import Backpressure

logger = logging.getLogger("basiq_async.replay")

_GATEWAY_DOWN = (502, 503, 504)
_MOST_TRIES = 3
"""Maximum attempts at a message if the target accepts other messages meanwhile."""
_MOST_TRIES_ALONE = 5
"""Maximum attempts at a message if no other message shows whether the target works."""
_FIRST_BACKOFF = 0.05
_LONGEST_BACKOFF = 5.0
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 60.0
_LONGEST_ERROR = 1_000


class Outages:
    """Pauses a run while its target asks for it or is down, and ends the run after ``max_pause`` seconds of that.

    A refused connection is certainly an outage. A timeout, a broken connection, and a 502, 503 or 504 can also be the
    fault of one message: they are if the target accepts other messages meanwhile.

    on_pause: called with the length of each pause, in seconds.
    """

    def __init__(
        self, pressure: Backpressure, *, max_pause: float, on_pause: Callable[[float], None] | None = None
    ) -> None:
        self._pressure = pressure
        self._max_pause = max_pause
        self._on_pause = on_pause
        self.accepted = 0
        """The number of messages that the target accepted."""
        self.since: float | None = None
        """The beginning of the outage, in the event loop's time; None without an outage."""
        self._failures = 0
        """The number of failures since the outage began."""
        self._messages: set[str] = set()
        """Ids of messages that failed since then: two are enough to tell that it is not one message's fault."""
        self._refusing_since: float | None = None
        """The time of the first request for a pause since the target last accepted a message."""

    @property
    def next_pause(self) -> float:
        """Seconds to wait before the next attempt. They double with each failure."""
        return float(min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(self._failures - 1, 16)))

    def accept(self) -> None:
        """Count a message that the target accepted. That ends an outage."""
        self.accepted += 1
        if not self._pressure.open or self._pressure.pauses:
            self._pressure.succeed()
            self._refusing_since = None
            if self.since is not None:
                logger.warning("the target accepts messages again: the replay continues")
                self.since, self._failures = None, 0
                self._messages.clear()

    def judge(self, error: Exception, message: Message, tries: int, *, others_succeed: bool) -> Exception | None:
        """Return None if the message is to be tried again, else the error that counts as its failure.

        A ``ReplayError`` other than the message's own ends the run. ``tries`` is the number of attempts so far.
        ``others_succeed`` says whether the target accepted another message since the last one began.
        """
        wait = _requested_wait(error)
        if wait is not None:
            return self._apply_retry_after(error, message, wait)
        if not self._is_outage(error, message.id, tries, others_succeed=others_succeed):
            return error
        if others_succeed and self.since is None and tries < 2:
            return None  # the fault may be this message's: its worker waits, and the others continue
        return self._apply_outage(error, message)

    def _is_outage(self, error: Exception, message_id: str, tries: int, *, others_succeed: bool) -> bool:
        kind = _classify(error)
        if kind != "possible":
            return kind == "certain"
        if others_succeed:
            return tries < _MOST_TRIES
        return tries < _MOST_TRIES_ALONE or bool(self._messages - {message_id})

    def _apply_retry_after(self, exc: Exception, message: Message, wait: float) -> Exception | None:
        pressure, now = self._pressure, asyncio.get_running_loop().time()
        if self._refusing_since is None:
            self._refusing_since = now
        lasted = now - self._refusing_since
        if wait > self._max_pause:
            text = f"the target asks for a pause of {wait:g} s, longer than max_pause: run the same again after that"
            return _ending(text, exc)
        if pressure.pauses and not pressure.closed:  # it asked before, and accepted nothing since: wait longer
            backoff = _FIRST_BACKOFF * 2.0 ** min(pressure.pauses - 1, 16)
            wait = max(wait, min(_LONGEST_BACKOFF, self._max_pause, backoff))
        if lasted >= self._max_pause:
            text = f"the target has asked for pauses for {lasted:.0f} s, and accepted no message meanwhile"
            return _ending(f"{text}; {_stopped_before(message)}", exc)
        self._pause(wait)
        logger.info("the target asks for a pause: the replay waits %.2f s", wait)
        return None

    def _apply_outage(self, exc: Exception, message: Message) -> Exception | None:
        if self._pressure.closed:
            return None  # this message failed together with the one that began the pause
        now = asyncio.get_running_loop().time()
        self.since = now if self.since is None else self.since
        self._failures += 1
        if len(self._messages) < 2:
            self._messages.add(message.id)
        lasted, text = now - self.since, describe(exc)
        if lasted >= self._max_pause:
            how = f"the target has been down for {lasted:.0f} s, the last attempt with {text}"
            return _ending(f"{how}; {_stopped_before(message)}", exc)
        wait = min(self.next_pause, max(0.0, self._max_pause - lasted) or self.next_pause)
        self._pause(wait)
        shown = printable(text)
        if self._failures == 1:
            logger.warning("the target seems to be down (%s): the replay waits, and tries again", shown)
        else:
            logger.info("the target is still down after %.0f s (%s): next attempt in %.1f s", lasted, shown, wait)
        return None

    def _pause(self, wait: float) -> None:
        self._pressure.pause(wait)
        if self._on_pause is not None:
            self._on_pause(wait)


def describe(error: Exception) -> str:
    """Return an error as a text of limited length."""
    text = f"{type(error).__name__}: {error}"
    return text if len(text) <= _LONGEST_ERROR else text[:_LONGEST_ERROR] + "…"


def _ending(text: str, cause: Exception) -> ReplayError:
    error = ReplayError(text)
    error.__cause__ = cause
    return error


def _stopped_before(message: Message) -> str:
    return f"the replay stopped before message {message.id!r}: run the same again to continue there"


def _classify(error: Exception) -> str | None:
    """Return "certain", "possible", or None for an error that does not suggest an outage."""
    if isinstance(error, ConnectionFailedError):
        return "certain" if error.sent is False else "possible"
    if isinstance(error, ConnectionRefusedError):
        return "certain"
    if isinstance(error, (TransportError, ConnectionError, TimeoutError, InboxError)):
        return "possible"
    return "possible" if getattr(error, "status", None) in _GATEWAY_DOWN else None


def _requested_wait(error: Exception) -> float | None:
    """Return the seconds in the error's ``retry_after``; None if it has none or no valid number."""
    wait = getattr(error, "retry_after", None)
    if isinstance(wait, bool) or not isinstance(wait, (int, float)) or not math.isfinite(wait) or wait < 0:
        return None
    return float(wait)
