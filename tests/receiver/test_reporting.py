"""What JSON logs, structlog and Sentry get of a delivery: stable names, and each failure once."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import sentry_sdk
import structlog
from fastapi import FastAPI
from pythonjsonlogger.json import JsonFormatter
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.asyncio import AsyncioIntegration
from sentry_sdk.transport import Transport

from tests.support.deliveries import Service, payload, post, signed

FIELDS = {
    "delivery_id": "msg_1",
    "event_id": "e-1",
    "event_type_id": "user.broken",
    "handler": "Service.handle",
    "correlation_id": None,
}


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def handler(stream: io.StringIO) -> Iterator[logging.Handler]:
    logger = logging.getLogger("basiq_async")
    found = logging.StreamHandler(stream)
    logger.addHandler(found)
    yield found
    logger.removeHandler(found)


async def fail_once() -> None:
    assert (await post(Service().receiver, payload("user.broken", "e-1"))).status == 500


async def test_a_json_formatter_shows_the_fields(handler: logging.Handler, stream: io.StringIO) -> None:
    handler.setFormatter(JsonFormatter("{levelname}{name}{message}", style="{"))
    await fail_once()
    record = json.loads(stream.getvalue())
    assert {name: record[name] for name in FIELDS} == FIELDS
    assert (record["name"], record["levelname"]) == ("basiq_async.receiver", "ERROR")


async def test_structlog_shows_the_fields(handler: logging.Handler, stream: io.StringIO) -> None:
    shared: list[Any] = [structlog.stdlib.ExtraAdder(), structlog.stdlib.add_log_level]
    renderers: list[Any] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.dict_tracebacks,
        structlog.processors.JSONRenderer(),
    ]
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=renderers))
    await fail_once()
    record = json.loads(stream.getvalue())
    assert {name: record[name] for name in FIELDS} == FIELDS
    assert record["exception"][0]["exc_type"] == "RuntimeError"


class _Kept(Transport):
    def __init__(self) -> None:
        super().__init__()
        self.events: list[dict[str, Any]] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        event = envelope.get_event()
        if event is not None:
            self.events.append(dict(event))


@pytest.fixture
def sentry() -> Iterator[list[dict[str, Any]]]:
    kept = _Kept()
    with sentry_sdk.isolation_scope():
        sentry_sdk.init(dsn="http://key@127.0.0.1:9/1", transport=kept, disabled_integrations=[AsyncioIntegration()])
        try:
            yield kept.events
        finally:
            sentry_sdk.init()


async def test_sentry_gets_a_handlers_exception_once_with_the_ids(sentry: list[dict[str, Any]]) -> None:
    service = Service()
    app = FastAPI()
    app.include_router(service.receiver.fastapi_router())
    body = payload("user.broken", "e-1")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        assert (await client.post("/basiq", content=body, headers=signed(body))).status_code == 500
    (event,) = sentry
    assert event["exception"]["values"][-1]["type"] == "RuntimeError"
    assert {name: event["extra"][name] for name in FIELDS} == FIELDS
    assert event["logger"] == "basiq_async.receiver"
