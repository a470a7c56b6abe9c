"""Installs the wheel of dist/ into fresh environments, as users do, and runs it there.

One environment without any extra, one for each extra, and one with all of them; each with the newest versions, and with
the lowest that pyproject.toml allows. With ``--sdist`` the tests of the sdist are run too, from its own folder.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOT_FOR_USERS = {"dev"}

# What an extra makes usable, as a program. REDIS_URL is set where there is a redis-server.
USES = {
    "speed": "import orjson",
    "otel": """
from basiq_async.otel import instrument
from basiq_async.receiver import WebhookReceiver
instrument(WebhookReceiver("whsec_dGhlLXNlY3JldC1vZi15b3VyLXdlYmhvb2s="))
""",
    "ui": """
import asyncio, aiohttp
from basiq_async.testing import FakeBasiq, serve

async def main():
    async with serve(FakeBasiq()) as base_url, aiohttp.ClientSession() as session:
        async with session.get(f"{base_url}/_fake/") as response:
            assert response.status == 200 and "Fake Basiq" in await response.text()

asyncio.run(main())
""",
    "sql": """
import asyncio
from sqlalchemy.ext.asyncio import create_async_engine
from basiq_async.receiver import SQLInbox
from basiq_async.testing import check_inbox

async def main():
    engine = create_async_engine("sqlite+aiosqlite:///inbox.db")
    await check_inbox(lambda: SQLInbox(engine), shared=True, leases=False)
    await engine.dispose()

asyncio.run(main())
""",
    "redis": """
import asyncio, os
from redis.asyncio import Redis
from basiq_async.receiver import RedisInbox
from basiq_async.testing import check_inbox

async def main():
    client = Redis.from_url(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"))
    inbox = RedisInbox(client)
    if "REDIS_URL" in os.environ:
        await check_inbox(lambda: RedisInbox(client), shared=True)
    await client.aclose()

asyncio.run(main())
""",
    "distributed": """
import asyncio
from contextlib import asynccontextmanager
from taskiq import InMemoryBroker
from basiq_async import BasiqClient
from basiq_async.distributed import Fleet
from basiq_async.receiver import SQLiteInbox
from basiq_async.replay import Replay
from basiq_async.testing import FakeBasiq, serve

async def handle(message): ...

async def main():
    fake, broker = FakeBasiq(), InMemoryBroker()
    async with serve(fake) as base_url:
        fleet = Fleet(broker, api_key=fake.api_key)

        @fleet.job("all")
        @asynccontextmanager
        async def make(webhook_id):
            async with BasiqClient(fake.api_key, base_url=base_url) as basiq, SQLiteInbox("job.db") as inbox:
                yield Replay(basiq, webhook_id, handle, inbox=inbox)

        await broker.startup()
        report = await fleet.run("all", fake.seed_messages(1_200))
        await broker.shutdown()
    assert (report.handled, report.failed, report.finished) == (1_200, 0, True), report

asyncio.run(main())
""",
}
# What a user of the extra picks.
BESIDE = {"sql": ["aiosqlite>=0.20"]}
PROGRAM = """
import asyncio
import basiq_async, basiq_async.receiver, basiq_async.replay, basiq_async.testing
from basiq_async import BasiqClient, InMemoryTransport
from basiq_async.testing import FakeBasiq, serve

async def main():
    fake = FakeBasiq()
    webhook_id = fake.seed_messages(1_200)
    transport = InMemoryTransport(fake)
    async with BasiqClient(fake.api_key, transport=transport) as basiq:
        assert len(await basiq.messages.list(webhook_id).collect()) == 1_200
    async with serve(fake) as base_url, BasiqClient(fake.api_key, base_url=base_url) as basiq:
        assert len(await basiq.messages.list(webhook_id).collect()) == 1_200

asyncio.run(main())
"""


def run(*command: str | Path, cwd: Path, expect: int = 0) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != expect:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}\nexit code {done.returncode}")
    return done.stdout + done.stderr


def check(name: str, wheel: Path, extras: list[str], python: str, *options: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        run(UV, "venv", "--quiet", "--python", python, place / "env", cwd=place)
        bin_ = place / "env" / "bin"
        wanted = f"{wheel}[{','.join(extras)}]" if extras else str(wheel)
        beside = [package for extra in extras for package in BESIDE.get(extra, ())]
        run(UV, "pip", "install", "--quiet", "--python", bin_ / "python", *options, wanted, *beside, cwd=place)
        run(bin_ / "python", "-W", "error", "-c", PROGRAM, cwd=place)
        for extra in extras:
            if extra in USES:
                program = place / f"used_{extra}.py"
                program.write_text(USES[extra])
                run(bin_ / "python", "-W", "error", program, cwd=place)
        if "cli" in extras:
            run(bin_ / "basiq-async", "--version", cwd=place)
            run(bin_ / "basiq-async", "demo", cwd=place)
        elif not extras:
            said = run(bin_ / "basiq-async", "demo", cwd=place, expect=1)
            assert "the extra 'cli'" in said, said
        print(f"installed {name}: it runs", flush=True)


@contextmanager
def redis() -> Iterator[None]:
    """A Redis server for the programs, where one is installed."""
    program = shutil.which("redis-server")
    if program is None:
        print("no redis-server is installed: the extra redis is imported, and not used")
        yield
        return
    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
        probe.close()
        command = [program, "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
            os.environ["REDIS_URL"] = f"redis://127.0.0.1:{port}/0"
            try:
                yield
            finally:
                server.terminate()


def check_sdist(sdist: Path, python: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        with tarfile.open(sdist) as archive:
            archive.extractall(place, filter="data")
        (source,) = place.iterdir()
        run(UV, "venv", "--quiet", "--python", python, source / ".venv", cwd=source)
        run(UV, "pip", "install", "--quiet", "--python", source / ".venv/bin/python", ".[dev]", cwd=source)
        said = run(source / ".venv/bin/python", "-m", "pytest", "-q", "-n", "auto", "--dist", "worksteal", cwd=source)
        print(f"the sdist's tests: {said.strip().splitlines()[-1]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=f"{sys.version_info.major}.{sys.version_info.minor}")
    parser.add_argument("--only", action="append", help="the names of environments to make; all by default")
    parser.add_argument("--sdist", action="store_true", help="run the tests of the sdist too")
    arguments = parser.parse_args()
    UV = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv") or sys.exit("uv is missing")
    (wheel,) = (ROOT / "dist").glob("*.whl")
    (sdist,) = (ROOT / "dist").glob("*.tar.gz")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = sorted(set(project["optional-dependencies"]) - NOT_FOR_USERS)
    cases = {"without an extra": [], **{f"with {extra}": [extra] for extra in extras}, "with all extras": extras}
    resolutions = {"": [], ", in the lowest versions": ["--resolution", "lowest-direct"]}
    with redis():
        for name, wanted in cases.items():
            for which, options in resolutions.items():
                if arguments.only is None or name in arguments.only:
                    check(f"{name}{which}", wheel, wanted, arguments.python, *options)
    if arguments.sdist:
        check_sdist(sdist, arguments.python)
