"""Servers in the test's process: an endpoint for deliveries, and the fake in a thread for synchronous tests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from aiohttp import web

from basiq_async.testing import FakeBasiq, serve


@asynccontextmanager
async def serving(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """Serve a handler for a POST to any path, and yield its URL."""
    app = web.Application()
    app.router.add_post("/{path}", handler)
    runner = web.AppRunner(app, access_log=None)
    try:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    finally:
        await runner.cleanup()


@contextmanager
def served(fake: FakeBasiq, **options: Any) -> Iterator[str]:
    """Serve a fake over HTTP in a thread, and yield its URL."""
    ready = threading.Event()
    told: list[str] = []
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def main() -> None:
        async with serve(fake, **options) as base_url:
            told.append(base_url)
            ready.set()
            await stop.wait()

    def run() -> None:
        try:
            loop.run_until_complete(main())
        finally:
            ready.set()
            loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        ready.wait()
        yield told[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
