"""Programs that tests start as users do: a service until the end of a block, or a command until it has ended."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import attrs

from tests.support.environment import unmeasured
from tests.support.real_time import PATIENCE


@attrs.define(eq=False)
class Program:
    """A program that runs until its end is asked for."""

    process: asyncio.subprocess.Process
    shown: str = ""
    """What it has written to standard error, as far as it was read."""
    url: str = ""

    async def line(self) -> str:
        """The next line of its output."""
        assert self.process.stdout is not None
        return (await self.process.stdout.readline()).decode().rstrip("\n")

    async def until(self, line: str) -> None:
        """Wait until it has printed a line."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            while (await self.line()).strip() != line:
                assert not self.process.stdout.at_eof(), f"it ended without the line {line!r}"

    async def row(self) -> dict[str, Any]:
        """The next line of its output, which is JSON."""
        row: dict[str, Any] = json.loads(await self.line())
        return row

    async def hear(self, text: str = "\n") -> str:
        """Read what it tells until a text is in it. Return the last line."""
        assert self.process.stderr is not None
        line = b""
        while text not in self.shown:
            line = await self.process.stderr.readline()
            assert line, self.shown
            self.shown += line.decode()
        return line.decode()

    async def end(self, *signals: int) -> tuple[int | None, list[dict[str, Any]]]:
        """Send signals, and wait for the end: its exit code, and the rows that it showed since."""
        for number in signals:
            self.process.send_signal(number)
        out, err = await self.process.communicate()
        self.shown += (err or b"").decode()
        return self.process.returncode, [json.loads(line) for line in (out or b"").splitlines()]

    async def post(self, body: bytes, headers: Mapping[str, str]) -> int:
        """Post a delivery to it, and return the status of its response."""
        async with aiohttp.ClientSession() as session, session.post(self.url, data=body, headers=headers) as answer:
            return answer.status

    async def stop(self) -> tuple[str, str]:
        """End it as Kubernetes does, and return the rest of its output. It ends well, or by the signal itself."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            printed, said = await self.process.communicate()
        assert self.process.returncode in {0, -signal.SIGTERM}, said.decode()
        return printed.decode(), said.decode()


@asynccontextmanager
async def started(
    *command: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdout: int = subprocess.PIPE,
    **environment: str,
) -> AsyncGenerator[Program]:
    """Start a program, by default in this environment and more. It is killed at the end, with what it has started."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env={**unmeasured(), **environment} if env is None else env,
        stdout=stdout,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield Program(process)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


async def post(url: str, body: bytes, headers: Mapping[str, str]) -> int:
    """Post a body to a service that may still be starting, and return the status."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(PATIENCE):
        while True:
            try:
                async with session.post(url, data=body, headers=headers) as response:
                    return response.status
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.02)


def run(*command: str, cwd: Path, path: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, without the settings of this process. Programs of ``path`` come before all others."""
    inherited = {name: value for name, value in unmeasured().items() if not name.startswith("BASIQ_")}
    places = [*([str(path)] if path else []), str(Path(sys.executable).parent), os.environ["PATH"]]
    return subprocess.run(
        command,
        cwd=cwd,
        env={**inherited, "PATH": os.pathsep.join(places), **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
