"""The table from a problem's code to the line that helps, however the command line names what it was given."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest

from basiq_async import Diagnosis, EndpointCheck, Webhook
from basiq_async._work.failing import FailingType
from basiq_async.cli._lines import Given, find_line, find_other_line  # private: the lines before they are quoted
from basiq_async.receiver.protocol import Waiting
from basiq_async.replay import Inactivity
from basiq_async.services.diagnosis import Attempts, Lacking, Look, TypeDifferences
from basiq_async.services.problems import ProblemCode

RECEIVER, INBOX, FILE = Given("service:receiver"), Given(inbox="inbox.db"), Given(secret_file="the secret")
STORED = Given("service:receiver", stored="basiq.secret")
EVERYWHERE = (Given(), RECEIVER, INBOX, FILE, STORED)
URL = "https://service.example/basiq"
PERIOD = Inactivity(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC))
TO = f"--to {URL}"
SECRET_LINES = {
    Given(): "webhooks secret w --show",
    RECEIVER: "webhooks secret w --show",
    FILE: "webhooks secret w --secret-file 'the secret'",
    STORED: "webhooks secret w --secret-file basiq.secret",
}
LINES: dict[str, tuple[dict[str, Any], dict[Given, str] | str]] = {
    "forbidden": ({"look": Look(forbidden=("/events",))}, "whoami"),
    "disabled": (
        {"status": "disabled"},
        {
            Given(): "webhooks reactivate w",
            FILE: "webhooks reactivate w --secret-file 'the secret'",
            STORED: "webhooks reactivate w --secret-file basiq.secret",
        },
    ),
    "pending": ({"status": "pending-approval"}, "webhooks wait w"),
    "joined-later": (
        {"before_joining": 2},
        {
            RECEIVER: "recover w --receiver service:receiver --unrecorded 2 --everything",
            INBOX: f"recover w {TO} --inbox inbox.db --unrecorded 2 --everything",
            FILE: f"recover w {TO} --secret-file 'the secret' --unrecorded 2 --everything",
        },
    ),
    "not-joined": (
        {"not_joined": ("other",)},
        {
            Given(): "inbox join w",
            RECEIVER: "inbox join w --receiver service:receiver",
            INBOX: "inbox join w --inbox inbox.db",
        },
    ),
    "no-event-types": ({"subscribed": ()}, "events types"),
    "retired-event-types": ({"types": TypeDifferences(retired=("a",))}, "webhooks update w --event b"),
    "unknown-event-types": ({"types": TypeDifferences(unknown=("x",))}, "events types"),
    "unhandled-event-types": ({"types": TypeDifferences(unhandled=("a", "b"))}, "messages tail w --event a --event b"),
    "unsubscribed-event-types": (
        {"types": TypeDifferences(unsubscribed=("c.*", "x"), unknown=("x",))},
        "webhooks update w --event a --event b --event 'c.*'",
    ),
    "failing": ({"attempts": Attempts(failed_share=0.5)}, "messages tail w --failed"),
    "refused": ({"attempts": Attempts(refused=401)}, SECRET_LINES),
    "no-secret": ({"endpoint": EndpointCheck(None, "none", unsigned=True)}, SECRET_LINES),
    "refused by the path": (
        {"attempts": Attempts(refused=404)},
        {
            Given(): "webhooks doctor w --test",
            RECEIVER: "webhooks doctor w --receiver service:receiver --test",
            INBOX: "webhooks doctor w --inbox inbox.db --test",
            FILE: "webhooks doctor w --test --secret-file 'the secret'",
        },
    ),
    "endpoint-refuses": (
        {"endpoint": EndpointCheck(500)},
        {RECEIVER: "webhooks doctor w --receiver service:receiver --test"},
    ),
    "endpoint-unreachable": ({"endpoint": EndpointCheck(None, "no")}, {Given(): "webhooks doctor w --test"}),
    "undelivered": (
        {"undelivered": 1},
        {
            Given(): f"recover w {TO}",
            RECEIVER: "recover w --receiver service:receiver",
            INBOX: f"recover w {TO} --inbox inbox.db",
            FILE: f"recover w {TO} --secret-file 'the secret'",
        },
    ),
    "unknown": (
        {"look": Look(unknown=1)},
        {
            RECEIVER: "recover w --receiver service:receiver --unrecorded 1 --everything",
            INBOX: f"recover w {TO} --inbox inbox.db --unrecorded 1 --everything",
        },
    ),
    "never-sent": ({"never_sent": 1}, {RECEIVER: "recover w --receiver service:receiver"}),
    "unrecorded": ({"unrecorded": 1}, {RECEIVER: "recover w --receiver service:receiver --unrecorded 1"}),
    "unreadable": ({"look": Look(unreadable=1)}, "messages list w"),
    "partial": ({"look": Look(complete=False)}, {RECEIVER: "webhooks doctor w --receiver service:receiver --limit 0"}),
    "quarantined": (
        {"quarantined": 1},
        {
            Given(): f"quarantine retry {TO} --webhook w",
            RECEIVER: "quarantine retry --receiver service:receiver",
            INBOX: "quarantine list --inbox inbox.db --webhook w",
        },
    ),
    "waiting": (
        {"waiting": Waiting(count=1, age=301.0)},
        {
            Given(): "",
            RECEIVER: "work --receiver service:receiver",
            INBOX: "inbox waiting --inbox inbox.db --webhook w",
        },
    ),
    "deferred-failing": (
        {"failing_types": (FailingType("a", 1, PERIOD.since, "no"),)},
        {
            Given(): "",
            RECEIVER: "inbox waiting --receiver service:receiver",
            INBOX: "inbox waiting --inbox inbox.db --webhook w",
        },
    ),
    "unknown-activity": (
        {"look": Look(unknown_reach=datetime(2026, 1, 2, tzinfo=UTC))},
        {
            RECEIVER: "recover w --receiver service:receiver --acknowledged 2026-01-03T00:00:00+00:00",
            INBOX: f"recover w {TO} --inbox inbox.db --acknowledged 2026-01-03T00:00:00+00:00",
        },
    ),
    "unrecoverable": (
        {"unrecoverable": (PERIOD,)},
        {RECEIVER: "recover w --receiver service:receiver --acknowledged 2026-01-02T00:00:00+00:00"},
    ),
    "unrecoverable without an end": (
        {"unrecoverable": (Inactivity(PERIOD.since),)},
        {RECEIVER: "recover w --receiver service:receiver"},
    ),
    "clock": ({"clock_lead": 1000.0}, ""),
}


@pytest.mark.parametrize("name", LINES)
def test_each_problem_has_its_line(name: str) -> None:
    fields, wanted = LINES[name]
    fields = dict(fields)
    webhook = Webhook("w", URL, fields.pop("status", "active"), fields.pop("subscribed", ("a", "b")))
    found = Diagnosis(webhook, None, **fields)
    code = name.partition(" ")[0]
    (problem,) = [each for each in found.problems if each.code == code]
    lines = dict.fromkeys(EVERYWHERE, wanted) if isinstance(wanted, str) else wanted
    for place, line in lines.items():
        words = find_line(problem, found, place)
        assert shlex.join(words[1:]) == line, place
        assert not words or words[0] == "basiq-async"


def test_what_only_a_person_knows_has_two_lines_and_the_other_one_acknowledges_nothing_later() -> None:
    look = Look(lacking=Lacking(last_before_joining=PERIOD.since + timedelta(microseconds=5)))
    found = Diagnosis(Webhook("w", URL, "active", ("a",)), None, before_joining=2, undelivered=1, look=look)
    lines = {each.code: shlex.join(find_other_line(each, found, RECEIVER)[1:]) for each in found.problems}
    acknowledges = "recover w --receiver service:receiver --acknowledged 2026-01-01T00:00:01+00:00"
    assert lines == {"joined-later": acknowledges, "undelivered": ""}


def test_what_waits_for_a_lost_handler_is_shown_and_nothing_is_unsubscribed() -> None:
    found = Diagnosis(
        Webhook("w", URL, "active", ("a",)),
        None,
        types=TypeDifferences(unhandled=("a",)),
        waiting=Waiting(count=2, age=1.0),
    )
    (problem,) = found.problems
    assert "2 deliveries wait" in str(problem)
    assert find_line(problem, found, RECEIVER)[1:] == ("inbox", "waiting", "--receiver", "service:receiver")
    assert find_line(problem, found, INBOX)[1:3] == ("messages", "tail")


def test_a_webhook_with_retired_types_alone_is_shown_which_types_there_are() -> None:
    found = Diagnosis(
        Webhook("w", URL, "active", ("a",)),
        None,
        types=TypeDifferences(retired=("a",), unsubscribed=("x",), unknown=("x",)),
    )
    assert {find_line(each, found, Given())[1:] for each in found.problems} == {("events", "types")}


def test_the_table_has_each_problem_of_a_diagnosis() -> None:
    codes = {name.partition(" ")[0] for name in LINES}
    assert codes == set(get_args(ProblemCode)) - {"unread"}, "what was not read has the line of the run"
