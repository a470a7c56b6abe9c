"""A service whose webhook changes, by the command line, in each kind of inbox: nothing is handled twice."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ..support.pods import handled, write_service
from ..support.real_time import PATIENCE
from .conftest import World, launched

DAYS_AGO = 0


def test_a_changed_webhook_has_no_event_handled_again_in_any_inbox_also_after_kills(
    world: World, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    w, first = world, world.webhook()
    receiver = ("--receiver", write_service(place))
    monkeypatch.setenv("BASIQ_WEBHOOK_ID", first)
    assert w.run("recover", first, *receiver).exit_code == 0
    w.outage(8)
    monkeypatch.setenv("SLOW", "0.05")
    with launched("recover", first, *receiver, "--concurrency", "2") as process:
        end = time.monotonic() + PATIENCE
        while sum(handled().values()) < 3 and time.monotonic() < end:
            time.sleep(0.02)
        process.kill()
    monkeypatch.setenv("SLOW", "0")
    done = w.run("recover", first, *receiver)
    assert done.exit_code == 0, done.output
    assert len(handled()) == 8
    given = [line[:6] for line in Path("handled").read_text().splitlines()]
    assert len(given) <= 10, f"more than what was under way at the kill: {given} {done.output}"
    before = handled()

    w.call(lambda basiq: basiq.webhooks.delete(first))
    w.emit(3)  # no webhook is subscribed
    w.pass_time(minutes=10)
    second = w.webhook()
    monkeypatch.setenv("BASIQ_WEBHOOK_ID", second)
    wrong = w.run("recover", second, *receiver)
    assert (wrong.exit_code, "inbox join" in wrong.stderr) == (2, True), wrong.output
    monkeypatch.setenv("BASIQ_WEBHOOK_ID", f"{second},{first}")
    monkeypatch.setenv("SLOW", "0.05")
    with launched("recover", second, *receiver, "--concurrency", "1") as process:
        while sum((handled() - before).values()) < 1 and time.monotonic() < end + PATIENCE:
            time.sleep(0.02)
        process.kill()
    monkeypatch.setenv("SLOW", "0")
    done = w.run("recover", second, *receiver)
    assert done.exit_code == 0, done.output
    assert w.run("recover", second, *receiver).row["events"]["handled"] == 0
    assert (len(handled()), sum((handled() - before).values())) in ((11, 3), (11, 4))
    assert w.codes(second, *receiver) == []
    assert all(len(set(line.split()[:2])) == 1 for line in Path("handled").read_text().splitlines()), (
        "the key is the id"
    )
