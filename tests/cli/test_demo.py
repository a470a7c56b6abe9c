"""``basiq-async demo``: every step true, or a non-zero exit code; no control characters in a pipe."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Run, Served

EXAMPLE = Path(__file__).parents[2] / "examples" / "recover_after_outage.py"


def test_the_story_is_told_to_the_end_and_every_step_is_true(run: Run) -> None:
    result = run("demo", "--messages", "3000")
    assert result.exit_code == 0, result.output
    for told in (
        "attempt 8 of each fails, 10 hours later",
        "the webhook is disabled",
        "9 more events happen; Basiq makes no messages of them",
        "20 are handled, 12 were known",
        "9 that never became a message are handled",
        "no problem is left, nothing is missing",
        "streamed 3,000 messages",
        "All of it came true",
    ):
        assert told in result.stdout
    assert EXAMPLE.read_text(encoding="utf-8").rstrip() in result.stdout
    assert "\x1b" not in result.stdout
    assert "\r" not in result.stdout


def test_in_a_process_of_its_own_it_leaves_no_warning() -> None:
    command = [str(Path(sys.executable).with_name("basiq-async")), "demo", "--messages", "1000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PYTHONWARNINGS": "error"})
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_not_true_ends_with_1(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # From outside nothing makes a step of the story untrue.
    monkeypatch.setattr("basiq_async.cli._demo.Streamed.distinct", 5)
    result = run("demo", "--messages", "1000")
    assert result.exit_code == 1
    assert "did not come true: streamed 1,000 messages" in result.stderr
    assert "All of it came true" not in result.stdout


def test_live_reads_and_only_reads(run: Run, served: Served) -> None:
    served.fake.seed_messages(700)
    result = run("demo", "--live", "--messages", "600")
    assert result.exit_code == 0, result.output
    assert "streamed 600 messages" in result.stdout
    assert "Nothing was changed" in result.stdout
    assert {request.method for request in served.fake.requests if not request.url.endswith("/token")} == {"GET"}


def test_live_without_a_key_says_what_is_missing(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BASIQ_API_KEY")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    result = run("demo", "--live")
    assert result.exit_code == 2
    assert "BASIQ_API_KEY" in result.stderr
