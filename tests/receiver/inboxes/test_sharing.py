"""Two services on one storage: without a ``webhook_id``, a second webhook's receiver is refused, not silently deaf."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from redis.asyncio import Redis

from basiq_async import ConfigurationError
from basiq_async.receiver import Inbox, MemoryInbox, Outcome, RedisInbox, Result, SQLInbox, SQLiteInbox, WebhookReceiver
from tests.support.databases import engine_of, new_table
from tests.support.deliveries import new_id, payload, signed
from tests.support.servers import PostgresServer, RedisServer, redis_server

ONE = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
TWO = "whsec_c29tZSBvdGhlciBzaWduaW5nIHNlY3JldA=="
NEW = "whsec_YSB0aGlyZCBzZWNyZXQsIHRoYXQgaXMgbmV3"

Make = Callable[[], Inbox]


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=["memory", "sqlite", "redis", "asyncpg", "psycopg", "aiosqlite"])
async def make(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Make]:
    """Makes an inbox on one storage, as each service does."""
    kind: str = request.param
    async with AsyncExitStack() as stack:
        if kind == "memory":
            inbox = MemoryInbox()  # one process, so one object
            yield lambda: inbox
        elif kind == "sqlite":
            made: list[SQLiteInbox] = []

            def open_file() -> Inbox:
                made.append(SQLiteInbox(tmp_path / "inbox.db"))
                return made[-1]

            yield open_file
            for each in made:
                await each.aclose()
        elif kind == "redis":
            server: RedisServer = request.getfixturevalue("redis")
            client = await stack.enter_async_context(Redis.from_url(server.url))
            await client.flushall()
            yield lambda: RedisInbox(client)
        else:
            url = f"sqlite+aiosqlite:///{tmp_path}/inbox.db"
            if kind != "aiosqlite":
                postgres: PostgresServer = request.getfixturevalue("postgres")
                url = postgres.url(kind)
            table = new_table()
            engine = await stack.enter_async_context(engine_of(url))
            yield lambda: SQLInbox(engine, table=table)


class Service:
    def __init__(self, inbox: Inbox, *secrets: str, webhook_id: str | None = None) -> None:
        self.secret = secrets[-1]
        self.receiver = WebhookReceiver(secrets, inbox=inbox, webhook_id=webhook_id)
        self.receiver.on("*")(self.handle)

    async def handle(self, delivery: object) -> None: ...

    async def post(self, event_id: str) -> Outcome:
        body = payload(event_id=event_id)
        return await self.receiver.handle(signed(body, secret=self.secret), body)

    async def aclose(self) -> None:
        await self.receiver.aclose()


async def test_a_second_webhooks_receiver_is_refused_and_told_what_to_pass(make: Make) -> None:
    event = new_id()
    one = Service(make(), ONE)
    assert (await one.post(event)).result is Result.HANDLED
    await one.aclose()
    two = Service(make(), TWO)
    for _ in range(2):
        refused = await two.post(event)
        assert (refused.status, refused.result) == (503, Result.UNAVAILABLE), "Basiq sends it again"
        assert isinstance(refused.error, ConfigurationError)
        assert "pass webhook_id= to both" in str(refused.error)
    with pytest.raises(ConfigurationError, match="webhook_id="):
        await two.receiver.quarantined()
    await two.aclose()
    late = Service(make(), TWO)
    with pytest.raises(ConfigurationError, match="webhook_id="):
        async with late.receiver:
            pass
    await late.aclose()
    named = Service(make(), TWO, webhook_id="w-2")
    assert (await named.post(event)).result is Result.HANDLED
    again = Service(make(), ONE)
    assert (await again.post(event)).result is Result.DUPLICATE, "the first one is served as before"


async def test_a_secret_that_is_replaced_is_known_once_both_were_passed_together(make: Make) -> None:
    first, second = new_id(), new_id()
    for secrets, event, expected in (
        ([ONE], first, Result.HANDLED),
        ([ONE, NEW], second, Result.HANDLED),
        ([NEW], first, Result.DUPLICATE),
        ([NEW], second, Result.DUPLICATE),
        ([ONE], second, Result.DUPLICATE),
    ):
        service = Service(make(), *secrets)
        assert (await service.post(event)).result is expected
        await service.aclose()
    other = Service(make(), TWO)
    assert (await other.post(new_id())).status == 503


async def test_a_second_webhook_that_is_told_its_id_first_does_not_take_the_firsts_events(make: Make) -> None:
    event = new_id()
    one = Service(make(), ONE)
    await one.post(event)
    two = Service(make(), TWO, webhook_id="w-2")
    assert (await two.post(event)).result is Result.HANDLED
    await one.aclose()
    named = Service(make(), ONE, webhook_id="w-1")
    assert (await named.post(event)).result is Result.DUPLICATE
    assert (await two.post(event)).result is Result.DUPLICATE


async def test_a_receiver_without_an_id_is_refused_where_another_webhook_has_named_itself(make: Make) -> None:
    event = new_id()
    assert (await Service(make(), ONE, webhook_id="w-1").post(event)).result is Result.HANDLED
    two = Service(make(), TWO)
    assert (await two.post(event)).status == 503
    await two.aclose()
    assert (await Service(make(), ONE).post(event)).result is Result.DUPLICATE


async def test_no_storage_learns_a_secret(tmp_path: Path) -> None:
    path = tmp_path / "inbox.db"
    async with SQLiteInbox(path) as inbox:
        await Service(inbox, ONE).post(new_id())
    connection = sqlite3.connect(path)
    text = repr(connection.execute("SELECT * FROM pinned").fetchall())
    connection.close()
    assert "signer" in text
    for part in (ONE, ONE.removeprefix("whsec_"), "MfKQ9r8G"):
        assert part not in text
