"""``quarantine`` and ``inbox get`` with an inbox that is named by its address, from a shell without the service."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from basiq_async.receiver import Delivery, SQLiteInbox, WebhookReceiver

from ..support.databases import inbox_of
from ..support.deliveries import SECRET, payload, signed
from .conftest import Run, Served


@pytest.fixture(autouse=True)
def inbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An inbox in this folder: ``e-good`` was handled, and ``e-bad`` was set aside."""
    monkeypatch.chdir(tmp_path)

    async def main() -> None:
        async with (
            SQLiteInbox("inbox.db") as inbox,
            WebhookReceiver(SECRET, webhook_id="w1", inbox=inbox, quarantine_after=1) as receiver,
        ):

            @receiver.on("*")
            async def handle(delivery: Delivery) -> None:
                if delivery.event_id == "e-bad":
                    raise RuntimeError("broken")

            for event_id in ("e-good", "e-bad"):
                body = payload("consent.revoked", event_id)
                await receiver.handle(signed(body, message_id=f"m-{event_id}"), body)

    asyncio.run(main())


def entry(run: Run, event_id: str, *more: str, code: int) -> dict[str, Any]:
    done = run("inbox", "get", event_id, "--inbox", "inbox.db", "--webhook", "w1", *more)
    assert done.exit_code == code, done.output
    found: dict[str, Any] = done.row
    return found


def test_what_the_inbox_knows_of_an_event_is_its_state_and_the_exit_code(run: Run) -> None:
    kind = ("--event", "consent.revoked")
    assert entry(run, "e-good", *kind, code=0)["state"] == "handled"
    bad = entry(run, "e-bad", *kind, code=1)
    assert (bad["state"], "broken" in bad["error"], bool(bad["since"])) == ("quarantined", True, True)
    assert entry(run, "e-other", *kind, code=1)["state"] == "unknown"


def test_an_inbox_in_a_database_says_when_an_event_was_handled(run: Run, tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/sql.db"

    async def handle_one() -> None:
        async with (
            inbox_of(url, "basiq_inbox") as inbox,
            WebhookReceiver(SECRET, webhook_id="w1", inbox=inbox) as receiver,
        ):

            @receiver.on("*")
            async def handle(delivery: Delivery) -> None: ...

            body = payload("consent.revoked", "e-1")
            await receiver.handle(signed(body), body)

    before = datetime.now(UTC).replace(microsecond=0)
    asyncio.run(handle_one())
    done = run("inbox", "get", "e-1", "--inbox", url, "--webhook", "w1", "--event", "consent.revoked")
    found = done.row
    assert (done.exit_code, found["state"]) == (0, "handled"), done.output
    assert before <= datetime.fromisoformat(found["since"]) <= datetime.now(UTC) + timedelta(seconds=1)


def test_without_its_type_basiq_is_asked_for_an_event(run: Run, served: Served) -> None:
    served.fake.add_webhook("https://service.example/basiq")
    event_id = served.fake.emit("consent.revoked").event_id
    found = entry(run, event_id, code=1)
    assert (found["event_type_id"], found["state"]) == ("consent.revoked", "unknown")


def test_the_quarantine_of_an_inbox_is_listed_and_emptied_without_its_receiver(run: Run) -> None:
    listed = run("quarantine", "list", "--inbox", "inbox.db")
    assert (listed.exit_code, listed.row["delivery_id"]) == (1, "m-e-bad")
    assert run("quarantine", "list", "--inbox", "none.db").exit_code == 2
    assert run("quarantine", "list").exit_code == 2
    retried = run("quarantine", "retry")
    assert (retried.exit_code, "--receiver" in retried.stderr) == (2, True)
    dropped = run("quarantine", "drop", "m-e-bad", "--inbox", "inbox.db", "--yes")
    assert dropped.row == {"dropped": 1}
    assert run("quarantine", "list", "--inbox", "inbox.db").exit_code == 0
