"""What every test runs on: a loop whose time limits do not depend on the load, or the loop that was asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping

import pytest

from tests.support.patient import PatientLoop
from tests.support.postgres import PostgresServer, shared_postgres


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--loop", choices=["patient", "asyncio", "uvloop"], default="patient", help="the event loop of async tests"
    )


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    name = config.getoption("--loop")
    if name == "uvloop":
        import uvloop

        return {name: uvloop.new_event_loop}
    return {name: PatientLoop if name == "patient" else asyncio.SelectorEventLoop}


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server that all tests share: take tables of your own."""
    with shared_postgres() as server:
        yield server
