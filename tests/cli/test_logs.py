"""``BASIQ_DEBUG=1`` and ``work --log-level DEBUG`` show this package's records, and no body that a driver prints."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from basiq_async.receiver import Delivery, SQLInbox, WebhookReceiver
from tests.support.databases import engine_of
from tests.support.deliveries import SECRET, Service, payload, post

from .conftest import Served, ran

BODY = "b0dy-that-must-not-show"


async def read_with_sql(delivery: Delivery, session: AsyncSession) -> None:
    await session.execute(text("SELECT :body"), {"body": delivery.body.decode()})


async def fill(url: str) -> None:
    """Put a delivery with a body into the quarantine of an inbox."""
    async with engine_of(url) as engine, SQLInbox(engine) as inbox:
        service = Service(inbox=inbox, quarantine_after=1)
        await post(service.receiver, payload("user.broken", note=BODY))
        await service.receiver.aclose()


SERVICE = """
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from basiq_async.receiver import SQLInbox, WebhookReceiver

inbox = SQLInbox(create_async_engine("{url}"))
receiver = WebhookReceiver("{secret}", webhook_id="w1", inbox=inbox, quarantine_after=1)

@receiver.on("*")
async def handle(delivery, session):
    await session.execute(text("SELECT :body"), {{"body": delivery.body.decode()}})
    raise RuntimeError("again")
"""


async def test_debug_prints_no_body(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/inbox.db"
    await fill(url)
    (tmp_path / "a_service.py").write_text(SERVICE.format(secret=SECRET, url=url))
    _, out, err = await ran(
        "quarantine", "retry", "--receiver", "a_service:receiver", **{**os.environ, "BASIQ_DEBUG": "1"}
    )
    assert json.loads(out)["delivery_id"] == "msg_1"
    assert "basiq_async.receiver" in err
    assert BODY not in out + err
    with caplog.at_level(logging.DEBUG):  # as it would be, were the level that of all libraries
        async with engine_of(url) as engine, SQLInbox(engine) as inbox:
            service = WebhookReceiver(SECRET, webhook_id="w1", inbox=inbox)
            service.on("*")(read_with_sql)
            await service.retry_quarantined()
    assert BODY in caplog.text


async def test_debug_prints_the_records_of_this_package(served: Served) -> None:
    *_, err = await ran("webhooks", "list", **{**os.environ, **served.environment, "BASIQ_DEBUG": "1"})
    assert "DEBUG basiq_async." in err
    *_, err = await ran("webhooks", "list", **{**os.environ, **served.environment})
    assert "DEBUG" not in err


async def test_a_workers_log_has_no_body_either() -> None:
    script = (
        "import logging; from basiq_async.cli._output import show_logs; "
        "show_logs('DEBUG', '%(name)s %(message)s'); "
        "[logging.getLogger(name).debug('x') for name in ('aiosqlite', 'basiq_async.receiver')]"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stderr=asyncio.subprocess.PIPE)
    assert (await process.communicate())[1] == b"basiq_async.receiver x\n"
