"""The examples for tests and transports, as a user has them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from basiq_async.testing import check_transport
from examples.httpx_transport import HttpxTransport

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_suite_of_a_users_service_passes() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", "."]
    ran = subprocess.run(
        [*command, "test_consents.py"], cwd=EXAMPLES / "service", capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "2 passed" in ran.stdout


async def test_a_transport_over_httpx_keeps_every_promise() -> None:
    await check_transport(HttpxTransport, make_impatient=lambda: HttpxTransport(timeout=0.05))


def test_it_takes_fewer_than_40_lines() -> None:
    assert len((EXAMPLES / "httpx_transport.py").read_text().splitlines()) < 40
