"""The receiver as a router of FastAPI."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.requests import ClientDisconnect

from ._bodies import ends_connection, join_encodings, read_content_length
from ._outcome import Outcome
from ._results import RESULTS

if TYPE_CHECKING:
    from ._receiver import WebhookReceiver

_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": ", ".join(result for result, row in RESULTS.items() if row.status == status)}
    for status in sorted({row.status for row in RESULTS.values()})
}


def make_router(receiver: WebhookReceiver, path: str, tags: list[str] | None) -> APIRouter:
    """Make a router with the receiver's route. Its lifespan closes the receiver when the application shuts down."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with receiver:
            yield

    async def receive_delivery(request: Request) -> Response:
        body = _StarletteBody(request)
        outcome = await receiver.handle_stream(
            request.headers,
            body.chunks(),
            content_length=read_content_length(request.headers.get("content-length", "")),
            content_encoding=join_encodings(request.headers.getlist("content-encoding")),
        )
        close = ends_connection(fully_read=body.fully_read, http_version=request.scope.get("http_version", "1.1"))
        return _respond(outcome, close=close)

    router = APIRouter(lifespan=lifespan)
    router.add_api_route(
        path,
        receive_delivery,
        methods=["POST"],
        status_code=204,
        response_class=Response,
        responses=_RESPONSES,
        summary="Receive a webhook of Basiq",
        tags=[*tags] if tags is not None else None,
    )
    return router


class _StarletteBody:
    def __init__(self, request: Request) -> None:
        self._request = request
        self.fully_read = False

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Yield the body as it arrives. Raises ``ConnectionError`` if it breaks off."""
        try:
            async for chunk in self._request.stream():
                yield chunk
        except ClientDisconnect:
            raise ConnectionError("the body broke off") from None
        self.fully_read = True


def _respond(outcome: Outcome, *, close: bool) -> Response:
    headers = {**outcome.headers, "connection": "close"} if close else dict(outcome.headers)
    return Response(status_code=outcome.status, headers=headers)
