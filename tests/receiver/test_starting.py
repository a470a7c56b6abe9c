"""How a receiver starts and ends: what it says where that is out of order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from basiq_async import BasiqClient, ConfigurationError, InboxError, InMemoryTransport
from basiq_async.receiver import Delivery, Inbox, MemoryInbox, Result, SQLInbox, SQLiteInbox, WebhookReceiver
from basiq_async.replay import recover
from basiq_async.testing import FakeBasiq
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


async def test_a_lifespan_that_enters_the_receiver_of_a_fastapi_router_closes_it() -> None:
    receiver = WebhookReceiver(SECRET)
    results: list[Result] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with receiver:
            yield
            results.append((await post(receiver)).result)

    app = FastAPI(lifespan=lifespan)
    app.include_router(receiver.fastapi_router())
    async with app.router.lifespan_context(app):
        pass
    assert results == [Result.IGNORED]
    assert "closed" in repr(receiver)


async def test_a_cleanup_context_that_enters_the_receiver_of_an_aiohttp_application_closes_it() -> None:
    receiver = WebhookReceiver(SECRET)
    results: list[Result] = []

    async def resources(app: web.Application) -> AsyncGenerator[None]:
        async with receiver:
            yield
            results.append((await post(receiver)).result)

    app = web.Application()
    app.cleanup_ctx.append(resources)
    receiver.setup(app)
    async with TestClient(TestServer(app)):
        pass
    assert results == [Result.IGNORED]
    assert "closed" in repr(receiver)


async def test_an_end_in_the_middle_of_a_recovery_is_in_order() -> None:
    fake = FakeBasiq()
    webhook_id = fake.seed_messages(20, failed=1.0)
    begun, states = asyncio.Event(), list[str]()
    inbox = MemoryInbox()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with (
            BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq,
            WebhookReceiver(fake.secret(webhook_id), inbox=inbox, webhook_id=webhook_id) as receiver,
        ):

            @receiver.on("*")
            async def handle(delivery: Delivery) -> None:
                begun.set()
                await asyncio.Event().wait()

            app.include_router(receiver.fastapi_router())
            recovery = recover(basiq, webhook_id, receiver, inbox=inbox)
            recovering = asyncio.create_task(recovery.run())
            yield
            states.append(repr(receiver))
            recovering.cancel()
            await asyncio.wait({recovering})
            assert recovering.cancelled()

    app = FastAPI(lifespan=lifespan)
    async with app.router.lifespan_context(app):
        await begun.wait()
    assert "in flight" in states[0]
    assert len(inbox) == 0


async def test_a_delivery_to_a_closed_receiver_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    receiver = WebhookReceiver(SECRET)
    await receiver.aclose()
    for _ in range(3):
        assert (await post(receiver)).status == 503
    (told,) = said(caplog)
    assert "this receiver is closed" in told
    assert "make a new one" in told


# --- the inbox ---


async def test_one_that_starts_without_its_tables_says_how_to_make_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        engine_of(f"sqlite+aiosqlite:///{tmp_path}/service.db") as engine,
        WebhookReceiver(SECRET, webhook_id="w1", inbox=SQLInbox(engine, create_tables=False)),
    ):
        pass
    (told,) = said(caplog, logging.ERROR)
    assert "its inbox cannot be used" in told
    assert "inbox.ddl()" in told


async def test_one_whose_inbox_can_be_used_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with (
        engine_of(f"sqlite+aiosqlite:///{tmp_path}/service.db") as engine,
        SQLInbox(engine) as inbox,
        WebhookReceiver(SECRET, webhook_id="w1", inbox=inbox),
    ):
        pass
    assert not said(caplog)


async def test_an_aiohttp_application_looks_at_the_inbox_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    inbox = SQLiteInbox(tmp_path / "missing" / "inbox.db")
    app = web.Application()
    WebhookReceiver(SECRET, webhook_id="w1", inbox=inbox).setup(app)
    async with TestClient(TestServer(app)):
        pass
    await inbox.aclose()
    (told,) = said(caplog, logging.ERROR)
    assert "is there a folder" in told


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


async def test_an_inbox_that_is_closed_while_a_handler_runs_is_not_called_a_rollback(tmp_path: Path) -> None:
    async with engine_of(f"sqlite+aiosqlite:///{tmp_path}/service.db") as engine:
        inbox = SQLInbox(engine)
        async with WebhookReceiver(SECRET, webhook_id="w1", inbox=inbox) as receiver:

            @receiver.on("*")
            async def handle(delivery: Delivery, session: AsyncSession) -> None:
                await inbox.aclose()
                await session.execute(text("select 1"))

            outcome = await post(receiver)
    assert outcome.status == 503
    assert "closed" in str(outcome.error)
    assert "rolled" not in str(outcome.error)


@pytest.mark.parametrize("inbox", [MemoryInbox, SQLiteInbox])
def test_a_class_in_place_of_an_inbox_is_refused(inbox: type[Inbox]) -> None:
    wrong: Any = inbox
    with pytest.raises(ConfigurationError, match=rf"the class {inbox.__name__}: pass an instance, such as"):
        WebhookReceiver(SECRET, inbox=wrong)
