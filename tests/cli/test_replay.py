"""``basiq-async replay``, as a user runs it: over real HTTP, continued by the same line, stopped by signals."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import SECRET, Endpoint, Run, Served, help_lines, make_inbox, write_service


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
    assert run(*line, "--overwrite").row["handled"] == 20
    assert sorted(Path("out.jsonl").read_text().splitlines()) == sorted(lines)


def test_a_receiver_is_its_own_target(run: Run, served: Served) -> None:
    webhook_id = served.fake.seed_messages(5)
    place = ("--receiver", write_service(webhook_id))
    assert run("replay", webhook_id, "--dry-run", *place).exit_code == 3, "no service has begun the inbox"
    make_inbox(webhook_id)
    assert run("replay", webhook_id, "--dry-run", *place).row["total"] == 5
    done = run("replay", webhook_id, *place)
    assert (done.exit_code, done.row["handled"]) == (0, 5), done.output
    other = served.fake.add_webhook("https://other.example/basiq")
    for command in (("replay", other), ("recover", other), ("webhooks", "doctor", other)):
        refused = run(*command, *place)
        assert (refused.exit_code, refused.stdout) == (2, ""), refused.output
        assert "is the receiver of the webhook" in refused.stderr
    first = run("messages", "list", webhook_id).rows[0]
    asked = ("inbox", "get", first["event_id"], *place)
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


def test_what_is_posted_needs_a_secret(run: Run, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    line = ("replay", served.fake.seed_messages(3), "--to", "http://127.0.0.1:9/")
    monkeypatch.delenv("BASIQ_WEBHOOK_SECRET")
    Path("odd").write_bytes(b"\xff\xfe\xff")
    for options, shown in (
        ((), "the endpoint's signing secret is needed"),
        (("--secret-file", "odd"), "is not base64"),
    ):
        refused = run(*line, *options)
        assert (refused.exit_code, shown in refused.stderr) == (2, True), refused.output


def test_the_record_can_be_in_a_database(run: Run, served: Served, endpoint: Endpoint) -> None:
    webhook_id = served.fake.seed_messages(5)
    line = ("replay", webhook_id, "--to", endpoint.url, "--inbox", "sqlite+aiosqlite:///records.db")
    endpoint.status = 400
    refused = run(*line)
    assert (refused.exit_code, refused.row.get("quarantined")) == (1, 5), refused.output  # an early end counts none
    (words,) = help_lines(refused.stderr)
    endpoint.status = 204
    assert run(*words).exit_code == 0
    again = run(*line)
    assert (again.exit_code, again.row.get("handled")) == (0, 0), again.output
    assert [file.name for file in Path().iterdir()] == ["records.db"]
