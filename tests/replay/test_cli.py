"""``basiq-async replay``: resumed by the same line, stopped by a signal, silent about the secret."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ..cli.conftest import Run, Served
from ..cli.conftest import run as run
from ..cli.conftest import served as served
from .scene import SECRET


def ids(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


def test_an_export_is_resumed_by_the_same_line(run: Run, served: Served, tmp_path: Path) -> None:
    webhook_id = served.fake.seed_messages(700)
    file = tmp_path / "out.jsonl"
    line = ["replay", webhook_id, "--to-jsonl", str(file), "--checkpoint", str(tmp_path / "replay.db")]
    first = run(*line, "--limit", "300")
    assert first.exit_code == 0, first.output
    assert len(ids(file)) == 300
    second = run(*line)
    assert second.exit_code == 0, second.output
    assert "history read to its end" in second.stdout
    assert len(set(ids(file))) == len(ids(file)) == 700


def test_a_dry_run_counts_and_touches_nothing(run: Run, served: Served, tmp_path: Path) -> None:
    webhook_id = served.fake.seed_messages(200, failed=0.5)
    path = tmp_path / "replay.db"
    options = ["--checkpoint", str(path), "--since", "2d", "--until", "2999-01-01", "--failed-only", "--event", "*"]
    result = run("replay", webhook_id, "--dry-run", *options)
    assert result.exit_code == 0, result.output
    assert "would be replayed" in result.stdout
    assert "skipped: where" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_messages_that_fail_are_kept_and_retried(run: Run, served: Served, tmp_path: Path) -> None:
    webhook_id = served.fake.seed_messages(3)
    secret = tmp_path / "secret"
    secret.write_text(SECRET + "\n")
    line = ["replay", webhook_id, "--to", served.url + "/nowhere", "--secret-file", str(secret)]
    line += ["--checkpoint", str(tmp_path / "replay.db")]
    failed = run(*line)
    assert failed.exit_code == 1
    assert "3 messages failed and are kept" in failed.stderr
    assert "--retry-dead" in failed.stderr
    again = run(*line, "--retry-dead")
    assert again.exit_code == 1
    assert "dead letters" in again.stdout
    assert SECRET not in failed.output + again.output


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "say where to"),
        (["--to", "http://127.0.0.1:1/", "--to-jsonl", "x"], "say where to"),
        (["--to", "http://127.0.0.1:1/"], "BASIQ_WEBHOOK_SECRET"),
        (["--to", "http://127.0.0.1:1/", "--secret-file", "nowhere"], "cannot be read"),
        (["--to-jsonl", "x", "--since", "yesterday"], "--since takes"),
        (["--to-jsonl", "x", "--on-error", "ignore"], "--on-error takes"),
    ],
)
def test_arguments_that_cannot_be_end_with_two(
    run: Run, options: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BASIQ_WEBHOOK_SECRET", raising=False)
    result = run("replay", "w", *options)
    assert result.exit_code == 2
    assert told in result.stderr.replace("\n", " ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_drains_saves_and_prints_the_line_that_resumes(
    served: Served, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    webhook_id = served.fake.seed_messages(2_000)
    file = tmp_path / "out.jsonl"
    line = ["replay", webhook_id, "--to-jsonl", str(file), "--checkpoint", str(tmp_path / "replay.db")]
    environment = {**os.environ, "BASIQ_API_KEY": served.fake.DEFAULT_API_KEY, "BASIQ_BASE_URL": served.url}
    with subprocess.Popen(
        [sys.executable, "-c", "from basiq_async.cli import main; main()", *line, "--rate", "400"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for _ in range(600):
            if file.exists() and file.stat().st_size:
                break
            try:
                process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
        process.send_signal(number)
        _, told = process.communicate(timeout=30)
    assert process.returncode == code, told
    assert f"to go on: basiq-async replay {webhook_id}" in told
    assert 0 < len(ids(file)) < 2_000
    done = subprocess.run(
        [sys.executable, "-c", "from basiq_async.cli import main; main()", *line],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(set(ids(file))) == len(ids(file)) == 2_000
