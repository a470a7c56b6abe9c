"""``basiq-async demo``: every step true, or a non-zero exit code; no control characters in a pipe."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from basiq_async.testing import FakeBasiq, Quirks

from .conftest import Run

EXAMPLE = Path(__file__).parents[2] / "examples" / "recover_after_outage.py"


@pytest.mark.documented_world("it tells of the documented schedule", "disables", "waits", "message_order")
def test_the_story_is_told_to_the_end_and_every_step_is_true(run: Run) -> None:
    result = run("demo")
    assert result.exit_code == 0, result.output
    for shown in (
        "attempt 8 of each fails, 10 hours later",
        "the webhook is disabled",
        "9 more events happen; Basiq makes no messages of them",
        "20 are handled, 12 were known",
        "9 that never became a message are handled",
        "no problem is left, nothing is missing",
        "All of it came true",
    ):
        assert shown in result.stdout
    assert EXAMPLE.read_text(encoding="utf-8").rstrip() in result.stdout
    assert "\x1b" not in result.stdout
    assert "\r" not in result.stdout


@pytest.mark.parametrize("listed", ["objects", "strings", "absent"])
@pytest.mark.parametrize("alone", ["objects", "strings", "absent"])
def test_the_story_is_true_in_each_form_of_attempts_or_says_what_is_not_known(
    run: Run, monkeypatch: pytest.MonkeyPatch, listed: Any, alone: Any
) -> None:
    monkeypatch.setattr(FakeBasiq, "default_quirks", Quirks(attempts=listed, attempts_by_id=alone))
    result = run("demo")
    is_told = "objects" in (listed, alone)
    assert result.exit_code == (0 if is_told else 1), result.output
    assert ("All of it came true" in result.stdout) is is_told
    if not is_told:
        assert "did not come true: recover, from its messages: 0 are handled, 12 were known" in result.stderr


def test_in_a_process_of_its_own_it_leaves_no_warning() -> None:
    command = [str(Path(sys.executable).with_name("basiq-async")), "demo"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PYTHONWARNINGS": "error"})
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_not_true_ends_with_1(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # From outside nothing makes a step of the story untrue.
    monkeypatch.setattr("basiq_async.cli._demo._happen", lambda fake, count: 0)
    result = run("demo")
    assert result.exit_code == 1
    assert "did not come true: 12 events happen" in result.stderr
    assert "All of it came true" not in result.stdout
