"""What is posted to a service that only stores it: the command line loses nothing, and says what waits there."""

from __future__ import annotations

import asyncio
import json
import shlex
import signal
import threading
from collections.abc import Mapping

import pytest

from basiq_async._work import places  # private: no caller chooses how many jobs an inbox keeps the notes of
from basiq_async._work.keys import key_of_post, posting_job
from basiq_async.cli._problems import find_target, note_target  # private: no command shows how many are kept
from basiq_async.receiver import MemoryInbox
from basiq_async.testing import Quirks
from tests.support.deliveries import quarantined_delivery

from ..support.real_time import PATIENCE
from .conftest import World, launched, store, wait_until

DAYS_AGO = 0  # as the clock of the service's inbox
COUNT = 20


@pytest.mark.parametrize("command", ["recover", "replay"])
def test_what_waits_at_a_service_is_neither_lost_nor_posted_again_nor_taken_for_handled(
    world: World, command: str
) -> None:
    """The service stores what it is posted, and handles it later."""
    w, webhook_id = world, world.webhook()
    place = w.service(webhook_id, more=", deferred=True")

    one_at_a_time = threading.Lock()  # a service has one inbox, not one for each request

    def service(headers: Mapping[str, str], body: bytes) -> int:
        with one_at_a_time:
            asyncio.run(store(webhook_id, w.endpoint.secret, (headers, body)))
        return 202

    w.endpoint.service = service
    w.outage(COUNT)
    line = (command, webhook_id, "--to", w.endpoint.url, "--secret-file", "the secret", "--inbox", "inbox.db")
    for _ in range(2):
        done = w.run(*line)
        assert (done.exit_code, done.row["waiting"], done.row["finished"]) == (1, COUNT, False), done.output
        assert (w.posted(), w.handled()) == (COUNT, 0)
        assert len(w.run("inbox", "waiting", "--inbox", "inbox.db", "--limit", "100").rows) == COUNT
        assert w.run("webhooks", "doctor", webhook_id, "--inbox", "inbox.db").row["waiting"] == COUNT
    if command == "recover":
        assert [each["code"] for each in done.row["problems"]] == ["waiting"]

    with launched("work", "--receiver", place) as process:
        wait_until(lambda: w.handled() == COUNT)
        process.send_signal(signal.SIGTERM)
        _, shown = process.communicate(timeout=PATIENCE)
    assert (process.returncode, w.handled()) == (0, COUNT), shown

    done = w.run(*line)
    assert (done.exit_code, done.row["waiting"], done.row["finished"]) == (0, 0, True), done.output
    assert (w.posted(), w.handled(), w.codes(webhook_id, "--inbox", "inbox.db")) == (COUNT, COUNT, [])


@pytest.mark.parametrize("result", ["duplicate", "quarantined", "ignored"])
def test_what_a_service_acknowledges_and_has_not_handled_is_not_counted_as_handled(world: World, result: str) -> None:
    w, webhook_id = world, world.webhook()
    w.outage(2)
    w.endpoint.status, w.endpoint.result = 200, result
    to = ("--to", w.endpoint.url, "--secret-file", "the secret")
    text = {
        "duplicate": "2 messages were duplicates: the service knows them, and has handled nothing again",
        "quarantined": "2 deliveries failed at the service, and are in its quarantine",
        "ignored": "the service has no handler for 2 messages, and has ignored them",
    }[result]
    code = 1 if result == "quarantined" else 0
    for command in ("replay", "recover"):
        done = w.run(command, webhook_id, *to, "--job", command)
        assert (done.exit_code, text in done.stderr) == (code, True), done.output
        row = done.row if command == "replay" else done.row["messages"]
        assert (row["handled"], row["skipped"][result]) == (0, 2)
    (first, *_) = w.run("messages", "list", webhook_id).rows
    again = w.run("messages", "resend", webhook_id, first["id"], *to)
    assert (again.exit_code, again.row["accepted"], again.row["result"]) == (code, True, result), again.output


def test_the_line_for_a_job_whose_notes_may_be_gone_leaves_out_what_is_older(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "MOST_JOBS", 1)
    w, webhook_id = world, world.webhook()
    w.outage(2)
    line = ("recover", webhook_id, "--to", w.endpoint.url, "--secret-file", "the secret", "--inbox", "jobs.db")
    for job in ("one", "two"):
        assert w.run(*line, "--job", job).exit_code == 0
    done = w.run(*line, "--job", "three")
    assert (done.exit_code, [each["code"] for each in done.row["problems"]]) == (3, ["unknown", "unknown-activity"])
    assert (done.row["messages"]["handled"], len(w.endpoint.ids)) == (0, 4)
    (offered,) = [each for each in done.stderr.splitlines() if "--since" in each and each.strip().startswith("basiq")]
    done = w.run(*shlex.split(offered)[1:])
    assert (done.exit_code, done.row["messages"]["handled"], len(w.endpoint.ids)) == (0, 0, 4), done.output
    w.outage(1)
    assert (w.run(*line, "--job", "three").exit_code, len(w.endpoint.ids)) == (0, 5)
    done = w.run("replay", *line[1:], "--job", "four")
    assert (done.exit_code, done.row["finished"], len(w.endpoint.ids)) == (3, False, 6), done.output
    assert "the inbox no longer tells whether this job posted them" in done.stderr


def test_what_was_missed_is_posted_once_in_each_form_of_an_answer(world: World) -> None:
    w, webhook_id = world, world.webhook()
    line = ("recover", webhook_id, "--to", w.endpoint.url, "--secret-file", "the secret")
    for count, form in enumerate(Quirks.each_form(), 1):
        w.fake.quirks = form
        w.outage(1)
        done = w.run(*line)
        told = "objects" in (form.attempts, form.attempts_by_id)
        found = (done.exit_code, done.row["messages"]["handled"], done.row["unknown"], w.posted())
        assert found == ((0, 1, 0, count) if told else (3, 0, 1, count - 1)), (form, done.output)


async def test_where_the_newest_hundred_jobs_posted_is_kept_and_no_older_one() -> None:
    inbox = MemoryInbox()
    urls = [f"https://service.example/{number}" for number in range(150)]
    for url in [*urls, urls[60]]:
        await note_target(inbox, url, None)
    for url, words in ((urls[10], ()), (urls[60], ("--to", urls[60])), (urls[149], ("--to", urls[149]))):
        key = key_of_post(posting_job(url), "event")
        await inbox.quarantine(key, "t", quarantined_delivery(key))
        assert await find_target(inbox) == words
        await inbox.complete(key, "t")
    assert len(json.loads(await inbox.note("posting targets") or "")) == 100
    key = key_of_post(posting_job(urls[60]), "event-2")
    await inbox.quarantine(key, "t", quarantined_delivery(key))
    for damaged in ("[1]", "{", '{"a": 1}'):
        await inbox.set_note("posting targets", damaged)
        assert await find_target(inbox) == ()
