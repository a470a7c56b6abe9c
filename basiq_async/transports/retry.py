"""Retries. Only this module uses the ``backoff`` package: its exponential waits, not its decorators.

A decorator of ``backoff`` would shorten a Retry-After by its jitter, and measure its time limit by the wall clock.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, TypeAlias

import attrs

from .._arguments import as_seconds, check_from_zero, check_whole
from .._redaction.credentials import Redactor
from .._redaction.tracebacks import cause_of, clean
from .._work.clock import clock_of
from .._work.limits import limit
from ..errors import BasiqError, ConfigurationError, ConnectionFailedError, RequestTimeoutError, TransportError
from ..hooks import OnRequest, RequestEvent, call_hook
from .base import Request, Response, Transport, credential_of
from .responses import read_correlation_id, read_retry_after

_log = logging.getLogger("basiq_async.retry")
_RETRIED_STATUSES = frozenset({408, 429, *range(500, 600)})
_NOT_CARRIED_OUT = 429


def _number(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    check_from_zero(attribute.name, value)


def _whole_number(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    check_whole(attribute.name, value)


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """When to send a request again, and how long to wait. All times are in seconds, or
    timedeltas.

    A GET or DELETE is sent again after a failed connection, a timeout, and the statuses 408, 429 and 5xx. A POST is
    sent again only after 429, and after a connection that failed before anything was sent. The wait before the nth
    retry is random between 0 and ``base * 2**(n - 1)``, at most ``max_wait``. A server's Retry-After is never
    shortened: if it is longer than ``max_wait``, there is no retry, and the error has it as ``retry_after``.
    ``max_elapsed`` is the limit for all attempts and waits of one request together. Raises ``ConfigurationError`` for
    invalid values.
    """

    max_retries: int = attrs.field(default=4, validator=_whole_number)
    base: float = attrs.field(default=0.5, converter=as_seconds, validator=_number)
    max_wait: float = attrs.field(default=30.0, converter=as_seconds, validator=_number)
    max_elapsed: float = attrs.field(default=120.0, converter=as_seconds, validator=_number)

    def __attrs_post_init__(self) -> None:
        if self.max_elapsed == 0:
            raise ConfigurationError("max_elapsed must be above 0; for no retries, use max_retries=0")


_Outcome: TypeAlias = Response | TransportError
"""The outcome of an attempt: a response, or an error that may be worth another attempt."""


class Retrying:
    """A transport that sends requests through another one, and sends them again as a ``RetryPolicy`` says.

    ``timeout`` is the limit for each attempt, in seconds. ``gives_up`` returns True for a response after which there
    must be no retry, though the policy allows one; for example, its wait may concern more than this request. The inner
    transport is not closed.
    """

    def __init__(
        self,
        inner: Transport,
        policy: RetryPolicy | None = None,
        *,
        timeout: float = 30.0,
        gives_up: Callable[[Response], bool] | None = None,
        on_request: OnRequest | None = None,
        on_retry: OnRequest | None = None,
        path_of: Callable[[str], str] = lambda url: url.partition("?")[0],
        redact: Callable[[str], str] = str,
        uniform: Callable[[float, float], float] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._inner = inner
        self.waits = clock_of(inner)
        self._policy = policy or RetryPolicy()
        self._timeout = timeout
        self._gives_up = gives_up
        self.on_request = on_request
        self.on_retry = on_retry
        self._path_of = path_of
        self._redact = redact
        self._uniform = uniform or _uniform
        self._now = now
        self.closed = False

    async def send(self, request: Request, /) -> Response:
        """Send a request, with retries as the policy allows. Return the last response, or raise the last error."""
        run = _Run(self, request)
        outcome = await run.attempt()
        if isinstance(outcome, Response) and outcome.status not in _RETRIED_STATUSES:  # nearly every response
            return outcome
        while run.may_retry(outcome) and (wait := run.wait_after(outcome)) is not None:
            run.announce(outcome, wait)
            await run.sleep(wait)
            outcome = await run.attempt()
        if isinstance(outcome, Response):
            return outcome
        raise outcome from outcome.__cause__

    async def aclose(self) -> None:
        """Allow no further retry. The inner transport stays open: it is closed by the code that made it."""
        self.closed = True


def _uniform(low: float, high: float) -> float:
    import random

    return random.uniform(low, high)


def _longest_waits(policy: RetryPolicy) -> Iterator[float]:
    """Yield the longest wait before each retry, in seconds. They double up to the policy's ceiling."""
    import backoff  # here: most programs never retry

    ceiling = min(policy.max_wait, policy.base * 2.0**64)  # of a base of 0 too: it has a limit to what it doubles
    waits = backoff.expo(factor=policy.base, max_value=ceiling)
    next(waits)  # backoff's generators yield nothing useful at first
    yield from waits


class _Run:
    """The state of one ``send``: its attempts so far, and its deadline."""

    def __init__(self, owner: Retrying, request: Request) -> None:
        self._owner = owner
        self._request = request
        self._loop_time = asyncio.get_running_loop().time
        self._clock = self._loop_time if owner.waits is None else owner.waits.time
        self._longest_waits: Iterator[float] | None = None
        left = owner._policy.max_elapsed
        if request.deadline is not None:
            left = min(left, request.deadline - self._loop_time())
        self._deadline = self._clock() + left
        self._attempts = 0
        self._began = 0.0
        self._repeated = self._uncertain = False

    @property
    def _path(self) -> str:
        return self._owner._path_of(self._request.url)

    async def attempt(self) -> _Outcome:
        """Send the request once. Return its response, or a failure that may be retried; raise any other failure."""
        self._attempts += 1
        self._repeated = self._uncertain
        self._began = self._clock()
        allowed = max(0.0, min(self._owner._timeout, self._deadline - self._began))
        request = self._request
        if self._owner.waits is not None:  # the transport waits on another clock than the loop's: it must end by itself
            request = attrs.evolve(request, deadline=self._loop_time() + allowed)
        try:
            async with limit(allowed, lambda: self._late(f"no complete response within {allowed:g} s")):
                response = await self._owner._inner.send(request)
            if not isinstance(response, Response) or (type(response.status), type(response.body)) != (int, bytes):
                said = "the transport did not return a Response with an int as its status and bytes as its body"
                raise TransportError(said, method=self._request.method, path=self._path)
            if not all(map(str.islower, response.headers)):  # a transport of the user's
                lowered = {name.lower(): value for name, value in response.headers.items()}
                response = attrs.evolve(response, headers=lowered)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            failure: BasiqError = self._broken("the transport cancelled itself")
            cause = None
        except Exception as exc:
            failure = self._translate(exc)
            cause = exc.__cause__ if failure is exc else cause_of(exc, self._hide)
        else:
            if self._owner.on_request is not None or _log.isEnabledFor(logging.DEBUG):
                self._report(response)
            if self._attempts == 1:
                return response
            return attrs.evolve(response, attempts=self._attempts, repeated=self._repeated)
        # Outside of the except block: a cause that was left out must not become the context.
        self._report(failure)
        failure.__cause__, failure.__suppress_context__ = cause, True
        if isinstance(failure, TransportError):
            failure.attempts = self._attempts
            if isinstance(failure, (ConnectionFailedError, RequestTimeoutError)):
                return failure
        raise failure

    def may_retry(self, outcome: _Outcome) -> bool:
        """Whether the request may be sent again after this outcome."""
        if isinstance(outcome, Response):
            if outcome.status not in _RETRIED_STATUSES:
                return False
            may_have_been_carried_out = outcome.status != _NOT_CARRIED_OUT
            if self._owner._gives_up is not None and self._owner._gives_up(outcome):
                return False
        else:
            may_have_been_carried_out = outcome.sent
        self._uncertain = self._uncertain or may_have_been_carried_out
        if self._attempts > self._owner._policy.max_retries or self._owner.closed:
            return False
        idempotent = self._request.idempotent
        if self._request.method not in ("POST", "PATCH") if idempotent is None else idempotent:
            return True
        return not may_have_been_carried_out

    def wait_after(self, outcome: _Outcome) -> float | None:
        """Return the wait before the next attempt, in seconds; None if there must be no further one."""
        policy = self._owner._policy
        self._longest_waits = self._longest_waits or _longest_waits(policy)
        longest = next(self._longest_waits)
        asked = None
        if isinstance(outcome, Response):
            asked = read_retry_after(outcome, self._owner._now())
        if asked is not None and asked > policy.max_wait:
            return None
        wait = self._owner._uniform(0.0, longest) if asked is None else asked
        return wait if self._clock() + wait < self._deadline else None

    async def sleep(self, wait: float) -> None:
        """Wait, on the transport's own clock if it has one."""
        await (asyncio.sleep if self._owner.waits is None else self._owner.waits.sleep)(wait)

    def _translate(self, exc: Exception) -> BasiqError:
        """Return the error of this package for an exception of a transport: a user's transport may raise any."""
        if isinstance(exc, BasiqError):
            return clean(exc, self._hide)
        if isinstance(exc, TimeoutError):
            return self._late("the transport ran out of time")
        if isinstance(exc, OSError):
            return self._broken(f"the connection broke: {type(exc).__name__}")
        said = f"the transport failed with {type(exc).__name__}; it must raise a TransportError"
        return TransportError(said, method=self._request.method, path=self._path)

    def _hide(self, text: str) -> str:
        """Return a text without credentials: those of the client, and that of the request."""
        return self._owner._redact(Redactor(credential_of(self._request)).known(text))

    def _late(self, said: str) -> RequestTimeoutError:
        return RequestTimeoutError(said, method=self._request.method, path=self._path)

    def _broken(self, said: str) -> ConnectionFailedError:
        return ConnectionFailedError(said, method=self._request.method, path=self._path)

    def _report(self, outcome: Response | BasiqError) -> None:
        event = self._event_of(outcome)
        _log.debug(
            "%s %s: %s in %.3f s (attempt %d)",
            event.method,
            event.path,
            event.status or event.error,
            event.duration,
            event.attempt,
            extra=_extra_of(event),
        )
        call_hook(self._owner.on_request, event)

    def announce(self, outcome: _Outcome, wait: float) -> None:
        """Log a retry, and tell the hook."""
        event = self._event_of(outcome, wait)
        _log.info(
            "%s %s: %s, next attempt in %.2f s",
            event.method,
            event.path,
            event.status or event.error,
            wait,
            extra=_extra_of(event),
        )
        call_hook(self._owner.on_retry, event)

    def _event_of(self, outcome: Response | BasiqError, wait: float | None = None) -> RequestEvent:
        """Return the event of the last attempt, which has just ended, and its outcome. ``wait``: until the next one."""
        result: tuple[int | None, str | None, str | None] = None, type(outcome).__name__, None
        if isinstance(outcome, Response):
            result = outcome.status, None, read_correlation_id(outcome, self._owner._redact)
        request, lasted = self._request, self._clock() - self._began
        return RequestEvent(request.method, self._path, self._attempts, lasted, *result, request.url_template, wait)


_EXTRA = {"method": "http_method", "path": "http_path", "status": "http_status", "error": "error_type"}
"""Names of the extra fields of a log record. They do not clash with the attributes of ``LogRecord``."""


def _extra_of(event: RequestEvent) -> dict[str, object]:
    facts = attrs.asdict(event, filter=lambda field, _: field.name not in ("duration", "wait"))
    return {_EXTRA.get(name, name): value for name, value in facts.items()}
