"""Pytest fixtures for tests against a fake Basiq. Installing ``basiq-async`` makes them available.

fake_basiq: a new ``FakeBasiq`` for each test, with unique ids. Define a fixture of this name to set it up differently.
The report of a failed test names the seed of the ids; ``--basiq-seed`` repeats them. ``--basiq-world=engine`` runs the
tests against the engine that Basiq probably runs.
basiq_client: a ``BasiqClient`` that calls the fake in this process. It is closed after the test.
basiq_server: the base URL of the same fake, served over HTTP on loopback.
basiq_strict: the same fake; the test fails at its end if a request or an endpoint misused Basiq.

``basiq_client`` and ``basiq_server`` need an async test, run by pytest-asyncio (in either mode) or by anyio's plugin
(with the asyncio backend).

Every pytest run of every user imports this file, so it imports the rest of the package only when a fixture is used.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from basiq_async import BasiqClient

    from .fake._fake import FakeBasiq

try:
    import pytest_asyncio
except ImportError:  # pragma: no cover  # it is one of two ways to run async tests
    pytest_asyncio = None  # type: ignore[assignment]  # a module, or none


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("basiq-async")
    group.addoption("--basiq-seed", metavar="SEED", help="make the ids of each fake_basiq from this seed")
    group.addoption(
        "--basiq-world",
        choices=["documented", "engine"],
        default="documented",
        help="what each FakeBasiq does where Basiq's documents say nothing: the defaults, or Quirks.engine()",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Choose the world of each ``FakeBasiq`` that is made without quirks."""
    if config.getoption("--basiq-world") == "engine":
        from .fake._fake import FakeBasiq
        from .fake._quirks import Quirks

        FakeBasiq.default_quirks = Quirks.engine()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the seed of the fake to the report of a failed test."""
    report = yield
    fake = getattr(item, "funcargs", {}).get("fake_basiq")
    seed = getattr(fake, "seed", None)
    if report.failed and seed is not None:
        option = f"--basiq-seed={seed}" if isinstance(seed, str) else f"FakeBasiq(seed={seed!r})"
        report.sections.append(("fake_basiq", f"its ids were made from the seed {seed!r}; {option} repeats them"))
    return report


@pytest.fixture
def fake_basiq(request: pytest.FixtureRequest) -> FakeBasiq:
    """A fake Basiq whose clock stands still until it is advanced."""
    from .fake._fake import FakeBasiq

    return FakeBasiq(seed=request.config.getoption("--basiq-seed"))


@pytest.fixture
def basiq_strict(fake_basiq: FakeBasiq) -> Generator[FakeBasiq]:
    """The fake. The test fails at its end if a request or an endpoint misused Basiq."""
    yield fake_basiq
    fake_basiq.assert_no_misuses()


@pytest.fixture
def basiq_client(request: pytest.FixtureRequest, fake_basiq: FakeBasiq) -> Generator[BasiqClient]:
    """A client that calls the fake in this process, without a socket."""
    from ._fixtures import in_loop_of

    yield from in_loop_of(request, "basiq_client", _client, fake_basiq)


@pytest.fixture
def basiq_server(request: pytest.FixtureRequest, fake_basiq: FakeBasiq) -> Generator[str]:
    """The base URL of the fake, served over HTTP on loopback."""
    from ._fixtures import in_loop_of

    yield from in_loop_of(request, "basiq_server", _server, fake_basiq)


async def _client(fake_basiq: FakeBasiq) -> AsyncGenerator[BasiqClient]:
    from ._fixtures import client_of

    async with client_of(fake_basiq) as client:
        yield client


async def _server(fake_basiq: FakeBasiq) -> AsyncGenerator[str]:
    from .mock._server import serve

    async with serve(fake_basiq) as base_url:
        yield base_url


if pytest_asyncio is not None:
    _basiq_client_asyncio = pytest_asyncio.fixture(name="_basiq_client_asyncio")(_client)
    _basiq_server_asyncio = pytest_asyncio.fixture(name="_basiq_server_asyncio")(_server)
