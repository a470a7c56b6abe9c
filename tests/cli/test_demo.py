"""``basiq-async demo``: every step true, or a non-zero exit code; no control characters in a pipe."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from basiq_async.cli import _story as module

from .conftest import Run, Served


@pytest.mark.parametrize("options", [[], ["--in-memory"]], ids=["over HTTP", "in memory"])
def test_the_demo_runs_to_the_end(run: Run, options: list[str]) -> None:
    result = run("demo", "--messages", "6000", *options)
    assert result.exit_code == 0, result.output
    assert "streamed 6,001 messages" in result.stdout
    assert "NotFoundError: 404 resource-not-found" in result.stdout
    assert "All of it true" in result.stdout
    assert "async with BasiqClient() as basiq:" in result.stdout
    assert result.stdout.isascii() or "…" in result.stdout
    assert "\x1b" not in result.stdout
    assert "\r" not in result.stdout


def test_in_a_process_of_its_own_it_leaves_no_warning() -> None:
    command = [str(Path(sys.executable).with_name("basiq-async")), "demo", "--messages", "1000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PYTHONWARNINGS": "error"})
    assert (done.returncode, done.stderr) == (0, "")


def test_on_a_terminal_there_is_a_progress_bar(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    out = Console(force_terminal=True, width=120, record=True)
    monkeypatch.setattr(module, "console", lambda **options: out)
    result = run("demo", "--messages", "1000", "--in-memory")
    assert result.exit_code == 0
    assert "streamed 1,001 messages" in out.export_text()


def test_what_is_not_true_ends_with_1(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module._Streamed, "distinct", 5)
    result = run("demo", "--messages", "1000", "--in-memory")
    assert result.exit_code == 1
    assert "not true: streamed 1,001 messages" in result.stderr
    assert "All of it true" not in result.stdout


def test_live_reads_and_only_reads(run: Run, served: Served) -> None:
    served.fake.seed_messages(700)
    result = run("demo", "--live", "--messages", "600")
    assert result.exit_code == 0, result.output
    assert "streamed 600 messages" in result.stdout
    assert "Nothing was changed" in result.stdout
    assert {request.method for request in served.fake.requests if not request.url.endswith("/token")} == {"GET"}


def test_live_without_a_key_says_what_is_missing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BASIQ_API_KEY")
    result = run("demo", "--live")
    assert result.exit_code == 2
    assert "BASIQ_API_KEY" in result.stderr


def test_live_and_in_memory_exclude_each_other(run: Run) -> None:
    assert run("demo", "--live", "--in-memory").exit_code == 2
