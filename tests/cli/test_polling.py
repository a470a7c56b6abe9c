"""``basiq-async listen --poll``: new messages without a public address, what was missed first, never twice."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer

from basiq_async import BasiqClient, InMemoryTransport
from basiq_async.cli._output import OutputClosedError
from basiq_async.cli._polling import Polling, Start, _remember_start
from basiq_async.cli._results import Output
from basiq_async.errors import ConfigurationError
from basiq_async.receiver import verify
from basiq_async.testing import FakeBasiq, Quirks, SystemClock, serve

from .test_listen import serving

SECRET = "whsec_c2VjcmV0LW9mLXRoZS10ZXN0cy1vZi1wb2xsaW5n"


@pytest.fixture
async def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeBasiq]:
    monkeypatch.chdir(tmp_path)
    fake = FakeBasiq(clock=SystemClock())
    fake.add_webhook("https://unreachable.example/basiq")
    async with serve(fake) as base_url:
        monkeypatch.setenv("BASIQ_API_KEY", fake.api_key)
        monkeypatch.setenv("BASIQ_BASE_URL", base_url)
        yield fake


def polling(webhook_id: str | None, *, limit: int = 0, **options: Any) -> Polling:
    defaults: dict[str, Any] = {
        "forward_to": None, "secrets": [SECRET], "event": None, "since": None, "every": 0.02, "checkpoint": None,
        "body": False,
    }  # fmt: skip
    return Polling(Output(), webhook_id=webhook_id, limit=limit, **{**defaults, **options})


def shown(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


async def run(work: Polling) -> None:
    async with asyncio.timeout(20):
        await work.run()


def webhook_of(fake: FakeBasiq) -> str:
    return fake.seed_messages(0)


async def test_new_messages_are_forwarded_with_a_fresh_signature_and_those_missed_come_first(
    fake: FakeBasiq, capsys: pytest.CaptureFixture[str]
) -> None:
    webhook_id = webhook_of(fake)
    fake.emit("user.created")
    async with serving() as service:
        first = asyncio.create_task(run(polling(webhook_id, limit=2, forward_to=service.url, since="1h")))
        while not service.requests:
            await asyncio.sleep(0.01)
        fake.emit("consent.revoked")
        await first
        fake.emit("consent.expired")  # while nobody polls
        fake.emit("consent.updated")
        await run(polling(webhook_id, limit=2, forward_to=service.url))
        bodies = [json.loads(body)["eventTypeId"] for _, body in service.requests]
        assert sorted(bodies) == ["consent.expired", "consent.revoked", "consent.updated", "user.created"]
        for headers, body in service.requests:
            verify(SECRET, headers, body)
    rows = shown(capsys)
    assert [row["result"] for row in rows] == ["forwarded"] * 4
    assert len({row["message_id"] for row in rows}) == 4


async def test_without_a_time_it_begins_now_and_events_can_be_chosen(
    fake: FakeBasiq, capsys: pytest.CaptureFixture[str]
) -> None:
    webhook_id = webhook_of(fake)
    fake.seed_messages(50, webhook_id, every=60.0)
    work = polling(webhook_id, limit=1, event=["consent.*"], body=True)
    task = asyncio.create_task(run(work))
    await asyncio.sleep(0.05)
    fake.emit("user.created")
    fake.emit("consent.revoked")
    await task
    (row,) = shown(capsys)
    assert (row["result"], row["event_type_id"]) == ("received", "consent.revoked")
    assert row["body"]["eventTypeId"] == "consent.revoked"


async def test_a_message_that_is_not_accepted_is_shown_and_the_rest_goes_on(
    fake: FakeBasiq, capsys: pytest.CaptureFixture[str]
) -> None:
    webhook_id = webhook_of(fake)
    fake.emit("user.created")
    async with serving() as service:
        service.status = 400
        await run(polling(None, limit=1, forward_to=service.url, since="1h"))
    captured = capsys.readouterr()
    row = json.loads(captured.out)
    assert row["result"] == "failed"
    assert "400" in row["error"]
    assert "1 messages were not accepted" in captured.err
    assert webhook_id in next(Path().glob("basiq-listen-*.db")).name


async def test_what_it_costs_is_said_first_and_a_429_is_obeyed(
    fake: FakeBasiq, capsys: pytest.CaptureFixture[str]
) -> None:
    webhook_id = webhook_of(fake)
    fake.fail_next(1, status=429, retry_after=31, path="*/messages")
    work = polling(webhook_id, limit=1, every=0.02, since="1h")
    task = asyncio.create_task(run(work))
    told = ""
    while "fewer requests" not in told:
        await asyncio.sleep(0.01)
        told += capsys.readouterr().err
    assert "requests a minute, and one token an hour" in told.splitlines()[0]
    assert "next question in 31 s" in told
    signal.raise_signal(signal.SIGTERM)
    await task


@pytest.mark.parametrize("ahead", [-7200, 7200])
async def test_since_counts_from_the_time_of_the_api_whatever_this_machine_takes_it_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ahead: int
) -> None:
    monkeypatch.chdir(tmp_path)
    fake = FakeBasiq(clock=SystemClock(start=datetime.now(UTC) + timedelta(seconds=ahead)))
    webhook_id = fake.seed_messages(6, every=1200.0)
    async with serve(fake) as base_url:
        monkeypatch.setenv("BASIQ_API_KEY", fake.api_key)
        monkeypatch.setenv("BASIQ_BASE_URL", base_url)
        work = polling(webhook_id, since="65m")
        task = asyncio.create_task(run(work))
        told: list[dict[str, Any]] = []
        while len(told) < 3:
            await asyncio.sleep(0.01)
            told += shown(capsys)
        await fake.emit("user.created")
        while len(told) < 4:
            await asyncio.sleep(0.01)
            told += shown(capsys)
        signal.raise_signal(signal.SIGTERM)
        await task
    assert [row["event_type_id"] for row in told[3:]] == ["user.created"]


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="--checkpoint is for one webhook"):
        polling(None, checkpoint="x")
    with pytest.raises(ConfigurationError, match="--since must be"):
        polling("w", since=datetime.now().isoformat())


async def test_a_service_that_is_away_makes_no_failures_and_no_message_is_lost(
    fake: FakeBasiq, capsys: pytest.CaptureFixture[str]
) -> None:
    webhook_id = webhook_of(fake)
    for _ in range(3):
        fake.emit("consent.revoked")
    async with serving() as service:
        url = service.url
    work = asyncio.create_task(run(polling(webhook_id, limit=3, forward_to=url, since="1h")))
    told = ""
    while "does not respond" not in told:
        await asyncio.sleep(0.01)
        captured = capsys.readouterr()
        assert captured.out == ""  # nothing is given up
        told += captured.err
    signal.raise_signal(signal.SIGTERM)
    await work
    assert "not accepted" not in told + capsys.readouterr().err
    async with serving() as service:
        await run(polling(webhook_id, limit=3, forward_to=service.url, checkpoint=next(Path().glob("*.db")).name))
        assert len(service.requests) == 3
    assert [row["result"] for row in shown(capsys)] == ["forwarded"] * 3


async def test_a_webhook_that_is_deleted_keeps_no_other_from_being_polled(
    fake: FakeBasiq, capsys: pytest.CaptureFixture[str]
) -> None:
    first = webhook_of(fake)
    other = fake.add_webhook("https://other.example/basiq")
    work = asyncio.create_task(run(polling(None, limit=1)))
    while not any(other in request.url for request in fake.requests):
        await asyncio.sleep(0.01)
    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq:
        await basiq.webhooks.delete(first)
    told = ""
    while "was deleted" not in told:
        await asyncio.sleep(0.01)
        assert not work.done()
        told += capsys.readouterr().err
    fake.emit("consent.revoked")
    await work
    (row,) = shown(capsys)
    assert row["webhook_id"] == other


async def test_no_more_than_the_limit_reach_the_service(fake: FakeBasiq, capsys: pytest.CaptureFixture[str]) -> None:
    webhook_id = webhook_of(fake)
    fake.seed_messages(20, webhook_id, every=1.0)
    async with serving() as service:
        await run(polling(webhook_id, limit=3, forward_to=service.url, since="900d"))
        assert len(service.requests) == 3
        await run(polling(webhook_id, limit=17, forward_to=service.url))
        assert len({headers["webhook-id"] for headers, _ in service.requests}) == 20
    assert len(shown(capsys)) == 20


async def test_what_nobody_saw_comes_again(
    fake: FakeBasiq, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook_id = webhook_of(fake)
    fake.seed_messages(5, webhook_id, every=1.0)
    seen: list[str] = []

    def show_two(self: Output, item: Any, shape: object) -> None:
        if len(seen) == 2:
            raise OutputClosedError
        seen.append(item["message_id"])

    with monkeypatch.context() as patched:
        patched.setattr(Output, "one", show_two)
        with pytest.raises(OutputClosedError):
            await run(polling(webhook_id, since="900d"))
    await run(polling(webhook_id, limit=3))
    rest = [row["message_id"] for row in shown(capsys)]
    assert len({*seen, *rest}) == 5


async def test_a_second_signal_ends_it_at_once_though_the_service_hangs(
    fake: FakeBasiq, capsys: pytest.CaptureFixture[str]
) -> None:
    webhook_id = webhook_of(fake)
    fake.emit("consent.revoked")
    reached = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        await reader.read()  # until the other side is gone
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        url = f"http://{host}:{port}/hook"
        work = asyncio.create_task(run(polling(webhook_id, forward_to=url, since="1h")))
        await reached.wait()
        signal.raise_signal(signal.SIGINT)
        while "once more to stop at once" not in capsys.readouterr().err:
            await asyncio.sleep(0.01)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(typer.Exit) as ended:
            await work
    assert ended.value.exit_code == 130


def test_a_first_run_that_was_killed_leaves_no_file_that_stops_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "listen.db")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    early, late = Start(datetime(2026, 1, 1, tzinfo=UTC), frozenset("a")), Start(datetime(2026, 1, 2, tzinfo=UTC))
    with pytest.raises(KeyboardInterrupt):
        _remember_start(path, early)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert _remember_start(path, early) == early
    assert _remember_start(path, late) == early


@pytest.mark.parametrize("order", ["oldest-first", "newest-first"])
async def test_without_a_time_it_begins_behind_the_newest_message_by_the_clock_of_the_api(
    order: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The fake's clock is months behind this machine's: by that one, nothing would be new."""
    monkeypatch.chdir(tmp_path)
    fake = FakeBasiq(quirks=Quirks(message_order=order))
    webhook_id = fake.seed_messages(5)
    async with serve(fake) as url:
        monkeypatch.setenv("BASIQ_API_KEY", fake.api_key)
        monkeypatch.setenv("BASIQ_BASE_URL", url)
        work = asyncio.create_task(run(polling(webhook_id, limit=1)))
        while not Path(next(iter(Path().glob("*.start")), "nothing")).exists():
            await asyncio.sleep(0.01)
        (new,) = (await fake.emit("user.created")).message_ids
        await work
    assert [json.loads(line)["message_id"] for line in capsys.readouterr().out.splitlines()] == [new]
