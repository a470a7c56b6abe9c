"""``basiq-async replay``, as a user runs it: over real HTTP, continued by the same line, stopped by signals."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.real_time import PATIENCE

from ..support.command_line import PROGRAM
from .conftest import SECRET, Endpoint, Run, Served, help_lines


def test_a_history_is_posted_and_the_same_line_again_does_nothing(run: Run, served: Served, endpoint: Endpoint) -> None:
    webhook_id = served.fake.seed_messages(120)
    first = run("replay", webhook_id, "--to", endpoint.url)
    assert first.exit_code == 0, first.output
    report = first.row
    assert (report["handled"], report["failed"], report["finished"], report["skipped"]) == (120, 0, True, {})
    assert len(set(endpoint.ids)) == len(endpoint.ids) == 120
    again = run("replay", webhook_id, "--to", endpoint.url)
    assert (again.exit_code, again.row["handled"], len(endpoint.ids)) == (0, 0, 120)
    assert SECRET not in first.output
    assert len(first.stdout) < 400, "the result is a line that a person reads"
    (record,) = Path().glob("*.db")
    assert record.name.startswith(f"basiq-{webhook_id}-")
    assert run("recover", webhook_id, "--to", endpoint.url).row["messages"]["handled"] == 0, "they share the record"


def test_an_export_is_its_own_record(run: Run, served: Served, endpoint: Endpoint) -> None:
    webhook_id = served.fake.seed_messages(20)
    line = ("replay", webhook_id, "--file", "out.jsonl")
    assert run(*line).row["handled"] == 20
    lines = Path("out.jsonl").read_text().splitlines()
    assert run(*line, "--event", "*").row["handled"] == 0
    assert run("replay", webhook_id, "--to", endpoint.url).row["handled"] == 20, "another target is another record"
    Path("out.jsonl").unlink()
    refused = run(*line)
    assert (refused.exit_code, "is missing" in refused.stderr) == (3, True), refused.output
    assert run(*line, "--anew").row["handled"] == 20
    assert sorted(Path("out.jsonl").read_text().splitlines()) == sorted(lines)


def test_a_receiver_is_its_own_target(run: Run, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    webhook_id = served.fake.seed_messages(5)
    Path("a_replayed_service.py").write_text(
        "from basiq_async.receiver import SQLiteInbox, WebhookReceiver\n"
        "def receiver():\n"
        f"    made = WebhookReceiver({SECRET!r}, webhook_id={webhook_id!r}, inbox=SQLiteInbox('inbox.db'))\n"
        "    @made.on('*')\n"
        "    async def handle(delivery): ...\n"
        "    return made\n"
    )
    monkeypatch.syspath_prepend(".")
    place = ("--receiver", "a_replayed_service:receiver")
    assert run("replay", webhook_id, "--dry-run", *place).row["total"] == 5
    done = run("replay", webhook_id, *place)
    assert (done.exit_code, done.row["handled"]) == (0, 5), done.output
    other = served.fake.add_webhook("https://other.example/basiq")
    for command in (("replay", other), ("recover", other), ("webhooks", "doctor", other)):
        refused = run(*command, *place)
        assert (refused.exit_code, refused.stdout) == (2, ""), refused.output
        assert "is the receiver of the webhook" in refused.stderr
    first = run("messages", "list", webhook_id).rows[0]
    asked = ("inbox", "get", first["event_id"], *place, "--event", first["event_type_id"])
    assert run(*asked).row["state"] == "handled"
    assert run(*asked, "--webhook", other).exit_code == 2


def test_a_dry_run_counts_and_leaves_nothing(run: Run, served: Served) -> None:
    webhook_id = served.fake.seed_messages(50, failed=0.5)
    done = run("replay", webhook_id, "--dry-run", "--failed")
    assert done.exit_code == 0, done.output
    plan = done.row
    assert 0 < plan["total"] < 50
    assert plan["total"] + plan["skipped"]["where"] == 50
    assert sum(plan["by_day"].values()) == sum(plan["by_type"].values()) == plan["total"]
    assert run("replay", webhook_id, "--dry-run", "--to", "http://127.0.0.1:9/").exit_code == 0
    assert list(Path().iterdir()) == []


def test_what_to_replay_can_be_chosen_and_times_are_by_the_clock_of_basiq(run: Run, served: Served) -> None:
    """The fake's clock stands in January 2026, far away from this machine's."""
    webhook_id = served.fake.seed_messages(200, every=3600.0)
    some = run("replay", webhook_id, "--dry-run", "--event", "user.*", "--event", "consent.created").row
    assert set(some["by_type"]) == {"user.created", "user.updated", "user.deleted", "consent.created"}

    def total(*options: str) -> int:
        found: int = run("replay", webhook_id, "--dry-run", *options).row["total"]
        return found

    assert 0 < total("--since", "2d") < 200
    assert total("--since", "2d") + total("--until", "2d") == 200
    assert total("--since", "2020-01-01") == 200
    assert total("--limit", "7") == 7


def test_a_job_that_cannot_go_on_tells_how_far_it_came(run: Run, served: Served, endpoint: Endpoint) -> None:
    webhook_id = served.fake.seed_messages(30)
    endpoint.status = 400
    stopped = run("replay", webhook_id, "--to", endpoint.url, "--on-error", "stop", "--concurrency", "2")
    assert (stopped.exit_code, stopped.row["finished"]) == (1, False)
    assert "the replay stopped before it: TargetError: the target responded with 400" in stopped.stderr
    assert "to continue:" in stopped.stderr
    broken = run("replay", webhook_id, "--to", endpoint.url, "--max-failures", "3")
    assert (broken.exit_code, "messages in a row failed" in broken.stderr) == (1, True)


def test_where_basiq_fails_in_the_middle_the_report_and_the_line_are_shown(
    run: Run, served: Served, endpoint: Endpoint
) -> None:
    webhook_id = served.fake.seed_messages(1_200)
    endpoint.on_post = lambda: served.fake.fail_next(1_000, status=400)
    done = run("replay", webhook_id, "--to", endpoint.url)
    assert done.exit_code == 1, done.output
    assert (done.row["finished"], done.row["handled"]) == (False, len(set(endpoint.ids)))
    assert done.row["handled"] > 0
    assert "to continue:" in done.stderr


def test_the_secret_comes_from_a_file_too_and_never_shows(
    run: Run, served: Served, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
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
        (("--secret-file", "odd"), "the secret is not base64"),
    ):
        refused = run("replay", webhook_id, "--to", endpoint.url, *arguments)
        assert refused.exit_code == 2
        assert told in refused.stderr
        assert SECRET not in refused.output


def start(served: Served, *arguments: str) -> subprocess.Popen[str]:
    words = [*PROGRAM, "replay", *arguments]
    return subprocess.Popen(
        words, env={**os.environ, **served.environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_messages_under_way_and_prints_the_line_that_resumes(
    run: Run, served: Served, endpoint: Endpoint, number: int, code: int
) -> None:
    webhook_id = served.fake.seed_messages(40)
    endpoint.release.clear()
    line = (webhook_id, "--to", endpoint.url, "--concurrency", "4")
    with start(served, *line) as process:
        assert endpoint.asked.wait(PATIENCE)
        second = run("replay", *line)
        assert (second.exit_code, "another run of this job is alive (process" in second.stderr) == (4, True)
        process.send_signal(number)
        assert process.stderr is not None
        assert "finishing the work under way" in process.stderr.readline()
        endpoint.release.set()
        stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == code
    report = json.loads(stdout)
    assert report["handled"] == len(endpoint.ids) <= 4
    assert not report["finished"]
    assert "to continue:" in stderr
    assert re.search(r"[\x00-\x09\x0b-\x1f\x7f]", stdout + stderr) is None
    assert SECRET not in stdout + stderr
    (words,) = help_lines(stderr)
    assert run(*words).exit_code == 0
    assert sorted(endpoint.ids) == sorted(set(endpoint.ids))
    assert len(endpoint.ids) == 40


def test_a_second_signal_stops_at_once(run: Run, served: Served, endpoint: Endpoint) -> None:
    webhook_id = served.fake.seed_messages(40)
    endpoint.release.clear()
    with start(served, webhook_id, "--to", endpoint.url, "--concurrency", "4") as process:
        assert endpoint.asked.wait(PATIENCE)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=PATIENCE)  # the target has 30 s for a message
    assert process.returncode == 143
    assert json.loads(stdout)["finished"] is False
    assert "Traceback" not in stderr
    endpoint.release.set()
    (words,) = help_lines(stderr)
    assert run(*words).exit_code == 0
    assert len(set(endpoint.ids)) == 40


def test_the_record_can_be_in_a_database(run: Run, served: Served, endpoint: Endpoint) -> None:
    webhook_id = served.fake.seed_messages(5)
    line = ("replay", webhook_id, "--to", endpoint.url, "--inbox", "sqlite+aiosqlite:///records.db")
    endpoint.status = 400
    refused = run(*line)
    assert (refused.exit_code, refused.row["quarantined"]) == (1, 5), refused.output
    (words,) = help_lines(refused.stderr)
    endpoint.status = 204
    assert run(*words).exit_code == 0
    assert run(*line).row["handled"] == 0
    assert [file.name for file in Path().iterdir()] == ["records.db"]


def test_an_export_into_a_folder_that_does_not_exist_leaves_nothing(run: Run, served: Served) -> None:
    webhook_id = served.fake.seed_messages(3)
    refused = run("replay", webhook_id, "--file", "no/such/out.jsonl")
    assert (refused.exit_code, "No such file" in refused.stderr) == (3, True)
    assert list(Path().iterdir()) == []
