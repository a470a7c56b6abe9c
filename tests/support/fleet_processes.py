"""Start worker processes as a deployment does, kill or stop them, and check what they did."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import attrs

from basiq_async import BasiqClient, InMemoryTransport
from basiq_async.distributed import Fleet, Job
from basiq_async.distributed.processes import run_workers
from basiq_async.testing import FakeBasiq
from tests.support.environment import ROOT
from tests.support.real_time import PATIENCE
from tests.support.servers import RedisServer

COMMAND = [sys.executable, "-c", "from basiq_async.cli import main; main()", "worker"]


_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(
    ["basiq_async.distributed.processes", "basiq_async.testing.fake._fake", "taskiq.cli.worker.run", "taskiq_redis"]
)


class Forked:
    """A worker process, with the methods of ``subprocess.Popen`` that the tests use."""

    def __init__(self, settings: str, processes: int, log: str) -> None:
        self._process = _FORKED.Process(target=_work, args=(settings, processes, log))
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int | None:
        self._process.join()
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        if self._process.is_alive():
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _work(settings: str, processes: int, log: str) -> None:
    output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ["FLEET_TEST"] = settings
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("taskiq.worker").setLevel(logging.DEBUG)  # that a signal has come
    run_workers("tests.support.fleet_jobs:fleet", processes=processes, segments=2)


AnyProcess = Forked | subprocess.Popen[bytes]
P = TypeVar("P", Forked, subprocess.Popen[bytes])


@attrs.define(eq=False)
class Plant:
    """A Redis server, a folder for the effects, a submitted job, and the worker processes."""

    folder: Path
    redis: RedisServer
    messages: int
    lease: float
    settings: dict[str, Any]
    job: Job
    ids: list[str]
    processes: list[AnyProcess] = attrs.field(factory=list)

    def start(self, processes: int = 1, **settings: Any) -> Forked:
        """Start a worker as ``basiq-async worker`` does, but faster, by forking a process that has all imports.

        most: how many messages it handles before it waits for ``go``, so that a test finds it in the middle of a job.
        """
        return self._keep(Forked(self._settings(settings), processes, self._log()))

    def start_command(self, *options: str) -> subprocess.Popen[bytes]:
        """Start one ``basiq-async worker``."""
        return self._run([*COMMAND, "--fleet", "tests.support.fleet_jobs:fleet", *options])

    def start_taskiq(self) -> subprocess.Popen[bytes]:
        """Start one ``taskiq worker``."""
        options = ("--workers", "1", "--max-async-tasks", "2")
        return self._run([sys.executable, "-m", "taskiq", "worker", "tests.support.fleet_jobs:broker", *options])

    def _run(self, command: list[str]) -> subprocess.Popen[bytes]:
        env = {**os.environ, "FLEET_TEST": self._settings({})}
        with open(self._log(), "wb") as log:
            # A session of its own: with it, children end that a killed parent leaves behind.
            return self._keep(
                subprocess.Popen(command, env=env, cwd=ROOT, stderr=log, stdout=log, start_new_session=True)
            )

    def _settings(self, settings: dict[str, Any]) -> str:
        known = {"redis": self.redis.url, "messages": self.messages, "lease": self.lease}
        known |= {"effects": str(self.folder / "effects"), "go": str(self.folder / "go"), "page": 50}
        known |= {**self.settings, **settings}
        return json.dumps(known)

    def _log(self) -> str:
        return str(self.folder / f"log-{len(self.processes)}")

    def _keep(self, process: P) -> P:
        self.processes.append(process)
        return process

    def effects(self, pid: int | None = None) -> list[str]:
        """Return the ids of the handled messages, of one process or of all."""
        path = self.folder / "effects"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.split()[0] for line in lines if pid is None or line.split()[1] == str(pid)]

    def moments(self) -> list[float]:
        """Return the time of each effect, by the monotonic clock that all processes share."""
        return [float(line.split()[2]) for line in (self.folder / "effects").read_text().splitlines()]

    def go(self) -> None:
        """Let workers go on that wait after their ``most`` messages."""
        (self.folder / "go").touch()

    async def until_logged(self, text: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while text not in self.logs():
                await asyncio.sleep(0.01)

    async def until(self, count: int, pid: int | None = None) -> None:
        """Wait until there are ``count`` effects, of one process or of all."""
        async with asyncio.timeout(PATIENCE):
            while len(self.effects(pid)) < count:
                await asyncio.sleep(0.01)

    async def exit_of(self, process: AnyProcess) -> int:
        """Wait for a process to end, and return its exit code."""
        async with asyncio.timeout(PATIENCE):
            while process.poll() is None:
                await asyncio.sleep(0.01)
        return process.wait()

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("log-*")))

    async def check(self, repeats: int) -> None:
        """Wait for the end of the job. Check that no message is lost, that the counts are exact, and that at most
        ``repeats`` effects are repeated.
        """
        report = await self.job.wait(timeout=PATIENCE)
        effects = self.effects()
        assert sorted(set(effects)) == sorted(self.ids)
        assert (report.handled, report.failed, report.read, report.finished) == (
            self.messages,
            0,
            self.messages,
            True,
        )
        assert len(effects) - len(set(effects)) <= repeats


@asynccontextmanager
async def plant(
    folder: Path,
    name: str = "effects",
    *,
    messages: int = 600,
    lease: float = 1.0,
    rate: float | None = None,
    **settings: Any,
) -> AsyncIterator[Plant]:
    """Yield a ``Plant`` with a submitted job and no worker yet."""
    settings = {"concurrency": 8, "wait": 0.01, **settings}
    server = RedisServer(folder)
    fake = FakeBasiq(seed="fleet", page_size=50)
    webhook_id = fake.seed_messages(messages)
    async with BasiqClient(FakeBasiq.DEFAULT_API_KEY, transport=InMemoryTransport(fake)) as client:
        ids = [message.id async for message in client.messages.list(webhook_id)]
    server.start()
    fleet = Fleet(server.url, lease=lease)
    fleet.job(name)(contextlib.nullcontext)  # type: ignore[arg-type]
    made: Plant | None = None
    try:
        async with fleet:
            job = await fleet.submit(name, webhook_id, key="job", rate=rate)
            made = Plant(folder, server, messages, lease, settings, job, ids)
            yield made
    finally:
        for process in () if made is None else made.processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()
            if isinstance(process, subprocess.Popen):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        server.close()
