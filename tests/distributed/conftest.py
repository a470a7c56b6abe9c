"""One Redis server for the tests of this folder that do not kill it; each test finds it empty."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.support.redis import RedisServer, redis_server


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
