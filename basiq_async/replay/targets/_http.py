"""Posting messages to an endpoint, signed as Basiq signs them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import aiohttp

from ..._responses import parse_retry_after
from ..._urls import absolute_url
from ...errors import (
    ConfigurationError,
    ConnectionFailedError,
    ReplayError,
    RequestTimeoutError,
    TargetError,
    TransportError,
)
from ...models import Message
from ...receiver import sign
from ...receiver._delivery import payload_bytes
from ...receiver._signature import SecretLike, SigningKeys
from ...transports._aiohttp_internals import clean_request_class
from ...transports.aiohttp import AiohttpTransport
from ...transports.base import Request, Response, Transport
from ...transports.retry import Retrying, RetryPolicy

__all__ = ["HttpTarget"]

_ASKING_FOR_PATIENCE = (429, 503)
_MOST_READ = 65_536


class HttpTarget:
    """Posts each message to ``url`` as Basiq would: the payload as JSON, with the message's own ``webhook-id``, a new
    timestamp, and a new signature. Use it as ``async with HttpTarget(url, secret) as target``.

    secret: one or several, as for ``sign``; it is shown nowhere.
    retry: for failed connections, timeouts, 408, 429 and 5xx; a delivery is made to be sent again. An answer 429
        or 503 with Retry-After is not the policy's: it has the whole replay wait.
    timeout: seconds for one attempt.
    connections: the most at once; give it the replay's ``concurrency``.
    session: an aiohttp session to use in place of its own; it is not closed.
    clock: the time to sign with.

    Any 2xx is a success, whatever the body, of which no more than 64 KiB are read. Redirects are not followed, no
    cookie is kept, no proxy taken from the environment. ``deliver`` raises ``TargetError`` for other answers, a
    ``TransportError`` where there is none.
    """

    def __init__(
        self,
        url: str,
        secret: SecretLike,
        *,
        retry: RetryPolicy | None = None,
        timeout: float = 30.0,
        connections: int = 100,
        session: aiohttp.ClientSession | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._url = absolute_url(url)
        if "@" in urlsplit(self._url).netloc:
            raise ConfigurationError("url must not hold a user or password: they would show in errors and logs")
        if isinstance(connections, bool) or not isinstance(connections, int) or connections < 1:
            raise ConfigurationError("connections must be a whole number, at least 1")
        SigningKeys(secret)  # a secret that cannot be is told now
        self._secret = secret
        self._clock = clock
        self._connections = connections
        self._session = session
        self._owned: aiohttp.ClientSession | None = None
        self._timeout = timeout
        self._retry = retry
        self._poster: _Poster | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"HttpTarget({self._url!r})"

    async def deliver(self, message: Message) -> None:
        """See ``Target``."""
        poster = self._poster or self._opened()
        body = payload_bytes(message)
        headers = {**sign(self._secret, message.id, self._clock(), body), "content-type": "application/json"}
        request = Request("POST", self._url, headers, body, idempotent=True)
        first: Response | TransportError
        try:
            first = await poster.send(request)
        except (ConnectionFailedError, RequestTimeoutError) as exc:
            first = exc
        if isinstance(first, Response) and 200 <= first.status <= 299:
            return
        retrying = Retrying(_Continued(first, poster), self._retry, timeout=self._timeout)
        answer = await retrying.send(request)
        if not 200 <= answer.status <= 299:
            raise TargetError(f"the target answered {answer.status}{_tries(answer.attempts)}", status=answer.status)

    async def flush(self) -> None:
        """See ``Target``: what was answered with 2xx is the endpoint's."""

    async def aclose(self) -> None:
        """Close the connections, where the session is the target's own."""
        self._closed = True
        self._poster = None
        if self._owned is not None:
            await self._owned.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def _opened(self) -> _Poster:
        if self._closed:
            raise ReplayError("the HttpTarget is closed: run the replay inside of its async with")
        session = self._session
        if session is None:
            session = self._owned = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections),
                cookie_jar=aiohttp.DummyCookieJar(),
                # What came unasked on a resting connection must not be taken for an acknowledgement.
                request_class=clean_request_class(),
                trust_env=False,
            )
        self._poster = _Poster(session, timeout=self._timeout)
        return self._poster


class _Poster(AiohttpTransport):
    """The status alone is what counts: a body that is long, or breaks off, makes no failure of a success.

    Retry-After is taken out of the retry policy's hands: it is for the whole job, not for one message.
    """

    def _taken_at_once(self, answer: aiohttp.ClientResponse) -> Response | None:
        status = answer.status
        if status in _ASKING_FOR_PATIENCE:
            wait = parse_retry_after(answer.headers.get("retry-after"), datetime.now(UTC))
            if wait is not None:
                raise TargetError(f"the target answered {status}", status=status, retry_after=wait)
        return Response(status) if answer.content.is_eof() else None

    async def _taken(self, answer: aiohttp.ClientResponse) -> Response:
        await _drained(answer)
        return Response(answer.status)


async def _drained(answer: aiohttp.ClientResponse) -> None:
    """Read the body to its end, so that the connection can be used again; close it where that is too much."""
    read = 0
    try:
        async for chunk in answer.content.iter_any():
            read += len(chunk)
            if read > _MOST_READ:
                answer.close()
                return
    except (aiohttp.ClientError, OSError, ValueError):
        answer.close()


class _Continued:
    """Gives what the first attempt came to, then makes the others: most messages need no retry, and no part of one."""

    def __init__(self, first: Response | TransportError, inner: Transport) -> None:
        self._first: Response | TransportError | None = first
        self._inner = inner

    async def send(self, request: Request, /) -> Response:
        first, self._first = self._first, None
        if isinstance(first, Response):
            return first
        if first is not None:
            raise first
        return await self._inner.send(request)

    async def aclose(self) -> None:
        """The transport inside is not closed."""


def _tries(attempts: int) -> str:
    return "" if attempts == 1 else f", the last of {attempts} times"
