"""The example in JavaScript is run where Node is installed and its packages can be had."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.environment import ROOT
from tests.support.programs import run

EXAMPLE = ROOT / "examples" / "node"


@pytest.mark.skipif(shutil.which("npm") is None, reason="Node is not installed")
def test_its_tests_pass(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(EXAMPLE, tmp_path / "node", ignore=shutil.ignore_patterns("node_modules")))
    installed = run("npm", "ci", "--no-audit", "--no-fund", "--prefer-offline", cwd=folder)
    if installed.returncode:
        pytest.skip(f"its packages cannot be had: {installed.stderr.strip()[:200]}")
    tested = run("node", "--test", cwd=folder)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "# pass 7\n# fail 0" in tested.stdout


def test_its_lock_names_no_registry() -> None:
    lock = (EXAMPLE / "package-lock.json").read_text()
    assert "integrity" in lock
    assert "://" not in lock
