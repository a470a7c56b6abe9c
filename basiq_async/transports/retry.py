"""Sending again what may be sent again. The one file that knows of the ``backoff`` package.

``backoff`` drives the loop; what may be sent again, and after how long, is decided here: its own jitter would
shorten a Retry-After, and its own time limit goes by the wall clock.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from types import CoroutineType
from typing import Any

import attrs

from .._deadlines import Deadline, Deadlines
from .._responses import parse_retry_after
from ..errors import BasiqError, ConfigurationError, ConnectionFailedError, RequestTimeoutError, TransportError
from ..hooks import OnRequest, OnRetry, RequestEvent, RetryEvent, call_hook
from ._evidence import cause_of, cleaned
from .base import Request, Response, Transport

_log = logging.getLogger("basiq_async.retry")
_RETRIED_STATUSES = frozenset({408, 429, *range(500, 600)})
_NOT_CARRIED_OUT = 429


def _number(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise ConfigurationError(f"{attribute.name} must be a finite number of at least 0")


def _whole_number(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigurationError(f"{attribute.name} must be a whole number of at least 0")


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """When to send a request again, and how long to wait. All times are in seconds.

    Reads and deletes are sent again after a failed connection, a timeout, and the statuses 408, 429 and 5xx; a
    POST only after 429, and after a connection that failed before anything was sent. The wait before the nth
    retry is random between 0 and ``base * 2**(n - 1)``, at most ``max_wait``. A server's Retry-After is never
    shortened: where it is longer than ``max_wait`` there is no retry, and the error has it as
    ``retry_after``. ``max_elapsed`` is the time for all attempts and waits of one request together. Raises
    ``ConfigurationError`` for values that cannot be.
    """

    max_retries: int = attrs.field(default=4, validator=_whole_number)
    base: float = attrs.field(default=0.5, validator=_number)
    max_wait: float = attrs.field(default=30.0, validator=_number)
    max_elapsed: float = attrs.field(default=120.0, validator=_number)

    def __attrs_post_init__(self) -> None:
        if self.max_elapsed == 0:
            raise ConfigurationError("max_elapsed must be above 0; for no retries, use max_retries=0")


class _Failed(Exception):
    """An attempt that did not succeed, with what came of it."""

    def __init__(self, outcome: Response | TransportError) -> None:
        self.outcome = outcome

    @property
    def may_have_been_carried_out(self) -> bool:
        if isinstance(self.outcome, Response):
            return self.outcome.status != _NOT_CARRIED_OUT
        return self.outcome.sent


class Retrying:
    """A transport that sends again through another one, by a ``RetryPolicy``.

    ``timeout`` is for each attempt, in seconds. The transport inside is not closed.
    """

    def __init__(
        self,
        inner: Transport,
        policy: RetryPolicy | None = None,
        *,
        timeout: float = 30.0,
        on_request: OnRequest | None = None,
        on_retry: OnRetry | None = None,
        path_of: Callable[[str], str] = lambda url: url.partition("?")[0],
        uniform: Callable[[float, float], float] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._inner = inner
        self._policy = policy or RetryPolicy()
        self._limits = Deadlines(timeout)
        self._on_request = on_request
        self._on_retry = on_retry
        self._path_of = path_of
        self._uniform = uniform or _uniform
        self._now = now
        self.closed = False

    def send(self, request: Request, /) -> CoroutineType[Any, Any, Response]:
        """Send, and send again as long as the policy lets. Gives the last answer, or raises the last error."""
        return _Run(self, request).attempt()  # type: ignore[return-value]  # mypy knows it as a mere Coroutine

    async def aclose(self) -> None:
        """Begin no further retry. The transport inside is left open: it belongs to whoever made it."""
        self.closed = True


def _uniform(low: float, high: float) -> float:
    import random

    return random.uniform(low, high)


def _is_whole(response: Response) -> bool:
    return type(response.status) is int and isinstance(response.body, bytes)


class _Run:
    """One request on its way: its attempts so far, and the time it has left."""

    __slots__ = ("_attempts", "_clock", "_deadline", "_first", "_owner", "_repeated", "_request", "_uncertain")

    def __init__(self, owner: Retrying, request: Request) -> None:
        self._owner = owner
        self._request = request
        self._clock = asyncio.get_running_loop().time
        longest = self._clock() + owner._policy.max_elapsed
        self._deadline = longest if request.deadline is None else min(longest, request.deadline)
        self._attempts = 0
        self._repeated = self._uncertain = False
        self._first: _Failed | None = None

    @property
    def _path(self) -> str:
        return self._owner._path_of(self._request.url)

    async def attempt(self) -> Response:
        """Send once, and after a first failure see to all further attempts. A later one raises ``_Failed``."""
        self._attempts += 1
        self._repeated = self._uncertain
        began = self._clock()
        limits = self._owner._limits
        left = self._deadline - began
        allowed = limits.seconds if left >= limits.seconds else max(left, 0.0)
        limit = Deadline(limits, allowed)
        try:
            with limit:
                response = await self._owner._inner.send(self._request)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            failure: Exception = self._broken("the transport cancelled itself")
            cause = None
        except Exception as exc:
            failure = self._translated(exc, f"no whole answer within {allowed:g} s" if limit.expired else None)
            cause = exc.__cause__ if failure is exc else cause_of(exc, self._request)
        else:
            if not self._is_worth_another(response, began):
                return response if self._attempts == 1 else self._counted(response)
            return await self._after(response)
        # Out here, so that a cause that was left out does not come along as the context.
        self._tell(began, error=type(failure).__name__)
        failure.__cause__, failure.__suppress_context__ = cause, True
        if isinstance(failure, (ConnectionFailedError, RequestTimeoutError)):
            return await self._after(failure)
        if isinstance(failure, TransportError):
            failure.attempts = self._attempts
        raise failure

    async def _after(self, outcome: Response | TransportError) -> Response:
        failed = _Failed(outcome)
        self._uncertain = self._uncertain or failed.may_have_been_carried_out
        if self._attempts > 1:
            raise failed  # to the loop that made this attempt
        if not self.may_retry(failed):
            return self.conclude(failed)
        import backoff

        self._first = failed  # the loop begins with the failure that there is already
        loop = backoff.on_exception(self.waits, _Failed, giveup=self.must_give_up, jitter=None, logger=None)
        try:
            return await loop(self.replay_or_attempt)()
        except _Failed as last:
            return self.conclude(last)

    def _translated(self, exc: Exception, timed_out: str | None) -> BasiqError:
        """What a transport raises, its own errors left as they are. A transport of a user's can raise anything."""
        if isinstance(exc, BasiqError):
            return cleaned(exc, self._request)
        if isinstance(exc, TimeoutError):
            said = timed_out or "the transport ran out of time"
            return RequestTimeoutError(said, method=self._request.method, path=self._path)
        if isinstance(exc, OSError):
            return self._broken(f"the connection broke: {type(exc).__name__}")
        said = f"the transport failed with {type(exc).__name__}; it is to raise a TransportError"
        return TransportError(said, method=self._request.method, path=self._path)

    def _broken(self, said: str) -> ConnectionFailedError:
        return ConnectionFailedError(said, method=self._request.method, path=self._path)

    def _is_worth_another(self, response: object, began: float) -> bool:
        """Whether an answer might be worth another attempt. Raises for one that is none."""
        if not isinstance(response, Response) or not _is_whole(response):
            self._tell(began, error=TransportError.__name__)
            said = "the transport gave back something that is no Response with a whole number and bytes"
            raise TransportError(said, method=self._request.method, path=self._path)
        self._tell(began, status=response.status)
        return response.status in _RETRIED_STATUSES

    async def replay_or_attempt(self) -> Response:
        """The failure of the first attempt once, then new attempts."""
        first, self._first = self._first, None
        if first is not None:
            raise first
        return await self.attempt()

    def may_retry(self, failed: _Failed) -> bool:
        """Whether the request may be sent again after this failure: it cannot have been carried out twice."""
        if self._attempts > self._owner._policy.max_retries or self._owner.closed:
            return False
        idempotent = self._request.idempotent
        if self._request.method not in ("POST", "PATCH") if idempotent is None else idempotent:
            return True
        return not failed.may_have_been_carried_out

    def must_give_up(self, failed: Exception) -> bool:
        """The same question as ``backoff`` asks it."""
        return not (isinstance(failed, _Failed) and self.may_retry(failed))

    def waits(self) -> Generator[float, Any, None]:
        """The waits between attempts, in seconds; ends where the next attempt would come too late."""
        failed = yield 0.0  # the loop sends the failure that each wait is for
        while True:
            wait = self._wait_after(failed)
            if wait is None or self._clock() + wait >= self._deadline:
                return
            self._announce(failed, wait)
            failed = yield wait

    def _wait_after(self, failed: _Failed) -> float | None:
        policy = self._owner._policy
        if isinstance(failed.outcome, Response):
            asked = parse_retry_after(failed.outcome.headers.get("retry-after"), self._owner._now())
            if asked is not None:
                return asked if asked <= policy.max_wait else None
        doubled = policy.base * 2.0 ** min(self._attempts - 1, 64)
        return self._owner._uniform(0.0, min(policy.max_wait, doubled))

    def conclude(self, failed: _Failed) -> Response:
        """What the caller gets when there is no further attempt."""
        if isinstance(failed.outcome, Response):
            return self._counted(failed.outcome)
        failed.outcome.attempts = self._attempts
        raise failed.outcome from failed.outcome.__cause__

    def _counted(self, response: Response) -> Response:
        return attrs.evolve(response, attempts=self._attempts, repeated=self._repeated)

    def _tell(self, began: float, *, status: int | None = None, error: str | None = None) -> None:
        hook, logged = self._owner._on_request, _log.isEnabledFor(logging.DEBUG)
        if hook is None and not logged:
            return
        duration = self._clock() - began
        method, path, attempt = self._request.method, self._path, self._attempts
        _log.debug("%s %s: %s in %.3f s (attempt %d)", method, path, status or error, duration, attempt)
        call_hook(hook, RequestEvent(method, path, attempt, duration, status, error))

    def _announce(self, failed: _Failed, wait: float) -> None:
        outcome = failed.outcome
        status = outcome.status if isinstance(outcome, Response) else None
        error = None if isinstance(outcome, Response) else type(outcome).__name__
        method, path, attempt = self._request.method, self._path, self._attempts
        _log.info("%s %s: %s, next attempt in %.2f s", method, path, status or error, wait)
        call_hook(self._owner._on_retry, RetryEvent(method, path, attempt, wait, status, error))
