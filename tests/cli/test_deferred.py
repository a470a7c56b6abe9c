"""``work`` handles what waits until a signal, ``inbox`` shows it, and no other command drains."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import AbstractContextManager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from basiq_async.receiver import SQLiteInbox

from ..support.real_time import PATIENCE
from .conftest import SECRET, Run, launched, let_wait, state_of, wait_until

_SERVICE = """\
import asyncio, pathlib
from contextlib import asynccontextmanager
from basiq_async.receiver import SQLiteInbox, WebhookReceiver

def make():
    made = WebhookReceiver(SECRET, webhook_id="w1", inbox=SQLiteInbox("inbox.db"), deferred=True, handler_timeout=2)
    @made.on("*")
    async def handle(delivery):
        with open("begun.txt", "a") as file:
            file.write(delivery.event_id + "\\n")
        while pathlib.Path("hold").exists():
            await asyncio.sleep(0.01)
        if pathlib.Path("bad").exists():
            raise ValueError("it is bad")
    return made

@asynccontextmanager
async def entered():
    async with make() as receiver:
        await asyncio.sleep(0.05)  # long enough for one that drains
        yield receiver
"""


@pytest.fixture(autouse=True)
def service(tmp_path: Path) -> str:
    """A service in this folder, in whose inbox two deliveries wait, and the name of its module."""
    name = f"service_{tmp_path.name.replace('-', '_')}"
    Path(f"{name}.py").write_text(_SERVICE.replace("SECRET", repr(SECRET)))
    let_wait("w1", "e-1", "e-2")
    return name


def begun() -> list[str]:
    return Path("begun.txt").read_text().split() if Path("begun.txt").exists() else []


def working(place: str) -> AbstractContextManager[subprocess.Popen[str]]:
    return launched("work", "--receiver", place)


def test_what_waits_is_listed_and_shown(run: Run, service: str) -> None:
    for named in (["--inbox", "inbox.db"], ["--receiver", f"{service}:make"]):
        done = run("inbox", "waiting", *named)
        assert done.exit_code == 1, done.output
        assert [(row["event_id"], row["failures"]) for row in done.rows] == [("e-1", 0), ("e-2", 0)]
    shown = run("inbox", "waiting", "--inbox", "inbox.db", "--limit", "1", terminal=True)
    assert [line.split()[0] for line in shown.stdout.splitlines()[1:]] == ["e-1"], "the id that `inbox get` takes"
    assert "the oldest 1, and there are more" in shown.stderr
    assert run("inbox", "waiting").exit_code == 2
    found = state_of(run, "e-1")
    assert (found["state"], found["failures"], found["unended"], found["error"]) == ("waiting", 0, 0, None)
    assert found["since"]
    assert found["due"], "at once"
    with closing(sqlite3.connect("inbox.db")) as database, database:
        database.execute("UPDATE inbox SET due = due + 40 * 86400")
    rows = [state_of(run, "e-1"), *run("inbox", "waiting", "--inbox", "inbox.db").rows]
    assert {datetime.fromisoformat(row["due"]).date() for row in rows} <= {datetime.now(UTC).date()}, "a wrong clock"


def test_an_event_that_is_not_handled_shows_the_attempts_that_had_no_end(run: Run, service: str) -> None:
    async def die() -> None:
        async with SQLiteInbox("inbox.db") as inbox:
            for token in "ab":
                await inbox.claim("e-9", token, lease=1e-9)

    asyncio.run(die())
    found = state_of(run, "e-9")
    assert (found["state"], found["unended"]) == ("unknown", 2)
    assert state_of(run, "e-10")["unended"] is None


@pytest.mark.parametrize("what", ["make", "entered"])
def test_no_other_command_handles_what_waits(run: Run, service: str, what: str) -> None:
    place = f"{service}:{what}"
    for words in (
        ["inbox", "waiting", "--receiver", place],
        ["inbox", "get", "e-1", "--receiver", place],
        ["quarantine", "list", "--receiver", place],
        ["quarantine", "retry", "--receiver", place],
    ):
        run(*words)
    assert begun() == []


def test_it_works_until_a_signal_and_ends_with_0(run: Run, service: str) -> None:
    with working(f"{service}:make") as process:
        wait_until(lambda: sorted(begun()) == ["e-1", "e-2"])
        wait_until(lambda: state_of(run, "e-2")["state"] == "handled")
        let_wait("w1", "e-3")
        wait_until(lambda: "e-3" in begun())
        process.send_signal(signal.SIGTERM)
        _, printed = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, printed
    assert "3 handled" in printed
    assert run("inbox", "waiting", "--inbox", "inbox.db").exit_code == 0


def test_after_a_signal_it_ends_what_runs_within_the_time_and_a_second_one_ends_it_at_once(
    run: Run, service: str
) -> None:
    Path("hold").touch()
    with working(f"{service}:entered") as process:
        wait_until(lambda: sorted(begun()) == ["e-1", "e-2"])
        process.send_signal(signal.SIGTERM)
        time.sleep(0.05)
        Path("hold").unlink()
        _, printed = process.communicate(timeout=PATIENCE)
    assert (process.returncode, state_of(run, "e-1")["state"]) == (0, "handled"), printed
    let_wait("w1", "e-3")
    Path("hold").touch()
    with working(f"{service}:make") as process:
        wait_until(lambda: "e-3" in begun())
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, printed = process.communicate(timeout=PATIENCE)
    assert process.returncode == 143, printed
    found = state_of(run, "e-3")
    assert (found["state"], found["failures"]) == ("waiting", 0), "its claim was given back"


def test_a_failure_is_logged_and_it_waits_again(run: Run, service: str) -> None:
    Path("bad").touch()
    with working(f"{service}:make") as process:
        wait_until(lambda: state_of(run, "e-1")["failures"] == 1)
        process.send_signal(signal.SIGTERM)
        _, printed = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, printed
    assert "ValueError: it is bad" in printed
    found = state_of(run, "e-1")
    assert (found["state"], found["error"]) == ("waiting", "ValueError: it is bad")
    since, due = (datetime.fromisoformat(found[name]) for name in ("since", "due"))
    assert due - since > timedelta(seconds=4.4)


def test_every_30_s_a_line_says_how_far_it_is(service: str) -> None:
    program = (
        "import sys\n"
        "from basiq_async.cli import main, _output, _waiting\n"
        "_output._SAY_EVERY = 0.01\n"
        "_waiting._EVERY = 0.02\n"
        f"sys.argv = ['basiq-async', 'work', '--receiver', '{service}:make']\n"
        "main()\n"
    )
    with launched(program=(sys.executable, "-c", program)) as process:
        assert process.stderr is not None
        assert any("2 handled; Ctrl-C ends" in line for line in process.stderr)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


def test_what_cannot_work_has_the_exit_code_of_the_table(run: Run, service: str) -> None:
    assert run("work").exit_code == 2
    assert run("work", "--receiver", f"{service}:make", "--log-level", "LOUD").exit_code == 2
    Path("inbox.db").write_bytes(b"no database at all" * 1_000)
    done = run("work", "--receiver", f"{service}:make")
    assert done.exit_code == 3, done.output
    Path(f"{service}_plain.py").write_text(
        "from basiq_async.receiver import Inbox, MemoryInbox, WebhookReceiver\n"
        "class Plain:\n"
        "    def __init__(self):\n"
        "        inner = MemoryInbox()\n"
        "        for name in dir(Inbox):\n"
        "            if not name.startswith('_'):\n"
        "                setattr(self, name, getattr(inner, name))\n"
        f"receiver = WebhookReceiver({SECRET!r}, webhook_id='w1', inbox=Plain())\n"
    )
    plain = run("work", "--receiver", f"{service}_plain:receiver")
    assert (plain.exit_code, "keeps no deliveries that wait" in plain.stderr) == (2, True), plain.output


def test_after_a_fix_what_waits_is_tried_now_though_it_is_not_due(run: Run, service: str) -> None:
    at = ("--receiver", f"{service}:make")
    Path("bad").touch()
    failed = run("inbox", "retry", *at)
    assert [(row["event_id"], row["result"], row["error"]) for row in failed.rows] == [
        (each, "failed", "ValueError: it is bad") for each in ("e-1", "e-2")
    ]
    assert failed.exit_code == 1
    assert state_of(run, "e-1")["failures"] == 0, "it waits as before"
    with closing(sqlite3.connect("inbox.db")) as database, database:
        database.execute("UPDATE inbox SET due = due + 1800")
    Path("bad").unlink()
    one = run("inbox", "retry", "e-2", *at, terminal=True)
    assert (one.exit_code, one.stdout.splitlines()[1].split()) == (0, ["e-2", "handled"])
    assert run("inbox", "retry", *at).rows == [
        {"delivery_id": "m-e-1", "event_id": "e-1", "result": "handled", "error": None}
    ]
    assert "nothing waits" in run("inbox", "retry", *at).stderr
    missing = run("inbox", "retry", "e-9", *at)
    assert (missing.exit_code, "none waits with the id e-9" in missing.stderr) == (2, True)
    assert run("inbox", "retry").exit_code == 2
    assert begun() == ["e-1", "e-2", "e-2", "e-1"]
