"""What the pytest plugin's fixtures do."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from .. import BasiqClient
from ..transports.memory import InMemoryTransport

if TYPE_CHECKING:
    from .fake import FakeBasiq


@asynccontextmanager
async def client_of(fake: FakeBasiq) -> AsyncGenerator[BasiqClient]:
    """A client of a fake in this process."""
    transport = InMemoryTransport(fake)
    try:
        async with BasiqClient(fake.api_key, transport=transport) as client:
            yield client
    finally:
        await transport.aclose()


def runner_of(request: pytest.FixtureRequest, name: str) -> str:
    """Who runs the test of a request: ``asyncio`` (pytest-asyncio) or ``anyio``."""
    # Where both want a test, as with pytest-asyncio in auto mode, anyio's plugin comes first.
    if "anyio_backend" in request.fixturenames:
        backend = request.getfixturevalue("anyio_backend")
        if (backend if isinstance(backend, str) else backend[0]) == "asyncio":
            return "anyio"
        pytest.fail(f"{name} needs asyncio: let the fixture anyio_backend return 'asyncio'", pytrace=False)
    if request.node.get_closest_marker("asyncio") is not None:
        return "asyncio"
    pytest.fail(f"{name} needs an async test, run by pytest-asyncio or by anyio's plugin", pytrace=False)
