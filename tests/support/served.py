"""The fake over HTTP in a thread of its own, for programs that are not asynchronous."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from basiq_async.testing import FakeBasiq, serve


@contextmanager
def served(fake: FakeBasiq, **options: Any) -> Iterator[str]:
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
