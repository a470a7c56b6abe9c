"""``quarantine`` and ``inbox get`` with an inbox that is named by its address, from a shell without the service."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from basiq_async.receiver import Delivery, SQLiteInbox, WebhookReceiver

from ..support.command_line import CommandResult
from ..support.databases import inbox_of
from ..support.deliveries import SECRET, payload, signed
from .conftest import Endpoint, Run, Served, let_wait, receive, state_of, write_service


@pytest.fixture(autouse=True)
def inbox() -> None:
    """An inbox in this folder: ``e-good`` was handled, and ``e-bad`` was quarantined."""
    receive("w1", "e-good", "e-bad", bad=("e-bad",), quarantine_after=1)


def make_service(handle: str = "...", *, on: str = "*") -> str:
    return write_service("w1", on, more=", quarantine_after=1", handle=handle, secret=SECRET)


def test_what_the_inbox_knows_of_an_event_is_its_state_and_the_exit_code(run: Run) -> None:
    assert state_of(run, "e-good")["state"] == "handled"
    bad = state_of(run, "e-bad")
    assert (bad["state"], "broken" in bad["error"], bool(bad["since"])) == ("quarantined", True, True)
    assert state_of(run, "e-other")["state"] == "unknown"
    assert run("inbox", "get", "e-good", "--inbox", "inbox.db").exit_code == 0


def test_an_inbox_is_checked_and_shows_what_waits(run: Run) -> None:
    at = ("--inbox", "inbox.db")
    found = run("inbox", "check", *at)
    assert (found.exit_code, found.row["webhooks"], bool(found.row["known_since"])) == (0, ["w1"], True), found.output
    nothing = run("inbox", "waiting", *at)
    assert (nothing.exit_code, nothing.stdout) == (0, ""), nothing.output
    assert nothing.stderr.startswith("nothing waits; the inbox last recorded something at 20")


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
    done = run("inbox", "get", "e-1", "--inbox", url, "--webhook", "w1")
    found = done.row
    assert (done.exit_code, found["state"]) == (0, "handled"), done.output
    assert before <= datetime.fromisoformat(found["since"]) <= datetime.now(UTC) + timedelta(seconds=1)


@pytest.mark.parametrize("broken", [True, False])
def test_a_receiver_needs_no_webhook_and_no_key_to_try_again(
    run: Run, broken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_service("raise RuntimeError('broken again')" if broken else "...")
    listed = run("inbox", "get", "e-bad", "--receiver", place)
    assert (listed.row["state"], listed.row["event_type_id"]) == ("quarantined", "consent.revoked")
    monkeypatch.delenv("BASIQ_API_KEY")
    done = run("quarantine", "retry", "--receiver", place)
    assert (done.exit_code, done.row["result"]) == ((1, "failed") if broken else (0, "handled")), done.output
    assert "broken again" in (done.row["error"] or "") if broken else done.row["error"] is None
    assert run("quarantine", "list", "--receiver", place).exit_code == (1 if broken else 0)
    known = run("inbox", "get", "e-bad", "--receiver", place)
    assert known.row["state"] == ("quarantined" if broken else "handled")


def test_what_stays_because_its_type_has_no_handler_has_a_word(run: Run) -> None:
    place = make_service(on="user.created")
    done = run("quarantine", "retry", "m-e-bad", "--receiver", place)
    assert (done.exit_code, done.row["result"]) == (1, "no-handler"), done.output
    assert run("quarantine", "retry", "none", "--receiver", place).exit_code == 2
    assert run("quarantine", "list", "--receiver", place).exit_code == 1


def test_the_quarantine_of_an_inbox_is_listed_shown_exported_and_emptied_without_its_receiver(run: Run) -> None:
    at = ("--inbox", "inbox.db")
    listed = run("quarantine", "list", *at)
    assert (listed.exit_code, listed.row["delivery_id"]) == (1, "m-e-bad")
    shown = run("quarantine", "show", "m-e-bad", *at)
    assert (shown.exit_code, json.loads(shown.row["body"])["eventId"]) == (0, "e-bad")
    assert run("quarantine", "show", "m-none", *at).exit_code == 2
    assert run("quarantine", "export", "failed.jsonl", *at).exit_code == 0
    row = json.loads(Path("failed.jsonl").read_text())
    assert (row["id"], row["body"]["eventId"]) == ("m-e-bad", "e-bad")
    assert Path("failed.jsonl").stat().st_mode & 0o777 == 0o600
    assert run("quarantine", "export", "failed.jsonl", *at).exit_code == 2
    refused = run("quarantine", "drop", "m-e-bad", *at)
    assert (refused.exit_code, "pass --yes" in refused.stderr) == (2, True)
    dropped = run("quarantine", "drop", "m-e-bad", *at, "--yes")
    assert dropped.row == {"dropped": 1}
    assert run("quarantine", "drop", "m-e-bad", *at, "--yes").exit_code == 2
    assert run("quarantine", "list", *at).exit_code == 0


def _first_id(ended: CommandResult) -> str:
    """The id at the beginning of the first line below the heading of a table."""
    assert "ID " in ended.stdout.splitlines()[0], ended.output
    return ended.stdout.splitlines()[1].split()[0]


def test_the_id_in_a_table_is_one_that_the_next_command_takes(run: Run) -> None:
    """The inbox names an event by its id; so do the commands for what failed of it."""
    at = ("--inbox", "inbox.db")
    found = _first_id(run("quarantine", "list", *at, terminal=True))
    assert found == "e-bad"
    assert run("inbox", "get", found, *at).row["state"] == "quarantined"
    for each in (found, "m-e-bad"):
        assert run("quarantine", "show", each, *at).row["event_id"] == found
    failed = run("quarantine", "retry", found, "--receiver", make_service("raise RuntimeError"), terminal=True)
    assert (failed.exit_code, _first_id(failed)) == (1, found), failed.output
    handled = run("quarantine", "retry", found, "none", "--receiver", make_service())
    assert (handled.exit_code, handled.row["result"], handled.row["event_id"]) == (2, "handled", found)
    assert handled.stderr.count("e-bad") == 0, "it names what was not there"


def test_80_columns_have_what_a_person_needs_and_the_whole_id(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Basiq's event ids may have 64 digits."""
    for name, value in {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)
    at, event_id = ("--inbox", "inbox.db"), "0f" * 32
    let_wait("w1", event_id)
    receive("w1", "0e" * 32, bad=("0e" * 32,), quarantine_after=1)
    for name, more, id in (("waiting", "inbox", event_id), ("list", "quarantine", "0e" * 32)):
        shown = run(more, name, *at, terminal=True)
        head, *lines = shown.stdout.splitlines()
        wanted = ["EVENT TYPE", "SINCE (UTC)", "FAILURES", "ERROR", *(["DUE (UTC)"] if name == "waiting" else [])]
        assert all(title in head for title in wanted), shown.output
        assert max(map(len, [head, *lines])) <= 80
        place = lines.index(f"  {id}")
        assert lines[place - 1].startswith("consent.revoked  ")
        assert run("inbox", "get", lines[place].strip(), *at).row["event_id"] == id


def test_what_is_removed_is_named_by_its_event_too(run: Run) -> None:
    at = ("--inbox", "inbox.db", "--yes")
    done = run("quarantine", "drop", "e-bad", "m-e-bad", "e-other", *at)
    assert (done.exit_code, "1 entry removed" in done.stderr, "1 of these" in done.stderr) == (2, True, True)
    assert run("quarantine", "list", *at[:2]).exit_code == 0


def test_a_terminal_shows_50_entries_and_a_pipe_all(run: Run) -> None:
    at = ("--inbox", "inbox.db")
    bad = [f"e-{number}" for number in range(60)]
    receive("w1", *bad, bad=bad, quarantine_after=1)
    shown = run("quarantine", "list", *at, terminal=True)
    assert (shown.exit_code, shown.stdout.count("consent.revoked")) == (1, 50)
    assert "the oldest 50, and there are more; --limit N" in shown.stderr
    assert run("quarantine", "list", *at, "--limit", "0", terminal=True).stdout.count("consent.revoked") == 61
    assert [len(run("quarantine", "list", *at, *more).rows) for more in ((), ("--limit", "2"))] == [61, 2]


def test_what_was_posted_is_named_by_the_target_and_the_webhook(run: Run, served: Served, endpoint: Endpoint) -> None:
    webhook_id = served.fake.seed_messages(3)
    endpoint.status = 400
    assert run("replay", webhook_id, "--to", endpoint.url).exit_code == 1
    at = ("--to", endpoint.url, "--webhook", webhook_id)
    first, *rest = run("quarantine", "list", *at).rows
    assert (first["kind"], first["acknowledged"], "400" in first["error"]) == ("message", False, True)
    assert json.loads(first["body"])["id"] == first["delivery_id"]
    assert run("quarantine", "drop", first["delivery_id"], *at, "--yes").exit_code == 0
    failed = run("quarantine", "retry", *at)
    assert (failed.exit_code, [row["result"] for row in failed.rows]) == (1, ["failed"] * 2)
    endpoint.status = 204
    some = run("quarantine", "retry", rest[0]["delivery_id"], *at)
    assert (some.exit_code, some.row["result"]) == (0, "handled")
    assert run("quarantine", "list", *at).row["delivery_id"] == rest[1]["delivery_id"]


_ASKS = """\
class Busy(Exception):
    retry_after = {seconds}
with open('tried', 'a') as file: file.write('x')
if os.path.getsize('tried') <= {times}: raise Busy('come back')"""


def test_a_pause_that_the_handler_asks_for_is_waited_for(run: Run) -> None:
    place = make_service(_ASKS.format(seconds=0.01, times=2))
    done = run("quarantine", "retry", "--receiver", place, "--max-pause", "5")
    assert (done.exit_code, [row["result"] for row in done.rows]) == (0, ["handled"]), done.output
    assert Path("tried").read_text() == "xxx"
    assert run("quarantine", "list", "--receiver", place).exit_code == 0


@pytest.mark.parametrize(
    ("seconds", "most", "said"),
    [(30, "0.05", "asks for a pause of 30 s, longer than max_pause"), (0.01, "0.03", "accepted no message meanwhile")],
    ids=["one pause", "pauses together"],
)
def test_a_longer_pause_than_max_pause_ends_it_and_all_stays(run: Run, seconds: float, most: str, said: str) -> None:
    place = make_service(_ASKS.format(seconds=seconds, times=1_000))
    done = run("quarantine", "retry", "--receiver", place, "--max-pause", most)
    assert (done.exit_code, said in done.stderr) == (1, True), done.output
    assert [row["result"] for row in done.rows] == ["failed"]
    assert len(Path("tried").read_text()) == 1 if seconds == 30 else len(Path("tried").read_text()) > 1
    assert run("quarantine", "list", "--receiver", place).row["event_id"] == "e-bad"


def test_an_endpoint_that_is_down_gets_one_attempt_each_and_all_stays(
    run: Run, served: Served, endpoint: Endpoint
) -> None:
    webhook_id = served.fake.seed_messages(3)
    endpoint.status = 400
    at = ("--to", endpoint.url, "--webhook", webhook_id)
    assert run("replay", webhook_id, "--to", endpoint.url).exit_code == 1
    endpoint.status, endpoint.ids = 503, []
    done = run("quarantine", "retry", *at)
    assert (done.exit_code, [row["result"] for row in done.rows]) == (1, ["failed"] * 3), done.output
    assert len(endpoint.ids) == len(set(endpoint.ids)) == 3
    assert len(run("quarantine", "list", *at).rows) == 3


def test_the_inbox_of_a_service_is_not_emptied_by_posting_to_the_service(run: Run, endpoint: Endpoint) -> None:
    """The service takes what is in its own quarantine for handled, and would accept it without handling it."""
    at = ("--to", endpoint.url, "--webhook", "w1", "--inbox", "inbox.db")
    left = run("quarantine", "retry", *at)
    assert (left.exit_code, "another place" in left.stderr, endpoint.ids) == (2, True, []), left.output
    assert run("quarantine", "list", "--inbox", "inbox.db").exit_code == 1


def test_what_another_worker_holds_stays_and_has_one_word(run: Run) -> None:
    async def hold() -> None:
        async with SQLiteInbox("inbox.db") as inbox:
            (entry,) = await inbox.entries()
            await inbox.claim(entry.key, "another worker", lease=60, quarantined=True)

    asyncio.run(hold())
    done = run("quarantine", "retry", "--receiver", make_service())
    assert (done.exit_code, [row["result"] for row in done.rows]) == (1, ["busy"]), done.output
    assert run("quarantine", "list", "--inbox", "inbox.db").exit_code == 1


def test_what_another_program_changed_cannot_be_read_and_stays_in_sight(
    run: Run, served: Served, endpoint: Endpoint
) -> None:
    webhook_id = served.fake.seed_messages(2)
    endpoint.status = 400
    at = ("--webhook", webhook_id, "--inbox", "posted.db")
    assert run("replay", webhook_id, "--to", endpoint.url, *at[2:]).exit_code == 1
    endpoint.status = 204
    with closing(sqlite3.connect("posted.db")) as database, database:
        ((key,), *_) = database.execute("SELECT key FROM inbox WHERE entry_json IS NOT NULL").fetchall()
        change = "UPDATE inbox SET entry_json = replace(entry_json, 'event_id', 'changed') WHERE key = ?"
        assert database.execute(change, (key,)).rowcount == 1
    done = run("quarantine", "retry", "--to", endpoint.url, *at)
    assert (done.exit_code, sorted(row["result"] for row in done.rows)) == (1, ["handled", "unreadable"]), done.output
    assert len(run("quarantine", "list", *at).rows) == 1
    assert run("webhooks", "doctor", webhook_id, "--inbox", "posted.db").row["quarantined"] == 1
