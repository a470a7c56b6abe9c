"""Hand a message to the target: within the rate, after the target's pauses, and again while the target is down.

Times are the event loop's.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Literal

from .._redaction.text import printable
from .._redaction.tracebacks import hide_parameters
from .._work.failures import failure_text, find_retry_after, is_outage, leaves
from .._work.limits import limit, wait_for_event
from .._work.tasks import cancelling
from ..errors import ConnectionFailedError, InboxError, ReplayError, TargetError
from ..models import Message
from .targets._base import STOPPED, End, Target

logger = logging.getLogger("basiq_async.replay")

_GATEWAY_DOWN = (502, 503, 504)
_MOST_TRIES = 3
"""Maximum attempts at a message if the target accepts other messages meanwhile."""
_MOST_TRIES_ALONE = 5
"""Maximum attempts at a message if no other message shows whether the target works."""
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 60.0
_LONGEST_BACKOFF = 5.0
"""Seconds to wait more than the target asks for, if it asks again and again."""
LONGEST_ERROR = 1_000
"""Maximum length of an error that is shown and kept, in characters."""


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _wait_until(moment: float, stopped: asyncio.Event) -> bool:
    """Wait until a time of the event loop. Return False if the job stops."""
    left = moment - _now()
    return not (await wait_for_event(stopped, left) if left > 0 else stopped.is_set())


_TICK = 0.02
"""Seconds for which slots are kept: a wait of the event loop lasts a few milliseconds longer than was asked for."""


class RateLimiter:
    """Lets ``rate`` messages a second begin, evenly spaced. Slots that were not used within 20 ms are lost."""

    def __init__(self, rate: float) -> None:
        self._interval = 1.0 / rate
        self._due = float("-inf")
        self._stopped = asyncio.Event()

    async def wait(self) -> bool:
        """Wait until a message may begin. Return False if the job stops."""
        now = _now()
        slot = now if self._due < now - _TICK else self._due
        self._due = slot + self._interval
        return await _wait_until(slot, self._stopped)

    def stop(self) -> None:
        """Let every waiting call return False."""
        self._stopped.set()


class CircuitBreaker:
    """Admits callers to the target, in one of three states.

    - *closed*: every caller, without asking.
    - *open*: none, until a moment: the target is down, or asks for a pause.
    - *half-open*, after that: one caller at a time, and one more with each success, until ``width`` are admitted and it
      is closed again. If it admitted all at once, the target would refuse them again.
    """

    def __init__(self, width: int) -> None:
        self.closed = True  # whether callers need not call ``enter`` and ``leave``
        self.openings = 0  # how often it opened since the last success
        self._width = width
        self._admits = self._inside = 0
        self._until = float("-inf")
        self._turn = asyncio.Lock()
        """Held by the next caller to be admitted; the others follow in the order in which they came."""
        self._changed = asyncio.Event()
        self.stopped = asyncio.Event()

    @property
    def open_until(self) -> float | None:
        """Until when it is open, in the event loop's time; None if it is not."""
        return self._until if self._until > _now() else None

    def open(self, seconds: float) -> None:
        """Open, from any state. The time for which it is open already is lengthened, never shortened."""
        self.openings += self.open_until is None
        self.closed, self._admits = False, 1
        self._until = max(self._until, _now() + seconds)

    def succeed(self) -> None:
        """Admit one caller more, because the target accepted a message. While it is open that changes nothing."""
        self.openings = 0
        if not self.closed and self.open_until is None:
            self._admits += 1
            self.closed = self._admits >= self._width
            self._changed.set()

    async def enter(self) -> bool:
        """Wait to be admitted. Return False if the job stops. Each caller that was admitted must call ``leave``."""
        async with self._turn:
            while await _wait_until(self._until, self.stopped):
                if self.open_until is not None:  # it was opened for longer
                    continue
                if self.closed or self._inside < self._admits:
                    self._inside += 1
                    return True
                self._changed.clear()
                await self._changed.wait()
        return False

    def leave(self) -> None:
        """Make room for the next caller, after ``enter`` returned True."""
        self._inside -= 1
        self._changed.set()

    def stop(self) -> None:
        """Let every waiting call, and every later one, return False."""
        self.stopped.set()
        self._changed.set()


class Throttle:
    """Hands messages to the target. Pauses while the target is down or asks for it; ends the run when that exceeds
    ``max_pause``.

    A refused connection is certainly an outage. A timeout, a broken connection, and a 502, 503 or 504 can also be the
    fault of one message: if the target accepts other messages meanwhile, the message fails at its third attempt.

    timeout: the limit, in seconds, for one attempt.
    once: an outage is a failure of the message, and is not waited for.
    """

    def __init__(
        self,
        target: Target,
        limiter: RateLimiter | None,
        *,
        width: int,
        max_pause: float,
        timeout: float,
        once: bool = False,
    ) -> None:
        self._once = once
        self._target = target
        self._limiter = limiter
        self._max_pause = max_pause
        self.timeout = timeout
        self.breaker = CircuitBreaker(width)
        self._accepted = 0  # the number of messages that the target accepted
        self._paused_since: float | None = None
        """When the target first asked for a pause, or failed, since it last accepted a message."""
        self.reason: str | None = None
        """The error that began the last pause."""
        self._failed: set[str] = set()
        """Ids of messages that failed since then. If there are two, it is not one message's fault."""

    @property
    def since(self) -> float | None:
        """The beginning of the outage, in the event loop's time; None without an outage."""
        return self._paused_since if self._failed else None

    def stop(self) -> None:
        """Begin no more attempts."""
        self.breaker.stop()
        if self._limiter is not None:
            self._limiter.stop()

    async def deliver(self, message: Message) -> End:
        """Hand a message to the target: once, and again if the target asks for a pause, or is down.

        Return how that ended; ``STOPPED`` if the run stops before the message.
        """
        limiter, breaker = self._limiter, self.breaker
        tries = 0
        while True:
            entered = not breaker.closed
            if entered and not await breaker.enter():
                return STOPPED
            accepted = self._accepted
            try:
                if limiter is not None and not await limiter.wait():
                    return STOPPED
                if not breaker.closed and breaker.open_until is not None:  # a pause that began meanwhile
                    continue
                accepted = self._accepted
                tries += 1
                async with limit(self.timeout, lambda: TargetTimeoutError(f"no result within {self.timeout:g} s")):
                    reason = await self._target.deliver(message)
                self._accept()
                return reason
            except asyncio.CancelledError as exc:
                if cancelling():
                    raise
                failure: Exception = TargetError("the handler, or a function that it called, cancelled itself")
                failure.__cause__ = exc
            except Exception as exc:
                failure = exc
            finally:
                if entered:
                    breaker.leave()
            error = self._judge(failure, message, tries, others_succeed=self._accepted != accepted)
            if error is not None:
                return error
            if breaker.closed and await wait_for_event(breaker.stopped, self._next_pause):  # only this message waits
                return STOPPED

    def _accept(self) -> None:
        """Count a message that the target accepted. That ends an outage."""
        self._accepted += 1
        if not self.breaker.closed or self.breaker.openings:
            self.breaker.succeed()
            if self.since is not None:
                logger.warning("the target accepts messages again: the replay continues")
            self._paused_since = None
            self._failed.clear()

    @property
    def _next_pause(self) -> float:
        """Seconds to wait before the next attempt. They double with each pause."""
        return float(min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self.breaker.openings, 16)))

    def _judge(self, error: Exception, message: Message, tries: int, *, others_succeed: bool) -> Exception | None:
        """Return None if the message is to be tried again, else the error that counts as its failure.

        A ``ReplayError`` other than the message's own ends the run. ``tries`` is the number of attempts so far.
        ``others_succeed`` says whether the target accepted another message since the last one began.
        """
        kind = _outage_of(error)
        if kind is None or (self._once and kind != "asks"):
            return error
        most = _MOST_TRIES if others_succeed else _MOST_TRIES_ALONE
        if kind == "maybe" and tries >= most and (others_succeed or self._failed <= {message.id}):
            return error
        if kind != "asks":
            if others_succeed and self.since is None:
                return None  # the fault may be this message's: its worker waits, and the others continue
            if self.breaker.open_until is not None:
                return None  # this message failed together with the one that began the pause
        return self._pause(error, message, find_retry_after(error) or 0.0 if kind == "asks" else None)

    def _pause(self, error: Exception, message: Message, asked: float | None) -> Exception | None:
        """Pause for as long as the target asks for; without a number, because it is down. Return what ends the run."""
        now, text = _now(), printable(failure_text(error, longest=LONGEST_ERROR))
        self._paused_since = now if self._paused_since is None else self._paused_since
        lasted = now - self._paused_since
        if asked is None:
            if not self._failed:
                logger.warning("the target seems to be down (%s): the replay waits, and tries again", text)
            self._failed.add(message.id)
        elif asked > self._max_pause:
            what = f"the target asks for a pause of {asked:g} s, longer than max_pause ({text})"
            return ending_error(f"{what}: run the same again after that", error)
        if lasted >= self._max_pause:
            what = f"been down for {lasted:.0f} s, the last attempt with {text}"
            if asked is not None:
                what = f"asked for pauses for {lasted:.0f} s, and accepted no message meanwhile, the last with {text}"
            what += f"; the replay stopped before message {message.id!r}: run the same again to continue there"
            return ending_error(f"the target has {what}", error)
        wait = min(self._next_pause, self._max_pause - lasted)
        if asked is not None:
            again = self.breaker.openings and self.breaker.open_until is None
            wait = max(asked, min(wait, _LONGEST_BACKOFF)) if again else asked
        self.reason = text
        self.breaker.open(wait)
        logger.info("the replay waits %.2f s for the target (%s)", wait, text)
        return None


def ends_run(error: Exception) -> bool:
    """Return whether an error ends the run: it is not that of a message."""
    is_end = isinstance(error, ReplayError) and not isinstance(error, TargetError)
    return is_end or (isinstance(error, InboxError) and error._lasts)


def ending_error(text: str, cause: Exception) -> ReplayError:
    """Return the error that ends the run, in front of a message."""
    error = ReplayError(text)
    error.__cause__ = hide_parameters(cause)
    return error


OutageSign = Literal["asks", "certain", "maybe"]
"""The target asks for a pause; it is down; it is down, or cannot take this message."""


def _outage_of(error: BaseException) -> OutageSign | None:
    """Return what an error says of the target; None if it is the message's failure, as one error of a group can be."""
    kinds = [_kind_of(leaf) for leaf in leaves(error)]
    if None in kinds:
        return None
    return next(kind for kind in ("asks", "certain", "maybe") if kind in kinds)


def _kind_of(error: BaseException) -> OutageSign | None:
    if find_retry_after(error) is not None:
        return "asks"
    if isinstance(error, ConnectionRefusedError) or (isinstance(error, ConnectionFailedError) and error.sent is False):
        return "certain"
    if isinstance(error, InboxError) and error._lasts:
        return None
    return "maybe" if is_outage(error) or getattr(error, "status", None) in _GATEWAY_DOWN else None


class TargetTimeoutError(TargetError, TimeoutError):
    """The target took longer than ``target_timeout`` for one message."""
