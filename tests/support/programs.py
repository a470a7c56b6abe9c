"""Programs that tests start as users do: a service until the end of a block, or a command until it has ended."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import attrs

from tests.support.environment import unmeasured
from tests.support.real_time import PATIENCE


@attrs.frozen
class Program:
    """A program that runs until its end is asked for."""

    process: asyncio.subprocess.Process

    async def until(self, line: str) -> None:
        """Wait until it has printed a line."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            while (await self.process.stdout.readline()).decode().strip() != line:
                assert not self.process.stdout.at_eof(), f"it ended without the line {line!r}"

    async def stop(self) -> tuple[str, str]:
        """End it as Kubernetes does, and return the rest of its output. It ends well, or by the signal itself."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            printed, said = await self.process.communicate()
        assert self.process.returncode in {0, -signal.SIGTERM}, said.decode()
        return printed.decode(), said.decode()


@asynccontextmanager
async def started(*command: str, cwd: Path, **environment: str) -> AsyncGenerator[Program]:
    """Start a program. At the end it is killed, with what it has started itself."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env={**unmeasured(), **environment},
        stdout=asyncio.subprocess.PIPE,
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
