"""A service whose webhook changes, by the command line, in each kind of inbox: nothing is handled twice."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.command_line import COLD
from ..support.real_time import PATIENCE
from ..support.servers import PostgresServer, redis_server
from .conftest import SECRET, World, launched

DAYS_AGO = 0

_SERVICE = """\
import asyncio, os
from contextlib import asynccontextmanager
from basiq_async.receiver import RedisInbox, SQLInbox, SQLiteInbox, WebhookReceiver

@asynccontextmanager
async def inbox_at(place):
    if place.startswith('redis'):
        from redis.asyncio import Redis
        async with Redis.from_url(place) as client:
            yield RedisInbox(client, prefix={prefix!r})
    elif '://' in place:
        from sqlalchemy.ext.asyncio import create_async_engine
        engine = create_async_engine(place)
        try:
            async with SQLInbox(engine, table={prefix!r}) as inbox:
                yield inbox
        finally:
            await engine.dispose()
    else:
        async with SQLiteInbox(place) as inbox:
            yield inbox

@asynccontextmanager
async def receiver():
    async with inbox_at({place!r}) as inbox:
        webhook_id = os.environ['BASIQ_WEBHOOK_ID']
        made = WebhookReceiver({secret!r}, webhook_id=webhook_id, inbox=inbox, handler_timeout=1, lease=3)
        @made.on('*')
        async def handle(delivery):
            with open('handled', 'a') as file:
                file.write(delivery.event_id + ' ' + delivery.key + chr(10))
            await asyncio.sleep(float(os.environ.get('SLOW', '0')))
        async with made:
            yield made
"""


@pytest.fixture(params=["sqlite", "postgresql", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield "inbox.db"
    elif request.param == "redis":
        (tmp_path / "redis").mkdir()
        with redis_server(tmp_path / "redis") as server:
            yield server.url
    else:
        postgres: PostgresServer = request.getfixturevalue("postgres")
        yield postgres.url("asyncpg")


def handled() -> Counter[str]:
    lines = Path("handled").read_text().splitlines() if Path("handled").exists() else []
    return Counter(line.split()[0] for line in lines)


def test_a_changed_webhook_has_no_event_handled_again_in_any_inbox_also_after_kills(
    world: World, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    w, first = world, world.webhook()
    name = f"changing_{time.time_ns()}"
    Path(f"{name}.py").write_text(_SERVICE.format(place=place, prefix=name, secret=SECRET))
    receiver = ("--receiver", f"{name}:receiver")
    monkeypatch.setenv("BASIQ_WEBHOOK_ID", first)
    assert w.run("recover", first, *receiver).exit_code == 0
    w.outage(8)
    monkeypatch.setenv("SLOW", "0.05")
    with launched("recover", first, *receiver, "--concurrency", "2", program=COLD) as process:
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
    with launched("recover", second, *receiver, "--concurrency", "1", program=COLD) as process:
        while sum((handled() - before).values()) < 1 and time.monotonic() < end + PATIENCE:
            time.sleep(0.02)
        process.kill()
    monkeypatch.setenv("SLOW", "0")
    done = w.run("recover", second, *receiver)
    assert done.exit_code == 0, done.output
    assert w.run("recover", second, *receiver).row["events"]["handled"] == 0
    assert (len(handled()), sum((handled() - before).values())) in ((11, 3), (11, 4))
    assert w.codes(second, *receiver) == []
    assert all(len(set(line.split())) == 1 for line in Path("handled").read_text().splitlines()), "the key is the id"
