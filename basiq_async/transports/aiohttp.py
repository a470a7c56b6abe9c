"""The transport over the network, with aiohttp. Exceptions of aiohttp are translated only in this module."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from weakref import WeakSet

import aiohttp
from yarl import URL

from .. import __version__
from .._arguments import Duration, check_positive, check_seconds, check_whole
from .._redaction.credentials import Redactor
from .._redaction.tracebacks import cause_of, hide_arguments
from .._signing.signature import RESULT
from .._wire.abridging import Abridger
from .._work.limits import limit
from ..errors import BasiqError, ConfigurationError, ConnectionFailedError, RequestTimeoutError, TransportError
from .base import Request, Response, Transport, credential_of
from .proxies import Proxies, Proxy

__all__ = ["AiohttpTransport", "StatusTransport", "join_headers"]

_USER_AGENT = f"basiq-async/{__version__}"
_CONNECTIONS = 100
_SWITCHING_PROTOCOLS = 101
_PROXY_AUTHENTICATION = 407
_DRAINED = 64 * 2**10
_DRAIN_SECONDS = 0.05
"""Time for the rest of a body: enough for one that follows its head at once."""


class AiohttpTransport(Transport):
    """Sends requests over HTTP and HTTPS.

    If you pass a ``session``, the transport uses it and never closes it: its cookie jar, proxies, connector and
    middlewares are your choice. Otherwise the transport makes a session with up to ``connections`` connections and the
    header ``User-Agent: user_agent``. This session verifies TLS, and keeps no cookies. Redirects are never followed:
    they could send the token elsewhere.

    ``proxy`` is the URL of an HTTP proxy, with ``user:password@`` if it wants them. With ``"environment"``, the proxy
    is what ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` say when the transport is made, and requests
    to this machine are direct. ``.netrc`` is never read.

    ``timeout`` is the limit for a whole request, and ``connect_timeout`` for making its connection, both in seconds. A
    request's ``deadline`` counts if it is earlier. A body that is larger than ``max_body_size`` bytes, decompressed,
    raises a ``TransportError`` as soon as it exceeds the limit.
    """

    @hide_arguments
    def __init__(
        self,
        session: aiohttp.ClientSession | None = None,
        *,
        timeout: Duration = 30.0,
        connect_timeout: Duration = 10.0,
        max_body_size: int = 64 * 2**20,
        connections: int = _CONNECTIONS,
        user_agent: str = _USER_AGENT,
        proxy: str | None = None,
    ) -> None:
        self._timeout = check_seconds("timeout", timeout)
        check_positive("max_body_size", max_body_size)
        check_whole("connections", connections, least=1)
        if session is not None and not isinstance(session, aiohttp.ClientSession):
            raise ConfigurationError("session must be an aiohttp.ClientSession, or None to have the transport make one")
        self._session = session
        self._owns_session = session is None
        self._connect_timeout = check_seconds("connect_timeout", connect_timeout)
        self._max_body_size = max_body_size
        self._connections = connections
        self._user_agent = user_agent
        self._proxies = Proxies.read(proxy)
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None

    async def send(self, request: Request, /) -> Response:
        """Send one request. Raises ``ConnectionFailedError``, ``RequestTimeoutError`` or ``TransportError``."""
        url = URL(request.url, encoded=True)
        proxy = None if self._proxies is None else self._proxies.find(url)
        allowed = self._timeout
        if request.deadline is not None:
            allowed = min(allowed, request.deadline - asyncio.get_running_loop().time())
        try:
            if allowed <= 0:
                raise RequestTimeoutError("the deadline passed before the request was sent", sent=False)
            async with limit(allowed, lambda: RequestTimeoutError(f"no complete response within {allowed:g} s")):
                return await self._exchange(request, url, proxy)
        except Exception as exc:
            failure = _translate(exc, url, proxy)
            if isinstance(failure, TransportError):
                failure.method, failure.path = request.method, url.raw_path
            cause = exc.__cause__ if failure is exc else cause_of(exc, Redactor(credential_of(request)).known)
            if proxy is not None and proxy.has_login:
                cause = None  # aiohttp's errors name the proxy with its password
        # Raised outside of the except block: a cause that was left out must not become the context.
        # The frames below this one hold the response.
        raise failure.with_traceback(None) from cause

    async def _exchange(self, request: Request, url: URL, proxy: Proxy | None) -> Response:
        # The limit of a socket does not cover a proxy's response. The other one counts the wait for a free connection.
        tunnel = None if proxy is None else self._connect_timeout
        limits = aiohttp.ClientTimeout(total=None, connect=tunnel, sock_connect=self._connect_timeout)
        while True:
            try:
                async with self._open_session().request(
                    request.method,
                    url,
                    headers=request.headers,
                    data=request.body,
                    proxy=None if proxy is None else proxy.url,
                    allow_redirects=False,
                    auto_decompress=True,
                    raise_for_status=False,
                    timeout=limits,
                ) as response:
                    if response.status == _PROXY_AUTHENTICATION and proxy is not None:
                        raise _wants_password(proxy)
                    return await self._read(response, Abridger() if request._abridged else None)
            except _Unclean:
                continue

    async def aclose(self) -> None:
        """Close the connections, if the transport made the session."""
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
                connector=aiohttp.TCPConnector(limit=self._connections),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": self._user_agent},
                request_class=_CleanRequest,
                response_class=_SentOnce,
                trust_env=False,
            )
        if self._session.closed:
            raise ConnectionFailedError("the session is closed", sent=False)
        return self._session

    async def _read(self, response: aiohttp.ClientResponse, abridger: Abridger | None) -> Response:
        """Read the body, and count its bytes as they arrive: compressed, a few bytes can become gigabytes."""
        headers = join_headers(response.headers)
        if response.status == _SWITCHING_PROTOCOLS:
            # Another protocol follows, so there is no body, and the connection cannot be used again.
            response.close()
            return Response(response.status, headers)
        chunks: list[bytes] = []
        size = 0 if abridger is not None else response.content_length or 0
        if size <= self._max_body_size:
            size = 0
            async for arrived in response.content.iter_any():
                chunk = arrived if abridger is None else abridger.feed(arrived)
                size += len(chunk)
                if size > self._max_body_size:
                    break
                chunks.append(chunk)
        if size > self._max_body_size:
            response.close()
            error = TransportError(
                f"the response's body is larger than {self._max_body_size} bytes; to accept it, raise max_body_size"
            )
            error._too_large = True
            raise error
        return Response(response.status, headers, b"".join(chunks))


class StatusTransport(AiohttpTransport):
    """An ``AiohttpTransport`` for which only the status counts, and the headers of a status from 300 and of a receiver.

    A body that is long, slow or breaks off does not change the result. It is read to its end if that is soon, so that
    the connection can be used again, and dropped.
    """

    async def _read(self, response: aiohttp.ClientResponse, abridger: Abridger | None) -> Response:
        headers: Mapping[str, str] = {}
        if response.status >= 300:
            headers = join_headers(response.headers)
        elif (result := response.headers.get(RESULT)) is not None:
            headers = {RESULT: result}
        found = Response(response.status, headers)
        read = 0
        try:
            async with limit(_DRAIN_SECONDS):
                async for chunk in response.content.iter_any():
                    read += len(chunk)
                    if read > _DRAINED:
                        response.close()
                        break
        except (aiohttp.ClientError, OSError, ValueError):
            response.close()
        return found


# The two classes below are passed to aiohttp's session. They look at parts of it that a later release may not have.
# Without these, aiohttp works as it does by itself: it may send a GET or a DELETE a second time, and reads bytes that a
# server sent unasked as the next response.


_used: WeakSet[Any] = WeakSet()
"""The connections over which a request was sent. A new one may have received bytes, such as those of TLS."""


class _CleanRequest(aiohttp.ClientRequest):
    """Refuses a kept connection that received bytes while it was idle: they belong to no request."""

    def send(self, *args: Any, **kwargs: Any) -> Any:
        try:
            (connection,) = args
            protocol = connection.protocol
            is_unclean = protocol.should_close and protocol in _used
            _used.add(protocol)
        except (AttributeError, TypeError, ValueError):
            is_unclean = False
        if is_unclean:
            raise _Unclean
        return super().send(*args, **kwargs)


class _SentOnce(aiohttp.ClientResponse):
    """Prevents aiohttp from sending a GET or a DELETE a second time after the connection broke.

    Only ``Retrying`` may send a request again, because it counts the attempts: a DELETE whose second attempt gets a 404
    has succeeded.
    """

    async def start(self, *args: Any, **kwargs: Any) -> aiohttp.ClientResponse:
        starting = super().start(*args, **kwargs)
        del args, kwargs  # the connection in them shows a proxy's password
        try:
            return await starting
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as exc:
            raise aiohttp.ClientConnectionError("the connection broke before a response came") from exc


class _Unclean(Exception):
    """The connection was closed before anything was sent. The request can use another connection."""


def join_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers as a ``Response`` has them: names in lower case, repeated values joined by commas."""
    joined = {name.lower(): value for name, value in headers.items()}
    if len(joined) < len(headers):
        joined.clear()
        for name, value in headers.items():
            lower = name.lower()
            joined[lower] = f"{joined[lower]}, {value}" if lower in joined else value
    return joined


def _wants_password(proxy: Proxy) -> ConfigurationError:
    problem = "refuses the user and password" if proxy.has_login else "wants a user and password"
    return ConfigurationError(
        f"the proxy {proxy} {problem} (407): its URL must be http://user:password@{proxy.url.host}:{proxy.url.port}"
    )


def _translate(exc: Exception, url: URL, proxy: Proxy | None) -> BasiqError:
    """Return the error of this package for an exception of aiohttp."""
    through = "" if proxy is None else f" through the proxy {proxy}"
    match exc:
        case BasiqError():
            return exc
        case aiohttp.ConnectionTimeoutError():
            return RequestTimeoutError(f"no connection{through} within connect_timeout", sent=False)
        case TimeoutError():
            return RequestTimeoutError("no complete response within timeout")
        case aiohttp.InvalidURL():
            return ConfigurationError("the url cannot be requested; check base_url")
        case aiohttp.ClientHttpProxyError() if proxy is not None:
            if exc.status == _PROXY_AUTHENTICATION:
                return _wants_password(proxy)
            said = f"the proxy {proxy} refused a connection to {url.host}: status {exc.status}"
            return ConnectionFailedError(said, sent=False)
        case aiohttp.ClientProxyConnectionError() if proxy is not None:
            return ConnectionFailedError(f"no connection to the proxy {proxy}: {_reason(exc)}", sent=False)
        case aiohttp.ClientConnectorError():
            said = f"no connection to {exc.host}:{exc.port}{through}: {_reason(exc, proxy)}"
            return ConnectionFailedError(said, sent=False)
        case aiohttp.ClientPayloadError():
            said = "the response's body broke off, or is not encoded as its headers say"
        case aiohttp.ClientResponseError():
            said = "the response is not HTTP, or its head is too large"
        case _:
            said = "the connection broke, or the response is not HTTP"
    return ConnectionFailedError(f"{said}: {type(exc.__cause__ or exc).__name__}")


def _reason(exc: aiohttp.ClientConnectorError, proxy: Proxy | None = None) -> str:
    if isinstance(exc, aiohttp.ClientSSLError) and proxy is not None:
        return "TLS failed; if the proxy reads TLS, SSL_CERT_FILE must name the file of its authority"
    if isinstance(exc, aiohttp.ClientSSLError):
        return "TLS failed; check the certificate and that base_url is right"
    if isinstance(exc, aiohttp.ClientConnectorDNSError):
        return "the name does not resolve"
    return exc.os_error.strerror or type(exc.os_error).__name__
