"""The receiver as an ASGI app."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from ._port import ReceiverPort

__all__ = ["ASGIApp"]

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]


class ASGIApp:
    """Takes a POST on whatever path it is reached by, and answers 405 to the other methods.

    Served on its own it closes the receiver when the server shuts down (the lifespan protocol). It is an
    object, not a function, so that a route of Starlette takes it for an app.
    """

    def __init__(self, receiver: ReceiverPort) -> None:
        self._receiver = receiver

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI scope: http, lifespan, or a websocket, which is refused."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1003})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            await _answer(send, 405, [(b"allow", b"POST")])
            return
        headers: list[tuple[bytes, bytes]] = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
        outcome = await self._receiver.handle_stream(headers, _chunks(receive), content_length=_content_length(headers))
        told = [(name.lower().encode(), value.encode()) for name, value in outcome.headers.items()]
        if outcome.status in (408, 413):
            told.append((b"connection", b"close"))  # the rest of the body is not read
        await _answer(send, outcome.status, told)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while (event := await receive())["type"] != "lifespan.shutdown":
            if event["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
        await self._receiver.aclose()
        await send({"type": "lifespan.shutdown.complete"})


async def _chunks(receive: Receive) -> AsyncGenerator[bytes]:
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ConnectionError("the body broke off")
        yield event.get("body", b"")
        if not event.get("more_body", False):
            return


def _content_length(headers: Iterable[tuple[bytes, bytes]]) -> int | None:
    for name, value in headers:
        if name == b"content-length" and value.isdigit() and len(value) < 19:
            return int(value)
    return None


async def _answer(send: Send, status: int, headers: list[tuple[bytes, bytes]]) -> None:
    if status != 204:
        headers = [*headers, (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
