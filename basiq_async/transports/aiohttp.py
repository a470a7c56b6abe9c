"""The transport over the network, with aiohttp. Exceptions of aiohttp are translated only in this module."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

import aiohttp
from yarl import URL

from .._arguments import check_positive, check_whole
from .._version import __version__
from .._work.deadlines import Deadline, Deadlines
from ..errors import BasiqError, ConfigurationError, ConnectionFailedError, RequestTimeoutError, TransportError
from ._aiohttp_internals import SentOnce, Unclean, clean_request_class, release
from ._error_causes import cause_of
from .base import Request, Response

__all__ = ["AiohttpTransport", "ReadResponse", "join_headers", "read_status"]

_USER_AGENT = f"basiq-async/{__version__}"
_CONNECTIONS = 100
_SWITCHING_PROTOCOLS = 101

ReadResponse: TypeAlias = Callable[[aiohttp.ClientResponse], Awaitable[Response]]
"""Makes a ``Response`` from aiohttp's response: it reads, drops or refuses the body."""


class AiohttpTransport:
    """Sends requests over HTTP and HTTPS.

    If you pass a ``session``, the transport uses it and never closes it: its cookie jar, proxies, connector and
    middlewares are your choice. Otherwise the transport makes a session with up to ``connections`` connections and the
    header ``User-Agent: user_agent``. This session verifies TLS, keeps no cookies, and takes no proxy or netrc from the
    environment. Redirects are never followed: they could send the token elsewhere.

    ``timeout`` is the limit for a whole request, and ``connect_timeout`` for making its connection, both in seconds. A
    request's ``deadline`` counts if it is earlier. A body that is larger than ``max_body_size`` bytes, decompressed,
    raises a ``TransportError`` as soon as it exceeds the limit. ``read_response`` replaces the function that reads
    responses; ``max_body_size`` then has no effect.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession | None = None,
        *,
        timeout: float = 30.0,
        connect_timeout: float = 10.0,
        max_body_size: int = 64 * 2**20,
        connections: int = _CONNECTIONS,
        read_response: ReadResponse | None = None,
        user_agent: str = _USER_AGENT,
    ) -> None:
        check_positive("timeout", timeout)
        check_positive("connect_timeout", connect_timeout)
        check_positive("max_body_size", max_body_size)
        check_whole("connections", connections, least=1)
        if session is not None and not isinstance(session, aiohttp.ClientSession):
            raise ConfigurationError("session must be an aiohttp.ClientSession, or None to have the transport make one")
        self._session = session
        self._owns_session = session is None
        self._limits = Deadlines(timeout)
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout)
        self._max_body_size = max_body_size
        self._connections = connections
        self._read_response = read_response or self._read_whole
        self._user_agent = user_agent
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None

    async def send(self, request: Request, /) -> Response:
        """Send one request. Raises ``ConnectionFailedError``, ``RequestTimeoutError`` or ``TransportError``."""
        loop = asyncio.get_running_loop()
        allowed = self._time_for(request, loop)
        limit = Deadline(self._limits, allowed, loop)
        try:
            with limit:
                while True:
                    try:
                        response = await self._open_session(loop).request(
                            request.method,
                            URL(request.url, encoded=True),
                            headers=request.headers,
                            data=request.body,
                            allow_redirects=False,
                            auto_decompress=True,
                            raise_for_status=False,
                            timeout=self._timeout,
                        )
                    except Unclean:
                        continue
                    try:
                        return await self._read_response(response)
                    finally:
                        await release(response, sent_a_body=request.body is not None)
        except Exception as exc:
            if limit.expired and isinstance(exc, TimeoutError):
                failure: BasiqError = _timed_out(request, allowed)
                cause = None
            else:
                failure = _translate(exc, request)
                cause = exc.__cause__ if failure is exc else cause_of(exc, request)
        # Raised outside of the except block: a cause that was left out must not become the context.
        raise failure from cause

    async def aclose(self) -> None:
        """Close the connections, if the transport made the session."""
        self._closed = True
        if self._owns_session and self._session is not None:
            await self._session.close()

    def _time_for(self, request: Request, loop: asyncio.AbstractEventLoop) -> float:
        """Return how many seconds the request may take. Raises ``RequestTimeoutError`` if its deadline has passed."""
        seconds = self._limits.seconds
        if request.deadline is None:
            return seconds
        left = request.deadline - loop.time()
        if left <= 0:
            said = "the deadline passed before the request was sent"
            raise RequestTimeoutError(said, method=request.method, path=_path(request), sent=False)
        return min(left, seconds)

    def _open_session(self, loop: asyncio.AbstractEventLoop) -> aiohttp.ClientSession:
        if self._closed:
            raise ConnectionFailedError("the transport is closed", sent=False)
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise ConfigurationError("the transport belongs to another event loop; make one for each loop")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": self._user_agent},
                request_class=clean_request_class(),
                response_class=SentOnce,
                trust_env=False,
            )
        if self._session.closed:
            raise ConnectionFailedError("the session is closed", sent=False)
        return self._session

    async def _read_whole(self, response: aiohttp.ClientResponse) -> Response:
        """Read the body, and count its bytes as they arrive: compressed, a few bytes can become gigabytes."""
        content = response.content
        if response.status == _SWITCHING_PROTOCOLS:
            # Another protocol follows, so there is no body, and the connection cannot be used again.
            response.close()
            return Response(response.status, join_headers(response.headers))
        if content.is_eof():  # the whole body arrived with the head, as it mostly does
            body = content.read_nowait()
            if len(body) > self._max_body_size:
                raise self._too_large(response)
            return Response(response.status, join_headers(response.headers), body)
        if (response.content_length or 0) > self._max_body_size:
            raise self._too_large(response)
        chunks: list[bytes] = []
        size = 0
        async for chunk in content.iter_any():
            size += len(chunk)
            if size > self._max_body_size:
                raise self._too_large(response)
            chunks.append(chunk)
        return Response(response.status, join_headers(response.headers), b"".join(chunks))

    def _too_large(self, response: aiohttp.ClientResponse) -> TransportError:
        response.close()
        return TransportError(
            f"the response's body is larger than {self._max_body_size} bytes; to accept it, raise max_body_size"
        )


async def read_status(response: aiohttp.ClientResponse) -> Response:
    """Return a response with its status only, as a ``read_response``. The body is not read; the connection closes."""
    response.close()
    return Response(response.status)


def join_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers as a ``Response`` has them: names in lower case, repeated values joined by commas."""
    joined = {name.lower(): value for name, value in headers.items()}
    if len(joined) < len(headers):
        joined.clear()
        for name, value in headers.items():
            lower = name.lower()
            joined[lower] = f"{joined[lower]}, {value}" if lower in joined else value
    return joined


def _path(request: Request) -> str:
    return URL(request.url, encoded=True).raw_path


def _timed_out(request: Request, allowed: float) -> RequestTimeoutError:
    return RequestTimeoutError(f"no complete response within {allowed:g} s", method=request.method, path=_path(request))


def _translate(exc: Exception, request: Request) -> BasiqError:
    """Return the error of this package for an exception of aiohttp, with the request's method and path."""
    method, path = request.method, _path(request)
    match exc:
        case TransportError():
            exc.method, exc.path = method, path
            return exc
        case BasiqError():
            return exc
        case aiohttp.ConnectionTimeoutError():
            return RequestTimeoutError("no connection within connect_timeout", method=method, path=path, sent=False)
        case TimeoutError():
            return RequestTimeoutError("no complete response within timeout", method=method, path=path)
        case aiohttp.InvalidURL():
            return ConfigurationError("the url cannot be requested; check base_url")
        case aiohttp.ClientConnectorError():
            where = f"{exc.host}:{exc.port}"
            return ConnectionFailedError(
                f"no connection to {where}: {_reason(exc)}", method=method, path=path, sent=False
            )
        case aiohttp.ClientPayloadError():
            said = "the response's body broke off, or is not encoded as its headers say"
        case aiohttp.ClientResponseError():
            said = "the response is not HTTP, or its head is too large"
        case _:
            said = "the connection broke, or the response is not HTTP"
    return ConnectionFailedError(f"{said}: {type(exc.__cause__ or exc).__name__}", method=method, path=path)


def _reason(exc: aiohttp.ClientConnectorError) -> str:
    if isinstance(exc, aiohttp.ClientSSLError):
        return "TLS failed; check the certificate and that base_url is right"
    if isinstance(exc, aiohttp.ClientConnectorDNSError):
        return "the name does not resolve"
    return exc.os_error.strerror or type(exc.os_error).__name__
