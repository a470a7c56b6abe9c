"""How a receiver starts and ends: what it says where that is out of order."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from fastapi import FastAPI

from basiq_async import ConfigurationError, InboxError
from basiq_async.receiver import Delivery, Inbox, MemoryInbox, Result, SQLInbox, SQLiteInbox, WebhookReceiver
from tests.support.databases import engine_of
from tests.support.deliveries import SECRET, payload, post
from tests.support.inboxes import fail_in


def said(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= level]


async def test_a_closed_receiver_cannot_be_entered_again_and_says_what_to_do() -> None:
    receiver = WebhookReceiver(SECRET)
    async with receiver:
        pass
    with pytest.raises(
        ConfigurationError,
        match=r"closed, and cannot be started again.*Make a new receiver and application for each start",
    ):
        async with receiver:
            pass


async def start_and_end(app: Any) -> list[dict[str, Any]]:
    """What a server gets for a start and an end of an ASGI app, as a ``TestClient`` of Starlette's makes them."""
    events: list[dict[str, Any]] = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    answers: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return events.pop(0)

    async def send(answer: dict[str, Any]) -> None:
        answers.append(answer)

    try:
        await app({"type": "lifespan"}, receive, send)
    except ConfigurationError:
        assert answers[-1]["type"] == "lifespan.startup.failed"
    return answers


@pytest.mark.parametrize("kind", ["asgi", "fastapi"])
async def test_an_application_that_is_started_twice_is_told_so(kind: str) -> None:
    receiver = WebhookReceiver(SECRET)
    app: Any = receiver.asgi
    if kind == "fastapi":
        app = FastAPI()
        app.include_router(receiver.fastapi_router())
    assert [answer["type"] for answer in await start_and_end(app)] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    (failed,) = await start_and_end(app)
    assert failed["type"] == "lifespan.startup.failed"
    assert "A TestClient that is entered twice starts them twice" in failed["message"]


async def test_a_start_that_failed_is_no_start_and_the_inbox_is_looked_at_again() -> None:
    inbox = fail_in("check", error=ConfigurationError("another version stored this"))
    receiver = WebhookReceiver(SECRET, inbox=inbox)
    for _ in range(3):
        with pytest.raises(ConfigurationError, match="another version"):
            async with receiver:
                pass
    del inbox.check
    async with receiver:
        assert (await post(receiver)).result is Result.IGNORED
    assert (await post(receiver)).result is Result.CLOSED, "its only user has left it"


async def test_who_enters_it_while_it_is_open_leaves_it_open() -> None:
    receiver = WebhookReceiver(SECRET)
    body, later = payload(), payload()
    async with receiver:
        async with receiver:
            pass
        assert (await post(receiver, body)).result is Result.IGNORED
    assert (await post(receiver, later)).result is Result.CLOSED


async def test_a_delivery_to_a_closed_receiver_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    receiver = WebhookReceiver(SECRET)
    await receiver.aclose()
    for _ in range(3):
        assert (await post(receiver)).status == 503
    (shown,) = said(caplog)
    assert "this receiver is closed" in shown
    assert "make a new one" in shown


# --- the inbox ---


async def test_one_that_starts_without_its_tables_says_how_to_make_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        engine_of(f"sqlite+aiosqlite:///{tmp_path}/service.db") as engine,
        WebhookReceiver(SECRET, webhook_id="w1", inbox=SQLInbox(engine, create_tables=False)),
    ):
        pass
    shown, *_ = said(caplog, logging.ERROR)  # the worker may have looked already, and says the same
    assert "its inbox cannot be used" in shown
    assert "inbox.ddl()" in shown


async def test_an_aiohttp_application_looks_at_the_inbox_too(caplog: pytest.LogCaptureFixture) -> None:
    for inbox in (MemoryInbox(), fail_in("check", error=InboxError("away"))):
        app = web.Application()
        WebhookReceiver(SECRET, inbox=inbox).setup(app)
        async with TestClient(TestServer(app)):
            pass
    (shown,) = said(caplog, logging.WARNING)
    assert shown.endswith("each delivery gets a 503: away")


@pytest.mark.parametrize("kind", ["sqlite", "sql"])
async def test_an_inbox_that_is_closed_before_its_receiver_says_the_order(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with engine_of(f"sqlite+aiosqlite:///{tmp_path}/service.db") as engine:
        inbox: SQLiteInbox | SQLInbox = SQLiteInbox(tmp_path / "inbox.db") if kind == "sqlite" else SQLInbox(engine)
        async with WebhookReceiver(SECRET, webhook_id="w1", inbox=inbox) as receiver:

            @receiver.on("*")
            async def handle(delivery: Delivery) -> None: ...

            async with inbox:
                pass
            outcome = await post(receiver)
        with pytest.raises(InboxError, match="closed"):
            async with inbox:
                pass
    assert (outcome.status, type(outcome.error)) == (503, InboxError)
    assert "close the receiver before its inbox, as `async with inbox, receiver` does" in str(outcome.error)


@pytest.mark.parametrize("inbox", [MemoryInbox, SQLiteInbox])
def test_a_class_in_place_of_an_inbox_is_refused(inbox: type[Inbox]) -> None:
    wrong: Any = inbox
    with pytest.raises(ConfigurationError, match=rf"the class {inbox.__name__}: pass an instance, such as"):
        WebhookReceiver(SECRET, inbox=wrong)
