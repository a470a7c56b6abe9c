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
from tests.support.deliveries import OTHER_SECRET, SECRET, Service, payload, signed


@asynccontextmanager
async def calling(app: FastAPI) -> AsyncGenerator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        yield client


def app_with(service: Service, path: str = "/basiq") -> FastAPI:
    app = FastAPI()
    app.include_router(service.receiver.fastapi_router(path), prefix="/hooks")
    return app


async def test_each_delivery_is_handled_once_and_with_the_status_of_its_outcome() -> None:
    service = Service(max_body_size=2_000)
    broken = payload("user.broken")
    async with calling(app_with(service)) as client:

        async def post(body: bytes, headers: dict[str, str]) -> int:
            return (await client.post("/hooks/basiq", content=body, headers=headers)).status_code

        body = payload()
        assert await post(body, signed(body)) == 204
        assert await post(body, signed(body)) == 200
        assert await post(body, signed(body, secret=OTHER_SECRET)) == 401
        assert await post(b"[]", signed(b"[]", message_id="m-2")) == 400
        assert await post(broken, signed(broken, message_id="m-3")) == 500
        assert await post(b"x" * 2_001, signed(b"x")) == 413
        assert await post(body, {**signed(body), "content-encoding": "gzip"}) == 415
        assert (await client.get("/hooks/basiq")).status_code == 405
        assert (await client.post("/hooks/basiq/", content=body)).status_code in (307, 404)
    assert [delivery.body for delivery in service.handled] == [body, broken]


async def test_a_response_without_a_body_is_empty_and_ends_the_connection_where_the_body_was_not_read() -> None:
    async with calling(app_with(Service())) as client:
        refused = await client.post("/hooks/basiq", content=b"{}")
        assert (refused.status_code, refused.content, refused.headers["connection"]) == (401, b"", "close")
        body = payload()
        handled = await client.post("/hooks/basiq", content=body, headers=signed(body))
        assert handled.content == b""
        assert "connection" not in handled.headers


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


async def test_a_busy_or_closed_receiver_says_when_to_try_again() -> None:
    service = Service()
    await service.receiver.aclose()
    body = payload()
    async with calling(app_with(service)) as client:
        response = await client.post("/hooks/basiq", content=body, headers=signed(body))
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")


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
