"""The endpoints of deliveries: over HTTP, or in this process."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol, runtime_checkable
from urllib.parse import unquote, urlsplit

import attrs

from ..._callables import accepts, has_own, is_async, read_signature
from ..._wire.hosts import is_this_machine
from ...errors import ConfigurationError

if TYPE_CHECKING:
    import aiohttp


MOST_KEPT = 20_000
Scope = dict[str, object]
Asgi = Callable[..., Awaitable[object]]


class NoResponse(Exception):
    """A delivery got no response. The text says why."""


@attrs.frozen
class EndpointResponse:
    """An endpoint's response: its status, the beginning of its body, and its headers, in lower case."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str])


@runtime_checkable
class HasHandle(Protocol):
    """A receiver such as ``WebhookReceiver``."""

    async def handle(self, headers: Mapping[str, str], body: bytes, /) -> object: ...


Receiver = HasHandle | Callable[..., Awaitable[object]]
"""A receiver for ``FakeBasiq.route``: an object with ``async handle(headers, body)``, an async callable
``(headers, body)``, or an ASGI application. The first two return a status, or an object with a ``.status``, and with
``.headers`` and a ``.body`` if it has them."""

Endpoint = Callable[[str, dict[str, str], bytes], Awaitable[EndpointResponse]]
"""The function with which the fake calls a receiver: it accepts url, headers and body, and returns a response."""


@attrs.frozen
class EndpointRoute:
    """The way to a receiver in this process.

    by_clock: whether deliveries are signed with the time of the fake's clock, not with the machine's.
    """

    endpoint: Endpoint
    by_clock: bool


def adapt(receiver: Receiver) -> Endpoint:
    """Return an endpoint that calls a receiver. Raises ``ConfigurationError`` if ``receiver`` is not one."""
    if has_own(receiver, "handle") and isinstance(receiver, HasHandle):
        return _calling(receiver.handle)
    if callable(receiver):
        signature = read_signature(receiver)
        required = [] if signature is None else list(filter(_is_required, signature.parameters.values()))
        if len(required) == 3:
            return _asgi(receiver)
        if len(required) == 2 or (is_async(receiver) and accepts(receiver, 2)):  # such as a mock
            return _calling(receiver)
    raise ConfigurationError(
        "a receiver is an async callable (headers, body), an object with async handle(headers, body), "
        f"or an ASGI application, not {type(receiver).__name__}"
    )


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD


def _calling(handle: Callable[[dict[str, str], bytes], Awaitable[object]]) -> Endpoint:
    async def endpoint(url: str, headers: dict[str, str], body: bytes) -> EndpointResponse:
        result = await handle(dict(headers), body)
        status = getattr(result, "status", result)
        if isinstance(status, bool) or not isinstance(status, int):
            raise ConfigurationError(
                f"a receiver returns a status or an object with a .status, not {type(result).__name__}"
            )
        content, fields = getattr(result, "body", b""), getattr(result, "headers", None)
        return EndpointResponse(
            int(status),
            content if isinstance(content, bytes) else b"",
            _in_lower_case(fields) if isinstance(fields, Mapping) else {},
        )

    return endpoint


def _asgi(app: Asgi) -> Endpoint:
    async def endpoint(url: str, headers: dict[str, str], body: bytes) -> EndpointResponse:
        parts = urlsplit(url)
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": parts.scheme,
            "path": unquote(parts.path) or "/",
            "raw_path": (parts.path or "/").encode(),
            "query_string": parts.query.encode(),
            "root_path": "",
            "headers": [
                (b"host", parts.netloc.encode()),
                (b"content-length", str(len(body)).encode()),
                *((name.lower().encode(), value.encode()) for name, value in headers.items()),
            ],
            "client": ("127.0.0.1", 0),
            "server": (parts.hostname or "", parts.port or 80),
        }
        incoming: list[dict[str, object]] = [{"type": "http.request", "body": body, "more_body": False}]
        statuses: list[int] = []
        fields: dict[str, str] = {}
        content = bytearray()

        async def receive() -> dict[str, object]:
            return incoming.pop() if incoming else {"type": "http.disconnect"}

        async def send(event: dict[str, object]) -> None:
            if event["type"] == "http.response.start":
                statuses.append(int(str(event["status"])))
                for name, value in event.get("headers", ()):  # type: ignore[attr-defined]  # pairs of bytes, by ASGI
                    fields[name.decode("latin-1").lower()] = value.decode("latin-1")
            elif event["type"] == "http.response.body":
                part = event.get("body", b"")
                content.extend(part if isinstance(part, bytes) else b"")

        await app(scope, receive, send)
        if not statuses:
            raise NoResponse("the application sent no response")
        return EndpointResponse(statuses[0], bytes(content), fields)

    return endpoint


def over_http(session: aiohttp.ClientSession, *, anywhere: bool = False, to: Iterable[str] | None = None) -> Endpoint:
    """Return an endpoint that sends deliveries over HTTP: to this machine, to the hosts ``to``, or ``anywhere``."""
    hosts = None if to is None else frozenset(host.lower() for host in to)

    async def endpoint(url: str, headers: dict[str, str], body: bytes) -> EndpointResponse:
        import aiohttp
        import yarl

        if hosts is not None:
            if not _is_among(hosts, url):
                raise NoResponse("no route: deliveries to this host are not allowed")
        elif not anywhere and not is_local(url):
            raise NoResponse("no route: deliveries to other machines are not allowed")
        try:
            async with session.post(
                yarl.URL(url, encoded=True), data=body, headers=headers, allow_redirects=False
            ) as response:
                return EndpointResponse(
                    response.status, await _read_start(response.content), _in_lower_case(response.headers)
                )
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NoResponse(f"the connection failed: {type(error).__name__}") from error

    return endpoint


async def over_http_once(url: str, headers: dict[str, str], body: bytes) -> EndpointResponse:
    """Send one delivery over HTTP to an endpoint on this machine, with a new connection."""
    if not is_local(url):
        raise NoResponse(
            "no route: pass a receiver for this url to FakeBasiq.route, because other machines are not called"
        )
    import aiohttp

    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        return await over_http(session)(url, headers, body)


def _is_among(hosts: frozenset[str], url: str) -> bool:
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    port = parts.port or (443 if parts.scheme == "https" else 80)
    shown = f"[{host}]" if ":" in host else host
    return not hosts.isdisjoint((host, shown, f"{shown}:{port}"))


def is_local(url: str) -> bool:
    """Return whether a URL's host is this machine."""
    return is_this_machine(urlsplit(url).hostname or "")


def phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return str(status)


def _in_lower_case(headers: Mapping[str, str]) -> dict[str, str]:
    return {str(name).lower(): str(value) for name, value in headers.items()}


async def _read_start(content: aiohttp.StreamReader) -> bytes:
    """Read a body up to the most that an attempt keeps."""
    start = bytearray()
    while len(start) < MOST_KEPT and (part := await content.read(MOST_KEPT - len(start))):
        start += part
    return bytes(start)
