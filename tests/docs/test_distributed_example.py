"""``examples/distributed``: its compose file, run process by process, without docker."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from tests.support.environment import ROOT, free_port, unmeasured
from tests.support.real_time import PATIENCE
from tests.support.servers import redis_server

FOLDER = ROOT / "examples" / "distributed"


@contextmanager
def running(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=FOLDER,
            env={**unmeasured(), **environment},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        kill_all(process.pid)
        process.wait()


def kill_all(session: int) -> None:
    """As docker does with a container: every process in it. A worker's processes are in groups of their own."""
    listed = subprocess.run(["ps", "-eo", "pid=,sess="], capture_output=True, text=True, check=True).stdout
    for pid, its_session in (map(int, line.split()) for line in listed.splitlines()):
        if its_session == session:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def until(condition: Any) -> Any:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            if found := condition():
                return found
        except OSError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.05)


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as response:
        return json.load(response)


def test_a_job_survives_the_loss_of_one_of_two_machines(tmp_path: Path) -> None:
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    basiq, endpoint = str(free_port()), str(free_port())
    assert "appendonly yes" in services["redis"]["command"]
    assert "noeviction" in services["redis"]["command"]
    environment = {
        **services["worker-1"]["environment"],
        "BASIQ_BASE_URL": f"http://127.0.0.1:{basiq}",
        "ENDPOINT": f"http://127.0.0.1:{endpoint}/basiq",
        "PORT": endpoint,
        "LEASE": "2",
    }

    def command(service: str) -> list[str]:
        words = shlex.split(services[service]["command"].replace("0.0.0.0", "127.0.0.1").replace("4010", basiq))
        words = ["2000" if word == "20000" else word for word in words]
        if words[0] == "python":
            return [sys.executable, *words[1:]]
        return [sys.executable, "-c", "from basiq_async.cli import main; main()", *words[1:]]

    with redis_server(tmp_path) as server, ExitStack() as stack:
        environment["REDIS_URL"] = server.url

        def start(name: str, words: list[str]) -> subprocess.Popen[bytes]:
            return stack.enter_context(running(words, environment, tmp_path / f"{name}.log"))

        for service in ("basiq", "endpoint"):
            start(service, command(service))
        until(lambda: get(f"http://127.0.0.1:{endpoint}/count"))
        workers = [start(name, command(name)) for name in ("worker-1", "worker-2")]
        for name in ("worker-1", "worker-2"):
            until(lambda name=name: "runs jobs" in (tmp_path / f"{name}.log").read_text())
        submitting = start("submit", [sys.executable, "jobs.py"])
        until(lambda: get(f"http://127.0.0.1:{endpoint}/count")["handled"] > 50)
        kill_all(workers[0].pid)
        until(lambda: submitting.poll() is not None)
        said = (tmp_path / "submit.log").read_text()
        assert submitting.returncode == 0, said
        assert "0 failed, finished: True" in said
        handled = get(f"http://127.0.0.1:{endpoint}/count")["handled"]
        assert f"\n{handled:,} handled" in said
        again = start("again", [sys.executable, "jobs.py"])  # the same key: it starts nothing, and reports
        until(lambda: again.poll() is not None)
        assert (tmp_path / "again.log").read_text().splitlines()[-1] == said.splitlines()[-1]
        assert get(f"http://127.0.0.1:{endpoint}/count")["handled"] == handled
        workers[1].send_signal(signal.SIGTERM)
        until(lambda: workers[1].poll() is not None)
        assert workers[1].returncode == 0
