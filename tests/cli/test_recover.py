"""``basiq-async recover``: everything that a service missed, each event once, from both sources."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from basiq_async import BasiqClient, InMemoryTransport
from basiq_async.testing import FakeBasiq, ManualClock

from .conftest import Run, Served
from .test_replay import SECRET, Endpoint

EVENTS = ("consent.revoked", "user.created")


@pytest.fixture
def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BASIQ_WEBHOOK_SECRET", SECRET)
    with Endpoint() as running:
        yield running


@pytest.fixture
def served() -> Iterator[Served]:
    """On a clock that is near enough to now for the event list of 7 days."""
    with Served(FakeBasiq(clock=ManualClock(datetime.now(UTC) - timedelta(days=4)))) as running:
        yield running


@pytest.fixture
def webhook_id(served: Served) -> str:
    """A webhook with 3 delivered messages, 4 failed ones, and 5 events that happened while it was disabled."""
    fake = served.fake
    status = 204

    async def receive(headers: object, body: bytes) -> int:
        return status

    async def outage(fake: FakeBasiq, url: str) -> None:
        nonlocal status
        for _ in range(3):
            await fake.emit("user.created")
        status = 500
        for _ in range(4):
            await fake.emit("consent.revoked")
        await fake.advance(days=2)
        for _ in range(5):
            await fake.emit("consent.revoked")
        status = 204
        async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq:
            await basiq.webhooks.reactivate(found)

    url = "https://service.example/basiq"
    fake.route(url, receive)
    found = fake.add_webhook(url, EVENTS)
    served.run(outage(fake, url))
    return found


def recovered(run: Run, *arguments: str, code: int = 0) -> dict[str, Any]:
    done = run("recover", *arguments)
    assert done.exit_code == code, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_what_was_missed_is_posted_once_and_the_same_line_does_nothing_more(
    run: Run, served: Served, endpoint: Endpoint, webhook_id: str
) -> None:
    first = recovered(run, webhook_id, "--to", endpoint.url)
    assert first["messages"]["handled"] == 4
    assert first["messages"]["skipped"] == {"delivered": 3}
    assert first["events"]["handled"] == 5
    assert first["finished"]
    assert len(set(endpoint.ids)) == len(endpoint.ids) == 9
    again = recovered(run, webhook_id, "--to", endpoint.url)
    assert (again["messages"]["handled"], again["events"]["handled"]) == (0, 0)
    assert len(endpoint.ids) == 9


def test_everything_is_posted_where_that_is_asked_for(
    run: Run, served: Served, endpoint: Endpoint, webhook_id: str
) -> None:
    found = recovered(run, webhook_id, "--to", endpoint.url, "--everything")
    assert (found["messages"]["handled"], found["events"]["handled"]) == (7, 5)


def test_what_is_not_accepted_is_kept_and_the_line_that_tries_again_is_shown(
    run: Run, served: Served, endpoint: Endpoint, webhook_id: str
) -> None:
    endpoint.status = 400
    done = run("recover", webhook_id, "--to", endpoint.url)
    assert done.exit_code == 1
    (line,) = [line.split() for line in done.stderr.splitlines() if line.startswith("  basiq-async recover")]
    found = json.loads(done.stdout)
    assert found["events"]["skipped"] == {"failed-before": 4, "delivered": 3}
    assert [each["code"] for each in found["problems"]] == ["dead-letters"]
    endpoint.status = 204
    assert run(*line[1:]).exit_code == 0
    assert len(set(endpoint.ids)) == 9


def test_it_says_where_to(run: Run, endpoint: Endpoint) -> None:
    for wrong in ((), ("--to", endpoint.url, "--receiver", "a:b")):
        done = run("recover", "w1", *wrong)
        assert (done.exit_code, "--to or --receiver" in done.stderr) == (2, True)
