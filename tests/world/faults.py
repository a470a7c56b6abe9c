"""Faults, each a line of the package that is changed in a copy: the worlds must find every one of them.

``python -m tests.world --faults`` plants them one after the other, and counts the worlds until one breaks a promise.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs

ROOT = Path(__file__).parents[2]
MOST = 2_000
"""A fault that is not found in so many worlds shows that the world is too narrow."""


@attrs.frozen
class Fault:
    """A line of a file of the package, and what it is changed into."""

    name: str
    file: str
    line: str
    changed: str


FAULTS = (
    Fault(
        "memory: a claim ignores the lease of another worker",
        "receiver/inboxes/_memory.py",
        "held.token != token and (remaining := held.remaining(now)) > 0:",
        "held.token != token and (remaining := held.remaining(now)) > 1e9:",
    ),
    Fault(
        "memory: what was handled is forgotten after an hour",
        "receiver/inboxes/_memory.py",
        "return handled is not None and handled + self._remember > horizon",
        "return handled is not None and handled + 3_600 > self._retention.read()[0]",
    ),
    Fault(
        "a delivery whose handler failed is acknowledged",
        "receiver/_results.py",
        'Result.FAILED: Meaning(500, "failed")',
        'Result.FAILED: Meaning(200, "failed")',
    ),
    Fault(
        "a recovery leaves the events alone that no message has",
        "replay/_recovery.py",
        "            if first.finished:\n",
        "            if not first.finished:\n",
    ),
)


def plant(fault: Fault, folder: Path) -> None:
    """Write a copy of the package with the fault into a folder."""
    shutil.copytree(ROOT / "basiq_async", folder / "basiq_async", ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / "basiq_async" / fault.file
    source = path.read_text()
    assert source.count(fault.line) == 1, f"{fault.name}: {fault.file} has {source.count(fault.line)} of its line"
    path.write_text(source.replace(fault.line, fault.changed))


def find(fault: Fault, most: int = MOST, first: int = 0) -> tuple[int, str] | None:
    """Return how many worlds a fault needs, and the promise that the last one broke; None if none did."""
    with tempfile.TemporaryDirectory(prefix="basiq-world-") as name:
        plant(fault, Path(name))
        command = [sys.executable, "-m", "tests.world", "--until-broken"]
        done = subprocess.run(
            [*command, "--seeds", str(most), "--first", str(first)],
            cwd=name,
            env={**os.environ, "PYTHONPATH": f"{name}{os.pathsep}{ROOT}", "PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
    if not done.returncode:
        return None
    seed, tab, broken = done.stdout.strip().partition("\t")
    return (int(seed) - first + 1, broken) if tab else (1, done.stderr.strip().splitlines()[-1])


def hunt(names: Sequence[str], *, most: int, workers: int) -> int:
    """Look for the faults whose names begin with one of these, or all. Return 1 if one is not found."""
    chosen = [each for each in FAULTS if not names or each.name.startswith(tuple(names))]
    missed = 0
    with ThreadPoolExecutor(workers) as pool:
        for fault, found in zip(chosen, pool.map(lambda each: find(each, most), chosen), strict=True):
            missed += found is None
            print(f"{'not found' if found is None else found[0]:>9}  {fault.name}", flush=True)
            if found is not None:
                print(f"           {found[1][:150]}", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} planted faults were found")
    return int(missed > 0)
