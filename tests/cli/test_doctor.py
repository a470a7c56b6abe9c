"""``webhooks doctor``: each problem has a line to paste, and a recovery's deliveries end it."""

from __future__ import annotations

import json
import re

import pytest

from basiq_async import Webhook
from basiq_async.cli._lines import status_line  # private: the lines before they are quoted
from basiq_async.services.problems import find_status_problem

from .conftest import Endpoint, Run, Served, World, write_service

pytestmark = pytest.mark.documented_world("its webhooks are disabled after one message", "disables")

DAYS_AGO = 4

ID = "w-1"


def test_an_id_that_looks_like_an_option_stays_an_argument() -> None:
    webhook = Webhook("--help", "https://a.example", "disabled")
    problem = find_status_problem(webhook, None)
    assert problem is not None
    assert status_line(problem, webhook) == ("basiq-async", "webhooks", "reactivate", "--", "--help")
    stored = status_line(problem, webhook, ("--secret-file", "basiq.secret"))
    assert stored[3:] == ("--secret-file", "basiq.secret", "--", "--help")


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


def test_a_webhook_is_reactivated_and_nothing_else_changes(world: World) -> None:
    w, webhook_id = world, world.webhook("user.created", "consent.revoked")
    w.outage(1, later=1)
    before = w.run("webhooks", "get", webhook_id).row
    assert before["status"] == "disabled"
    assert w.run("webhooks", "reactivate", webhook_id).row == {**before, "status": "active"}
    ensure = ("webhooks", "ensure", "--url", w.endpoint.url, "--event", "user.created")
    assert "stays subscribed to consent.revoked" in w.run(*ensure).stderr
    less = w.run(*ensure, "--remove-event-types")
    assert "no longer subscribed to consent.revoked" in less.stderr
    assert less.row["subscribed_events"] == ["user.created"]


def test_it_posts_nothing_unless_it_is_asked_to(run: Run, served: Served, endpoint: Endpoint) -> None:
    served.fake.add_webhook(endpoint.url, ["user.created"])
    receiver = ("--receiver", write_service(None, inbox=False))
    for options in ((), receiver):
        done = run("webhooks", "doctor", *options)
        assert (done.exit_code, done.row["endpoint_status"]) == (0, None), done.output
    assert endpoint.ids == []
    for options in ((), receiver):
        done = run("webhooks", "doctor", *options, "--test")
        assert (done.exit_code, done.row["endpoint_status"]) == (0, 204), done.output
    assert len(endpoint.ids) == 2


@pytest.mark.documented_world("its last attempt is at a certain hour", "disables", "waits")
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


def test_what_was_posted_to_its_url_from_this_folder_is_no_problem(world: World) -> None:
    w, webhook_id = world, world.webhook()
    w.outage(4, later=5)
    assert w.run("webhooks", "reactivate", webhook_id).exit_code == 0
    looked = w.run("webhooks", "doctor")
    assert (looked.exit_code, f"no inbox of the webhook {webhook_id} is known" in looked.stderr) == (1, True)
    to = ("--to", w.endpoint.url, "--secret-file", "the secret")
    assert w.run("recover", webhook_id, *to).exit_code == 0
    done = w.run("webhooks", "doctor")
    assert (done.exit_code, done.row["undelivered"], done.row["recovered"]) == (0, 0, 9), done.output


def test_all_is_well_or_what_is_wrong_is_named_also_in_a_terminal(
    run: Run, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook_id = served.fake.seed_messages(10)
    done = run("webhooks", "doctor", webhook_id, "--json")
    assert (done.exit_code, done.row["healthy"], done.row["problems"]) == (0, True, []), done.output
    assert json.loads(done.stderr.splitlines()[-1]) == {"note": "no problems found"}
    served.fake.seed_messages(4, webhook_id, failed=1.0)
    monkeypatch.setenv("NO_COLOR", "1")
    shown = run("webhooks", "doctor", webhook_id, terminal=True).stdout
    assert "4 messages were not delivered" in shown
    assert f" recover {webhook_id} --to" in shown.replace("\n  ", "")


def test_each_webhook_is_judged_and_a_receiver_judges_its_own(run: Run, served: Served) -> None:
    served.fake.seed_messages(10, served.fake.add_webhook("http://127.0.0.1:9/a", ["user.created"]), failed=1.0)
    served.fake.add_webhook("https://example.com/b", active=False)
    done = run("webhooks", "doctor", "--test", "--receiver", write_service("w1", "consent.*"))
    assert done.exit_code == 1, done.output
    first, second = done.rows
    found = {problem["code"] for problem in first["problems"]}
    assert {"endpoint-unreachable", "undelivered"} <= found
    assert "unhandled-event-types" not in found, "the receiver is of another webhook"
    assert first["undelivered"] == 10
    assert "pending" in {problem["code"] for problem in second["problems"]}
