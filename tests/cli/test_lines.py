"""Each line that a verdict prints is run as it is printed, by a shell, in a story that prints it: it does what it says.

A line names the profile or the base URL, the inbox, the target and the secret's file of the first call. It shows no
password.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from basiq_async._work.inbox_calls import InboxCalls
from basiq_async.receiver import SQLiteInbox
from basiq_async.services.problems import ProblemCode
from basiq_async.testing import Quirks

from ..support.command_line import CommandResult
from ..support.real_time import PATIENCE
from .conftest import TYPE, Endpoint, Run, Served, World, install, let_wait, make_inbox, receive, wait_until

pytestmark = pytest.mark.documented_world("its webhooks are disabled after one message", "disables")

if sys.platform == "win32":
    pytest.skip("there is no shell", allow_module_level=True)

DAYS_AGO = 0
KEYLESS = {"BASIQ_API_KEY": None, "BASIQ_BASE_URL": None, "BASIQ_WEBHOOK_SECRET": None}


@pytest.fixture
def world(run: Run, endpoint: Endpoint, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """The program is in the shell's path. Its key is in a profile: the environment has neither key nor secret."""
    monkeypatch.setenv("PATH", install(tmp_path / "programs"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    stored = run("--base-url", served.url, "--profile", "on call", "login", stdin=f"{served.fake.api_key}\n")
    assert stored.exit_code == 0, stored.output
    for name in KEYLESS:
        monkeypatch.delenv(name)
    return World(lambda *words: run("--profile", "on call", *words), served, endpoint)


def shell(line: str, until: Callable[[], object] | None = None) -> CommandResult:
    """Run a line as a person pastes it; one that does not end by itself until something is true."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(["/bin/sh", "-c", f"exec {line}"], **pipes) as process:
        if until is not None:
            wait_until(until)
            process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=PATIENCE)
    return CommandResult(process.returncode, stdout, stderr)


def shown(ended: CommandResult) -> list[str]:
    """The lines that a run printed to help."""
    return [line.strip() for line in ended.stderr.splitlines() if line.startswith("  basiq-async ")]


# --- the lines of doctor ---


def line_for(code: ProblemCode, w: World, *doctor: str) -> str:
    """The line that doctor prints for a problem."""
    looked = w.run("webhooks", "doctor", *doctor)
    lines = {each["code"]: each["command"] for each in looked.row["problems"]}
    assert code in lines, looked.output
    assert not any(name in looked.stdout for name in ("ensure", "wait_until", "on_unreadable", "replay the"))
    assert lines[code].startswith("basiq-async --profile 'on call' ")
    line: str = lines[code]
    return line


def test_the_line_for_a_disabled_webhook(world: World) -> None:
    w, webhook_id = world, world.webhook()
    w.outage(later=1)
    former = w.fake.secret(webhook_id)
    line = line_for("disabled", w, webhook_id, "--secret-file", "the secret")
    w.fake.quirks = Quirks(signing_key_on_update="new")
    assert shell(line).row["status"] == "active"
    kept = Path("the secret").read_text()
    assert kept.split()[0] == w.fake.secret(webhook_id) != former
    assert former in kept, "the service's own file has both"


def test_the_line_for_a_pending_webhook(world: World) -> None:
    w, webhook_id = world, world.webhook(active=False)
    line = line_for("pending", w, webhook_id)
    w.pass_time(minutes=15)  # while a person reads it
    assert shell(line).row["status"] == "active"


def test_the_line_for_a_key_that_may_not(world: World) -> None:
    w, webhook_id = world, world.webhook()
    w.fake.fail_next(1_000, status=403, path="/events")
    line = line_for("forbidden", w, webhook_id)
    assert shell(line).row["refused"] == ["GET /events"]


def test_the_line_for_an_endpoint_that_is_unreachable(world: World) -> None:
    w, webhook_id = world, world.webhook()
    w.call(lambda basiq: basiq.webhooks.update(webhook_id, url="http://127.0.0.1:9/basiq"))
    w.pass_time(minutes=16)
    line = line_for("endpoint-unreachable", w, webhook_id, "--test", "--secret-file", "the secret")
    w.call(lambda basiq: basiq.webhooks.update(webhook_id, url=w.endpoint.url))
    w.pass_time(minutes=16)
    assert shell(line).row["endpoint_status"] == 204


def test_a_test_that_passes_says_what_it_does_not_prove(world: World) -> None:
    webhook_id = world.webhook()
    done = world.run("webhooks", "doctor", webhook_id, "--test", "--secret-file", "the secret")
    assert (done.exit_code, done.row["endpoint_status"]) == (0, 204)
    assert "proves the address, and not that Basiq signs with the secret" in done.stderr


def test_an_endpoint_that_says_401_to_everything_is_told_of_the_secret(world: World) -> None:
    w, webhook_id = world, world.webhook()
    w.outage()
    w.endpoint.status = 401
    at = ("--to", w.endpoint.url, "--secret-file", "the secret")
    for command in (("replay", webhook_id, *at), ("quarantine", "retry", *at, "--webhook", webhook_id)):
        done = w.run(*command)
        assert done.exit_code == 1
        assert "responded 401 to each of 2 messages" in done.stderr, done.output


def test_the_line_for_an_endpoint_that_refuses(world: World) -> None:
    w, webhook_id = world, world.webhook()
    w.endpoint.status = 500
    line = line_for("endpoint-refuses", w, webhook_id, "--test", "--secret-file", "the secret")
    w.endpoint.status = 204
    assert shell(line).row["endpoint_status"] == 204


def test_the_line_for_deliveries_that_a_former_secret_refuses(world: World) -> None:
    """An update has made a new secret, which was not kept; what is missed is recovered again and again."""
    w, webhook_id = world, world.webhook()
    place = w.service(webhook_id, secret="SecretFile('the secret')")
    w.fake.quirks = Quirks(signing_key_on_update="new")
    w.fake.endpoint_down(w.endpoint.url, status=401)
    w.emit(2)
    w.pass_time(minutes=10)
    assert w.run("recover", webhook_id, "--receiver", place).exit_code == 0
    line = line_for("refused", w, webhook_id, "--receiver", place)
    assert w.codes(webhook_id, "--receiver", place) == ["refused"]
    for _ in range(2):
        assert shell(line).exit_code == 0
        assert Path("the secret").read_text().split()[0] == w.fake.secret(webhook_id)


def test_the_line_for_a_secret_that_is_not_there(world: World) -> None:
    """It is no matter of the url: nothing was posted."""
    w, webhook_id = world, world.webhook()
    place = w.service(webhook_id, secret="SecretFile('basiq.secret')")
    line = line_for("no-secret", w, webhook_id, "--receiver", place, "--test")
    assert w.endpoint.ids == []
    assert shell(line).exit_code == 0
    assert w.codes(webhook_id, "--receiver", place, "--test") == []


def test_the_line_for_a_webhook_that_the_inbox_has_not_noted(world: World) -> None:
    """It asks a person, who is shown what is there."""
    w, former = world, world.webhook()
    receive(former, "e-good", "e-bad", bad=("e-bad",), quarantine_after=1)
    let_wait(former, "e-waits")
    w.call(lambda basiq: basiq.webhooks.delete(former))
    webhook_id = w.webhook()
    at = ("--inbox", "inbox.db")
    line = line_for("not-joined", w, webhook_id, *at)
    asked = shell(line)
    assert (asked.exit_code, "pass --yes" in asked.stderr) == (2, True), asked.stderr
    for part in (f"the webhook {former}, which this API key does not list, with live deliveries since",
                 "1 delivery waits in it, and 1 entry in its quarantine", "last recorded something at"):  # fmt: skip
        assert part in asked.stderr, asked.stderr
    assert w.run("inbox", "check", *at).row["webhooks"] == [former]
    for _ in range(2):
        done = shell(f"{line} --yes")
        assert (done.exit_code, done.row["webhooks"]) == (0, [former, webhook_id]), done.stderr
    receive(webhook_id, "e-new")
    assert "not-joined" not in w.codes(webhook_id, *at)


def test_the_line_for_what_was_delivered_before_its_webhook_joined(world: World) -> None:
    w, former = world, world.webhook()
    make_inbox(former)
    w.pass_time(minutes=20)
    w.call(lambda basiq: basiq.webhooks.delete(former))
    webhook_id = w.webhook()
    w.emit(2)  # something else says 204
    w.pass_time(minutes=10)
    moment = w.fake.clock()

    async def join() -> None:
        async with SQLiteInbox("inbox.db") as inbox:
            await InboxCalls(inbox, 5).admit([webhook_id, former], live=moment)

    asyncio.run(join())
    at = (webhook_id, "--receiver", w.service(webhook_id))
    line = line_for("joined-later", w, *at)
    (both,) = [each for each in w.run("webhooks", "doctor", *at).row["problems"] if each["code"] == "joined-later"]
    assert (both["command"], " --acknowledged 20" in both["otherwise"]) == (line, True)
    left = w.run("recover", *at)
    assert (left.exit_code, left.row["before_joining"], w.handled()) == (1, 2, 0), left.output
    everything, acknowledged = shown(left)
    assert ("--everything" in everything, "--acknowledged" in acknowledged) == (True, True)
    assert (shell(both["otherwise"]).exit_code, w.handled()) == (0, 0)
    assert "joined-later" not in w.codes(*at)
    assert (shell(line).exit_code, w.handled()) == (0, 2)
    assert "joined-later" not in w.codes(*at)
    assert (shell(everything).exit_code, shell(acknowledged).exit_code, w.handled()) == (0, 0, 2)


def test_the_line_for_a_webhook_without_types(world: World) -> None:
    w, webhook_id = world, world.fake.add_webhook(world.endpoint.url, [])
    line = line_for("no-event-types", w, webhook_id)
    assert TYPE in [row["id"] for row in shell(line).rows]


def test_the_line_for_a_retired_type(world: World) -> None:
    w, webhook_id = world, world.webhook(TYPE, "user.created")
    types = dict(w.fake.event_types)
    del types["user.created"]
    w.fake._store.event_types = types
    line = line_for("retired-event-types", w, webhook_id)
    assert shell(line).row["subscribed_events"] == [TYPE]


def test_the_line_for_a_handler_of_an_unknown_type(world: World) -> None:
    w, webhook_id = world, world.webhook()
    types = {name: text for name, text in w.fake.event_types.items() if name != "user.created"}
    w.fake._store.event_types = types
    place = w.service(webhook_id, TYPE, "user.created")
    line = line_for("unknown-event-types", w, webhook_id, "--receiver", place)
    assert {row["id"] for row in shell(line).rows} == set(types)


def test_the_line_for_a_type_without_a_handler(world: World) -> None:
    w, webhook_id = world, world.webhook(TYPE, "user.created")
    w.emit(1, "user.created")
    line = line_for("unhandled-event-types", w, webhook_id, "--receiver", w.service(webhook_id, TYPE))
    assert [row["event_type_id"] for row in shell(line).rows] == ["user.created"]


def test_the_line_for_a_handler_of_an_unsubscribed_type(world: World) -> None:
    w, webhook_id = world, world.webhook(TYPE)
    place = w.service(webhook_id, TYPE, "user.*")
    line = line_for("unsubscribed-event-types", w, webhook_id, "--receiver", place)
    assert set(shell(line).row["subscribed_events"]) > {TYPE, "user.created", "user.deleted"}


def test_the_line_for_failing_deliveries(world: World) -> None:
    w, webhook_id = world, world.webhook()
    w.outage()
    line = line_for("failing", w, webhook_id)
    assert [row["delivered"] for row in shell(line).rows] == [False, False]


def test_the_line_for_undelivered_messages(world: World) -> None:
    w, webhook_id = world, world.webhook()
    w.outage()
    line = line_for("undelivered", w, webhook_id, "--receiver", w.service(webhook_id))
    assert shell(line).exit_code == 0
    assert (w.handled(), w.posted()) == (2, 0)


def test_the_line_for_events_that_were_never_sent(world: World) -> None:
    w, webhook_id = world, world.webhook()
    w.outage(later=3)
    w.call(lambda basiq: basiq.webhooks.reactivate(webhook_id))
    line = line_for("never-sent", w, webhook_id, "--receiver", w.service(webhook_id))
    assert shell(line).row["events"]["handled"] == 3
    assert w.handled() == 5


def test_the_line_for_messages_that_are_not_recorded(world: World) -> None:
    w, webhook_id = world, world.webhook()
    place = w.service(webhook_id)
    w.pass_time(hours=1)
    w.emit(2)  # to another service: the endpoint is none of the receiver's
    w.pass_time(minutes=10)
    line = line_for("unrecorded", w, webhook_id, "--receiver", place)
    assert line.endswith(" --unrecorded 2")
    refused = shell(line[:-1] + "1")
    assert (refused.exit_code, "more than --unrecorded 1 allows" in refused.stderr) == (2, True), refused.output
    assert w.handled() == 0
    assert shell(line).exit_code == 0
    assert (w.handled(), w.codes(webhook_id, "--receiver", place)) == (2, [])


def _lost(w: World) -> str:
    """Events of a time that no list has."""
    webhook_id = w.webhook()
    w.outage(later=1)
    w.pass_time(days=10)
    w.call(lambda basiq: basiq.webhooks.reactivate(webhook_id))
    w.emit(1)
    w.pass_time(minutes=10)
    return webhook_id


def test_the_line_for_events_that_are_unrecoverable(world: World) -> None:
    w, webhook_id = world, _lost(world)
    place = w.service(webhook_id)
    line = line_for("unrecoverable", w, webhook_id, "--receiver", place)
    done = shell(line)
    if done.row["unrecoverable"]:  # what the list has lost since doctor looked, by the clock of this machine
        (more,) = done.row["unrecoverable"]
        assert more["since"] == line.rpartition(" ")[2]
        done = w.run("recover", webhook_id, "--receiver", place, "--acknowledged", more["until"])
    assert (done.exit_code, done.row["unrecoverable"]) == (0, []), done.output
    assert w.codes(webhook_id, "--receiver", place) == []


def test_the_line_for_messages_of_which_nothing_tells_whether_they_were_delivered(world: World) -> None:
    w, webhook_id = world, world.webhook()
    place = w.service(webhook_id)
    w.outage()
    w.fake.quirks = Quirks(attempts="absent", attempts_by_id="strings")
    at = ("--receiver", place)
    found = w.run("recover", webhook_id, *at)
    assert (found.exit_code, found.row["finished"], found.row["unknown"], w.handled()) == (3, False, 2, 0), found.output
    assert w.run("webhooks", "doctor", webhook_id, *at).exit_code == 3
    line = line_for("unknown", w, webhook_id, *at)
    assert (shell(line).exit_code, w.handled()) == (3, 2)
    (left,) = w.run("webhooks", "doctor", webhook_id, *at).row["problems"]
    assert left["code"] == "unknown-activity", "nothing tells that either"


def test_the_line_for_a_list_that_does_not_tell_when_the_webhook_was_active(world: World) -> None:
    w, webhook_id = world, world.webhook()
    place = w.service(webhook_id)
    w.outage()
    w.fake.quirks = Quirks(attempts="absent", attempts_by_id="absent")
    at = ("--receiver", place)
    assert w.run("replay", webhook_id, *at).exit_code == 0  # the inbox knows them, and no recovery ran
    found = w.run("recover", webhook_id, *at)
    assert (found.exit_code, found.row["finished"], w.handled()) == (3, False, 2), found.output
    line = line_for("unknown-activity", w, webhook_id, *at)
    w.pass_time(hours=20)  # a person is asleep first
    assert (shell(line).exit_code, w.handled()) == (0, 2)
    assert w.codes(webhook_id, *at) == []


def test_the_line_for_a_quarantine(world: World) -> None:
    w, webhook_id = world, world.webhook()
    place = w.service(webhook_id)
    w.outage()
    Path("broken").touch()
    assert w.run("recover", webhook_id, "--receiver", place).exit_code == 1
    Path("broken").unlink()
    line = line_for("quarantined", w, webhook_id, "--receiver", place)
    assert [row["result"] for row in shell(line).rows] == ["handled"] * 2
    assert w.handled() == 2


def test_the_line_for_a_quarantine_of_what_was_posted(world: World) -> None:
    w, webhook_id = world, world.webhook()
    w.outage()
    w.endpoint.status = 400
    assert w.run("recover", webhook_id, "--to", w.endpoint.url, "--secret-file", "the secret").exit_code == 1
    w.endpoint.status = 204
    w.endpoint.ids.clear()
    line = line_for("quarantined", w, webhook_id, "--secret-file", "the secret")
    assert [row["result"] for row in shell(line).rows] == ["handled"] * 2
    assert w.posted() == 2


def test_the_line_for_deliveries_that_wait(world: World) -> None:
    w, webhook_id = world, world.webhook()
    place = w.service(webhook_id, more=", deferred=True")
    let_wait(webhook_id, "e-1", "e-2")
    found = w.run("recover", webhook_id, "--receiver", place)
    assert (found.exit_code, found.row["finished"], found.row["waiting"], w.handled()) == (1, False, 2, 0)
    line = line_for("waiting", w, webhook_id, "--receiver", place)
    shell(line, until=lambda: w.handled() == 2)
    assert w.handled() == 2


def test_the_line_for_deferred_deliveries_that_fail(world: World) -> None:
    w, webhook_id = world, world.webhook()
    place = w.service(webhook_id, more=", deferred=True")
    let_wait(webhook_id, "e-1")
    Path("broken").touch()
    at = ("--inbox", "inbox.db")
    shell(f"basiq-async work --receiver {place}", until=lambda: w.run("inbox", "waiting", *at).row["failures"])
    line = line_for("deferred-failing", w, webhook_id, "--receiver", place)
    row = shell(line).row
    assert (row["event_id"], row["failures"], "broken" in row["error"]) == ("e-1", 1, True)


def test_the_line_for_items_that_are_unreadable(world: World) -> None:
    w, webhook_id = world, world.webhook()
    w.emit(1)
    body = json.dumps({"type": "list", "data": [{"id": 1.5}]})
    w.fake.fail_next(1, status=200, body=body, path="*/messages*")
    line = line_for("unreadable", w, webhook_id)
    assert shell(line).exit_code == 0


def test_the_line_for_a_look_that_was_partial(world: World) -> None:
    w, webhook_id = world, world.webhook()
    place = w.service(webhook_id)
    w.fake.quirks = Quirks(message_order="newest-first", event_order="newest-first")
    w.fake.seed_messages(3_000, webhook_id)
    part = ("--receiver", place, "--limit", "10")
    assert w.run("webhooks", "doctor", webhook_id, *part).exit_code == 3, "nothing was found, and not all was read"
    line = line_for("partial", w, webhook_id, *part)
    found = shell(line).row
    assert (found["complete"], found["looked_at"] >= 3_000, found["recovered"]) == (True, True, 0)


def test_the_line_of_each_problem_is_run() -> None:
    """A clock has none, and what was not read has the line of the run."""
    run = set(re.findall(r'line_for\("([\w-]+)", w', Path(__file__).read_text()))
    assert run == set(get_args(ProblemCode)) - {"clock", "unread"}


# --- the lines of recover and replay ---


@pytest.mark.parametrize("command", ["recover", "replay"])
def test_the_lines_of_a_run_continue_it_and_try_again_what_failed(world: World, command: str) -> None:
    w, webhook_id = world, world.webhook()
    w.outage()
    line = (command, webhook_id, "--to", w.endpoint.url, "--inbox", "my inbox.db", "--secret-file", "the secret")
    w.fake.fail_next(1_000, status=400, path="*/messages*")
    broken = w.run(*line)
    assert broken.exit_code == 1, broken.output
    w.fake._faults.clear()
    (again,) = shown(broken)
    w.endpoint.status = 400
    failed = shell(again)
    assert (failed.exit_code, w.posted(), failed.row["quarantined"]) == (1, 2, 2), failed.output
    assert shell(again).exit_code == 1  # until it is handled
    w.endpoint.status = 204
    w.endpoint.ids.clear()
    (retry,) = shown(failed)
    assert [row["result"] for row in shell(retry).rows] == ["handled"] * 2
    assert (shell(again).exit_code, w.posted()) == (0, 2)


def test_a_line_that_continues_selects_the_same_time_however_late_it_is_run(world: World) -> None:
    w, webhook_id = world, world.webhook()
    w.outage()
    w.fake.fail_next(1_000, status=400, path="*/messages*")
    at = ("--to", w.endpoint.url, "--secret-file", "the secret")
    broken = w.run("replay", webhook_id, *at, "--since", "1h")
    w.fake._faults.clear()
    w.pass_time(hours=2)
    w.endpoint.ids.clear()  # Basiq's own attempts
    (line,) = shown(broken)
    assert (shell(line).exit_code, w.posted()) == (0, 2), line


def test_the_line_of_a_receivers_run_tries_again_what_failed(world: World) -> None:
    w, webhook_id = world, world.webhook()
    w.outage()
    Path("broken").touch()
    failed = w.run("recover", webhook_id, "--receiver", w.service(webhook_id))
    Path("broken").unlink()
    (retry,) = shown(failed)
    assert (shell(retry).exit_code, w.handled()) == (0, 2)


def test_the_line_that_acknowledges_ends_what_is_unrecoverable(world: World) -> None:
    w, webhook_id = world, _lost(world)
    place = w.service(webhook_id)
    found = w.run("recover", webhook_id, "--receiver", place)
    assert [each["code"] for each in found.row["problems"]] == ["unrecoverable"], found.output
    (line,) = shown(found)
    w.pass_time(minutes=1)  # a person reads the line
    assert w.run("recover", webhook_id, "--receiver", place).exit_code == 1
    assert shell(line).exit_code == 0


def test_a_line_whose_url_is_not_shown_whole_says_so_and_is_refused_until_it_is(world: World) -> None:
    w, webhook_id = world, world.webhook()
    w.outage()
    w.fake.fail_next(1_000, status=400, path="*/messages*")
    to = f"{w.endpoint.url}?code=geheim"
    broken = w.run("recover", webhook_id, "--to", to, "--secret-file", "the secret")
    assert "geheim" not in broken.output
    assert "put back what is not shown" in broken.stderr
    w.fake._faults.clear()
    (line,) = shown(broken)
    refused = shell(line)
    assert (refused.exit_code, "put back" in refused.stderr, w.posted()) == (2, True, 0), refused.output
    assert shell(line.replace("…", "code=geheim")).exit_code == 0
    assert w.posted() == 2


def test_the_line_for_the_secret_of_a_new_webhook_stores_it(world: World) -> None:
    made = world.run("webhooks", "create", "--url", "https://example.com/basiq", "--event", TYPE)
    line = made.stderr.partition("get it with: ")[2].strip()
    assert shell(line).exit_code == 0
    assert Path("FILE").read_text().strip() == world.fake.secret(made.row["id"])
