"""The receiver as a handler of ``aiohttp.web``."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web

from ._bodies import join_encodings
from ._outcome import Outcome

if TYPE_CHECKING:
    from ._receiver import WebhookReceiver

logger = logging.getLogger("basiq_async.receiver")


def make_handler(receiver: WebhookReceiver) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Return the handler that passes requests of ``aiohttp.web`` to a receiver."""

    async def handle(request: web.Request) -> web.StreamResponse:
        content = request.content
        encoding = join_encodings(request.headers.getall("Content-Encoding", ()))
        if encoding is None and content.is_eof() and content.exception() is None and _is_readable(request):
            # The whole body has arrived, as for nearly every delivery, or a middleware has read it before.
            body = await request.read()
            if not body and content.total_bytes:
                logger.error(
                    "the body of the request was read before the receiver, and not kept: a middleware must read it "
                    "with request.read(), request.text() or request.json(), which keep it"
                )
            return _respond(await receiver.handle(request.headers, body), request, fully_read=True)
        outcome = await receiver.handle_stream(
            request.headers,
            _chunks(request),
            content_length=request.content_length,
            content_encoding=encoding,
        )
        if outcome.delivery is not None:
            _keep_body(request, outcome.delivery.body)
        return _respond(outcome, request, fully_read=content.at_eof())

    return handle


def serve(receiver: WebhookReceiver, app: web.Application, path: str) -> None:
    """Serve a path of an application, and enter and leave the receiver with it."""

    async def start(app: web.Application) -> None:
        await receiver.__aenter__()

    async def end(app: web.Application) -> None:
        await receiver.__aexit__()

    app.router.add_post(path, make_handler(receiver))
    app.on_startup.append(start)
    app.on_shutdown.append(end)


def _is_readable(request: web.BaseRequest) -> bool:
    """Return whether ``request.read()`` accepts the body. For a larger one, only the receiver's limit counts."""
    return not request.client_max_size or request.content.total_bytes <= request.client_max_size


async def _chunks(request: web.Request) -> AsyncGenerator[bytes]:
    """Yield the body as it arrives. Raises ``ConnectionError`` if it breaks off."""
    try:
        async for chunk in request.content.iter_any():
            yield chunk
    except (aiohttp.ClientError, aiohttp.http.HttpProcessingError, web.RequestPayloadError) as exc:
        raise ConnectionError("the body broke off") from exc


def _respond(outcome: Outcome, request: web.Request, *, fully_read: bool) -> web.Response:
    """Make the response. Unless the request's body is ``fully_read``, the connection is closed after it."""
    if not fully_read:
        return _ClosingResponse(request, status=outcome.status, headers=outcome.headers)
    return web.Response(status=outcome.status, headers=outcome.headers or None)


def _keep_body(request: web.BaseRequest, body: bytes) -> None:
    """Keep a body for later readers, as ``request.read()`` does.

    There is no public way. Where a release of aiohttp keeps a body in another place, later readers find it empty.
    """
    if hasattr(request, "_read_bytes"):
        request._read_bytes = body


class _ClosingResponse(web.Response):
    """A response that closes the connection as soon as it is written.

    Otherwise aiohttp reads and decompresses the rest of the request's body after the response, for 10 seconds by
    default, and a flood of large bodies would keep it busy.
    """

    def __init__(self, request: web.BaseRequest, **options: Any) -> None:
        super().__init__(**options)
        self._ending = request.protocol
        self.force_close()

    async def write_eof(self, data: bytes = b"") -> None:
        await super().write_eof(data)
        self._ending.force_close()
