"""What every test runs on: a loop whose time limits do not depend on the load, or the loop that was asked for.

And what every expected error is held to: no variable in its frames shows a credential.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import attrs
import pytest
from hypothesis import settings

from basiq_async import BasiqError
from basiq_async.testing import FakeBasiq, Quirks
from tests.support.frames import leaks
from tests.support.real_time import PatientLoop, Waits, begin_tasks_at_once
from tests.support.servers import PostgresServer, postgres_server
from tests.support.warm import warm

# How long an example takes depends on what else the machine does.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--loop",
        choices=["patient", "asyncio", "uvloop", "eager"],
        default="patient",
        help="the event loop of async tests; eager: the patient one, and each loop's tasks begin at once (Python 3.12)",
    )


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What the collection of tests makes lives to the end: no collection of garbage need look through it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    name = config.getoption("--loop")
    if name == "uvloop":
        import uvloop

        return {name: uvloop.new_event_loop}
    return {name: asyncio.SelectorEventLoop if name == "asyncio" else PatientLoop}


def pytest_configure(config: pytest.Config) -> None:
    """Set up what the programs that tests start inherit."""
    # A shell starts a job in the background with SIGINT ignored, and a program would not react to Ctrl-C.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # So does nohup with SIGHUP, and a program would keep it ignored.
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if config.getoption("--loop") == "eager":
        begin_tasks_at_once()
    # Only processes that run tests are measured: a program that a test starts takes half the time without.
    if not getattr(config.option, "numprocesses", None):
        for name in [name for name in os.environ if name.startswith("COVERAGE")]:
            del os.environ[name]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """In the engine's world, a test whose mark ``documented_world`` says why has rules of the documented one."""
    world, mark = FakeBasiq.default_quirks, item.get_closest_marker("documented_world")
    if mark is not None:
        _, *names = mark.args
        FakeBasiq.default_quirks = attrs.evolve(world, **{name: getattr(Quirks(), name) for name in names})
    try:
        return (yield)
    finally:
        FakeBasiq.default_quirks = world


WAITS = Waits()


@pytest.fixture(autouse=True, scope="session")
def every_sleep_is_watched() -> Iterator[None]:
    with WAITS.watched():
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """No test waits in real time, except one whose mark ``real_time`` says why."""
    WAITS.found.clear()
    result = yield
    if item.get_closest_marker("real_time") is None:
        assert not WAITS.found, f"no test waits in real time: {', '.join(WAITS.found)}"
    return result


@pytest.fixture(scope="session")
def warm_programs() -> Iterator[None]:
    """Programs that tests of this folder start begin warm, where a process can be forked."""
    with warm() if hasattr(os, "fork") else nullcontext():
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server that all tests of a process share: take tables of your own."""
    with postgres_server() as server:
        yield server


@pytest.fixture(autouse=True, scope="session")
def no_expected_error_leads_to_a_credential() -> Iterator[None]:
    """``pytest.raises`` looks through the frames of each error of ours that it catches, and of those behind it."""
    usual = pytest.RaisesExc.__exit__

    def exit_and_look(self: Any, kind: Any, exc: BaseException | None, traceback: Any) -> bool:
        caught = usual(self, kind, exc, traceback)
        if caught and isinstance(exc, BasiqError):
            assert not leaks(exc), leaks(exc)
        return caught

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pytest.RaisesExc, "__exit__", exit_and_look)
        yield
