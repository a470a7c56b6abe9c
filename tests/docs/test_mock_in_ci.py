"""The script for CI that the page on the mock shows: it ends as the command does, or because Basiq was misused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.environment import ROOT
from tests.support.programs import run

SCRIPT = ROOT / "examples" / "mock_in_ci.sh"
MISUSE = """
import asyncio
from basiq_async import BasiqClient

async def main():
    for _ in range(3):
        async with BasiqClient() as basiq:
            await basiq.event_types.list().collect()

asyncio.run(main())
"""


def run_script(shell: str, folder: Path, *command: str, path: Path) -> tuple[int, str, list[str]]:
    """Run the script with the programs of a folder: its exit code, its output, and the files that it left."""
    done = run(shell, str(SCRIPT), *command, cwd=folder, path=path, TMPDIR=str(folder))
    return done.returncode, done.stdout + done.stderr, [each.name for each in folder.iterdir()]


@pytest.mark.parametrize(("shell", "code"), [("sh", 0), ("bash", 7)])
def test_it_ends_as_the_command_does_and_leaves_nothing(programs: Path, tmp_path: Path, shell: str, code: int) -> None:
    call = "basiq-async mock call"
    use = f"basiq-async webhooks list && {call} emit eventTypeId=user.created && {call} reset && exit {code}"
    assert run_script(shell, tmp_path, "sh", "-c", use, path=programs)[::2] == (code, [])


def test_it_ends_with_1_where_the_command_misused_basiq(programs: Path, tmp_path: Path) -> None:
    code, out, left = run_script("sh", tmp_path, sys.executable, "-c", MISUSE, path=programs)
    assert (code, left) == (1, [])
    assert "token-per-request" in out


def test_where_the_mock_does_not_start_the_command_does_not_run(programs: Path, tmp_path: Path) -> None:
    broken = tmp_path / "programs"
    broken.mkdir()
    script, real = broken / "basiq-async", programs / "basiq-async"
    script.write_text(f'#!/bin/sh\n[ "$2" = wait ] && exec "{real}" "$@" --timeout 0.2\necho broken; exit 2\n')
    script.chmod(0o700)
    code, out, left = run_script("sh", tmp_path, "touch", str(tmp_path / "ran"), path=broken)
    assert (code, left) == (1, ["programs"])
    assert "no mock was ready" in out
    assert "broken" in out
