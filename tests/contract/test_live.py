"""The suite for the real API, tried on the fake: it passes there, asks nothing without a key, and only reads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from basiq_async.testing import FakeBasiq

from .served import served

COMMAND = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "tests/contract/live.py"]


def run(**variables: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BASIQ_")}
    return subprocess.run(
        COMMAND,
        cwd=Path(__file__).parents[2],
        env={**inherited, **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_with_a_key_it_reads_and_changes_nothing() -> None:
    fake = FakeBasiq()
    fake.seed_messages(3)
    with served(fake) as base_url:
        ran = run(BASIQ_API_KEY=fake.api_key, BASIQ_BASE_URL=base_url)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "4 passed" in ran.stdout
    assert {request.method for request in fake.requests if not request.url.endswith("/token")} == {"GET"}
    assert sum(request.url.endswith("/token") for request in fake.requests) == 1


def test_without_a_key_it_says_that_it_did_nothing() -> None:
    ran = run()
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "BASIQ_API_KEY is not set" in ran.stdout
    assert "4 skipped" in ran.stdout
