"""Kill -9, a shorter form of ``make crash``: see ``crash.py``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
@pytest.mark.parametrize(
    ("mode", "longest"),
    [("function", "0.04"), ("http", "0.08"), ("export", "0.03")],
)
def test_a_replay_killed_again_and_again_loses_nothing_and_repeats_no_more_than_it_may(mode: str, longest: str) -> None:
    command = [sys.executable, "-m", "tests.replay.crash", "--mode", mode, "--longest", longest]
    done = subprocess.run(
        [*command, "--kills", "12", "--messages", "2000"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "none lost" in done.stdout
