"""The implementation of the pytest plugin's fixtures."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import pytest

from .. import BasiqClient
from .transport import InMemoryTransport

if TYPE_CHECKING:
    from .fake._fake import FakeBasiq

T = TypeVar("T")


@asynccontextmanager
async def client_of(fake: FakeBasiq) -> AsyncGenerator[BasiqClient]:
    """Open a client that sends its requests to a fake in this process."""
    transport = InMemoryTransport(fake)
    try:
        async with BasiqClient(fake.api_key, transport=transport) as client:
            yield client
    finally:
        await transport.aclose()


def in_loop_of(
    request: pytest.FixtureRequest, name: str, make: Callable[[FakeBasiq], AsyncGenerator[T]], fake: FakeBasiq
) -> Generator[T]:
    """Yield the value of ``make``, which begins and ends in the event loop that runs the test."""
    by_asyncio = request.node.get_closest_marker("asyncio") is not None
    by_anyio = "anyio_backend" in request.fixturenames
    if by_asyncio and by_anyio:
        # The test and its fixtures would run in different event loops, and wait for each other for ever.
        pytest.fail(
            f"{name}: pytest-asyncio and anyio's plugin both run this test; set asyncio_mode to strict", pytrace=False
        )
    if by_asyncio:
        yield request.getfixturevalue(f"_{name}_asyncio")
    elif by_anyio:
        from anyio.pytest_plugin import extract_backend_and_options, get_runner

        backend, options = extract_backend_and_options(request.getfixturevalue("anyio_backend"))
        if backend != "asyncio":
            pytest.fail(f"{name} needs asyncio: let the fixture anyio_backend return 'asyncio'", pytrace=False)
        with get_runner(backend, options) as runner:
            yield from runner.run_asyncgen_fixture(make, {"fake_basiq": fake})
    else:
        pytest.fail(f"{name} needs an async test, run by pytest-asyncio or by anyio's plugin", pytrace=False)
