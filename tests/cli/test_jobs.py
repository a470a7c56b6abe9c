"""``basiq-async jobs`` and ``worker``, with a Redis server of the test's own."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from basiq_async.testing import FakeBasiq
from tests.support.servers import redis_server

from ..support.command_line import COLD, PROGRAM, CommandResult, run_command
from ..support.real_time import PATIENCE
from .conftest import Terminal, launched

JOBS = r"""
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from basiq_async import BasiqClient, InMemoryTransport, Message
from basiq_async.distributed import Fleet, Work
from basiq_async.testing import FakeBasiq

fleet = Fleet(os.environ["TEST_REDIS"])
fake = FakeBasiq(seed="jobs")
webhook_id = fake.seed_messages(30)

async def handler(message: Message) -> None:
    if sum(message.id.encode()) % 3 == 0:
        raise ValueError("poisoned")

@fleet.job("refill")
@asynccontextmanager
async def refill() -> AsyncIterator[Work]:
    logging.getLogger("refill").info("opened \x1b[31m")
    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq:
        yield Work(basiq, handler)
"""

Run = Callable[..., CommandResult]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    with redis_server(tmp_path) as server:
        name = f"jobs_{server.port}"
        (tmp_path / f"{name}.py").write_text(JOBS)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setenv("TEST_REDIS", server.url)
        monkeypatch.setenv("BASIQ_FLEET", f"{name}:fleet")
        yield lambda *arguments: run_command("jobs", *arguments)


def submit(run: Run) -> None:
    module = os.environ["BASIQ_FLEET"].partition(":")[0]
    webhook_id = FakeBasiq(seed="jobs").seed_messages(30)  # as the module has it
    assert run("submit", f"{module}:refill", webhook_id, "--key", "november").exit_code == 0


@contextmanager
def working(folder: Path, *options: str, program: Sequence[str] = PROGRAM) -> Iterator[list[str]]:
    """A worker of the fleet, until the end of the block. Then the list that is yielded has what it logged."""
    logs: list[str] = []
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": path}
    with launched("worker", *options, program=program, env=env, start_new_session=True) as worker:
        yield logs
        worker.terminate()
        _, log = worker.communicate(timeout=PATIENCE)
        assert worker.returncode == 0, log
        logs.append(log)


def test_a_job_is_listed_shown_paused_and_resumed(run: Run) -> None:
    assert run("list").stdout == ""
    submit(run)
    (row,) = run("list", "--json").rows
    assert (row["key"], row["state"], row["handled"]) == ("november", "waiting", 0)
    paused = run("pause", "november", "--reason", "for the night")
    assert paused.exit_code == 0
    assert "november: paused" in paused.stderr
    shown = run("show", "november", "--json=key,state,reason").row
    assert shown == {"key": "november", "state": "paused", "reason": "for the night"}
    assert "november: waiting" in run("resume", "november").stderr
    assert "november: cancelled" in run("cancel", "november").stderr
    assert run("watch", "november", "--json").exit_code == 1
    assert run("forget", "november", "--yes").exit_code == 0
    gone = run("show", "november")
    assert (gone.exit_code, "'basiq-async jobs list' shows all jobs" in gone.stderr) == (1, True)


def test_a_quarantine_is_listed_exported_tried_again_and_dropped(run: Run, tmp_path: Path) -> None:
    submit(run)
    with working(tmp_path):
        assert run("watch", "november").exit_code == 1
    entries = run("quarantine", "november", "--json").rows
    assert entries
    assert all("poisoned" in entry["error"] and not entry["acknowledged"] for entry in entries)
    assert run("quarantine", "november").exit_code == 1
    assert run("export", "november", str(tmp_path / "failed.jsonl")).exit_code == 0
    rows = [json.loads(line) for line in (tmp_path / "failed.jsonl").read_text().splitlines()]
    exported = [row["id"] for row in rows]
    assert [(row["id"], row["error"]) for row in rows] == [(each["delivery_id"], each["error"]) for each in entries]
    assert all(row["kind"] == "message" and row["body"]["payload"] for row in rows)
    assert run("export", "november", str(tmp_path / "failed.jsonl")).exit_code == 2
    assert "will be tried again" in run("retry", "november").stderr
    with working(tmp_path):
        assert run("watch", "november").exit_code == 1
    assert run("show", "november", "--json").row["quarantined"] == len(entries)
    assert run("drop", "november", "no-such-id", "--yes").exit_code == 2
    assert run("drop", "november", "--yes", *exported).exit_code == 0
    assert run("quarantine", "november").exit_code == 0
    assert run("watch", "november").exit_code == 0


def test_processes_that_inherit_nothing_log_as_their_parent_does(run: Run, tmp_path: Path) -> None:
    """On Python 3.14 and macOS, a worker process is not a fork of its parent."""
    submit(run)
    spawning = "import multiprocessing; multiprocessing.set_start_method('spawn'); "
    program = (*COLD[:2], spawning + COLD[2])
    with working(tmp_path, "--processes", "2", program=program) as log:
        assert run("watch", "november").exit_code == 1
    lines = [line for line in log[0].splitlines() if "opened" in line]
    assert lines, log
    assert all(re.search(r" INFO worker-[12] refill opened \\x1b\[31m$", line) for line in lines)


def test_watch_shows_a_line_that_lives_in_a_terminal_and_then_how_it_ended(run: Run, tmp_path: Path) -> None:
    submit(run)
    names = ("BASIQ_FLEET", "TEST_REDIS")
    env = {name: os.environ[name] for name in names} | {"PYTHONPATH": str(tmp_path)}
    with Terminal("jobs", "watch", "november", columns=100, env=env) as terminal:
        terminal.read_until("november: waiting · 0 handled")
        run("pause", "november")
        assert "waiting" not in terminal.read_until("november: paused")
        run("resume", "november")
        terminal.read_until("november: waiting")
        with working(tmp_path):
            screen = terminal.end()
        assert terminal.process.returncode == 1
    assert "·" not in screen  # the line is taken away at the end
    assert "finished" in screen
    assert "november" in screen


def test_without_redis_a_command_says_so_in_a_few_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("basiq_async.cli._jobs._PATIENCE", 0.1)
    (tmp_path / "jobs_nowhere.py").write_text(JOBS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("TEST_REDIS", "redis://127.0.0.1:9/0")
    for command in (("list",), ("show", "november"), ("pause", "november")):
        done = run_command("jobs", *command, "--fleet", "jobs_nowhere:fleet")
        assert done.exit_code == 3
        assert "the fleet's Redis did not respond" in done.stderr


def test_a_job_is_submitted_by_the_place_of_its_function(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    module = os.environ["BASIQ_FLEET"].partition(":")[0]
    monkeypatch.delenv("BASIQ_FLEET")
    done = run("submit", f"{module}:refill", "w-1", "--key", "december", "--rate", "5")
    assert done.exit_code == 0, done.output
    assert done.row["key"] == "december"
    for wrong in (f"{module}:handler", f"{module}:none", "nothing:refill", "refill"):
        assert run("submit", wrong, "w-1", "--key", "january").exit_code == 2


@pytest.mark.parametrize("command", [("jobs", "list"), ("worker",)], ids=" ".join)
def test_a_module_that_raises_is_named_with_its_error(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobs_broken.py").write_text("raise KeyError('DATABASE_URL')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    done = run_command(*command, "--fleet", "jobs_broken:fleet")
    assert done.exit_code == 2
    assert "'jobs_broken:fleet' cannot be used: KeyError: 'DATABASE_URL'" in done.stderr
    assert "unexpected" not in done.stderr
