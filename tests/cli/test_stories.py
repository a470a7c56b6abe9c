"""Stories in which a person changed something, by the command line: what doctor says, and what its lines bring."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from ..support.command_line import run_command
from ..support.real_time import PATIENCE
from .conftest import TYPE, Terminal, World, help_lines, launched, on_a_terminal, wait_until, write_service

DAYS_AGO = 0  # as the clock of the service's inbox


def test_events_of_a_type_that_was_added_again_are_named_though_a_recovery_ran_meanwhile(world: World) -> None:
    w, webhook_id = world, world.webhook()
    at = (webhook_id, "--receiver", w.service(webhook_id))
    w.emit(2, "user.created")
    w.pass_time(hours=5)
    assert w.run("recover", *at).exit_code == 0
    assert w.codes(*at) == []
    w.subscribe(webhook_id, TYPE, "user.created")
    assert w.run(*w.help_for("never-sent", *at)).exit_code == 0
    assert (w.handled(), w.codes(*at)) == (2, [])


def test_what_has_no_handler_is_no_message_to_recover_and_unsubscribing_ends_it(world: World) -> None:
    w, webhook_id = world, world.webhook(TYPE, "user.created")
    at = (webhook_id, "--receiver", w.service(webhook_id, "consent.*"))
    w.pass_time(hours=1)
    w.emit(1, "user.created")  # acknowledged, since nothing handles it
    w.pass_time(minutes=5)
    w.fake.endpoint_down(w.endpoint.url)
    w.emit(2, "user.created")
    w.emit(2)
    w.pass_time(hours=5)
    assert w.run("recover", *at).row["messages"]["skipped"]["no-handler"] == 3
    assert w.codes(*at) == ["unhandled-event-types"]
    assert len(w.run(*w.help_for("unhandled-event-types", *at)).rows) == 3
    w.subscribe(webhook_id, TYPE)
    assert w.codes(*at) == []
    w.subscribe(webhook_id, TYPE, "user.created")
    at = (webhook_id, "--receiver", w.service(webhook_id))  # a deploy brings the handler
    assert w.run(*w.help_for("undelivered", *at)).exit_code == 0
    assert (w.handled(), w.codes(*at)) == (5, [])


def test_a_webhook_that_was_deleted_and_made_again_repeats_nothing_of_the_former(world: World) -> None:
    w, former = world, world.webhook()
    place = w.service(former)
    w.pass_time(hours=1)
    w.outage(3)
    assert w.run("recover", former, "--receiver", place).exit_code == 0
    assert w.handled() == 3
    w.call(lambda basiq: basiq.webhooks.delete(former))
    w.emit(2)  # no webhook is subscribed
    w.pass_time(minutes=10)
    webhook_id = w.webhook()
    assert w.run("recover", webhook_id, "--receiver", place).exit_code == 2
    alone = w.run("recover", webhook_id, "--receiver", write_service(webhook_id))
    assert (alone.exit_code, "inbox join" in alone.stderr, "webhook_id" in alone.stderr) == (2, True, False), (
        alone.output
    )
    at = (webhook_id, "--receiver", w.service([webhook_id, former]))
    found = w.run("recover", *at)
    assert (found.exit_code, found.row["events"]["handled"]) == (0, 2), found.output
    assert w.codes(*at) == []
    assert w.run("recover", *at).exit_code == 0  # as cron does
    assert w.handled() == 5


def test_a_first_recovery_says_how_much_it_passes_and_since_leaves_out_what_is_older(world: World) -> None:
    w, webhook_id = world, world.webhook()
    at = (webhook_id, "--receiver", w.service(webhook_id))
    w.fake.endpoint_down(w.endpoint.url)
    w.emit(3)
    w.pass_time(hours=3)
    w.emit(2)
    w.pass_time(minutes=10)
    found = w.run("recover", *at, "--since", "1h")
    assert (found.exit_code, found.row["messages"]["handled"]) == (0, 2), found.output
    assert "handles about 2 messages and 0 events" in found.stderr
    again = w.run("recover", *at)
    assert (again.exit_code, again.row["messages"]["handled"], "handles about" in again.stderr) == (0, 0, False)
    assert "undelivered" not in w.codes(*at)


def test_what_is_in_the_quarantine_of_a_former_webhook_is_not_forgotten(world: World) -> None:
    w, former = world, world.webhook()
    place = w.service(former)
    w.outage()
    Path("broken").touch()
    assert w.run("recover", former, "--receiver", place).exit_code == 1
    Path("broken").unlink()
    w.call(lambda basiq: basiq.webhooks.delete(former))
    webhook_id = w.webhook()
    at = (webhook_id, "--receiver", w.service([webhook_id, former]))
    found = w.run("recover", *at)
    assert (found.exit_code, found.row["quarantined"]) == (1, 2), found.output
    assert len(w.run("quarantine", "list", "--receiver", at[-1]).rows) == 2
    assert w.run(*w.help_for("quarantined", *at)).exit_code == 0
    event_id = Path("handled").read_text().split()[0]
    assert w.run("inbox", "get", event_id, "--receiver", at[-1]).row["state"] == "handled"
    assert w.run("recover", *at).exit_code == 0
    assert (w.handled(), w.codes(*at)) == (2, [])


def test_of_a_webhook_that_was_gone_for_long_the_time_that_no_list_has_is_named(world: World) -> None:
    w, former = world, world.webhook()
    assert w.run("recover", former, "--receiver", w.service(former)).exit_code == 0
    w.call(lambda basiq: basiq.webhooks.delete(former))
    w.emit(1)
    w.pass_time(days=10)
    webhook_id = w.webhook()
    at = (webhook_id, "--receiver", w.service([webhook_id, former]))
    assert w.codes(*at) == ["unrecoverable"]
    found = w.run("recover", *at)
    assert (found.exit_code, len(found.row["unrecoverable"])) == (1, 1), found.output
    assert w.codes(*at) == ["unrecoverable"]


def test_doctor_of_all_says_that_the_webhook_of_a_service_is_not_of_this_account(world: World) -> None:
    w, webhook_id = world, world.webhook()
    place = w.service(webhook_id)
    w.call(lambda basiq: basiq.webhooks.delete(webhook_id))
    by_service = (("--receiver", place), ("--inbox", "inbox.db"))
    for named in ((), *by_service):
        done = w.run("webhooks", "doctor", *named)
        assert (done.exit_code, "there is no webhook" in done.stderr) == (1, True), done.output
        assert (f"the webhook {webhook_id} of this" in done.stderr) == bool(named)
    w.fake.add_webhook("https://other.example/basiq", [TYPE])
    assert w.run("webhooks", "doctor").exit_code == 0
    for named in by_service:
        done = w.run("webhooks", "doctor", *named)
        assert (done.exit_code, f"the webhook {webhook_id} of this" in done.stderr) == (1, True), done.output
    gone = w.run("recover", webhook_id, "--receiver", place)
    assert (gone.exit_code, help_lines(gone.stderr)) == (1, [])


def test_nothing_that_is_posted_elsewhere_counts_as_handled_by_the_service(world: World) -> None:
    w = world
    w.webhook()  # the endpoint's: it is of another service
    webhook_id = w.fake.add_webhook("https://service.example/basiq", [TYPE])
    w.service(webhook_id)
    w.fake.endpoint_down()
    w.emit(2)
    w.pass_time(minutes=10)
    to = ("--to", w.endpoint.url, "--secret-file", "the secret")
    for command in ("recover", "replay"):
        elsewhere = w.run(command, webhook_id, *to, "--inbox", "inbox.db")
        assert (elsewhere.exit_code, "another place" in elsewhere.stderr) == (2, True), elsewhere.output
    assert w.posted() == 0
    assert w.run("recover", webhook_id, *to).exit_code == 0
    assert (w.posted(), "undelivered" in w.codes(webhook_id, "--inbox", "inbox.db")) == (2, True)


def test_a_clock_that_is_wrong_is_named_before_anything_else(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    w, webhook_id = world, world.webhook()
    at = (webhook_id, "--receiver", w.service(webhook_id))
    # A mock on this machine has the time that a test gives it; this one is as far away as Basiq.
    monkeypatch.setattr("basiq_async.services.api.is_this_machine", lambda host: False)
    w.fake.endpoint_down(w.endpoint.url, status=401)
    w.emit(2)
    w.pass_time(hours=2)
    assert w.codes(*at)[0] == "clock"
    Path("broken").touch()
    found = w.run("recover", *at)
    assert [each["code"] for each in found.row["problems"]] == ["clock", "quarantined"]
    assert "behind Basiq's" in found.row["problems"][0]["text"]


def test_what_a_service_handled_before_its_inbox_is_told_in_words(world: World) -> None:
    w, webhook_id = world, world.webhook()
    w.emit(1)
    w.pass_time(minutes=10)
    at = (webhook_id, "--to", w.endpoint.url, "--secret-file", "the secret")
    assert "1 message was delivered, as Basiq says, before the inbox began" in w.run("recover", *at).stderr
    found = w.run("webhooks", "doctor", webhook_id)
    assert (found.exit_code, found.row["passed_over"]) == (0, 1), found.output
    assert "a recovery passes over such messages; recover --everything includes them" in found.stderr
    assert w.run("recover", *at, "--everything").exit_code == 0
    again = w.run("webhooks", "doctor", webhook_id)
    assert (again.row["passed_over"], "delivered, as Basiq says" in again.stderr) == (0, False)


def test_messages_that_are_posted_with_a_wrong_clock_name_the_clock(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    w, webhook_id = world, world.webhook()
    w.outage()
    monkeypatch.setattr("basiq_async.services.api.is_this_machine", lambda host: False)
    w.pass_time(minutes=10)
    ids = [row["id"] for row in w.run("messages", "list", webhook_id).rows]
    w.endpoint.status = 401
    to = ("--to", w.endpoint.url, "--secret-file", "the secret")
    for line in (("messages", "resend", webhook_id, *ids), ("replay", webhook_id)):
        refused = w.run(*line, *to)
        assert (refused.exit_code, "this machine's clock is" in refused.stderr) == (1, True), refused.output
        assert "behind Basiq's" in refused.stderr


def test_what_failed_at_an_inner_address_is_tried_again_there_by_the_line_of_doctor(world: World) -> None:
    w, inner = world, world.endpoint.url
    webhook_id = w.fake.add_webhook("https://service.example/basiq", [TYPE])
    w.endpoint.secret = w.fake.secret(webhook_id)
    Path("the secret").write_text(w.endpoint.secret)
    w.fake.endpoint_down()
    w.emit(2)
    w.pass_time(minutes=10)
    w.endpoint.status = 400
    assert w.run("recover", webhook_id, "--to", inner, "--secret-file", "the secret").exit_code == 1
    (record,) = map(str, Path().glob("basiq-*.db"))
    w.endpoint.status = 204
    w.endpoint.ids.clear()
    at = (webhook_id, "--inbox", record, "--secret-file", "the secret")
    line = w.help_for("quarantined", *at)
    assert {"retry", inner, record} < {*line}
    assert [row["result"] for row in w.run(*line).rows] == ["handled"] * 2
    assert (w.posted(), w.codes(*at)) == (2, [])


def test_one_message_is_told_as_one(world: World) -> None:
    w, webhook_id = world, world.webhook()
    w.outage(1)
    (problem,) = [
        each for each in w.run("webhooks", "doctor", webhook_id).row["problems"] if each["code"] == "undelivered"
    ]
    assert problem["text"] == "1 message was not delivered: recover what is missing"
    w.endpoint.status = 400
    found = w.run("recover", webhook_id, "--to", w.endpoint.url, "--secret-file", "the secret")
    assert "1 message failed; most often:" in found.stderr
    assert "1 message or delivery is in the quarantine; try again with:" in found.stderr
    assert [each["text"] for each in found.row["problems"]] == [
        "1 message or delivery failed, and is in the quarantine: fix the handler, then retry"
    ]


_NOT_THERE = "16ddd1ed-4a36-4038-a459-11ba72ac7c9f"


def test_what_one_key_does_not_find_names_the_key(world: World, tmp_path: Path) -> None:
    w, home = world, {"XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path)}
    missing = run_command("webhooks", "get", _NOT_THERE)
    assert "(with the key of BASIQ_API_KEY)" in missing.stderr, missing.output
    login = ("--profile", "staging", "login", "--base-url", w.served.url)
    assert run_command(*login, stdin=f"{w.fake.api_key}\n", env=home).exit_code == 0
    at = ("--profile", "staging")
    own = {**home, "BASIQ_API_KEY": None, "BASIQ_BASE_URL": None}
    for line in (("webhooks", "get"), ("webhooks", "doctor"), ("messages", "list")):
        missing = run_command(*at, *line, _NOT_THERE, env=own)
        assert "(with the key of the profile 'staging')" in missing.stderr, missing.output


def test_two_recoveries_at_once_share_the_work_of_the_services_inbox(world: World) -> None:
    w, webhook_id = world, world.webhook()
    place = w.service(webhook_id)
    w.outage(40)
    command = ("recover", webhook_id, "--receiver", place, "--concurrency", "2")
    with launched(*command) as first, launched(*command) as second:
        shown = [each.communicate(timeout=PATIENCE) for each in (first, second)]
        assert (first.returncode, second.returncode) == (0, 0), shown
    assert w.handled() == 40


@on_a_terminal
@pytest.mark.parametrize(("answer", "handled"), [("n", 0), ("y", 2)])
def test_a_terminal_is_asked_before_a_recovery_of_everything_and_a_line_has_the_count(
    world: World, answer: str, handled: int
) -> None:
    """What was delivered before the inbox began: a copy, or the inbox of before, may know that it was handled."""
    w, webhook_id = world, world.webhook()
    w.emit(2)
    w.pass_time(minutes=10)
    place = w.service(webhook_id)
    line = ("recover", webhook_id, "--receiver", place, "--everything")
    fewer = w.run(*line, "--unrecorded", "1")
    assert (fewer.exit_code, "more than --unrecorded 1 allows" in fewer.stderr, w.handled()) == (2, True, 0)
    with Terminal(*line, env=w.served.environment) as terminal:
        terminal.read_until("[y/N]")
        terminal.type(f"{answer}\n")
        screen = terminal.end()
    assert "2 messages were delivered, as Basiq says, and this inbox does not have them" in " ".join(screen.split())
    assert w.handled() == handled
    assert (w.run(*line, "--unrecorded", "2").exit_code, w.handled()) == (0, 2)


@on_a_terminal
@pytest.mark.parametrize(("answer", "handled"), [("n", 0), ("y", 2)])
def test_a_terminal_is_asked_before_a_recovery_passes_what_basiq_delivered(
    world: World, answer: str, handled: int
) -> None:
    """A second region, or the inbox of before a restore: another inbox may know that it was handled."""
    w, webhook_id = world, world.webhook()
    place = w.service(webhook_id)
    w.pass_time(hours=1)
    w.emit(2)
    w.pass_time(minutes=10)
    with Terminal("recover", webhook_id, "--receiver", place, env=w.served.environment) as terminal:
        terminal.read_until("[y/N]")
        terminal.type(f"{answer}\n")
        screen = terminal.end()
        assert terminal.process.returncode == (0 if handled else 1), screen
    assert "2 messages were delivered, as Basiq says, and this inbox does not have them" in " ".join(screen.split())
    assert w.handled() == handled


def test_a_repeat_that_is_killed_is_continued_under_its_name(world: World) -> None:
    w, webhook_id, count = world, world.webhook(), 40
    place = w.service(webhook_id, more=", handler_timeout=2, lease=3")  # for which the killed run holds its claims
    w.outage(count)
    assert w.run("recover", webhook_id, "--receiver", place).exit_code == 0
    Path("handled").unlink()
    line = ("replay", webhook_id, "--receiver", place, "--again", "bug-1234", "--since", "2d", "--concurrency", "2")

    def counts() -> Counter[str]:
        return Counter(Path("handled").read_text().split() if Path("handled").exists() else [])

    with launched(*line) as process:
        wait_until(lambda: counts().total() >= 5)
        process.kill()
    assert counts().total() < count
    assert w.run(*line).exit_code == 0
    assert len(counts()) == count
    assert counts().total() <= count + 2, "as many as were under way"
    assert w.run(*line).row["handled"] == 0
