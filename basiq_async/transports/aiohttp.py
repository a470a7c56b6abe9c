"""The transport over the network, on aiohttp. Foreign exceptions are translated here and nowhere else."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping

import aiohttp
from yarl import URL

from .._deadlines import Deadline, Deadlines
from .._version import __version__
from ..errors import BasiqError, ConfigurationError, ConnectionFailedError, RequestTimeoutError, TransportError
from ._aiohttp_internals import SentOnce, Unclean, clean_request_class
from ._evidence import cause_of
from .base import Request, Response

_POOL = 100
_SWITCHING_PROTOCOLS = 101


class AiohttpTransport:
    """Sends requests over HTTP and HTTPS.

    With a ``session`` of yours, that one is used and never closed, and its cookie jar, proxies, connector and
    middlewares are your choice. Without one, a session of its own: up to 100 connections kept alive, TLS verified, no
    cookie kept, no proxy or netrc taken from the environment. Redirects are not followed: they could carry the token
    away.

    ``timeout`` is for the whole of one request, and ``connect_timeout`` for making its connection, in seconds.
    An answer whose body, decompressed, is above ``max_body_size`` bytes is refused with a ``TransportError``
    as soon as it gets there.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession | None = None,
        *,
        timeout: float = 30.0,
        connect_timeout: float = 10.0,
        max_body_size: int = 64 * 2**20,
    ) -> None:
        for name, value in (
            ("timeout", timeout),
            ("connect_timeout", connect_timeout),
            ("max_body_size", max_body_size),
        ):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise ConfigurationError(f"{name} must be a finite number above 0")
        if session is not None and not isinstance(session, aiohttp.ClientSession):
            raise ConfigurationError("session must be an aiohttp.ClientSession, or None for one of its own")
        self._session = session
        self._owns_session = session is None
        self._limits = Deadlines(timeout)
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout)
        self._max_body_size = max_body_size
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None

    async def send(self, request: Request, /) -> Response:
        """Send one request. Raises ``ConnectionFailedError``, ``RequestTimeoutError`` or ``TransportError``."""
        limit = Deadline(self._limits)
        try:
            with limit:
                return await self.exchange(request)
        except TimeoutError:
            if not limit.expired:
                raise
        method, path = request.method, URL(request.url, encoded=True).raw_path
        raise RequestTimeoutError("no whole answer within timeout", method=method, path=path)

    async def exchange(self, request: Request, /) -> Response:
        """``send`` for whoever sets a time limit of their own: ``timeout`` has no part in it."""
        while True:
            try:
                answer = await self._open_session().request(
                    request.method,
                    URL(request.url, encoded=True),
                    headers=request.headers,
                    data=request.body,
                    allow_redirects=False,
                    auto_decompress=True,
                    raise_for_status=False,
                    timeout=self._timeout,
                )
                try:
                    return self._taken_at_once(answer) or await self._taken(answer)
                finally:
                    answer.release()
                    if request.body is not None:
                        await answer.wait_for_close()
            except Unclean:
                continue
            except Exception as exc:
                failure = _translated(exc, request)
                cause = exc.__cause__ if failure is exc else cause_of(exc, request)
            # Raised out here, so that a cause that was left out does not come along as the context.
            raise failure from cause

    async def aclose(self) -> None:
        """Close the connections, where the session is the transport's own."""
        self._closed = True
        if self._owns_session and self._session is not None:
            await self._session.close()

    def _open_session(self) -> aiohttp.ClientSession:
        if self._closed:
            raise ConnectionFailedError("the transport is closed", sent=False)
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise ConfigurationError("the transport belongs to another event loop; make one for each loop")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=_POOL),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": f"basiq-async/{__version__}"},
                request_class=clean_request_class(),
                response_class=SentOnce,
                trust_env=False,
            )
        if self._session.closed:
            raise ConnectionFailedError("the session is closed", sent=False)
        return self._session

    def _taken_at_once(self, answer: aiohttp.ClientResponse) -> Response | None:
        """The answer, where all of it is there already: most are short."""
        if answer.status == _SWITCHING_PROTOCOLS:
            # What follows is another protocol: there is no body to wait for, and nothing to use again.
            answer.close()
            return Response(answer.status, _joined(answer.headers))
        if not answer.content.is_eof():
            return None
        body = answer.content.read_nowait()
        if len(body) > self._max_body_size:
            raise self._too_large(answer)
        return Response(answer.status, _joined(answer.headers), body)

    async def _taken(self, answer: aiohttp.ClientResponse) -> Response:
        """The answer, its body counted as it arrives: a few bytes on the wire can become gigabytes."""
        if (answer.content_length or 0) > self._max_body_size:
            raise self._too_large(answer)
        chunks: list[bytes] = []
        size = 0
        async for chunk in answer.content.iter_any():
            size += len(chunk)
            if size > self._max_body_size:
                raise self._too_large(answer)
            chunks.append(chunk)
        return Response(answer.status, _joined(answer.headers), b"".join(chunks))

    def _too_large(self, answer: aiohttp.ClientResponse) -> TransportError:
        answer.close()
        return TransportError(
            f"the answer's body is above {self._max_body_size} bytes; if that is right, raise max_body_size"
        )


class Unlimited:
    """An ``AiohttpTransport`` for whoever sets a time limit of their own: one for each request is enough."""

    def __init__(self, transport: AiohttpTransport) -> None:
        self.send = transport.exchange
        self.aclose = transport.aclose


def _joined(headers: Mapping[str, str]) -> dict[str, str]:
    joined = {name.lower(): value for name, value in headers.items()}
    if len(joined) < len(headers):
        joined.clear()
        for name, value in headers.items():
            lower = name.lower()
            joined[lower] = f"{joined[lower]}, {value}" if lower in joined else value
    return joined


def _translated(exc: Exception, request: Request) -> BasiqError:
    """Every way in which aiohttp fails, as an error of ours, with the request it happened to."""
    method, path = request.method, URL(request.url, encoded=True).raw_path
    match exc:
        case TransportError():
            exc.method, exc.path = method, path
            return exc
        case BasiqError():
            return exc
        case aiohttp.ConnectionTimeoutError():
            return RequestTimeoutError("no connection within connect_timeout", method=method, path=path, sent=False)
        case TimeoutError():
            return RequestTimeoutError("no whole answer within timeout", method=method, path=path)
        case aiohttp.InvalidURL():
            return ConfigurationError("the url cannot be requested; check base_url")
        case aiohttp.ClientConnectorError():
            where = f"{exc.host}:{exc.port}"
            return ConnectionFailedError(
                f"no connection to {where}: {_reason(exc)}", method=method, path=path, sent=False
            )
        case aiohttp.ClientPayloadError():
            said = "the answer's body broke off, or is not encoded as its headers say"
        case aiohttp.ClientResponseError():
            said = "the answer is not HTTP, or its head is too large"
        case _:
            said = "the connection broke, or the answer is not HTTP"
    return ConnectionFailedError(f"{said}: {type(exc.__cause__ or exc).__name__}", method=method, path=path)


def _reason(exc: aiohttp.ClientConnectorError) -> str:
    if isinstance(exc, aiohttp.ClientSSLError):
        return "TLS failed; check the certificate and that base_url is right"
    if isinstance(exc, aiohttp.ClientConnectorDNSError):
        return "the name does not resolve"
    return exc.os_error.strerror or type(exc.os_error).__name__
