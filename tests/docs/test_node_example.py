"""The example in JavaScript is run where Node is installed and its packages can be had."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.environment import ROOT, unmeasured
from tests.support.real_time import PATIENCE

EXAMPLE = ROOT / "examples" / "node"


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in unmeasured().items() if not name.startswith("BASIQ_")}
    places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command,
        cwd=folder,
        env={**environment, "PATH": places},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.skipif(shutil.which("npm") is None, reason="Node is not installed")
def test_its_tests_pass(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(EXAMPLE, tmp_path / "node", ignore=shutil.ignore_patterns("node_modules")))
    installed = run(folder, "npm", "ci", "--no-audit", "--no-fund", "--prefer-offline")
    if installed.returncode:
        pytest.skip(f"its packages cannot be had: {installed.stderr.strip()[:200]}")
    tested = run(folder, "node", "--test")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "# pass 6\n# fail 0" in tested.stdout


def test_its_lock_names_no_registry() -> None:
    lock = (EXAMPLE / "package-lock.json").read_text()
    assert "integrity" in lock
    assert "://" not in lock
