"""``quarantine`` and ``doctor``: what is left, named in a list that a person can act on."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from basiq_async.receiver import Delivery, SQLiteInbox, WebhookReceiver

from ..support.deliveries import SECRET, payload, signed
from .conftest import Run, Served

SERVICE = f"""
from pathlib import Path
from basiq_async.receiver import SQLiteInbox, WebhookReceiver

receiver = WebhookReceiver({SECRET!r}, webhook_id="w1", inbox=SQLiteInbox("inbox.db"), quarantine_after=1)

@receiver.on("consent.*")
async def handle(delivery):
    if not Path("mended").exists():
        raise RuntimeError("broken\\x1b[2J")

def make():
    return receiver

text = "no receiver"
"""


@pytest.fixture(autouse=True)
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("a_service.py").write_text(SERVICE)
    yield
    sys.modules.pop("a_service", None)


def rows(run: Run, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
    sys.modules.pop("a_service", None)  # each command is a process of its own outside of the tests
    done = run(*arguments)
    assert done.exit_code == code, done.output
    return done.rows


def set_aside(*ids: str) -> None:
    async def main() -> None:
        async with (
            SQLiteInbox("inbox.db") as inbox,
            WebhookReceiver(SECRET, webhook_id="w1", inbox=inbox, quarantine_after=1) as receiver,
        ):

            @receiver.on("*")
            async def handle(delivery: Delivery) -> None:
                raise RuntimeError("broken\x1b[2J")

            for message_id in ids:
                body = payload("consent.revoked", f"event-{message_id}")
                await receiver.handle(signed(body, message_id=message_id), body)

    asyncio.run(main())


def test_what_was_set_aside_is_listed_retried_and_dropped(run: Run) -> None:
    set_aside("m-1", "m-2", "m-3")
    listed = rows(run, "quarantine", "list", "--receiver", "a_service:receiver", code=1)
    assert [row["delivery_id"] for row in listed] == ["m-1", "m-2", "m-3"]
    assert "broken" in listed[0]["error"]
    assert json.loads(listed[0]["body"])["eventId"] == "event-m-1"
    again = rows(run, "quarantine", "retry", "--receiver", "a_service:receiver", "m-1", code=1)
    assert [(row["delivery_id"], row["result"]) for row in again] == [("m-1", "failed")]
    assert rows(run, "quarantine", "drop", "--yes", "--receiver", "a_service:make", "m-2") == [{"dropped": 1}]
    Path("mended").touch()
    again = rows(run, "quarantine", "retry", "--receiver", "a_service:receiver")
    assert sorted(row["delivery_id"] for row in again) == ["m-1", "m-3"]
    assert rows(run, "quarantine", "list", "--receiver", "a_service:receiver") == []
    sys.modules.pop("a_service")
    gone = run("quarantine", "drop", "--yes", "--receiver", "a_service:receiver", "m-2")
    assert gone.exit_code == 2
    assert "not in the quarantine" in gone.stderr


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
    first, second = rows(run, "webhooks", "doctor", "--test", "--receiver", "a_service:receiver", code=1)
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
