"""The transport over the network, on aiohttp. Foreign exceptions are translated here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import aiohttp
from yarl import URL

from .._version import __version__
from ..errors import ConfigurationError, ConnectionFailedError, RequestTimeoutError, TransportError
from .base import Request, Response

if TYPE_CHECKING:
    from collections.abc import Iterator

_POOL = 100


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
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ConfigurationError(f"{name} must be a number above 0")
        self._session = session
        self._owns_session = session is None
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=connect_timeout)
        self._max_body_size = max_body_size
        self._closed = False

    async def send(self, request: Request, /) -> Response:
        """Send one request. Raises ``ConnectionFailedError``, ``RequestTimeoutError`` or ``TransportError``."""
        with _translated(request):
            async with self._open_session().request(
                request.method,
                URL(request.url, encoded=True),
                headers=request.headers,
                data=request.body,
                allow_redirects=False,
                auto_decompress=True,
                raise_for_status=False,
                timeout=self._timeout,
                middlewares=(_Once(),) if self._owns_session else None,
            ) as answer:
                body = await self._read(answer)
                return Response(answer.status, _joined(answer.headers), body)

    async def aclose(self) -> None:
        """Close the connections, where the session is the transport's own."""
        self._closed = True
        if self._owns_session and self._session is not None:
            await self._session.close()

    def _open_session(self) -> aiohttp.ClientSession:
        if self._closed:
            raise ConnectionFailedError("the transport is closed", sent=False)
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=_POOL),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": f"basiq-async/{__version__}"},
                trust_env=False,
            )
        if self._session.closed:
            raise ConnectionFailedError("the session is closed", sent=False)
        return self._session

    async def _read(self, answer: aiohttp.ClientResponse) -> bytes:
        """The body, counted as it arrives: a few bytes on the wire can become gigabytes."""
        chunks: list[bytes] = []
        size = 0
        async for chunk in answer.content.iter_any():
            size += len(chunk)
            if size > self._max_body_size:
                answer.close()
                raise TransportError(
                    f"the answer's body is above {self._max_body_size} bytes; if that is right, raise max_body_size"
                )
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)


class _Once:
    """Lets a request out once. aiohttp sends some again by itself, and tells nobody: a delete that was carried
    out would then be answered with 404."""

    def __init__(self) -> None:
        self._failure: Exception | None = None

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        if self._failure is not None:
            raise self._failure
        try:
            return await handler(request)
        except Exception as exc:
            self._failure = exc
            raise


def _joined(headers: Mapping[str, str]) -> dict[str, str]:
    joined: dict[str, str] = {}
    for name, value in headers.items():
        lower = name.lower()
        joined[lower] = f"{joined[lower]}, {value}" if lower in joined else value
    return joined


@contextmanager
def _translated(request: Request) -> Iterator[None]:
    """Every way in which aiohttp fails, as an error of ours, with the request it happened to."""
    path = URL(request.url, encoded=True).raw_path
    try:
        yield
    except TransportError as exc:
        exc.method, exc.path = request.method, path
        raise
    except aiohttp.ConnectionTimeoutError as exc:
        raise RequestTimeoutError(
            "no connection within connect_timeout", method=request.method, path=path, sent=False
        ) from exc
    except TimeoutError as exc:
        raise RequestTimeoutError("no whole answer within timeout", method=request.method, path=path) from exc
    except aiohttp.InvalidURL as exc:
        raise ConfigurationError("the url cannot be requested; check base_url") from exc
    except aiohttp.ClientConnectorError as exc:
        raise ConnectionFailedError(
            f"no connection to {exc.host}:{exc.port}: {_cause(exc)}",
            method=request.method,
            path=path,
            sent=False,
        ) from exc
    except (aiohttp.ClientError, OSError, ValueError) as exc:
        raise ConnectionFailedError(
            f"the connection broke, or the answer is not HTTP: {type(exc).__name__}",
            method=request.method,
            path=path,
        ) from exc


def _cause(exc: aiohttp.ClientConnectorError) -> str:
    if isinstance(exc, aiohttp.ClientSSLError):
        return "TLS failed; check the certificate and that base_url is right"
    if isinstance(exc, aiohttp.ClientConnectorDNSError):
        return "the name does not resolve"
    return exc.os_error.strerror or type(exc.os_error).__name__
