"""Hand a message to the target: within the rate, after the target's pauses, and again while the target is down.

Times are the event loop's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from .._redaction.text import printable
from .._work.failures import failure_text, find_retry_after, leaves
from .._work.tasks import cancelling
from ..errors import ConnectionFailedError, InboxError, ReplayError, TargetError, TransportError
from ..models import Message
from .targets._base import Target

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
LONGEST_ERROR = 1_000
"""Characters of an error that are shown and kept."""


class Limiter(Protocol):
    """Decides when the next message may begin. ``open``: whether it may begin without ``wait``."""

    @property
    def open(self) -> bool: ...

    async def wait(self) -> bool:
        """Wait until a message may begin. Return False if the job stops."""
        ...

    def stop(self) -> None:
        """Let every waiting call return False."""
        ...


async def _wait_until(moment: float, stopped: asyncio.Event) -> bool:
    """Wait until a time of the event loop. Return False if the job stops."""
    if moment > asyncio.get_running_loop().time():
        with suppress(TimeoutError):
            async with asyncio.timeout_at(moment):
                await stopped.wait()
    return not stopped.is_set()


class RateLimiter:
    """Lets ``rate`` messages a second begin, evenly spaced. Slots that were not used are lost."""

    open = False

    def __init__(self, rate: float) -> None:
        self._interval = 1.0 / rate
        self._due = float("-inf")
        self._stopped = asyncio.Event()

    async def wait(self) -> bool:
        """Wait until a message may begin. Return False if the job stops."""
        slot = max(self._due, asyncio.get_running_loop().time())
        self._due = slot + self._interval
        return await _wait_until(slot, self._stopped)

    def stop(self) -> None:
        """Let every waiting call return False."""
        self._stopped.set()


class Backpressure:
    """Holds callers back while the target asks for a pause, and admits them slowly afterwards.

    After a pause it admits a single caller. Each success raises the number of callers by one, until ``width`` callers
    are admitted and it is open again. If it admitted all at once, the target would refuse them again.
    """

    def __init__(self, width: int) -> None:
        self.open = True
        """Whether callers need not call ``enter`` and ``leave``."""
        self.pauses = 0
        """The number of pauses since the last success."""
        self._width = width
        self._window = 0
        self._inside = 0
        self._until = float("-inf")
        self._turn = asyncio.Lock()
        """Held by the next caller to be admitted; the others follow in the order in which they came."""
        self._changed = asyncio.Event()
        self._stopped = asyncio.Event()

    @property
    def closed(self) -> bool:
        """Whether the target has a pause now."""
        return self._until > asyncio.get_running_loop().time()

    @property
    def paused_until(self) -> float | None:
        """The end of the pause, in the event loop's time; None without a pause."""
        return self._until if self.closed else None

    def pause(self, seconds: float) -> None:
        """Close for ``seconds``. A pause that is under way is lengthened, never shortened."""
        if not self.closed:
            self.pauses += 1
        self.open = False
        self._window = 1
        self._until = max(self._until, asyncio.get_running_loop().time() + seconds)

    async def rest(self, seconds: float) -> bool:
        """Let only the calling task wait. Return False if the job stops."""
        return await _wait_until(asyncio.get_running_loop().time() + seconds, self._stopped)

    async def enter(self) -> bool:
        """Wait to be admitted. Return False if the job stops. Each caller that was admitted must call ``leave``."""
        async with self._turn:
            while await _wait_until(self._until, self._stopped):
                if self.closed:  # the pause was lengthened
                    continue
                if self.open or self._inside < self._window:
                    self._inside += 1
                    return True
                self._changed.clear()
                await self._changed.wait()
        return False

    def leave(self) -> None:
        """Make room for the next caller, after ``enter`` returned True."""
        self._inside -= 1
        self._changed.set()

    def succeed(self) -> None:
        """Admit one caller more, because the target accepted a message."""
        self.pauses = 0
        if not self.open and not self.closed:
            self._window += 1
            self.open = self._window >= self._width
            self._changed.set()

    def stop(self) -> None:
        """Let every waiting call, and every later one, return False."""
        self._stopped.set()
        self._changed.set()


class Attempts:
    """Hands messages to the target. Pauses while it asks for it or is down, and ends the run after ``max_pause`` of it.

    A refused connection is certainly an outage. A timeout, a broken connection, and a 502, 503 or 504 can also be the
    fault of one message: they are if the target accepts other messages meanwhile.

    timeout: the limit, in seconds, for one attempt.
    on_pause: called with the length of each pause, in seconds.
    """

    def __init__(
        self,
        target: Target,
        limiter: Limiter | None,
        *,
        width: int,
        max_pause: float,
        timeout: float,
        on_pause: Callable[[float], None] | None = None,
    ) -> None:
        self._target = target
        self._limiter = limiter
        self._max_pause = max_pause
        self.timeout = timeout
        self._on_pause = on_pause
        self.pressure = Backpressure(width)
        self._accepted = 0
        """The number of messages that the target accepted."""
        self.since: float | None = None
        """The beginning of the outage, in the event loop's time; None without an outage."""
        self._failures = 0
        """The number of failures since the outage began."""
        self._messages: set[str] = set()
        """Ids of messages that failed since then: two are enough to tell that it is not one message's fault."""
        self._refusing_since: float | None = None
        """The time of the first request for a pause since the target last accepted a message."""

    def stop(self) -> None:
        """Begin no more attempts."""
        self.pressure.stop()
        if self._limiter is not None:
            self._limiter.stop()

    async def deliver(self, message: Message) -> tuple[str | None, Exception | None] | None:
        """Hand a message to the target: once, and again if the target asks for a pause, or is down.

        Return the reason for which there was nothing to do, and the error; None if the run stops before the message.
        """
        limiter, pressure = self._limiter, self.pressure
        tries = 0
        while True:
            entered = not pressure.open
            if entered and not await pressure.enter():
                return None
            accepted = self._accepted
            try:
                if limiter is not None and not limiter.open and not await limiter.wait():
                    return None
                if not pressure.open and pressure.closed:  # a pause that began meanwhile
                    continue
                accepted = self._accepted
                tries += 1
                reason = await self._attempt(message)
                self._accept()
                return reason, None
            except asyncio.CancelledError as exc:
                if cancelling():
                    raise
                failure: Exception = TargetError("the handler, or a function that it called, cancelled itself")
                failure.__cause__ = exc
            except Exception as exc:
                failure = exc
            finally:
                if entered:
                    pressure.leave()
            error = self._judge(failure, message, tries, others_succeed=self._accepted != accepted)
            if error is not None:
                return None, error
            if pressure.open and not await pressure.rest(self._next_pause):
                return None

    async def _attempt(self, message: Message) -> str | None:
        limit = asyncio.timeout(self.timeout)
        try:
            async with limit:
                return await self._target.deliver(message)
        except TimeoutError as exc:
            if not limit.expired():
                raise
            raise TargetTimeoutError(f"no result within {self.timeout:g} s") from exc

    @property
    def _next_pause(self) -> float:
        """Seconds to wait before the next attempt. They double with each failure."""
        return float(min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(self._failures - 1, 16)))

    def _accept(self) -> None:
        """Count a message that the target accepted. That ends an outage."""
        self._accepted += 1
        if not self.pressure.open or self.pressure.pauses:
            self.pressure.succeed()
            self._refusing_since = None
            if self.since is not None:
                logger.warning("the target accepts messages again: the replay continues")
                self.since, self._failures = None, 0
                self._messages.clear()

    def _judge(self, error: Exception, message: Message, tries: int, *, others_succeed: bool) -> Exception | None:
        """Return None if the message is to be tried again, else the error that counts as its failure.

        A ``ReplayError`` other than the message's own ends the run. ``tries`` is the number of attempts so far.
        ``others_succeed`` says whether the target accepted another message since the last one began.
        """
        wait = find_retry_after(error)
        if wait is not None and _classify(error) is not None:
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
        pressure, now = self.pressure, asyncio.get_running_loop().time()
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
        if self.pressure.closed:
            return None  # this message failed together with the one that began the pause
        now = asyncio.get_running_loop().time()
        self.since = now if self.since is None else self.since
        self._failures += 1
        if len(self._messages) < 2:
            self._messages.add(message.id)
        lasted, text = now - self.since, failure_text(exc, longest=LONGEST_ERROR)
        if lasted >= self._max_pause:
            how = f"the target has been down for {lasted:.0f} s, the last attempt with {text}"
            return _ending(f"{how}; {_stopped_before(message)}", exc)
        wait = min(self._next_pause, max(0.0, self._max_pause - lasted) or self._next_pause)
        self._pause(wait)
        shown = printable(text)
        if self._failures == 1:
            logger.warning("the target seems to be down (%s): the replay waits, and tries again", shown)
        else:
            logger.info("the target is still down after %.0f s (%s): next attempt in %.1f s", lasted, shown, wait)
        return None

    def _pause(self, wait: float) -> None:
        self.pressure.pause(wait)
        if self._on_pause is not None:
            self._on_pause(wait)


def _ending(text: str, cause: Exception) -> ReplayError:
    error = ReplayError(text)
    error.__cause__ = cause
    return error


def _stopped_before(message: Message) -> str:
    return f"the replay stopped before message {message.id!r}: run the same again to continue there"


def _classify(error: BaseException) -> str | None:
    """Return "certain", "possible", or None for an error that does not suggest an outage.

    None of a group's errors may be of another kind.
    """
    if isinstance(error, BaseExceptionGroup):
        kinds = {_classify(leaf) for leaf in leaves(error)}
        return None if None in kinds else "certain" if "certain" in kinds else "possible"
    if find_retry_after(error) is not None:
        return "possible"
    if isinstance(error, ConnectionFailedError):
        return "certain" if error.sent is False else "possible"
    if isinstance(error, ConnectionRefusedError):
        return "certain"
    if isinstance(error, (TransportError, ConnectionError, TimeoutError, InboxError)):
        return "possible"
    return "possible" if getattr(error, "status", None) in _GATEWAY_DOWN else None


class TargetTimeoutError(TargetError, TimeoutError):
    """The target took longer than ``target_timeout`` for one message."""
