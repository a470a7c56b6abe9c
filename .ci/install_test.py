"""Installs the wheel of dist/ into fresh environments, as users do, and runs it there.

One environment without any extra, one for each extra, one with all of them, and one with the lowest versions that
pyproject.toml allows. With ``--sdist`` the tests of the sdist are run too, from its own folder.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOT_FOR_USERS = {"dev"}

# What an extra makes usable, as a program.
USES = {
    "sql": "from basiq_async.receiver import SQLInbox",
    "redis": "from basiq_async.receiver import RedisInbox",
    "distributed": "from basiq_async.distributed import Fleet; Fleet('redis://127.0.0.1:6379/0')",
    "otel": "from basiq_async.otel import instrument",
}
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
        run(UV, "pip", "install", "--quiet", "--python", bin_ / "python", *options, wanted, cwd=place)
        run(bin_ / "python", "-W", "error", "-c", PROGRAM, cwd=place)
        for extra in extras:
            if extra in USES:
                run(bin_ / "python", "-c", USES[extra], cwd=place)
        if "cli" in extras:
            run(bin_ / "basiq-async", "--version", cwd=place)
            run(bin_ / "basiq-async", "demo", cwd=place)
        elif not extras:
            said = run(bin_ / "basiq-async", "demo", cwd=place, expect=1)
            assert "basiq-async[cli]" in said, said
        print(f"installed {name}: it runs")


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
    for name, wanted in cases.items():
        if arguments.only is None or name in arguments.only:
            check(name, wheel, wanted, arguments.python)
    if arguments.only is None or "the lowest versions" in arguments.only:
        check("in the lowest versions", wheel, extras, arguments.python, "--resolution", "lowest-direct")
    if arguments.sdist:
        check_sdist(sdist, arguments.python)
