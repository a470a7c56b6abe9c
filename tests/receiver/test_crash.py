"""A service whose processes are killed with SIGKILL at random instants: see ``tests/crash_receiver.py``."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.environment import unmeasured
from tests.support.servers import POSTGRES_PROGRAMS, REDIS_PROGRAM
from tests.support.warm import CLIENT

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("warm_programs")


@pytest.mark.parametrize("scenario", ["replay", "deferred", "redis"])
def test_no_event_is_lost_and_in_a_database_none_has_its_effect_twice(scenario: str) -> None:
    if (REDIS_PROGRAM if scenario == "redis" else POSTGRES_PROGRAMS) is None:
        pytest.skip("there is no server for it here")
    command = [*CLIENT, "tests.crash:main", "--mode", "receiver", "--scenario", scenario]
    command += ["--kills", "5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False, env=unmeasured())
    assert done.returncode == 0, done.stderr
    assert re.search(r"[1-9]\d+ events, frozen .*, killed .*, restarted .*: none lost, ", done.stdout)
    assert scenario == "redis" or ", 0 twice" in done.stdout
