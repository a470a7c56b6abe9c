"""A handler whose time is over: Basiq is told in time, and nobody else handles the event before it has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from basiq_async.receiver import Delivery, Outcome, Result, SQLInbox, WebhookReceiver
from tests.support import virtual
from tests.support.databases import engine_of, new_table, run
from tests.support.deliveries import SECRET, payload, signed
from tests.support.servers import PostgresServer


class Base(DeclarativeBase):
    pass


class Overdue(Base):
    __tablename__ = "overdue"
    id: Mapped[int] = mapped_column(primary_key=True)


BODY = payload(event_id="one")
LIMIT = 2.0
RESISTANCE = 20.0

Handler = Callable[[Delivery], Awaitable[None]]


class Service:
    def __init__(self, handler: Handler, **options: Any) -> None:
        self.receiver = WebhookReceiver(SECRET, handler_timeout=LIMIT, **options)
        self.receiver.on("*")(handler)

    async def post(self) -> Outcome:
        return await self.receiver.handle(signed(BODY), BODY)

    def is_idle(self) -> bool:
        return "0 in flight" in repr(self.receiver)

    async def until_idle(self) -> None:
        while not self.is_idle():
            await asyncio.sleep(1.0)


async def finish(log: list[str], *, fails: bool) -> None:
    await asyncio.sleep(RESISTANCE)
    log.append("ended")
    if fails:
        raise ValueError("rolled back")


def resisting(log: list[str], *, fails: bool) -> Handler:
    """Caught its cancellation, and goes on."""

    async def handler(delivery: Delivery) -> None:
        log.append("began")
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            await finish(log, fails=fails)

    return handler


def committing(log: list[str]) -> Handler:
    """Ends at once, and leaves its commit behind, as ``async_sessionmaker.begin`` of SQLAlchemy does."""

    async def handler(delivery: Delivery) -> None:
        log.append("began")
        await asyncio.shield(asyncio.create_task(finish(log, fails=False)))

    return handler


def limited(log: list[str]) -> Handler:
    """The same, by a limit of its own, whose error is translated."""

    async def handler(delivery: Delivery) -> None:
        try:
            async with asyncio.timeout(1.0):
                await committing(log)(delivery)
        except TimeoutError:
            raise RuntimeError("the database is slow") from None

    return handler


HANDLERS: dict[str, Callable[[list[str]], Handler]] = {
    "resists, then fails": lambda log: resisting(log, fails=True),
    "leaves its commit behind": committing,
    "leaves it behind by a limit of its own": limited,
}


@pytest.mark.parametrize("make", HANDLERS.values(), ids=HANDLERS)
def test_basiq_is_told_in_time_and_the_claim_is_kept_until_nothing_of_the_handler_runs(
    make: Callable[[list[str]], Handler],
) -> None:
    async def main() -> None:
        log: list[str] = []
        service = Service(make(log), quarantine_after=2)
        started = virtual.now()
        first = await service.post()
        assert first.status == 500
        assert virtual.now() - started <= LIMIT + 1.0
        while (again := await service.post()).result is Result.BUSY:
            await asyncio.sleep(1.0)
            assert log.count("began") == 1
        assert log[:3] == ["began", "ended", "began"], "another one began before the first had ended"
        assert again.status == 500
        await service.receiver.aclose()
        assert log.count("ended") == 2, "closing waits for it"
        assert [each.failures for each in await service.receiver.quarantined()] == [2], "both failures were counted"

    virtual.run(main())


def test_a_handler_that_goes_on_and_succeeds_has_handled_the_event() -> None:
    async def main() -> None:
        log: list[str] = []
        service = Service(resisting(log, fails=False))
        assert (await service.post()).result is Result.TIMED_OUT
        await service.until_idle()
        assert (await service.post()).result is Result.DUPLICATE
        assert log == ["began", "ended"]

    virtual.run(main())


def test_a_handler_that_ends_within_a_moment_is_awaited() -> None:
    async def main() -> None:
        async def handler(delivery: Delivery) -> None:
            try:
                await asyncio.sleep(1000)
            finally:
                await asyncio.sleep(0.5)

        service = Service(handler, quarantine_after=5)
        done = await service.post()
        assert (done.result, done.attempt) == (Result.TIMED_OUT, 1)
        assert service.is_idle()

    virtual.run(main())


@pytest.mark.parametrize("times", [1, 3])
def test_a_server_that_cancels_a_delivery_gives_it_to_nobody_while_its_commit_goes_on(times: int) -> None:
    async def main() -> None:
        log: list[str] = []
        service = Service(committing(log))
        task = asyncio.create_task(service.post())
        await asyncio.sleep(1.0)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await service.post()).result is Result.BUSY
        await service.until_idle()
        assert log == ["began", "ended"]
        await service.post()
        assert log.count("began") == 2
        await service.receiver.aclose()

    virtual.run(main())


def test_what_a_handler_left_running_keeps_its_claim_for_a_lease_at_the_most(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        forever: list[asyncio.Task[bool]] = []

        async def handler(delivery: Delivery) -> None:
            forever.append(asyncio.create_task(asyncio.Event().wait()))
            await asyncio.sleep(1000)

        service = Service(handler, lease=20.0)
        await service.post()
        started = virtual.now()
        await service.receiver.aclose()
        assert virtual.now() - started <= 20.0
        for task in forever:
            task.cancel()
        await asyncio.wait(forever)

    virtual.run(main())
    assert "its lease has run out" in caplog.text


def test_a_handler_that_leaves_nothing_behind_is_waited_for_no_longer_than_it_takes() -> None:
    async def main() -> None:
        async def background() -> None:
            await asyncio.sleep(100)

        others = [asyncio.create_task(background()) for _ in range(3)]  # not the handler's
        for failure in (TimeoutError(), ValueError("no")):

            async def handler(delivery: Delivery, failure: Exception = failure) -> None:
                raise failure

            service = Service(handler)
            started = virtual.now()
            assert (await service.post()).result is Result.FAILED
            assert virtual.now() == started
        await asyncio.wait(others)

    virtual.run(main())


async def test_a_commit_of_sqlalchemys_that_waits_for_a_lock_has_ended_before_another_begins(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("basiq_async.receiver._dispatcher._MOMENT", 0.01)
    running = 0

    async def handler(delivery: Delivery) -> None:
        nonlocal running
        running += 1
        async with sessions.begin() as session:
            session.add(Overdue(id=1))  # written by the commit, which waits for the lock

    async with engine_of(postgres.url()) as engine, SQLInbox(engine, table=new_table()) as inbox:
        sessions = async_sessionmaker(engine)
        await run(engine, "DROP TABLE IF EXISTS overdue", "CREATE TABLE overdue (id int primary key)")
        async with engine.connect() as other:
            await other.execute(text("INSERT INTO overdue VALUES (1)"))
            receiver = WebhookReceiver(SECRET, webhook_id="w1", inbox=inbox, handler_timeout=0.2)
            receiver.on("*")(handler)
            assert (await receiver.handle(signed(BODY), BODY)).result is Result.TIMED_OUT
            waiting = await waiting_for_a_lock(engine)
            assert (await receiver.handle(signed(BODY), BODY)).result is (Result.BUSY if waiting else Result.TIMED_OUT)
            assert running == 1 if waiting else True
            await other.rollback()
        await receiver.aclose()
        assert not await waiting_for_a_lock(engine), "it was given back before its commit had ended"


async def waiting_for_a_lock(engine: AsyncEngine) -> bool:
    async with engine.connect() as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%overdue%'"
        return bool((await connection.execute(text(query))).scalar_one())
