"""Fixtures for tests against a fake Basiq, there wherever ``basiq-async`` is installed.

fake_basiq: a ``FakeBasiq``, fresh for each test. Define a fixture of that name to arrange it differently.
basiq_client: a ``BasiqClient`` that speaks to it in this process; it is closed after the test.
basiq_server: the same fake over HTTP on loopback: its base URL.
basiq_strict: the fake; the test fails at its end where something misused Basiq.

``basiq_client`` and ``basiq_server`` need a running event loop, of pytest-asyncio (both modes) or of anyio's plugin
with the asyncio backend.

Every pytest run of every user imports this file: it imports nothing of the project until a fixture is used.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from basiq_async import BasiqClient

    from .fake import FakeBasiq

try:
    from pytest_asyncio import fixture as _asyncio_fixture
except ImportError:  # pragma: no cover  # pytest-asyncio is one of two ways to run async tests
    _asyncio_fixture = pytest.fixture

T = TypeVar("T")


@pytest.fixture
def fake_basiq() -> FakeBasiq:
    """A fake Basiq on a clock that stands still."""
    from .fake import FakeBasiq

    return FakeBasiq()


@pytest.fixture
def basiq_strict(fake_basiq: FakeBasiq) -> Generator[FakeBasiq]:
    """The fake; at the end the test fails where something misused Basiq."""
    yield fake_basiq
    fake_basiq.assert_no_violations()


@pytest.fixture
def basiq_client(request: pytest.FixtureRequest) -> BasiqClient:
    """A client of the fake, without a socket."""
    return _of_runner(request, "basiq_client")


@pytest.fixture
def basiq_server(request: pytest.FixtureRequest) -> str:
    """The base URL of the fake, served over HTTP on loopback."""
    return _of_runner(request, "basiq_server")


async def _client(fake_basiq: FakeBasiq) -> AsyncGenerator[BasiqClient]:
    from ._fixtures import client_of

    async with client_of(fake_basiq) as client:
        yield client


async def _server(fake_basiq: FakeBasiq) -> AsyncGenerator[str]:
    from .server import serve

    async with serve(fake_basiq) as base_url:
        yield base_url


_basiq_client_asyncio = _asyncio_fixture(name="_basiq_client_asyncio")(_client)
_basiq_server_asyncio = _asyncio_fixture(name="_basiq_server_asyncio")(_server)
_basiq_client_anyio = pytest.fixture(name="_basiq_client_anyio")(_client)
_basiq_server_anyio = pytest.fixture(name="_basiq_server_anyio")(_server)


def _of_runner(request: pytest.FixtureRequest, name: str) -> T:
    """The fixture in the form that belongs to whoever runs the test: only their loop runs while it does."""
    from ._fixtures import runner_of

    value: T = request.getfixturevalue(f"_{name}_{runner_of(request, name)}")
    return value
