"""``basiq-async replay``, as a user runs it: over real HTTP, resumed by the same line, stopped by signals."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.support.real_time import PATIENCE

from ..support.command_line import PROGRAM
from .conftest import SECRET, Endpoint, Run, Served


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BASIQ_WEBHOOK_SECRET", SECRET)


def only_line(text: str) -> dict[str, Any]:
    (line,) = text.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def test_a_history_is_posted_and_the_same_line_again_does_nothing(run: Run, served: Served, endpoint: Endpoint) -> None:
    webhook_id = served.fake.seed_messages(120)
    first = run("replay", webhook_id, "--to", endpoint.url)
    assert first.exit_code == 0, first.output
    report = first.row
    assert (report["handled"], report["failed"], report["finished"], report["skipped"]) == (120, 0, True, {})
    assert len(set(endpoint.ids)) == len(endpoint.ids) == 120
    again = run("replay", webhook_id, "--to", endpoint.url).row
    assert (again["handled"], again["handled_in_all"]) == (0, 120)
    assert SECRET not in first.output
    (checkpoint,) = Path().glob("*.db")
    assert checkpoint.name.startswith(f"basiq-replay-{webhook_id}-")


def test_an_export_and_a_posting_of_one_webhook_are_two_jobs(run: Run, served: Served, endpoint: Endpoint) -> None:
    webhook_id = served.fake.seed_messages(20)
    assert run("replay", webhook_id, "--to-jsonl", "out.jsonl").row["handled"] == 20
    assert len(Path("out.jsonl").read_text().splitlines()) == 20
    assert run("replay", webhook_id, "--to", endpoint.url).row["handled"] == 20


def test_an_export_does_not_mix_into_a_file_of_another(run: Run, served: Served) -> None:
    webhook_id = served.fake.seed_messages(3)
    run("replay", webhook_id, "--to-jsonl", "out.jsonl")
    before = Path("out.jsonl").read_text()
    refused = run("replay", webhook_id, "--to-jsonl", "out.jsonl", "--checkpoint", "another.db")
    assert refused.exit_code == 2
    assert "this export did not write it" in refused.stderr
    assert Path("out.jsonl").read_text() == before


def test_a_dry_run_counts_and_leaves_nothing(run: Run, served: Served) -> None:
    webhook_id = served.fake.seed_messages(50, failed=0.5)
    done = run("replay", webhook_id, "--dry-run", "--failed-only")
    assert done.exit_code == 0, done.output
    plan = done.row
    assert 0 < plan["total"] < 50
    assert plan["total"] + plan["skipped"]["where"] == 50
    assert sum(plan["by_day"].values()) == sum(plan["by_type"].values()) == plan["total"]
    assert list(Path().iterdir()) == []
    assert run("replay", webhook_id, "--dry-run", "--to", "http://127.0.0.1:9/").exit_code == 0


def test_what_to_replay_can_be_chosen(run: Run, served: Served) -> None:
    webhook_id = served.fake.seed_messages(200)
    some = run("replay", webhook_id, "--dry-run", "--event", "user.*", "--event", "consent.created").row
    assert set(some["by_type"]) == {"user.created", "user.updated", "user.deleted", "consent.created"}
    # The fake's clock stands in January 2026, far away from now.
    assert run("replay", webhook_id, "--dry-run", "--since", "1d").row["total"] == 0
    assert run("replay", webhook_id, "--dry-run", "--until", "1d").row["total"] == 200
    assert run("replay", webhook_id, "--dry-run", "--since", "2026-01-01").row["total"] == 200
    assert run("replay", webhook_id, "--dry-run", "--limit", "7").row["total"] == 7


def test_failures_end_with_one_and_the_line_that_tries_them_again(run: Run, served: Served, endpoint: Endpoint) -> None:
    webhook_id = served.fake.seed_messages(5)
    endpoint.status = 400
    failed = run("replay", webhook_id, "--to", endpoint.url, "--rate", "500", "--event", "*")
    assert failed.exit_code == 1
    assert failed.row["failed"] == 5
    line = next(line for line in failed.stderr.splitlines() if line.startswith("  basiq-async"))
    words = shlex.split(line)
    assert words[-1] == "--retry-dead"
    assert words[words.index("--rate") + 1] == "500"
    endpoint.status = 204
    again = run(*words[1:])
    assert again.exit_code == 0, again.output
    assert (again.row["handled"], again.row["dead"]) == (5, 0)


def test_a_job_that_cannot_go_on_tells_how_far_it_came(run: Run, served: Served, endpoint: Endpoint) -> None:
    webhook_id = served.fake.seed_messages(30)
    endpoint.status = 400
    stopped = run("replay", webhook_id, "--to", endpoint.url, "--on-error", "stop", "--concurrency", "2")
    assert stopped.exit_code == 1
    assert stopped.row["finished"] is False
    assert "the replay stopped before it: TargetError: the target responded with 400" in stopped.stderr
    assert "to continue:" in stopped.stderr
    broken = run("replay", webhook_id, "--to", endpoint.url, "--max-failures", "3")
    assert broken.exit_code == 1
    assert "messages in a row failed" in broken.stderr


def test_the_secret_comes_from_a_file_too_and_never_shows(
    run: Run,
    served: Served,
    endpoint: Endpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    webhook_id = served.fake.seed_messages(3)
    monkeypatch.delenv("BASIQ_WEBHOOK_SECRET")
    Path("secret").write_text(f"{SECRET}\n")
    done = run("replay", webhook_id, "--to", endpoint.url, "--secret-file", "secret")
    assert done.exit_code == 0, done.output
    Path("odd").write_bytes(b"\xff\xfe\xff")
    for arguments, told in (
        ((), "the endpoint's signing secret is needed"),
        (("--secret-file", "nowhere"), "cannot be read: No such file"),
        (("--secret-file", "odd"), "cannot be read: it is not text"),
    ):
        refused = run("replay", webhook_id, "--to", endpoint.url, *arguments)
        assert refused.exit_code == 2
        assert told in refused.stderr
        assert SECRET not in refused.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "--to or --to-jsonl"),
        (("--to", "http://127.0.0.1:9/", "--to-jsonl", "x"), "--to or --to-jsonl"),
        (("--dry-run", "--since", "yesterday"), "--since must be a length of time"),
        (("--dry-run", "--since", "999999w"), "too long ago"),
        (("--dry-run", "--until", "2d3"), "--until must be"),
        (("--dry-run", "--on-error", "ignore"), "--on-error"),
        (("--dry-run", "--rate", "0"), "rate"),
        (("--dry-run", "--limit", "-1"), "limit"),
        (("--to", "ftp://example.com/"), "url"),
    ],
)
def test_a_wrong_use_is_one_line_and_exit_code_2(run: Run, arguments: tuple[str, ...], told: str) -> None:
    refused = run("replay", "w1", *arguments)
    assert refused.exit_code == 2, refused.output
    assert told in refused.stderr
    assert refused.stdout == ""
    assert list(Path().iterdir()) == []


# --- signals, in a process of its own ---


def start(served: Served, *arguments: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "BASIQ_API_KEY": served.fake.DEFAULT_API_KEY,
        "BASIQ_BASE_URL": served.url,
        "BASIQ_WEBHOOK_SECRET": SECRET,
    }
    words = [*PROGRAM, "replay", *arguments]
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_messages_under_way_and_prints_the_line_that_resumes(
    run: Run,
    served: Served,
    endpoint: Endpoint,
    number: int,
    code: int,
) -> None:
    webhook_id = served.fake.seed_messages(40)
    endpoint.release.clear()
    process = start(served, webhook_id, "--to", endpoint.url, "--concurrency", "4")
    with process:
        assert endpoint.asked.wait(PATIENCE)
        process.send_signal(number)
        assert process.stderr is not None
        assert "finishing the work under way" in process.stderr.readline()
        endpoint.release.set()
        stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == code
    report = only_line(stdout)
    assert report["handled"] == len(endpoint.ids) <= 4
    assert not report["finished"]
    assert "to continue:" in stderr
    assert re.search(r"[\x00-\x09\x0b-\x1f\x7f]", stdout + stderr) is None
    assert SECRET not in stdout + stderr
    rest = run(*shlex.split(stderr.splitlines()[-1])[1:])
    assert rest.exit_code == 0
    assert sorted(endpoint.ids) == sorted(set(endpoint.ids))
    assert len(endpoint.ids) == 40


def test_a_second_signal_stops_at_once(run: Run, served: Served, endpoint: Endpoint) -> None:
    webhook_id = served.fake.seed_messages(40)
    endpoint.release.clear()
    process = start(served, webhook_id, "--to", endpoint.url, "--concurrency", "4")
    with process:
        assert endpoint.asked.wait(PATIENCE)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=PATIENCE)  # the target has 30 s for a message
    assert process.returncode == 143
    assert stdout == ""
    assert "Traceback" not in stderr
    endpoint.release.set()
    rest = run(*shlex.split(stderr.splitlines()[-1])[1:])
    assert rest.exit_code == 0
    assert len(set(endpoint.ids)) == 40


def test_a_dead_letter_keeps_the_exit_code_at_1_until_it_is_handled(
    run: Run, served: Served, endpoint: Endpoint, tmp_path: Path
) -> None:
    webhook_id = served.fake.seed_messages(3)
    endpoint.status = 400
    assert run("replay", webhook_id, "--to", endpoint.url).exit_code == 1
    again = run("replay", webhook_id, "--to", endpoint.url)
    assert (again.exit_code, again.row["failed"]) == (1, 0)
    listed = run("replay", webhook_id, "--to", endpoint.url, "--list-dead")
    assert listed.exit_code == 1
    dead_letters = listed.rows
    assert {dead_letter["error"] for dead_letter in dead_letters} == {dead_letters[0]["error"]}
    assert "400" in dead_letters[0]["error"]
    exported = run("replay", webhook_id, "--to", endpoint.url, "--export-dead", "dead.jsonl")
    assert exported.exit_code == 0  # it did what was asked for
    rows = [json.loads(line) for line in Path("dead.jsonl").read_text().splitlines()]
    assert [(row["id"], row["error"]) for row in rows] == [
        (dead_letter["id"], dead_letter["error"]) for dead_letter in dead_letters
    ]
    assert all(row["message"]["payload"] for row in rows)
    assert Path("dead.jsonl").stat().st_mode & 0o777 == 0o600
    assert run("replay", webhook_id, "--to", endpoint.url, "--export-dead", "dead.jsonl").exit_code == 2
    endpoint.status = 204
    assert run("replay", webhook_id, "--to", endpoint.url, "--retry-dead").exit_code == 0
    assert run("replay", webhook_id, "--to", endpoint.url, "--list-dead").exit_code == 0


def test_dropped_dead_letters_are_gone_and_an_unknown_id_is_counted(
    run: Run, served: Served, endpoint: Endpoint
) -> None:
    webhook_id = served.fake.seed_messages(3)
    endpoint.status = 400
    assert run("replay", webhook_id, "--to", endpoint.url).exit_code == 1
    listed = run("replay", webhook_id, "--to", endpoint.url, "--list-dead")
    first, *rest = [json.loads(line)["id"] for line in listed.stdout.splitlines()]
    some = run("replay", webhook_id, "--to", endpoint.url, "--yes", "--drop-dead", first)
    assert some.exit_code == 1  # others are left
    assert "1 dead letters dropped" in some.stderr
    listed = run("replay", webhook_id, "--to", endpoint.url, "--list-dead")
    assert [json.loads(line)["id"] for line in listed.stdout.splitlines()] == rest
    again = run("replay", webhook_id, "--to", endpoint.url, "--yes", "--drop-dead", first)
    assert again.exit_code == 2
    assert "1 of the ids are not ids of dead letters" in again.stderr
    last = run(
        "replay", webhook_id, "--to", endpoint.url, "--yes", *(word for each in rest for word in ("--drop-dead", each))
    )
    assert last.exit_code == 0
    endpoint.status = 204
    before = len(endpoint.ids)
    assert run("replay", webhook_id, "--to", endpoint.url, "--retry-dead").exit_code == 0
    assert len(endpoint.ids) == before


class Paged:
    """A replay with its page, which has reached the end of its run with messages that failed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stderr is not None
        self.said = ""
        while "Ctrl-C ends" not in self.said:
            line = process.stderr.readline()
            assert line, self.said
            self.said += line
        found = re.search(r"the page is at (\S+)", self.said)
        assert found, self.said
        self.url = found[1]

    def call(self, path: str, body: Any = None) -> Any:
        headers = {"Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers)) as response:
            return json.load(response)

    def end(self) -> tuple[int, dict[str, Any], str]:
        """Press Ctrl-C; return the exit code, what was printed last, and the notes."""
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, only_line(out), self.said + err


def test_its_page_stays_where_messages_failed_until_they_are_retried(served: Served, endpoint: Endpoint) -> None:
    webhook_id = served.fake.seed_messages(3)
    endpoint.status = 400
    with start(served, webhook_id, "--to", endpoint.url, "--ui") as process:
        paged = Paged(process)
        endpoint.status = 204
        paged.call("dead-letters/retry", {})
        deadline = time.monotonic() + PATIENCE
        while (state := paged.call("state"))["running"] or state["progress"]["handled"] != 3:
            assert time.monotonic() < deadline, state
        code, report, said = paged.end()
    assert (code, report["handled"], report["failed"], report["dead"]) == (0, 3, 0, 0)
    assert "on the page: 3 handled, 0 dropped" in said
    assert len(endpoint.ids) == 6


def test_what_was_dropped_on_the_page_is_in_what_is_printed_last(served: Served, endpoint: Endpoint) -> None:
    webhook_id = served.fake.seed_messages(3)
    endpoint.status = 400
    with start(served, webhook_id, "--to", endpoint.url, "--ui") as process:
        paged = Paged(process)
        dead_letters = paged.call("dead-letters")["items"]
        paged.call("dead-letters/drop", {"ids": [dead_letters[0]["id"]]})
        code, report, said = paged.end()
    assert (code, report["handled"], report["failed"], report["dead"]) == (1, 0, 2, 2)
    assert "2 messages failed and are kept" in said


def test_what_the_page_began_is_recorded_before_the_command_ends(served: Served, endpoint: Endpoint) -> None:
    webhook_id = served.fake.seed_messages(1)
    endpoint.status = 400
    with start(served, webhook_id, "--to", endpoint.url, "--ui") as process:
        paged = Paged(process)
        endpoint.status = 204
        endpoint.release.clear()
        endpoint.asked.clear()
        paged.call("dead-letters/retry", {})
        assert endpoint.asked.wait(PATIENCE)
        process.send_signal(signal.SIGINT)
        threading.Timer(0.02, endpoint.release.set).start()
        out, _ = process.communicate(timeout=PATIENCE)
    report = only_line(out)
    assert (process.returncode, report["handled"], report["dead"]) == (0, 1, 0)


def test_another_selection_is_another_job_by_default(run: Run, served: Served, endpoint: Endpoint) -> None:
    webhook_id = served.fake.seed_messages(40)
    some = run("replay", webhook_id, "--to", endpoint.url, "--event", "user.*").row
    rest = run("replay", webhook_id, "--to", endpoint.url).row
    assert 0 < some["handled"] < rest["handled"] == 40


def test_its_checkpoint_can_be_in_a_database(run: Run, served: Served, endpoint: Endpoint) -> None:
    webhook_id = served.fake.seed_messages(5)
    line = ("replay", webhook_id, "--to", endpoint.url, "--checkpoint", "sqlite+aiosqlite:///checkpoints.db")
    endpoint.status = 400
    refused = run(*line)
    assert (refused.exit_code, refused.row["dead"]) == (1, 5), refused.output
    assert "--checkpoint sqlite+aiosqlite:///checkpoints.db" in refused.stderr, "the line that continues names it"
    endpoint.status = 204
    assert run(*line, "--retry-dead").exit_code == 0
    assert run(*line).row["handled"] == 0
    assert [file.name for file in Path().iterdir()] == ["checkpoints.db"]


def test_an_export_into_a_folder_that_does_not_exist_leaves_nothing(run: Run, served: Served) -> None:
    webhook_id = served.fake.seed_messages(3)
    refused = run("replay", webhook_id, "--to-jsonl", "no/such/out.jsonl")
    assert (refused.exit_code, "its folder does not exist" in refused.stderr) == (2, True)
    assert list(Path().iterdir()) == []
