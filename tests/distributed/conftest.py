"""One Redis server for the tests of this folder that do not kill it, empty at each; and the loop that they run on."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import pytest
import pytest_asyncio

from tests.support.job_stores import Pair
from tests.support.servers import RedisServer, redis_server


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop of a program: its clock has to go with that of Redis and of other processes."""
    return {"asyncio": asyncio.SelectorEventLoop}


@pytest.fixture(scope="package")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_url(shared_server: RedisServer) -> str:
    with socket.create_connection(("127.0.0.1", shared_server.port)) as connection:
        connection.sendall(b"FLUSHALL\r\n")
        assert connection.recv(16).startswith(b"+OK")
    return shared_server.url


@pytest_asyncio.fixture
async def pair(redis_url: str) -> AsyncIterator[Pair]:
    made = Pair(redis_url)
    yield made
    await made.aclose()
