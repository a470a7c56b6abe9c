"""``basiq-async listen --poll``: new messages without a public address, what was missed first, never twice."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from basiq_async.receiver import SQLiteInbox, WebhookReceiver
from basiq_async.testing import FakeBasiq, Quirks, SystemClock, serve

from ..support.command_line import HASTY, run_command
from ..support.programs import Program
from ..support.real_time import until
from .conftest import SECRET, Endpoint, hanging, started


@asynccontextmanager
async def served(fake: FakeBasiq, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeBasiq]:
    async with serve(fake) as base_url:
        monkeypatch.setenv("BASIQ_API_KEY", fake.api_key)
        monkeypatch.setenv("BASIQ_BASE_URL", base_url)
        yield fake


@pytest.fixture
async def fake(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeBasiq]:
    fake = FakeBasiq(clock=SystemClock())
    fake.add_webhook("https://unreachable.example/basiq")
    async with served(fake, monkeypatch):
        yield fake


def polling(*options: str) -> AbstractAsyncContextManager[Program]:
    return started("listen", "--every", "1", *options, program=HASTY)


async def poll(count: int, *options: str) -> tuple[list[dict[str, Any]], str]:
    """Poll until so many messages were shown: the rows that it showed, and its lines on standard error."""
    async with polling(*options) as poller:
        rows = [await poller.row() for _ in range(count)]
        code, rest = await poller.end(signal.SIGTERM)
    assert code == 0, poller.shown
    return rows + rest, poller.shown


async def test_new_messages_are_forwarded_with_a_fresh_signature_and_those_missed_come_first(
    fake: FakeBasiq, endpoint: Endpoint
) -> None:
    webhook_id = fake.seed_messages(0)
    fake.emit("user.created")
    there = ("--poll", webhook_id, "--forward-to", endpoint.url)
    async with polling(*there, "--since", "1h") as poller:
        rows = [await poller.row()]
        fake.emit("consent.revoked")
        rows.append(await poller.row())
        assert await poller.end(signal.SIGTERM) == (0, [])
    fake.emit("consent.expired")  # while no poller runs
    fake.emit("consent.updated")
    rows += (await poll(2, *there))[0]
    bodies = [json.loads(body)["eventTypeId"] for body in endpoint.bodies]
    assert sorted(bodies) == ["consent.expired", "consent.revoked", "consent.updated", "user.created"]
    assert [row["result"] for row in rows] == ["forwarded"] * 4
    assert len({row["message_id"] for row in rows}) == 4


async def test_a_message_that_is_not_accepted_is_shown(fake: FakeBasiq, endpoint: Endpoint) -> None:
    webhook_id = fake.seed_messages(0)
    fake.emit("user.created")
    endpoint.status = 400
    (row,), printed = await poll(1, "--poll", webhook_id, "--forward-to", endpoint.url, "--since", "1h")
    assert row["result"] == "failed"
    assert "400" in row["error"]
    assert "1 message was not accepted" in printed
    assert webhook_id in next(Path().glob("basiq-listen-*.db")).name


async def test_what_it_costs_is_said_first_and_a_429_is_obeyed(fake: FakeBasiq) -> None:
    webhook_id = fake.seed_messages(0)
    fake.fail_next(1, status=429, retry_after=31, path="*/messages")
    async with polling("--poll", webhook_id, "--since", "1h") as poller:
        await poller.hear("next request in 31 s")
        assert await poller.end(signal.SIGTERM) == (0, [])
    first, second, *_ = poller.shown.splitlines()
    assert "requests per minute, and one token per hour" in first
    assert "fewer requests" in second


@pytest.mark.parametrize("ahead", [-7200, 7200])
async def test_since_counts_by_the_clock_of_the_api_and_not_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    clock = SystemClock(start=datetime.now(UTC) + timedelta(seconds=ahead))
    async with served(FakeBasiq(clock=clock), monkeypatch) as fake:
        webhook_id = fake.seed_messages(6, every=1200.0)
        async with polling("--poll", webhook_id, "--since", "65m") as poller:
            for _ in range(3):
                await poller.row()
            await fake.emit("user.created")
            assert (await poller.row())["event_type_id"] == "user.created"
            assert await poller.end(signal.SIGTERM) == (0, [])


async def test_a_service_that_is_away_makes_no_failures_and_no_message_is_lost(
    fake: FakeBasiq, endpoint: Endpoint
) -> None:
    webhook_id = fake.seed_messages(0)
    for _ in range(3):
        fake.emit("consent.revoked")
    away = ("--poll", webhook_id, "--forward-to", "http://127.0.0.1:9/hook")
    async with polling(*away, "--since", "1h") as poller:
        await poller.hear("does not respond")
        _, rows = await poller.end(signal.SIGTERM)
    assert rows == []  # nothing is given up
    assert "not accepted" not in poller.shown
    same = next(Path().glob("*.db")).name
    rows, _ = await poll(3, "--poll", webhook_id, "--forward-to", endpoint.url, "--inbox", same)
    assert len(endpoint.ids) == 3
    assert [row["result"] for row in rows] == ["forwarded"] * 3


async def test_what_was_not_shown_comes_again(fake: FakeBasiq) -> None:
    webhook_id = fake.seed_messages(0)
    fake.seed_messages(5, webhook_id, every=1.0)
    left = await asyncio.to_thread(run_command, "listen", "--poll", webhook_id, "--since", "900d", reads=2)
    assert left.exit_code == 0
    seen = [json.loads(line)["message_id"] for line in left.stdout.splitlines()]
    assert len(seen) == 2
    rest, _ = await poll(3, "--poll", webhook_id)
    assert len({*seen, *(row["message_id"] for row in rest)}) == 5


async def test_a_token_that_expired_while_the_machine_slept_does_not_end_it(fake: FakeBasiq) -> None:
    fake.quirks = Quirks(expired_response="403")
    webhook_id = fake.seed_messages(0)
    async with polling("--poll", webhook_id, "--since", "1h") as poller:
        await until(lambda: list(Path().glob("basiq-listen-*.db")))  # from which message on messages are new
        fake.expire_tokens()
        await fake.emit("user.created")
        assert (await poller.row())["event_type_id"] == "user.created"
        assert await poller.end(signal.SIGTERM) == (0, [])


async def test_a_second_signal_ends_it_at_once_though_the_service_hangs(fake: FakeBasiq) -> None:
    webhook_id = fake.seed_messages(0)
    fake.emit("consent.revoked")
    async with (
        hanging() as (url, reached),
        polling("--poll", webhook_id, "--forward-to", url, "--since", "1h") as poller,
    ):
        await reached.wait()
        poller.process.send_signal(signal.SIGINT)
        await poller.hear("a second signal stops at once")
        assert await poller.end(signal.SIGINT) == (130, [])


@pytest.mark.parametrize("order", ["oldest-first", "newest-first"])
async def test_without_a_time_it_begins_after_the_newest_message_by_the_clock_of_the_api(
    order: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fake's clock is months behind this machine's: by that one, nothing would be new."""
    async with served(FakeBasiq(quirks=Quirks(message_order=order)), monkeypatch) as fake:
        webhook_id = fake.seed_messages(5)
        async with polling("--poll", webhook_id) as poller:
            await until(lambda: list(Path().glob("basiq-listen-*.db")))  # from which message on messages are new
            (new,) = (await fake.emit("user.created")).message_ids
            row = await poller.row()
            assert await poller.end(signal.SIGTERM) == (0, [])
    assert (row["result"], row["message_id"]) == ("received", new)


async def test_the_inbox_of_a_service_is_not_for_what_was_shown(fake: FakeBasiq) -> None:
    async with SQLiteInbox("inbox.db") as inbox, WebhookReceiver(SECRET, webhook_id="w1", inbox=inbox):
        pass
    webhook_id = fake.seed_messages(0)
    async with polling("--poll", webhook_id, "--inbox", "inbox.db") as program:
        code, _ = await program.end()
    assert (code, "the inbox of a service" in program.shown) == (2, True), program.shown


async def test_a_message_is_shown_once_in_each_form_of_a_history_or_said_to_be_unknown(fake: FakeBasiq) -> None:
    webhook_id, rows = fake.seed_messages(0), list[dict[str, Any]]()
    *forms, untold = Quirks.each_form()
    async with polling("--poll", webhook_id, "--since", "1h") as poller:
        for form in forms:
            fake.quirks = form
            event = fake.emit("user.created")
            rows.append(await poller.row())
            assert rows[-1]["event_id"] == event.event_id, form
        fake.quirks = untold
        fake.emit("user.created")
        await poller.hear("Basiq does not tell when 1 message was attempted, so it is not shown")
        assert (await poller.end(signal.SIGTERM)) == (0, [])
    assert len({row["event_id"] for row in rows}) == len(forms)
