"""What the demo's story happens on: a service that can go down, over real HTTP on this machine."""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

from aiohttp import web

from ..models import Secret
from ..receiver import Delivery, SQLiteInbox, WebhookReceiver


class Service:
    """A service with a receiver and an inbox, which can go down and come back at the same address."""

    def __init__(self, folder: Path) -> None:
        self.handled: Counter[str] = Counter()
        """How often each event was handled, by its id."""
        self.inbox = SQLiteInbox(folder / "inbox.db")
        self._receiver: WebhookReceiver | None = None
        self._running = AsyncExitStack()
        self._port = 0

    @property
    def receiver(self) -> WebhookReceiver:
        """What receives; there once the secret is known."""
        if self._receiver is None:
            raise RuntimeError("subscribe first")
        return self._receiver

    @property
    def url(self) -> str:
        """Where the service is called."""
        return f"http://127.0.0.1:{self._port}/basiq"

    def subscribe(self, secret: Secret) -> None:
        """Take the signing secret of a webhook."""
        self._receiver = WebhookReceiver(secret, inbox=self.inbox)
        self._receiver.on("*")(self._handle)

    async def start(self) -> None:
        """Listen at a free port, or at the one that it had before."""
        app = web.Application()
        app.router.add_post("/basiq", self._receive)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        self._running.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", self._port, reuse_address=True).start()
        self._port = runner.addresses[0][1]

    async def stop(self) -> None:
        """Go down: connections are refused."""
        running, self._running = self._running, AsyncExitStack()
        await running.aclose()

    async def aclose(self) -> None:
        """Go down for good."""
        await self.stop()
        if self._receiver is not None:
            await self._receiver.aclose()
        await self.inbox.aclose()

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        return await self.receiver.aiohttp_handler(request)

    async def _handle(self, delivery: Delivery) -> None:
        self.handled[delivery.event_id] += 1
