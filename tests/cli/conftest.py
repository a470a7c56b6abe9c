"""The command line is run as a user does: a process of its own loop, the fake behind real HTTP in another thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from basiq_async.testing import FakeBasiq, serve

from ..support.command_line import Ended, run_command
from ..support.real_time import PATIENCE

Run = Callable[..., Ended]


class Served:
    """A fake that a thread serves over HTTP."""

    def __init__(self, fake: FakeBasiq | None = None) -> None:
        self.fake = fake or FakeBasiq()
        self.url = ""
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Served:
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        return self

    def __exit__(self, *args: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def run(self, work: Coroutine[Any, Any, object], *, seconds: float = PATIENCE) -> None:
        """Run something in the loop that serves."""
        asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)

    def _run(self) -> None:
        async def main() -> None:
            async with serve(self.fake) as self.url:
                self._ready.set()
                await self._stop.wait()

        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(main())


@pytest.fixture(autouse=True, scope="session")
def begin_warm(warm_programs: None) -> None: ...


@pytest.fixture
def served() -> Iterator[Served]:
    with Served() as running:
        yield running


@pytest.fixture
def run(served: Served, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command against the served fake."""
    monkeypatch.setenv("BASIQ_API_KEY", served.fake.DEFAULT_API_KEY)
    monkeypatch.setenv("BASIQ_BASE_URL", served.url)

    return run_command
