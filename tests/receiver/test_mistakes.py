"""What callers get wrong, and the error that says what to write in its place."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Annotated, Any

import httpx
import pytest
from aiohttp import web
from fastapi import Depends, FastAPI
from pydantic import SecretStr

from basiq_async import BasiqClient, ConfigurationError, InMemoryTransport
from basiq_async.receiver import Delivery, WebhookReceiver, sign
from basiq_async.testing import FakeBasiq
from tests.support.deliveries import SECRET, Service, payload, signed


@pytest.mark.parametrize(
    "body", [{"eventTypeId": "user.created"}, "text", None, 5], ids=["json", "text", "none", "int"]
)
async def test_a_body_that_is_not_bytes_is_refused_and_the_call_is_named(body: Any) -> None:
    receiver = WebhookReceiver(SECRET)
    with pytest.raises(ConfigurationError, match=r"raw bytes.*`await request\.body\(\)`"):
        await receiver.handle(signed(payload()), body)


async def test_other_forms_of_bytes_are_taken_and_kept_as_bytes() -> None:
    service = Service()
    for form in (bytearray, memoryview):
        body = payload()
        assert (await service.receiver.handle(signed(body), form(body))).status == 204  # type: ignore[arg-type]
        assert type(service.handled[-1].body) is bytes


# --- secrets ---


async def test_a_webhook_in_place_of_its_secret_is_reported() -> None:
    fake = FakeBasiq()
    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq:
        webhook: Any = await basiq.webhooks.ensure(url="https://a.example", subscribed_events=["user.created"])
    with pytest.raises(ConfigurationError, match=r"pass webhook\.secret"):
        WebhookReceiver(webhook)


@pytest.mark.parametrize("several", [False, True])
async def test_a_secret_of_pydantics_is_taken(several: bool) -> None:
    secret = SecretStr(SECRET)
    receiver = WebhookReceiver([secret, secret] if several else secret)
    body = payload()
    assert (await receiver.handle(sign(secret, "m-1", datetime.now(UTC), body), body)).status == 204


async def test_an_api_key_of_pydantics_is_taken() -> None:
    fake = FakeBasiq()
    async with BasiqClient(SecretStr(fake.api_key), transport=InMemoryTransport(fake)) as basiq:
        assert await basiq.event_types.list().first() is not None


# --- routes ---


@pytest.mark.parametrize("path", ["basiq", "hooks/basiq", None])
def test_a_path_without_a_slash_is_refused(path: Any) -> None:
    receiver = WebhookReceiver(SECRET)
    for mount in (receiver.fastapi_router, lambda path: receiver.setup(web.Application(), path)):
        with pytest.raises(ConfigurationError, match="must begin with a slash"):
            mount(path)


async def _session() -> None: ...


async def _with_default(delivery: Delivery, session: object = Depends(_session)) -> None: ...


async def _annotated(delivery: Delivery, session: Annotated[object, Depends(_session)]) -> None: ...


@pytest.mark.parametrize("handler", [_with_default, _annotated])
def test_a_handler_with_a_dependency_of_fastapi_is_refused(handler: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"Depends\(\.\.\.\).*the receiver calls it, not FastAPI"):
        WebhookReceiver(SECRET).on("*")(handler)


async def test_a_handler_whose_annotations_have_no_meaning_at_run_time_is_taken() -> None:
    async def handle(delivery: "Missing", more: int = 3) -> None:  # type: ignore[name-defined]  # noqa: F821, UP037
        ...

    WebhookReceiver(SECRET).on("*")(handle)


# --- a body that a middleware ate ---


@pytest.mark.parametrize("passes_on", ["a disconnect", "an empty body"])
@pytest.mark.parametrize("kind", ["asgi", "fastapi"])
async def test_a_body_that_a_middleware_ate_is_reported(
    kind: str, passes_on: str, caplog: pytest.LogCaptureFixture
) -> None:
    receiver = WebhookReceiver(SECRET)
    inner: Any = receiver.asgi
    if kind == "fastapi":
        inner = FastAPI()
        inner.include_router(receiver.fastapi_router("/basiq"))

    async def eats(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass

        async def nothing_left() -> dict[str, object]:
            if passes_on == "a disconnect":
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": b"", "more_body": False}

        await inner(scope, nothing_left, send)

    body = payload()
    transport = httpx.ASGITransport(eats)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        response = await client.post("/basiq", content=body, headers=signed(body))
    assert response.status_code == (408 if passes_on == "a disconnect" else 401)
    shown = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert any("middleware" in text for text in shown), shown
    if passes_on == "a disconnect":
        assert f"0 bytes of {len(body)} arrived" in shown[0]
