"""The command line is run as a user does: a process of its own loop, the fake behind real HTTP in another thread."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from basiq_async import BasiqClient, InMemoryTransport
from basiq_async.receiver import verify
from basiq_async.testing import FakeBasiq, ManualClock

from ..support import deliveries
from ..support.command_line import PROGRAM, Ended, run_command
from ..support.real_time import PATIENCE
from ..support.served import Handler, Served, answering

Run = Callable[..., Ended]


def help_lines(told: str) -> list[list[str]]:
    """The lines that help, as the words after the name of the program."""
    return [shlex.split(line)[1:] for line in told.splitlines() if line.startswith("  basiq-async ")]


SECRET = "whsec_c2VjcmV0LW9mLXRoZS10ZXN0cy1vZi1yZXBsYXk="


class Endpoint:
    """A server in a thread, which keeps what it is posted and answers as it is told."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.bodies: list[bytes] = []
        self.status = 204
        self.secret = SECRET
        self.on_post: Callable[[], object] = lambda: None
        """Called with each request."""
        self.release = threading.Event()
        self.release.set()
        self.asked = threading.Event()
        self.url = ""
        self._stack = ExitStack()

    def __enter__(self) -> Endpoint:
        outer = self

        class Posted(Handler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.asked.set()
                outer.on_post()
                outer.release.wait(PATIENCE)
                verify(outer.secret, headers=dict(self.headers.items()), body=body)
                outer.ids.append(self.headers["webhook-id"])
                outer.bodies.append(body)
                self.respond(outer.status)

        self.url = f"{self._stack.enter_context(answering(Posted))}/basiq"
        return self

    def __exit__(self, *args: object) -> None:
        self.release.set()
        self._stack.close()


class Program:
    """The program while it runs in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.told = ""
        """What it has written to standard error, as far as it was read."""
        self.url = ""

    async def line(self) -> str:
        """The next line of its output."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            return (await self.process.stdout.readline()).decode().rstrip("\n")

    async def row(self) -> dict[str, Any]:
        """The next line of its output, which is JSON."""
        row: dict[str, Any] = json.loads(await self.line())
        return row

    async def hear(self, text: str = "\n") -> str:
        """Read what it tells until a text is in it. Return the last line."""
        assert self.process.stderr is not None
        line = b""
        async with asyncio.timeout(PATIENCE):
            while text not in self.told:
                line = await self.process.stderr.readline()
                assert line, self.told
                self.told += line.decode()
        return line.decode()

    async def end(self, *signals: int) -> tuple[int | None, list[dict[str, Any]]]:
        """Send signals, and wait for the end: its exit code, and the rows that it showed since."""
        for number in signals:
            self.process.send_signal(number)
        async with asyncio.timeout(PATIENCE):
            out, err = await self.process.communicate()
        self.told += (err or b"").decode()
        return self.process.returncode, [json.loads(line) for line in (out or b"").splitlines()]

    async def post(self, body: bytes, headers: Mapping[str, str]) -> int:
        """Post a delivery to it, and return the status of its response."""
        async with aiohttp.ClientSession() as session, session.post(self.url, data=body, headers=headers) as answer:
            return answer.status


@asynccontextmanager
async def started(*words: str, program: Sequence[str] = PROGRAM, **more: Any) -> AsyncIterator[Program]:
    """Start ``basiq-async`` with these arguments. It is killed at the end."""
    pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
    process = await asyncio.create_subprocess_exec(*program, *words, **pipes | more)
    try:
        yield Program(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@asynccontextmanager
async def listening(*options: str, **more: Any) -> AsyncIterator[Program]:
    """``listen`` at a free port, when it can be called."""
    env = {**os.environ, "BASIQ_WEBHOOK_SECRET": deliveries.SECRET}
    async with started("listen", "--port", "0", *options, env=env, **more) as program:
        ready = await program.hear()
        program.url = json.loads(ready)["url"] if ready.startswith("{") else ready.split()[-1]
        program.told = ""
        yield program


@pytest.fixture(autouse=True, scope="session")
def begin_warm(warm_programs: None) -> None: ...


@pytest.fixture
def served() -> Iterator[Served]:
    with Served() as running:
        yield running


@pytest.fixture
def run(served: Served, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command against the served fake."""
    for name, value in served.environment.items():
        monkeypatch.setenv(name, value)
    return run_command


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test runs in a folder of its own, and the environment has the secret of ``Endpoint``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BASIQ_WEBHOOK_SECRET", SECRET)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """A service."""
    with Endpoint() as running:
        yield running


@pytest.fixture
def recently_served() -> Iterator[Served]:
    """On a clock that is near enough to now for the event list of 7 days."""
    with Served(FakeBasiq(clock=ManualClock(datetime.now(UTC) - timedelta(days=4)))) as running:
        yield running


@pytest.fixture
def webhook_id(served: Served) -> str:
    """A webhook with 3 delivered messages, 4 failed ones, and 5 events that happened while it was disabled."""
    fake = served.fake
    status = 204

    async def receive(headers: object, body: bytes) -> int:
        return status

    async def outage(fake: FakeBasiq, url: str) -> None:
        nonlocal status
        for _ in range(3):
            await fake.emit("user.created")
        status = 500
        for _ in range(4):
            await fake.emit("consent.revoked")
        await fake.advance(days=2)
        for _ in range(5):
            await fake.emit("consent.revoked")
        await fake.advance(minutes=5)  # an event of just now may get its message in a moment
        status = 204
        async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq:
            await basiq.webhooks.reactivate(found)

    url = "https://service.example/basiq"
    fake.route(url, receive)
    found = fake.add_webhook(url, ("consent.revoked", "user.created"))
    served.run(outage(fake, url))
    return found
