"""``doctor``: what is left, named in a list that a person can act on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ..support.deliveries import SECRET
from .conftest import Run, Served

SERVICE = f"""
from basiq_async.receiver import SQLiteInbox, WebhookReceiver

receiver = WebhookReceiver({SECRET!r}, webhook_id="w1", inbox=SQLiteInbox("inbox.db"))

@receiver.on("consent.*")
async def handle(delivery): ...
"""


def test_the_doctor_says_that_all_is_well(run: Run, served: Served) -> None:
    webhook_id = served.fake.seed_messages(10)
    done = run("webhooks", "doctor", webhook_id, "--json")
    assert done.exit_code == 0, done.output
    found = done.row
    assert (found["id"], found["healthy"], found["problems"]) == (webhook_id, True, [])
    assert json.loads(done.stderr.splitlines()[-1]) == {"note": "no problems found"}


def test_the_doctor_names_what_is_wrong_and_ends_with_1(
    run: Run, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.fake.seed_messages(10, served.fake.add_webhook("http://127.0.0.1:9/a", ["user.created"]), failed=1.0)
    served.fake.add_webhook("https://example.com/b", active=False)
    monkeypatch.setenv("BASIQ_WEBHOOK_SECRET", SECRET)
    Path("a_judged_service.py").write_text(SERVICE)
    monkeypatch.syspath_prepend(".")
    done = run("webhooks", "doctor", "--test", "--receiver", "a_judged_service:receiver")
    assert done.exit_code == 1, done.output
    first, second = done.rows
    found = {problem["code"] for problem in first["problems"]}
    assert {"endpoint-unreachable", "undelivered"} <= found
    assert "unhandled-event-types" not in found, "the receiver is of another webhook"
    assert first["undelivered"] == 10
    assert "pending" in {problem["code"] for problem in second["problems"]}


def test_the_doctor_says_in_a_terminal_what_helps(run: Run, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    webhook_id = served.fake.seed_messages(4, failed=1.0)
    monkeypatch.setenv("NO_COLOR", "1")
    shown = run("webhooks", "doctor", webhook_id, terminal=True).stdout
    assert "4 messages were not delivered" in shown
    assert f" recover {webhook_id} --to" in shown.replace("\n  ", "")
