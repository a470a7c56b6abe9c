"""Handlers whose effect commits together with the inbox's entry."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Column, MetaData, String, Table, event, insert, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import NullPool

from basiq_async import ConfigurationError, InboxError
from basiq_async.receiver import Delivery, MemoryInbox, Outcome, Result, SQLInbox, WebhookReceiver
from tests.support.databases import engine_of, engine_with, new_table, run, url_of
from tests.support.deliveries import SECRET, new_id, payload, signed
from tests.support.real_time import PATIENCE
from tests.support.servers import PostgresServer

Handler = Callable[[Delivery, AsyncSession], Awaitable[None]]
DRIVERS = ("asyncpg", "psycopg", "aiosqlite")
EFFECTS = Table("effects", MetaData(), Column("event_id", String, primary_key=True))


class Service:
    """A receiver with one handler, on a database with a table of effects."""

    def __init__(self, engine: AsyncEngine, inbox: SQLInbox, **options: Any) -> None:
        self.engine, self.inbox = engine, inbox
        self.receiver = WebhookReceiver(SECRET, webhook_id="w1", inbox=inbox, **options)

    def on_all(self, handler: Handler) -> None:
        self.receiver.on("*")(handler)

    async def post(self, event_id: str) -> Outcome:
        body = payload(event_id=event_id)
        return await self.receiver.handle(signed(body), body)

    async def effects(self, event_id: str) -> int:
        async with self.engine.connect() as connection:
            found = await connection.execute(select(EFFECTS).where(EFFECTS.c.event_id == event_id))
            return len(found.all())


on_postgres = pytest.mark.parametrize("engine", ["asyncpg", "psycopg"], indirect=True)
"""SQLite has no such failures."""


with_and_without_tags = pytest.mark.parametrize("engine", ["asyncpg", "asyncpg without tags", "psycopg"], indirect=True)
"""asyncpg's connections keep the tag of a COMMIT, unless they are of a class of the user's."""


on_one = pytest.mark.parametrize("engine", ["aiosqlite"], indirect=True)
"""What is tested does not reach the driver."""


@pytest.fixture(params=DRIVERS)
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    request.param, _, without_tags = request.param.partition(" ")
    options: dict[str, Any] = {"connect_args": {"connection_class": asyncpg.Connection}} if without_tags else {}
    async with engine_with(EFFECTS.metadata, url_of(request, tmp_path), **options) as engine:
        yield engine


@pytest.fixture
async def service(engine: AsyncEngine) -> AsyncGenerator[Service]:
    inbox = SQLInbox(engine, table=new_table())
    await engine.dispose()  # what was connected before
    async with inbox:
        yield Service(engine, inbox, quarantine_after=2)


async def write(delivery: Delivery, session: AsyncSession) -> None:
    await session.execute(insert(EFFECTS).values(event_id=delivery.event_id))


async def write_by_connection(delivery: Delivery, session: AsyncSession) -> None:
    connection = await session.connection()
    await connection.execute(insert(EFFECTS).values(event_id=delivery.event_id))


@pytest.mark.parametrize("handler", [write, write_by_connection])
async def test_the_effect_and_the_entry_commit_together_and_once(handler: Handler, service: Service) -> None:
    service.on_all(handler)
    event = new_id()
    results = [(await service.post(event)).result for _ in range(3)]
    assert results == [Result.HANDLED, Result.DUPLICATE, Result.DUPLICATE]
    assert await service.effects(event) == 1


async def test_before_the_handler_has_returned_nothing_can_be_seen(service: Service) -> None:
    event = new_id()

    @service.on_all
    async def handler(delivery: Delivery, session: AsyncSession) -> None:
        await write(delivery, session)
        await session.commit()  # writes what is pending, and commits nothing
        assert await service.effects(event) == 0
        assert not await service.inbox.known([delivery.key])

    assert (await service.post(event)).result is Result.HANDLED
    assert await service.effects(event) == 1


@on_one
async def test_what_fails_too_often_is_quarantined_and_can_be_retried(service: Service) -> None:
    healed = False

    @service.on_all
    async def handler(delivery: Delivery, session: AsyncSession) -> None:
        await write(delivery, session)
        if not healed:
            raise ValueError("no")

    event = new_id()
    assert [(await service.post(event)).result for _ in range(3)] == [
        Result.FAILED,
        Result.QUARANTINED,
        Result.DUPLICATE,
    ]
    assert await service.effects(event) == 0
    await service.receiver.retry_quarantined()
    assert await service.effects(event) == 0
    healed = True
    await service.receiver.retry_quarantined()
    assert await service.effects(event) == 1
    assert not await service.receiver.quarantined()


async def test_a_handler_that_takes_too_long_or_is_cancelled_has_had_no_effect(engine: AsyncEngine) -> None:
    async with SQLInbox(engine, table=new_table()) as inbox:
        hasty, service = Service(engine, inbox, handler_timeout=0.3), Service(engine, inbox, handler_timeout=PATIENCE)
        started = asyncio.Event()

        async def handler(delivery: Delivery, session: AsyncSession) -> None:
            await write(delivery, session)
            started.set()
            await asyncio.Event().wait()

        hasty.on_all(handler)
        service.on_all(handler)
        event = new_id()
        assert (await hasty.post(event)).result is Result.TIMED_OUT
        started.clear()
        task = asyncio.create_task(service.post(event))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await service.effects(event) == 0
        assert (await inbox.claim("k", "a", lease=60)).status.value == "claimed"
        await inbox.release("k", "a")


async def test_a_cancellation_at_any_moment_leaves_both_or_neither(service: Service) -> None:
    service.on_all(write)
    outcomes = set()
    for number in range(0, 40, 2):
        event = new_id()
        task = asyncio.create_task(service.post(event))
        await asyncio.sleep(number * 0.0004)
        task.cancel()
        await asyncio.wait({task})
        effects = await service.effects(event)
        result = (await service.post(event)).result
        assert (effects, result) in {(1, Result.DUPLICATE), (0, Result.HANDLED)}
        assert await service.effects(event) == 1
        outcomes.add(effects)
    assert 0 in outcomes


@on_one
async def test_pending_objects_of_a_session_of_ones_own_are_written(engine: AsyncEngine) -> None:
    class Base(DeclarativeBase):
        pass

    class Effect(Base):
        __tablename__ = "effects"
        event_id: Mapped[str] = mapped_column(primary_key=True)

    class Session(AsyncSession):
        pass

    sessions = async_sessionmaker(class_=Session, autoflush=False, join_transaction_mode="control_fully")
    async with SQLInbox(engine, table=new_table(), sessions=sessions) as inbox:
        service = Service(engine, inbox)
        kinds: list[type] = []

        @service.on_all
        async def handler(delivery: Delivery, session: AsyncSession) -> None:
            kinds.append(type(session))
            session.add(Effect(event_id=delivery.event_id))

        event = new_id()
        assert (await service.post(event)).result is Result.HANDLED
        assert await service.effects(event) == 1
        assert kinds == [Session]


async def test_what_the_database_refuses_is_the_handlers_failure(service: Service) -> None:
    service.on_all(write)
    event = new_id()
    async with service.engine.begin() as connection:
        await connection.execute(insert(EFFECTS).values(event_id=event))
    outcome = await service.post(event)
    assert outcome.result is Result.FAILED
    assert isinstance(outcome.error, IntegrityError)


async def test_a_part_may_fail_in_a_nested_transaction(service: Service) -> None:
    @service.on_all
    async def handler(delivery: Delivery, session: AsyncSession) -> None:
        await write(delivery, session)
        with pytest.raises(IntegrityError):
            async with session.begin_nested():
                await write(delivery, session)

    event = new_id()
    assert (await service.post(event)).result is Result.HANDLED
    assert await service.effects(event) == 1


async def do(steps: str, delivery: Delivery, owner: AsyncSession | AsyncConnection) -> None:
    for step in steps.split(", "):
        if step == "write":
            await owner.execute(insert(EFFECTS).values(event_id=delivery.event_id))
        elif step.isupper():
            await owner.execute(text(step))
        else:
            await getattr(owner, step)()


@pytest.mark.parametrize(
    ("engine", "steps", "of_session"),
    [  # what SQLAlchemy ends does not reach the driver
        ("aiosqlite", "write, rollback", True),
        ("aiosqlite", "write, rollback, write", True),
        ("aiosqlite", "write, rollback, write, commit", True),
        *((driver, "write, ROLLBACK", True) for driver in DRIVERS),
        *((driver, "write, COMMIT", True) for driver in DRIVERS),
        ("aiosqlite", "write, rollback", False),
        ("aiosqlite", "write, rollback, write", False),
        ("aiosqlite", "write, commit", False),
        ("aiosqlite", "commit, write", False),
    ],
    indirect=["engine"],
    ids=lambda value: value if isinstance(value, str) else "session" if value else "connection",
)
async def test_a_handler_that_ends_the_transaction_itself_is_told_so(
    steps: str, of_session: bool, service: Service
) -> None:
    async def with_session(delivery: Delivery, session: AsyncSession) -> None:
        await do(steps, delivery, session)

    async def with_connection(delivery: Delivery, *, session: AsyncSession) -> None:
        await do(steps, delivery, await session.connection())

    service.receiver.on("*")(with_session if of_session else with_connection)
    event = new_id()
    committed = "COMMIT" in steps  # in SQL of the handler's own, which cannot be taken back
    for result in (Result.FAILED, Result.QUARANTINED)[: 1 if committed else 2]:
        outcome = await service.post(event)
        assert outcome.result is result
        assert "leave both to the inbox" in str(outcome.error)
    assert await service.effects(event) == ("COMMIT" in steps)


Breaks = Callable[[Service, Delivery, AsyncSession], Awaitable[None]]


async def fail_and_go_on(service: Service, delivery: Delivery, session: AsyncSession) -> None:
    """PostgreSQL answers the COMMIT of such a transaction as if it had committed."""
    with contextlib.suppress(IntegrityError):
        await write(delivery, session)


async def fail_past_sqlalchemy(service: Service, delivery: Delivery, session: AsyncSession) -> None:
    driver: Any = (await (await session.connection()).get_raw_connection()).driver_connection
    with contextlib.suppress(Exception):
        await driver.execute("SELECT nothing")


async def be_refused_at_the_commit(service: Service, delivery: Delivery, session: AsyncSession) -> None:
    await session.execute(text("CREATE TABLE refusing (a int UNIQUE DEFERRABLE INITIALLY DEFERRED)"))
    await session.execute(text("INSERT INTO refusing VALUES (1), (1)"))


async def time_out_and_go_on(service: Service, delivery: Delivery, session: AsyncSession) -> None:
    await session.execute(text("SELECT set_config('statement_timeout', '1', true)"))
    with contextlib.suppress(DBAPIError):
        await session.execute(text("SELECT pg_sleep(5)"))


async def lose_the_connection_before_the_commit(service: Service, delivery: Delivery, session: AsyncSession) -> None:
    pid = await session.scalar(text("SELECT pg_backend_pid()"))
    await run(service.engine, f"SELECT pg_terminate_backend({pid})")


def statement(sql: str) -> Breaks:
    async def execute(service: Service, delivery: Delivery, session: AsyncSession) -> None:
        await session.execute(text(sql))
        await session.execute(text("SELECT pg_sleep(5)"))

    return execute


NESTED = "use session.begin_nested() for a part that may fail"
BREAKS: dict[str, tuple[Breaks, type[Exception], str]] = {
    "a statement, and it goes on": (fail_and_go_on, ConfigurationError, NESTED),
    "a statement past SQLAlchemy": (fail_past_sqlalchemy, ConfigurationError, NESTED),
    "a deferred constraint": (be_refused_at_the_commit, IntegrityError, ""),
    "a statement timeout, and it goes on": (time_out_and_go_on, InboxError, ""),
    "a statement timeout": (statement("SELECT set_config('statement_timeout', '1', true)"), InboxError, ""),
    "a lost connection": (statement("SELECT pg_terminate_backend(pg_backend_pid())"), InboxError, ""),
    "a connection lost before the commit": (lose_the_connection_before_the_commit, InboxError, ""),
    "a serialization failure": (statement("DO $$ BEGIN RAISE EXCEPTION SQLSTATE '40001'; END $$"), InboxError, ""),
    "a deadlock": (statement("DO $$ BEGIN RAISE EXCEPTION SQLSTATE '40P01'; END $$"), InboxError, ""),
}


@with_and_without_tags
@pytest.mark.parametrize(("breaks", "error", "said"), BREAKS.values(), ids=BREAKS)
async def test_what_broke_has_had_no_effect_and_counts_only_if_it_is_the_handlers_failure(
    breaks: Breaks, error: type[Exception], said: str, service: Service
) -> None:
    """A rolled-back COMMIT would count as handled, and the event would be lost."""
    times = 3 if error is InboxError else 1  # more than it takes to be quarantined
    broken = [True] * times

    @service.on_all
    async def handler(delivery: Delivery, session: AsyncSession) -> None:
        await write(delivery, session)
        if broken:
            broken.pop()
            await breaks(service, delivery, session)

    event = new_id()
    for _ in range(times):
        outcome = await service.post(event)
        assert (outcome.result, outcome.status) == (
            (Result.UNAVAILABLE, 503) if error is InboxError else (Result.FAILED, 500)
        )
        assert isinstance(outcome.error, error)
        assert said in str(outcome.error)
        assert await service.effects(event) == 0
    assert (await service.post(event)).result is Result.HANDLED
    assert await service.effects(event) == 1


@pytest.mark.parametrize("engine", ["asyncpg", "asyncpg without tags"], indirect=True)
async def test_only_a_connection_that_keeps_no_tags_is_asked_before_its_commit(
    service: Service, engine: AsyncEngine, request: pytest.FixtureRequest
) -> None:
    asked: list[str] = []

    @service.on_all
    async def handler(delivery: Delivery, session: AsyncSession) -> None:
        await write(delivery, session)
        driver: Any = (await (await session.connection()).get_raw_connection()).driver_connection
        driver.add_query_logger(lambda logged: asked.append(logged.query))

    assert (await service.post(new_id())).result is Result.HANDLED
    assert ("SELECT 1" in asked) is ("without tags" in request.node.name)
    assert "COMMIT;" in asked


@pytest.mark.parametrize("engine", ["asyncpg"], indirect=True)
async def test_an_engine_that_was_connected_before_its_inbox_was_made_is_asked(engine: AsyncEngine) -> None:
    async with SQLInbox(engine, table=new_table()) as inbox:
        service = Service(engine, inbox)

        @service.on_all
        async def handler(delivery: Delivery, session: AsyncSession) -> None:
            with contextlib.suppress(DBAPIError):
                await session.execute(text("SELECT nothing"))

        outcome = await service.post(new_id())
        assert outcome.result is Result.FAILED
        assert "use session.begin_nested() for a part that may fail" in str(outcome.error)


async def test_of_many_at_once_each_has_its_effect_once(service: Service) -> None:
    service.on_all(write)
    events = [new_id() for _ in range(10)]

    async def post_until_done(event: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while not (await service.post(event)).acknowledged:
                await asyncio.sleep(0.01)

    await asyncio.gather(*(post_until_done(event) for event in events for _ in range(3)))
    assert [await service.effects(event) for event in events] == [1] * 10


# --- what is not the handler's fault ---


@on_postgres
async def test_a_pool_whose_connection_the_server_has_ended_costs_no_delivery(service: Service) -> None:
    service.on_all(write)
    event = new_id()
    await service.inbox.check()
    async with service.engine.connect() as idle:
        pid = await idle.scalar(text("SELECT pg_backend_pid()"))
    async with engine_of(service.engine.url.render_as_string(hide_password=False)) as another:
        await run(another, f"SELECT pg_terminate_backend({pid}, 5000)")
    assert (await service.post(event)).result is Result.HANDLED, "the first claim after a restart fails"
    assert await service.effects(event) == 1


async def test_deliveries_one_after_the_other_use_the_same_connections(service: Service) -> None:
    made: list[object] = []
    service.on_all(write)
    await service.post(new_id())
    event.listen(service.engine.sync_engine, "connect", lambda connection, _: made.append(connection))
    for _ in range(8):
        assert (await service.post(new_id())).result is Result.HANDLED
    assert len(made) <= 1


@on_postgres
async def test_a_commit_that_failed_is_not_recorded_by_a_second_one(service: Service) -> None:
    inbox, engine = service.inbox, service.engine
    await inbox.claim("k", "a", lease=60, transaction=True)
    async with inbox.transaction("k", "a") as session:
        pid = await session.scalar(text("SELECT pg_backend_pid()"))
    async with engine.connect() as other:
        await other.execute(text(f"SELECT pg_terminate_backend({pid})"))
    for _ in range(2):
        with pytest.raises(InboxError):
            await inbox.complete("k", "a")
    assert not await inbox.known(["k"])
    assert (await inbox.claim("k", "b", lease=60)).status.value == "claimed"


@on_one
async def test_there_is_no_session_without_a_claim(service: Service) -> None:
    await service.inbox.claim("k", "a", lease=60, transaction=True)
    for key, token in (("k", "b"), ("l", "a")):
        with pytest.raises(InboxError, match=r"has not claimed the key with claim\(transaction=True\)"):
            async with service.inbox.transaction(key, token):
                pass
    assert ", 1 transactions>" in repr(service.inbox)
    await service.inbox.release("k", "a")
    assert ", 0 transactions>" in repr(service.inbox)


@pytest.mark.parametrize(
    ("options", "limited"),
    [
        ({"poolclass": NullPool}, False),
        ({"pool_size": 0}, False),
        ({"pool_size": 5, "max_overflow": -1}, False),
        ({"pool_size": 5, "max_overflow": 0}, True),
    ],
    ids=str,
)
async def test_handlers_with_a_session_are_only_limited_by_a_pool_that_has_a_limit(
    options: dict[str, Any], limited: bool
) -> None:
    engine = create_async_engine("postgresql+asyncpg://nowhere.invalid/", **options)  # makes no connection
    assert (SQLInbox(engine).most_sessions < 10_000) is limited


def test_a_handler_with_a_session_needs_an_inbox_that_has_transactions() -> None:
    receiver = WebhookReceiver(SECRET, inbox=MemoryInbox())
    with pytest.raises(ConfigurationError, match=r"handler write must take one argument.*such as SQLInbox"):
        receiver.on("*")(write)


@pytest.mark.parametrize(
    ("driver", "options"),
    [("asyncpg", {"pool_size": 5, "max_overflow": 0}), ("psycopg", {})],
    ids=["pool of 5", "pool of 15"],
)
async def test_sixty_handlers_at_once_that_open_sessions_of_their_own_share_a_small_pool(
    driver: str, options: dict[str, int], postgres: PostgresServer
) -> None:
    async with engine_of(postgres.url(driver), **options) as engine:
        async with engine.begin() as connection:
            await connection.run_sync(EFFECTS.metadata.create_all)
        sessions = async_sessionmaker(engine)
        async with SQLInbox(engine, table=new_table()) as inbox:
            service = Service(engine, inbox)
            everybody = asyncio.Barrier(60)

            async def write_apart(delivery: Delivery) -> None:
                await everybody.wait()  # all have claimed theirs
                async with sessions.begin() as session:
                    await session.execute(insert(EFFECTS).values(event_id=delivery.event_id))

            service.receiver.on("*")(write_apart)
            events = [new_id() for _ in range(60)]
            done = await asyncio.gather(*map(service.post, events))
            assert {each.result for each in done} == {Result.HANDLED}
            assert [await service.effects(event) for event in events] == [1] * 60


@on_one
@pytest.mark.parametrize("goes_on", [False, True])
async def test_an_inbox_that_is_closed_under_a_handler_is_named_and_not_the_handler(
    service: Service, *, goes_on: bool
) -> None:
    async def close(delivery: Delivery, session: AsyncSession) -> None:
        await service.inbox.aclose()
        if goes_on:
            await write(delivery, session)

    service.on_all(close)
    done = await service.post(new_id())
    assert done.result is Result.UNAVAILABLE
    assert "close the receiver before its inbox" in str(done.error)
    assert "rolled" not in str(done.error)
