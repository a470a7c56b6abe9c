"""``basiq-async recover``: everything that a service missed, each event once, from both sources."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from basiq_async import RetryPolicy
from tests.support.real_time import PATIENCE

from ..support.command_line import PROGRAM
from .conftest import Endpoint, Run, Served


@pytest.fixture
def served(recently_served: Served) -> Served:
    return recently_served


def recovered(run: Run, *arguments: str, code: int = 0) -> dict[str, Any]:
    done = run("recover", *arguments)
    assert done.exit_code == code, done.output
    found: dict[str, Any] = done.row
    return found


def test_what_was_missed_is_posted_once_and_the_same_line_does_nothing_more(
    run: Run, served: Served, endpoint: Endpoint, webhook_id: str
) -> None:
    first = recovered(run, webhook_id, "--to", endpoint.url)
    assert first["messages"]["handled"] == 4
    assert first["messages"]["skipped"] == {"delivered": 3}
    assert first["events"]["handled"] == 5
    assert first["finished"]
    assert len(set(endpoint.ids)) == len(endpoint.ids) == 9
    again = recovered(run, webhook_id, "--to", endpoint.url)
    assert (again["messages"]["handled"], again["events"]["handled"]) == (0, 0)
    assert len(endpoint.ids) == 9


def test_everything_is_posted_where_that_is_asked_for(
    run: Run, served: Served, endpoint: Endpoint, webhook_id: str
) -> None:
    found = recovered(run, webhook_id, "--to", endpoint.url, "--everything")
    assert (found["messages"]["handled"], found["events"]["handled"]) == (7, 5)


def test_what_is_not_accepted_is_kept_and_the_line_that_tries_again_is_shown(
    run: Run, served: Served, endpoint: Endpoint, webhook_id: str
) -> None:
    endpoint.status = 400
    done = run("recover", webhook_id, "--to", endpoint.url)
    assert done.exit_code == 1
    (line,) = [line.split() for line in done.stderr.splitlines() if line.startswith("  basiq-async recover")]
    found = done.row
    assert found["events"]["skipped"] == {"failed-before": 4, "delivered": 3}
    assert [each["code"] for each in found["problems"]] == ["dead-letters"]
    endpoint.status = 204
    assert run(*line[1:]).exit_code == 0
    assert len(set(endpoint.ids)) == 9


def test_it_says_where_to(run: Run, endpoint: Endpoint) -> None:
    for wrong in ((), ("--to", endpoint.url, "--receiver", "a:b")):
        done = run("recover", "w1", *wrong)
        assert (done.exit_code, "--to or --receiver" in done.stderr) == (2, True)


def test_dead_letters_of_both_sources_are_listed_exported_and_dropped(
    run: Run, served: Served, endpoint: Endpoint, webhook_id: str
) -> None:
    line = ("recover", webhook_id, "--to", endpoint.url)
    endpoint.status = 400
    assert run(*line).exit_code == 1
    listed = run(*line, "--list-dead")
    dead_letters = listed.rows
    assert (listed.exit_code, len(dead_letters)) == (1, 9)
    assert {each["event_type_id"] for each in dead_letters} == {"consent.revoked"}
    exported = run(*line, "--export-dead", "dead.jsonl")
    assert exported.exit_code == 0  # it did what was asked for
    rows = [json.loads(each) for each in Path("dead.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [each["id"] for each in dead_letters]
    assert all(row["message"] and row["failedAt"] and row["number"] for row in rows)
    refused = run(*line, "--drop-dead", dead_letters[0]["id"])
    assert (refused.exit_code, "pass --yes" in refused.stderr) == (2, True)
    assert run(*line, "--drop-dead", dead_letters[0]["id"], "--yes").exit_code == 1
    rest = [word for each in dead_letters[1:] for word in ("--drop-dead", each["id"])]
    assert run(*line, "--yes", *rest).exit_code == 0
    assert run(*line, "--list-dead").exit_code == 0


def test_replay_names_the_files_where_a_recovery_keeps_dead_letters(
    run: Run, served: Served, endpoint: Endpoint, webhook_id: str
) -> None:
    endpoint.status = 400
    assert run("recover", webhook_id, "--to", endpoint.url).exit_code == 1
    done = run("replay", webhook_id, "--to", endpoint.url, "--list-dead")
    assert done.exit_code == 1
    assert "recover keeps" in done.stderr
    assert "there are no dead letters" not in done.stderr
    line = shlex.split(done.stderr.partition("list them with: ")[2])
    assert len(run(*line[1:]).stdout.splitlines()) == 9
    endpoint.status = 204
    assert run("recover", webhook_id, "--to", endpoint.url, "--retry-dead").exit_code == 0
    assert run("replay", webhook_id, "--to", endpoint.url, "--list-dead").exit_code == 0


def test_a_report_file_is_evidence_of_each_run(run: Run, served: Served, endpoint: Endpoint, webhook_id: str) -> None:
    to = f"{endpoint.url}?code=geheim"
    for _ in range(2):
        assert run("recover", webhook_id, "--to", to, "--report", "evidence.jsonl").exit_code == 0
    text = Path("evidence.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    first, *accepted, last, _, _ = rows
    assert (first["webhook"], "geheim" in text) == (webhook_id, False)
    assert first["began"] < last["ended"]
    assert sorted(row["id"] for row in accepted) == sorted(endpoint.ids)
    assert {row["source"] for row in accepted} == {"messages", "events"}
    assert last["finished"] is True
    assert Path("evidence.jsonl").stat().st_mode & 0o777 == 0o600
    assert run("recover", webhook_id, "--to", to, "--report", "no/file").exit_code == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_with_its_report_and_the_line_that_continues(
    run: Run, served: Served, endpoint: Endpoint, webhook_id: str, number: int, code: int
) -> None:
    endpoint.release.clear()
    words = [*PROGRAM, "recover", webhook_id, "--to", endpoint.url, "--concurrency", "1"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert endpoint.asked.wait(PATIENCE)
        process.send_signal(number)
        assert process.stderr is not None
        assert "finishing the work under way" in process.stderr.readline()
        endpoint.release.set()
        stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, stderr
    report = json.loads(stdout)
    assert (report["finished"], report["messages"]["handled"]) == (False, len(endpoint.ids))
    line = next(line for line in stderr.splitlines() if line.startswith("  basiq-async recover"))
    assert run(*shlex.split(line)[1:]).exit_code == 0
    assert len(set(endpoint.ids)) == len(endpoint.ids) == 9


def test_it_stops_when_the_target_is_down_for_too_long(
    run: Run, endpoint: Endpoint, webhook_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("basiq_async.replay.targets._http.RetryPolicy", partial(RetryPolicy, base=0.001))
    done = run("recover", webhook_id, "--to", "http://127.0.0.1:9/", "--max-pause", "0.2")
    assert done.exit_code == 1, done.output
    assert "the target does not respond" in done.stderr
    assert "to continue:" in done.stderr
    assert done.row["finished"] is False
