"""How fast is a replay to an endpoint, compared with a hand-written pool of aiohttp workers without a checkpoint?

Both read the same history, sign each message, and post it over 64 connections. The replay may have twice as many
messages under way as connections, because a message that waits for its record needs no connection.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from uuid import uuid4

import aiohttp

from basiq_async import BasiqClient, Message
from basiq_async.receiver import sign
from basiq_async.replay import HttpTarget, Replay, SQLiteCheckpoint
from benchmarks import _contestants as by
from benchmarks._harness import Figure, best_slices, figure, ratios, server
from benchmarks._server import PAGE, WEBHOOK
from benchmarks._sink import sink

_SECRET = "whsec_c2VjcmV0LW9mLXRoZS1iZW5jaG1hcmtz"
_CONNECTIONS = 64


async def pool(basiq: BasiqClient, endpoint: str) -> None:
    """Post the history with a hand-written pool of workers."""
    queue: asyncio.Queue[Message | None] = asyncio.Queue(_CONNECTIONS)
    connector = aiohttp.TCPConnector(limit=_CONNECTIONS)

    async def worker(session: aiohttp.ClientSession) -> None:
        while (message := await queue.get()) is not None:
            body = json.dumps(message.payload).encode()
            headers = sign(_SECRET, message.id, datetime.now(UTC), body)
            async with session.post(endpoint, data=body, headers=headers) as answer:
                await answer.read()
                assert answer.status == 204

    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as group:
        for _ in range(_CONNECTIONS):
            group.create_task(worker(session))
        async for message in basiq.messages.list(WEBHOOK):
            await queue.put(message)
        for _ in range(_CONNECTIONS):
            await queue.put(None)


async def replayed(basiq: BasiqClient, endpoint: str, folder: Path, messages: int) -> None:
    """Post the same history with a replay."""
    async with HttpTarget(endpoint, _SECRET, connections=_CONNECTIONS) as target:
        checkpoint = SQLiteCheckpoint(folder / f"{uuid4()}.db")
        report = await Replay(basiq, WEBHOOK, target, checkpoint=checkpoint, concurrency=2 * _CONNECTIONS).run()
        assert report.handled == messages


async def measure(runs: int = 5, slices: int = 6, pages: int = 2) -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder, server(pages) as url, sink() as endpoint:
        async with by.client(url) as basiq:
            contestants = {
                "pool": partial(pool, basiq, endpoint),
                "replay": partial(replayed, basiq, endpoint, Path(folder), pages * PAGE),
            }
            seconds = await best_slices(contestants, runs=runs, slices=slices)
    name = "replay: messages for a second of the processor, HttpTarget to a hand-written pool without checkpoint"
    return [figure(name, ratios(seconds["pool"], seconds["replay"]), ">= 0.7")]


if __name__ == "__main__":
    for line in asyncio.run(measure()):
        print(line)
