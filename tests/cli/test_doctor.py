"""``webhooks doctor``: each problem has a line to paste, and a recovery's deliveries end it."""

from __future__ import annotations

import re
import shlex
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest

from basiq_async import Diagnosis, EndpointCheck, RetryPolicy, Webhook
from basiq_async.replay import Inactivity
from basiq_async.services.diagnosis import find_status_problem

from .conftest import SECRET, Endpoint, Run, Served

DAYS_AGO = 4

ID = "w-1"
MOMENT = datetime(2026, 1, 5, 12, 0, 0, 5, tzinfo=UTC)
ILL = Diagnosis(
    Webhook(ID, "https://service.example/basiq?a=1&b=2", "disabled", ("user.created", "account.closed")),
    "disabled",
    None,
    retired=("account.closed",),
    unknown=("consent.revokd",),
    unhandled=("user.created",),
    unsubscribed=("consent.*",),
    failed_share=0.5,
    endpoint=EndpointCheck(500),
    undelivered=1,
    never_sent=1,
    unrecorded=1,
    quarantined=1,
    out_of_reach=(Inactivity(MOMENT, MOMENT),),
    unreadable=1,
    complete=False,
    offered=("user.created", "consent.revoked", "consent.expired"),
    receiver="service:receiver",
)
SHOWN = "https://service.example/basiq?…"
NO_TYPES = attrs.evolve(ILL, webhook=attrs.evolve(ILL.webhook, status="pending-approval", subscribed_events=()))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recovery leaves its record in the folder where it runs."""
    monkeypatch.chdir(tmp_path)


BY_FILE = attrs.evolve(ILL, receiver=None)
BY_INBOX = attrs.evolve(ILL, receiver=None, inbox="an inbox.db")


@pytest.mark.parametrize(
    ("found", "recover", "quarantined"),
    [
        (ILL, ("--receiver", "service:receiver"), ("retry", "--receiver", "service:receiver")),
        (BY_FILE, ("--to", SHOWN), ("retry", "--to", SHOWN, "--webhook", ID)),
        (BY_INBOX, ("--to", SHOWN, "--inbox", "an inbox.db"), ("list", "--inbox", "an inbox.db", "--webhook", ID)),
    ],
    ids=["a receiver", "what was posted", "an inbox"],
)
def test_the_lines_go_to_the_receiver_or_the_inbox_that_was_named(
    found: Diagnosis, recover: tuple[str, ...], quarantined: tuple[str, ...]
) -> None:
    lines = {problem.code: problem.command[1:] for problem in found.problems}
    for code in ("undelivered", "never-sent", "unrecorded"):
        assert lines[code] == ("recover", ID, *recover)
    assert lines["out-of-reach"] == ("recover", ID, *recover, "--acknowledged", MOMENT.isoformat())
    assert lines["quarantined"] == ("quarantine", *quarantined)
    assert lines["unsubscribed-event-types"][2:] == (
        *(ID, "--event", "user.created", "--event", "consent.revoked", "--event", "consent.expired"),
    )


def test_an_id_that_looks_like_an_option_stays_an_argument() -> None:
    problem = find_status_problem(Webhook("--help", "https://a.example", "disabled"), None)
    assert problem is not None
    assert problem.command == ("basiq-async", "webhooks", "reactivate", "--", "--help")


def test_it_finds_no_problem_after_a_recovery_delivered_the_missing_messages(
    run: Run, served: Served, endpoint: Endpoint, webhook_id: str
) -> None:
    def doctor(*options: str, code: int) -> dict[str, Any]:
        done = run("webhooks", "doctor", webhook_id, *options)
        assert done.exit_code == code, done.output
        found: dict[str, Any] = done.row
        return found

    before = doctor(code=1)
    assert (before["undelivered"], before["never_sent"]) == (4, 5)
    lines = {each["code"]: shlex.split(each["command"])[1:] for each in before["problems"]}
    at = lines["undelivered"].index("--to") + 1
    assert lines["undelivered"][at] == "https://service.example/basiq"
    assert run(*lines["undelivered"][:at], endpoint.url, "--inbox", "mine.db").exit_code == 0
    served.run(served.fake.advance(days=2))
    assert {each["code"] for each in doctor(code=1)["problems"]} == {"undelivered", "never-sent"}, "it went elsewhere"
    after = doctor("--inbox", "mine.db", code=0)
    assert (after["healthy"], after["recovered"], after["complete"]) == (True, 9, True)


@pytest.fixture
def missed(served: Served, endpoint: Endpoint) -> str:
    """A webhook of the endpoint with 4 failed messages, and 5 events that happened while it was disabled."""
    fake = served.fake
    found = fake.add_webhook(endpoint.url, ["consent.revoked"])
    endpoint.secret = fake.secret(found)

    async def outage() -> None:
        fake.endpoint_down(endpoint.url)
        for _ in range(4):
            await fake.emit("consent.revoked")
        await fake.advance(days=2)
        for _ in range(5):
            await fake.emit("consent.revoked")
        await fake.advance(minutes=5)
        fake.endpoint_up(endpoint.url)

    served.run(outage())
    return found


def test_a_webhook_that_is_deleted_meanwhile_keeps_no_other_from_being_judged(run: Run, served: Served) -> None:
    first = served.fake.add_webhook("https://a.example/basiq", ["user.created"])
    served.fake.add_webhook("https://b.example/basiq", ["user.created"])
    path = f"*/webhooks/{first}"
    served.fake.fail_next(1_000, status=404, path=path)
    done = run("webhooks", "doctor")
    assert (done.exit_code, len(done.rows)) == (0, 1), done.output
    assert f"{first} was deleted meanwhile" in done.stderr
    served.fake.fail_next(1_000, status=404, path="*/webhooks/*")
    gone = run("webhooks", "doctor")
    assert (gone.exit_code, "there is no webhook" in gone.stderr) == (1, True), gone.output


def test_each_webhook_is_judged_by_its_own_inbox(run: Run, served: Served, endpoint: Endpoint, webhook_id: str) -> None:
    other = served.fake.add_webhook("https://other.example/basiq", ["user.created"])
    assert run("recover", webhook_id, "--to", endpoint.url, "--inbox", "mine.db").exit_code == 0
    done = run("webhooks", "doctor", "--inbox", "mine.db")
    assert [row["recovered"] for row in done.rows] == [9, 0], done.output
    assert f"no inbox of the webhook {other} is known" in done.stderr
    assert webhook_id not in done.stderr
    refused = run("webhooks", "doctor", other, "--inbox", "mine.db")
    assert (refused.exit_code, "the inbox is of the webhook" in refused.stderr) == (2, True), refused.output


def test_a_webhook_is_reactivated_and_nothing_else_changes(run: Run, served: Served) -> None:
    url = "https://service.example/basiq"
    found = served.fake.add_webhook(url, ["user.created", "consent.revoked"])

    async def outage() -> None:
        served.fake.endpoint_down(url)
        await served.fake.emit("user.created")
        await served.fake.advance(days=2)

    served.run(outage())
    assert run("webhooks", "get", found).row["status"] == "disabled"
    done = run("webhooks", "reactivate", found).row
    assert (done["status"], done["url"], set(done["subscribed_events"])) == (
        "active",
        url,
        {"user.created", "consent.revoked"},
    )
    kept = run("webhooks", "ensure", "--url", url, "--event", "user.created")
    assert "stays subscribed to consent.revoked" in kept.stderr
    less = run("webhooks", "ensure", "--url", url, "--event", "user.created", "--remove-event-types")
    assert "no longer subscribed to consent.revoked" in less.stderr
    assert less.row["subscribed_events"] == ["user.created"]


def test_it_posts_nothing_unless_it_is_asked_to(
    run: Run, served: Served, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.fake.add_webhook(endpoint.url, ["user.created"])
    Path("a_tested_service.py").write_text(
        "from basiq_async.receiver import WebhookReceiver\n"
        f"receiver = WebhookReceiver({SECRET!r})\n"
        "@receiver.on('*')\n"
        "async def handle(delivery): ...\n"
    )
    monkeypatch.syspath_prepend(".")
    for options in ((), ("--receiver", "a_tested_service:receiver")):
        done = run("webhooks", "doctor", *options)
        assert (done.exit_code, done.row["endpoint_status"]) == (0, None), done.output
    assert endpoint.ids == []
    for options in ((), ("--receiver", "a_tested_service:receiver")):
        done = run("webhooks", "doctor", *options, "--test")
        assert (done.exit_code, done.row["endpoint_status"]) == (0, 204), done.output
    assert len(endpoint.ids) == 2


def test_what_could_not_be_looked_at_is_no_verdict(run: Run, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASIQ_WEBHOOK_SECRET", SECRET)
    monkeypatch.setattr("basiq_async.transports.retry.RetryPolicy", partial(RetryPolicy, base=0.001))
    found = served.fake.add_webhook("https://service.example/basiq")
    assert run("webhooks", "doctor", "00000000-0000-4000-8000-000000000000").exit_code == 1  # it is gone: that is wrong
    served.fake.fail_next(1_000, status=500)
    for command in (("webhooks", "doctor"), ("recover", found, "--to", "http://127.0.0.1:9/")):
        done = run("--timeout", "0.5", *command)
        assert done.exit_code == 3, done.output
        assert "500" in done.output


@pytest.mark.parametrize("inbox", ["redis://127.0.0.1:9/0", "postgresql+asyncpg://user:geheim@127.0.0.1:9/none"])
def test_an_inbox_that_is_away_is_no_verdict(run: Run, served: Served, inbox: str) -> None:
    found = served.fake.add_webhook("https://service.example/basiq")
    for command in (
        ("webhooks", "doctor"), ("quarantine", "list"),
        ("inbox", "get", "e-1", "--event", "user.created", "--webhook", found),
    ):  # fmt: skip
        done = run(*command, "--inbox", inbox)
        assert (done.exit_code, done.stdout) == (3, ""), done.output
        assert "geheim" not in done.output


def test_it_says_when_it_began_and_what_the_endpoint_answered(run: Run, served: Served) -> None:
    url = "https://service.example/basiq"
    served.fake.add_webhook(url, ["user.created"])

    async def outage() -> None:
        served.fake.endpoint_down(url, status=503)
        await served.fake.emit("user.created")
        await served.fake.advance(days=2)

    served.run(outage())
    done = run("webhooks", "doctor", "--json")
    assert done.exit_code == 1, done.output
    found = done.row
    assert found["by_status"] == {"503": 1}  # the last of eight attempts was within a day
    assert found["oldest_undelivered"] <= found["first_failure"] < found["disabled_at"]
    assert found["last_success"] is None
    shown = run("webhooks", "doctor", terminal=True).stdout
    assert re.search(r"by status 503 *\S* +1\n", shown)
    assert "disabled at" in shown


def test_what_was_posted_to_its_url_from_this_folder_is_no_problem(
    run: Run, served: Served, endpoint: Endpoint, missed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BASIQ_WEBHOOK_SECRET", endpoint.secret)
    assert run("webhooks", "reactivate", missed).exit_code == 0
    looked = run("webhooks", "doctor")
    assert (looked.exit_code, f"no inbox of the webhook {missed} is known" in looked.stderr) == (1, True)
    assert run("recover", missed, "--to", endpoint.url).exit_code == 0
    done = run("webhooks", "doctor")
    assert (done.exit_code, done.row["undelivered"], done.row["recovered"]) == (0, 0, 9), done.output
