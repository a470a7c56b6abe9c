"""A run that is killed with SIGKILL at random instants: none lost, and few repeated."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.environment import unmeasured
from tests.support.servers import POSTGRES_PROGRAMS, REDIS_PROGRAM
from tests.support.warm import CLIENT

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("warm_programs")
without_postgres = pytest.mark.skipif(POSTGRES_PROGRAMS is None, reason="no PostgreSQL is installed here")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
@pytest.mark.parametrize(
    ("mode", "order"),
    [
        ("inbox", "newest-first"),
        ("http", "oldest-first"),
        pytest.param("sql", "newest-first", marks=without_postgres),
    ],
)
def test_none_is_lost_however_often_a_run_is_killed(mode: str, order: str) -> None:
    command = [*CLIENT, "tests.crash:main", "--mode", mode, "--kills", "6", "--lease", "3", "--longest", "0.1"]
    command += ["--order", order, "--messages", "600"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False, env=unmeasured())
    assert done.returncode == 0, done.stderr
    assert re.search(r"killed 6: none lost", done.stdout)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
@pytest.mark.skipif(REDIS_PROGRAM is None, reason="no redis-server is installed here")
def test_none_is_lost_however_often_processes_that_share_a_run_are_killed() -> None:
    command = [*CLIENT, "tests.crash:main", "--mode", "share", "--record", "redis", "--messages", "2000"]
    command += ["--kills", "8", "--lease", "1", "--concurrency", "4"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False, env=unmeasured())
    assert done.returncode == 0, done.stderr
    assert re.search(r"killed .*, queue flushed .*: none lost", done.stdout)
