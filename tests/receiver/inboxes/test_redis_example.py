"""The example of an inbox in Redis, against a server of our own."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as NotThereError

from basiq_async.receiver import WebhookReceiver
from basiq_async.testing.conformance._inbox import check_inbox
from examples.redis_inbox import RedisInbox
from tests.support.deliveries import SECRET, payload, signed


@pytest.fixture
def redis_port(tmp_path: Path) -> Iterator[int]:
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("no redis-server is installed here")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = [server, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path), "--save", ""]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield port
        finally:
            process.terminate()


async def connect(port: int) -> Redis:
    redis = Redis(host="127.0.0.1", port=port)
    async with asyncio.timeout(10):
        while True:
            try:
                await redis.ping()
            except NotThereError:
                await asyncio.sleep(0.02)
            else:
                return redis


async def test_an_inbox_in_redis_keeps_every_promise(redis_port: int) -> None:
    async with await connect(redis_port) as redis, await connect(redis_port) as other:
        clients = [redis, other]

        def make() -> RedisInbox:
            clients.append(clients.pop(0))
            return RedisInbox(clients[0])

        await check_inbox(make, shared=True)


async def test_a_receiver_on_redis_handles_once(redis_port: int) -> None:
    async with await connect(redis_port) as redis:
        receiver = WebhookReceiver(SECRET, inbox=RedisInbox(redis))
        handled: list[object] = []

        @receiver.on("*")
        async def handle(delivery: object) -> None:
            handled.append(delivery)

        body = payload()
        statuses = [(await receiver.handle(signed(body), body)).status for _ in range(2)]
    assert statuses == [204, 200]
    assert len(handled) == 1


def test_the_example_is_short() -> None:
    text = Path("examples/redis_inbox.py").read_text()
    assert len(text.splitlines()) < 40
