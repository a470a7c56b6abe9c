"""The receiver as a router of FastAPI."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.responses import Response

from basiq_async.errors import ConfigurationError
from basiq_async.receiver import WebhookReceiver
from tests.support.deliveries import SECRET, Service, payload, signed


@asynccontextmanager
async def calling(app: FastAPI) -> AsyncGenerator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        yield client


def app_with(service: Service, path: str = "/basiq") -> FastAPI:
    app = FastAPI()
    app.include_router(service.receiver.fastapi_router(path), prefix="/hooks")
    return app


async def test_a_response_without_a_body_is_empty_and_ends_the_connection_where_the_body_was_not_read() -> None:
    async with calling(app_with(Service())) as client:
        refused = await client.post("/hooks/basiq", content=b"{}")
        assert (refused.status_code, refused.content, refused.headers["connection"]) == (401, b"", "close")
        body = payload()
        handled = await client.post("/hooks/basiq", content=body, headers=signed(body))
        assert (handled.status_code, handled.content) == (204, b"")
        assert "connection" not in handled.headers
        assert (await client.get("/hooks/basiq")).status_code == 405


async def test_a_middleware_that_reads_the_body_first_changes_nothing() -> None:
    class Reads(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
            await request.json()
            return await call_next(request)

    service = Service()
    app = app_with(service)
    app.add_middleware(Reads)
    body = payload()
    async with calling(app) as client:
        assert (await client.post("/hooks/basiq", content=body, headers=signed(body))).status_code == 204


def test_the_description_has_every_response() -> None:
    (operation,) = app_with(Service()).openapi()["paths"]["/hooks/basiq"].values()
    assert operation["responses"]["503"]["description"] == "busy, unavailable, full, overloaded, closed"
    assert set(operation["responses"]) == {"200", "202", "204", "400", "401", "408", "413", "415", "500", "503"}


async def test_at_shutdown_the_receiver_closes_before_what_the_application_opened() -> None:
    receiver = WebhookReceiver(SECRET)
    states: list[str] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        yield
        states.append(repr(receiver))

    app = FastAPI(lifespan=lifespan)
    app.include_router(receiver.fastapi_router())
    async with app.router.lifespan_context(app):
        assert "closed" not in repr(receiver)
    assert states == ["<WebhookReceiver: 0 patterns, closed>"]


def test_without_fastapi_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "basiq_async.receiver._fastapi", raising=False)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(ConfigurationError, match="pip install fastapi"):
        WebhookReceiver(SECRET).fastapi_router()
