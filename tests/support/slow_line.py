"""A TCP proxy that passes everything on a little later, as a line over some distance does."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


@asynccontextmanager
async def slow_line(port: int, *, least: float, most: float, seed: int = 0) -> AsyncIterator[int]:
    """The port of a proxy to ``port``; each piece of data takes ``least`` to ``most`` seconds in either direction."""
    rng = random.Random(seed)
    tasks: set[asyncio.Task[object]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                await asyncio.sleep(least + rng.random() * (most - least))
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            await asyncio.gather(carry(reader, there_writer), carry(there_reader, writer))
        except asyncio.CancelledError:
            pass  # at the end of the proxy, which awaits this task: asyncio would report a cancelled one
        finally:
            there_writer.close()
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        left = list(tasks)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
