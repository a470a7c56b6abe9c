"""The receiver as an ASGI app."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, MutableMapping
from typing import TYPE_CHECKING, Any, Self

from ..errors import ConfigurationError
from ._bodies import ends_connection, join_encodings, read_content_length
from ._outcome import Outcome

if TYPE_CHECKING:
    from fastapi import APIRouter

    from ._receiver import WebhookReceiver

ASGIScope = MutableMapping[str, Any]
ASGIEvent = MutableMapping[str, Any]
ASGIReceive = Callable[[], Awaitable[ASGIEvent]]
ASGISend = Callable[[ASGIEvent], Awaitable[None]]


class ASGIApp:
    """Handle a POST on any path, and respond with 405 to other methods.

    When a server runs this app directly, the app closes the receiver as the server shuts down (the lifespan protocol).
    It is an object, not a function, so that a route of Starlette treats it as an app.
    """

    def __init__(self, receiver: WebhookReceiver, own_inbox: Callable[[bool], None]) -> None:
        self._receiver = receiver
        self._own_inbox = own_inbox

    def with_own_inbox(self) -> Self:
        """Return this app, whose receiver closes its inbox too when it is closed."""
        self._own_inbox(True)
        return self

    async def __call__(self, scope: ASGIScope, receive: ASGIReceive, send: ASGISend) -> None:
        """Serve one ASGI scope: http, lifespan, or a websocket, which is refused."""
        if scope["type"] == "http":
            await self._handle(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1003})

    async def _handle(self, scope: ASGIScope, receive: ASGIReceive, send: ASGISend) -> None:
        if scope["method"] != "POST":
            await _send(send, 405, [(b"allow", b"POST")])
            return
        headers: list[tuple[bytes, bytes]] = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
        body = _ASGIBody(receive)
        outcome = await self._receiver.handle_stream(
            headers,
            body.chunks(),
            content_length=_content_length(headers),
            content_encoding=join_encodings(
                value.decode("latin-1") for name, value in headers if name == b"content-encoding"
            ),
        )
        close = ends_connection(fully_read=body.fully_read, http_version=scope.get("http_version", "1.1"))
        await respond(send, outcome, close=close)

    async def _lifespan(self, receive: ASGIReceive, send: ASGISend) -> None:
        while (event := await receive())["type"] != "lifespan.shutdown":
            if event["type"] == "lifespan.startup":
                try:
                    await self._receiver.__aenter__()
                except ConfigurationError as exc:
                    await send({"type": "lifespan.startup.failed", "message": str(exc)})
                    return
                await send({"type": "lifespan.startup.complete"})
        await self._receiver.__aexit__()
        await send({"type": "lifespan.shutdown.complete"})


class _ASGIBody:
    def __init__(self, receive: ASGIReceive) -> None:
        self._receive = receive
        self.fully_read = False

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Yield the body as it arrives. Raises ``ConnectionError`` if it breaks off."""
        while True:
            event = await self._receive()
            if event["type"] == "http.disconnect":
                raise ConnectionError("the body broke off")
            self.fully_read = not event.get("more_body", False)
            yield event.get("body", b"")
            if self.fully_read:
                return


def _content_length(headers: Iterable[tuple[bytes, bytes]]) -> int | None:
    found = (read_content_length(value.decode("latin-1")) for name, value in headers if name == b"content-length")
    return next((length for length in found if length is not None), None)


def check_path(path: object) -> str:
    """Return the path of a route. Raises ``ConfigurationError`` for one that no request has."""
    if not isinstance(path, str) or (path and not path.startswith("/")):
        raise ConfigurationError(f"path must begin with a slash, such as '/basiq': {path!r} would never be reached")
    return path


def make_fastapi_router(receiver: WebhookReceiver, path: str, tags: list[str] | None) -> APIRouter:
    """Return the router of a receiver. Raises ``ConfigurationError`` if FastAPI is not installed."""
    try:
        from ._fastapi import make_router
    except ModuleNotFoundError as exc:
        if exc.name != "fastapi":
            raise
        raise ConfigurationError("fastapi_router needs FastAPI: pip install fastapi") from None
    return make_router(receiver, path, tags)


async def respond(send: ASGISend, outcome: Outcome, *, close: bool) -> None:
    """Send the response; ``close`` ends the connection after it."""
    headers = [(name.lower().encode(), value.encode()) for name, value in outcome.headers.items()]
    if close:
        headers.append((b"connection", b"close"))
    await _send(send, outcome.status, headers)


async def _send(send: ASGISend, status: int, headers: list[tuple[bytes, bytes]]) -> None:
    if status != 204:
        headers = [*headers, (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
