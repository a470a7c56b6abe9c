"""``basiq-async mock``, as another program starts and stops it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from typing import Any

import pytest


def start(*options: str) -> subprocess.Popen[str]:
    code = "import sys; from basiq_async.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "mock", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def call(url: str, body: bytes | None = None, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with urllib.request.urlopen(urllib.request.Request(url, body, named), timeout=10) as answer:
        return json.load(answer)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_when_it_is_ready_serves_and_stops_cleanly(number: signal.Signals) -> None:
    with start("--port", "0", "--seed-messages", "7", "--speed", "60") as process:
        assert process.stdout is not None
        ready, key, seeded = process.stdout.readline().strip().split(", ")
        base_url = ready.removeprefix("ready ")
        token = call(
            f"{base_url}/token",
            b"scope=SERVER_ACCESS",
            authorization=f"Basic {key.removeprefix('api key ')}",
            basiq_version="3.0",
            content_type="application/x-www-form-urlencoded",
        )["access_token"]
        webhook_id = seeded.split()[1]
        listed = call(f"{base_url}/notifications/webhooks/{webhook_id}/messages", authorization=f"Bearer {token}")
        assert listed["size"] == 7
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (0, "", "")


def test_a_port_that_is_taken_is_told_in_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with start("--port", str(port)) as process:
            _, err = process.communicate(timeout=10)
    assert process.returncode not in (0, None)
    assert f"cannot listen on 127.0.0.1:{port}" in err
    assert "Traceback" not in err


def test_a_speed_that_is_none_is_told_in_one_line() -> None:
    with start("--port", "0", "--speed", "0") as process:
        _, err = process.communicate(timeout=10)
    assert process.returncode not in (0, None)
    assert "speed must be above 0" in err
    assert "Traceback" not in err
