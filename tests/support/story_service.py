"""The service of ``tests/test_story.py``, in its own process: ``main`` with PORT WEBHOOK SECRET FOLDER.

Its inbox and its effects are in one database. While the file ``stopped`` exists, the inbox raises errors. Its handler
always fails for events of the type ``user.deleted``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from aiohttp import web
from sqlalchemy import Column, Integer, MetaData, String, Table, insert
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from basiq_async.errors import InboxError
from basiq_async.receiver import Delivery, SQLInbox, WebhookReceiver
from basiq_async.receiver.protocol import Claim

POISON = "user.deleted"
LEASE = 2.5
"""Seconds after a kill until its events can be handled."""
# Without a constraint: an effect that happens twice is to be seen.
EFFECTS = Table("effects", MetaData(), Column("n", Integer, primary_key=True), Column("event_id", String))


def database(folder: Path) -> str:
    return f"sqlite+aiosqlite:///{folder / 'service.db'}"


class Stoppable(SQLInbox):
    """An inbox that raises errors while the file ``stopped`` exists."""

    def __init__(self, stopped: Path, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._stopped = stopped

    async def claim(
        self, key: str, token: str, *, lease: float, quarantined: bool = False, transaction: bool = False
    ) -> Claim:
        if self._stopped.exists():
            raise InboxError("the inbox is stopped")
        return await super().claim(key, token, lease=lease, quarantined=quarantined, transaction=transaction)


async def make_app(webhook_id: str, secret: str, folder: Path) -> web.Application:
    engine = create_async_engine(database(folder))
    async with engine.begin() as connection:
        await connection.run_sync(EFFECTS.metadata.create_all)
    inbox = Stoppable(folder / "stopped", engine)
    receiver = WebhookReceiver(
        secret, webhook_id=webhook_id, inbox=inbox, quarantine_after=3, handler_timeout=LEASE - 0.5, lease=LEASE
    )

    @receiver.on(POISON)
    async def fail(delivery: Delivery) -> None:
        raise ValueError("this cannot be handled")

    @receiver.on("*")
    async def handle(delivery: Delivery, session: AsyncSession) -> None:
        await session.execute(insert(EFFECTS).values(event_id=delivery.event_id))

    async def resources(app: web.Application) -> Any:
        async with inbox:
            print("ready", flush=True)
            yield
        await engine.dispose()

    app = web.Application()
    app.cleanup_ctx.append(resources)
    receiver.setup(app)
    return app


def main() -> None:
    port, webhook_id, secret, folder = sys.argv[1:]
    web.run_app(
        make_app(webhook_id, secret, Path(folder)), host="127.0.0.1", port=int(port), print=None, access_log=None
    )
